//! H.264 in MP4 and MOV against ffmpeg: the same frames, in the same order, at the same time, bit for bit.
//!
//! `tests/clips.py` makes the clips and, with ffmpeg's decoder, their goldens.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use candor::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};
use candor::source::mp4::Mp4Source;
use candor::source::{Damage, FrameSource, SourceError};
use sha2::{Digest, Sha256};

fn clips() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/clips")
}

/// The folder of made clips; `None`, with a printed reason, where `tests/setup` hasn't run.
fn made() -> Option<PathBuf> {
    let made = clips().join("made");
    if made.join("stamp.txt").exists() {
        return Some(made);
    }
    let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|value| value == "1");
    assert!(!is_required, "{} is missing: run tests/setup", made.display());
    println!("skipped: {} is missing, run tests/setup", made.display());
    None
}

/// Goldens in `folder`, by name.
fn goldens(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut goldens: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    goldens.retain(|path| path.extension().is_some_and(|extension| extension == "golden"));
    goldens.sort();
    goldens
}

#[derive(Debug)]
struct Golden {
    /// Seconds a tick, as a fraction.
    time_base: (i128, i128),
    format: String,
    size_px: (u32, u32),
    has_square_pixels: bool,
    upright: Option<String>,
    frames: Vec<(i128, String)>,
}

fn read_golden(path: &Path) -> Golden {
    let text = fs::read_to_string(path).unwrap();
    let mut golden = Golden {
        time_base: (0, 1),
        format: String::new(),
        size_px: (0, 0),
        has_square_pixels: true,
        upright: None,
        frames: Vec::new(),
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["time_base", ticks, hz] => golden.time_base = (ticks.parse().unwrap(), hz.parse().unwrap()),
            ["stored", format, width, height] => {
                golden.format = format.to_owned();
                golden.size_px = (width.parse().unwrap(), height.parse().unwrap());
            }
            ["pixels", across, down] => golden.has_square_pixels = across == down,
            ["upright", digest] => golden.upright = Some(digest.to_owned()),
            ["frame", tick, digest] => golden.frames.push((tick.parse().unwrap(), digest.to_owned())),
            _ => panic!("{}: {line}", path.display()),
        }
    }
    golden
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn plane_size(format: PixelFormat, plane_idx: usize, (width, height): (usize, usize)) -> (usize, usize) {
    match format {
        PixelFormat::I420 if plane_idx > 0 => (width.div_ceil(2), height.div_ceil(2)),
        PixelFormat::I422 if plane_idx > 0 => (width.div_ceil(2), height),
        _ => (width, height),
    }
}

fn frame_size(frame: &Frame) -> (usize, usize) {
    (frame.width_px as usize, frame.height_px as usize)
}

fn rows(plane: &Plane, (width, height): (usize, usize)) -> impl Iterator<Item = &[u8]> {
    (0..height).map(move |y| &plane.samples[y * plane.stride_bytes..][..width])
}

fn digest(frame: &Frame) -> String {
    let mut hash = Sha256::new();
    for (plane_idx, plane) in frame.planes.iter().enumerate() {
        rows(plane, plane_size(frame.format, plane_idx, frame_size(frame))).for_each(|row| hash.update(row));
    }
    hex(hash.finalize())
}

/// Turns each plane, sample by sample.
fn upright_digest(frame: &Frame) -> String {
    let mut hash = Sha256::new();
    for (plane_idx, plane) in frame.planes.iter().enumerate() {
        let (width, height) = plane_size(frame.format, plane_idx, frame_size(frame));
        let at = |x: usize, y: usize| plane.samples[y * plane.stride_bytes + x];
        let (to_width, to_height) =
            if frame.rotation.swaps_sides() { (height, width) } else { (width, height) };
        for y in 0..to_height {
            for x in 0..to_width {
                hash.update([match frame.rotation {
                    Rotation::None => at(x, y),
                    Rotation::Cw90 => at(y, height - 1 - x),
                    Rotation::Cw180 => at(width - 1 - x, height - 1 - y),
                    Rotation::Cw270 => at(width - 1 - y, x),
                }]);
            }
        }
    }
    hex(hash.finalize())
}

/// Compares a clip with its golden. `Err` says in words what differs.
fn compare(clip: &Path, golden: &Golden) -> Result<usize, String> {
    let mut source = Mp4Source::open(clip).map_err(|error| error.to_string())?;
    let n_promised = source.info().n_frames;
    let mut n_frames = 0;
    while let Some(frame) = source.next_frame().map_err(|error| error.to_string())? {
        let Some((tick, expected)) = golden.frames.get(n_frames) else {
            return Err(format!("more than {} frames", golden.frames.len()));
        };
        let (num, hz) = golden.time_base;
        let expected_ns = (tick * num * 2_000_000_000 + hz).div_euclid(2 * hz);
        if i128::from(frame.pts_ns) != expected_ns {
            return Err(format!("frame {n_frames}: expected {expected_ns} ns, found {} ns", frame.pts_ns));
        }
        // what was resampled to square pixels can only have the same order and times
        if golden.has_square_pixels {
            if (frame.width_px, frame.height_px) != golden.size_px
                || format!("{:?}", frame.format) != golden.format
            {
                return Err(format!(
                    "expected {} {:?}, found {:?} {}x{}",
                    golden.format, golden.size_px, frame.format, frame.width_px, frame.height_px
                ));
            }
            if digest(&frame) != *expected {
                return Err(format!("frame {n_frames} differs"));
            }
            if let (0, Some(upright)) = (n_frames, &golden.upright)
                && upright_digest(&frame) != *upright
            {
                return Err("the first frame turned upright differs".to_owned());
            }
        }
        if frame.frame_idx != n_frames as u64 {
            return Err(format!("frame {n_frames} has index {}", frame.frame_idx));
        }
        n_frames += 1;
    }
    if n_frames != golden.frames.len() {
        return Err(format!("expected {} frames, found {n_frames}", golden.frames.len()));
    }
    if n_promised != Some(n_frames as u64) {
        return Err(format!("{n_promised:?} frames promised, {n_frames} given"));
    }
    if !source.damage().is_none() {
        return Err(format!("whole, and reported as damaged: {:?}", source.damage()));
    }
    Ok(n_frames)
}

/// Compares every clip that has a golden in `folder`: name and number of frames of each.
fn compare_all(folder: &Path) -> Vec<(String, usize)> {
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    for path in goldens(folder) {
        let clip = path.with_extension("");
        let name = clip.file_name().unwrap().to_string_lossy().into_owned();
        match compare(&clip, &read_golden(&path)) {
            Ok(n_frames) => outcomes.push((name, n_frames)),
            Err(what) => failures.push(format!("{name}: {what}")),
        }
    }
    assert!(failures.is_empty(), "{} clips differ from ffmpeg:\n{}", failures.len(), failures.join("\n"));
    outcomes
}

/// Lines of two columns: name and words.
fn read_table(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let columns = |line: &str| line.split_once('\t').map(|(name, words)| (name.to_owned(), words.to_owned()));
    text.lines().map(|line| columns(line).unwrap()).collect()
}

#[test]
fn made_clips_equal_ffmpeg_and_the_table_says_so() {
    let Some(made) = made() else { return };
    let outcomes = compare_all(&made);
    let mut table = String::from(
        "What Candor reads of H.264 in MP4 and MOV, and what it refuses. `cargo test --test video_decode` compares each\n\
         clip that `tests/clips.py` makes with ffmpeg, frame by frame: same pictures to the bit, same order, same times.\n\n\
         | form | clip | frames equal to ffmpeg's |\n|---|---|---|\n",
    );
    for (name, feature) in read_table(&made.join("FEATURES.txt")) {
        let outcome = outcomes.iter().find(|(found, _)| *found == name);
        let (_, n_frames) = outcome.unwrap_or_else(|| panic!("{name} has no golden"));
        writeln!(table, "| {feature} | {name} | {n_frames} of {n_frames} |").unwrap();
    }
    for (name, words) in read_table(&made.join("REJECTS.txt")) {
        writeln!(table, "| not read: {words} | {name} | refused by name, with the ffmpeg pipe that works |")
            .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/video-support.md");
    if std::env::var_os("CANDOR_BLESS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, table, "{} is out of date: run this test with CANDOR_BLESS=1", path.display());
}

#[test]
fn fetched_clips_equal_ffmpeg() {
    if made().is_none() {
        return;
    }
    let outcomes = compare_all(&clips());
    assert!(!outcomes.is_empty(), "no fetched clips in {}", clips().display());
}

#[test]
fn shared_clips_are_refused_for_their_chroma() {
    let shared = std::env::var_os("CANDOR_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from)
        .join("data/research-video");
    let Ok(entries) = fs::read_dir(&shared) else {
        println!("skipped: {} is missing", shared.display());
        return;
    };
    let clips = entries.map(|entry| entry.unwrap().path());
    for clip in clips.filter(|path| path.extension().is_some_and(|extension| extension == "mp4")).take(10) {
        let error = Mp4Source::open(&clip).err().unwrap();
        assert!(error.to_string().contains("H.264 High 4:4:4 Predictive, 4:4:4 chroma"), "{error}");
    }
}

#[test]
fn other_codecs_are_refused_by_name() {
    let Some(made) = made() else { return };
    let rejects = read_table(&made.join("REJECTS.txt"));
    assert!(rejects.len() >= 8, "only {} clips to refuse", rejects.len());
    for (name, words) in rejects {
        let refusal =
            Mp4Source::open(&made.join(&name)).and_then(|mut source| source.next_frame().map(|_| ()));
        match refusal {
            Err(error @ SourceError::UnsupportedCodec { .. }) => {
                let message = error.to_string();
                assert!(message.contains(&words), "{name}: {message} doesn't name {words}");
                assert!(message.contains("ffmpeg -i"), "{name}: {message} shows no way out");
            }
            other => panic!("{name}: expected a refusal, found {other:?}"),
        }
    }
}

fn first_frame(path: &Path) -> Frame {
    Mp4Source::open(path).unwrap().next_frame().unwrap().unwrap()
}

#[test]
fn colours_are_as_the_stream_says() {
    let Some(made) = made() else { return };
    let colors = |name: &str| {
        let frame = first_frame(&made.join(name));
        (frame.matrix, frame.range)
    };
    assert_eq!(colors("full-range.mp4").1, ColorRange::Full);
    assert_eq!(colors("bt709.mp4"), (ColorMatrix::Bt709, ColorRange::Limited));
    assert_eq!(colors("bt2020.mp4"), (ColorMatrix::Bt2020, ColorRange::Limited));
    // says nothing: 240 rows are standard definition
    assert_eq!(colors("high.mp4"), (ColorMatrix::Bt601, ColorRange::Limited));
}

/// Peak signal-to-noise ratio of two planes of bytes, in dB.
fn psnr_db(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: u64 = a.iter().zip(b).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares.max(1) as f64).log10()
}

#[test]
fn pixels_become_square() {
    let Some(made) = made() else { return };
    for (name, size_px) in [("pixels-4-3.mp4", (427, 240)), ("pixels-8-9.mp4", (320, 270))] {
        let source = Mp4Source::open(&made.join(name)).unwrap();
        assert_eq!((source.info().width_px, source.info().height_px), size_px, "{name}");
        let frame = first_frame(&made.join(name));
        assert_eq!((frame.width_px, frame.height_px), size_px, "{name}");
        let reference = fs::read(made.join(format!("{name}.square"))).unwrap();
        let luma = &frame.planes[0];
        assert_eq!(luma.stride_bytes, size_px.0 as usize);
        let ratio_db = psnr_db(&luma.samples, &reference);
        assert!(ratio_db > 45.0, "{name}: {ratio_db} dB from ffmpeg's bilinear scaler");
    }
}

/// Reads all of `bytes`; the timestamps and digests of its frames, and what was lost.
fn read_all(bytes: Vec<u8>) -> Result<(Vec<(i64, String)>, Damage), SourceError> {
    let mut source = Mp4Source::from_reader(std::io::Cursor::new(bytes), "damaged.mp4")?;
    let mut frames = Vec::new();
    while let Some(frame) = source.next_frame()? {
        frames.push((frame.pts_ns, digest(&frame)));
    }
    Ok((frames, source.damage().clone()))
}

#[test]
fn a_file_cut_short_gives_what_is_there_and_counts_the_rest() {
    let Some(made) = made() else { return };
    for name in ["faststart.mp4", "fragmented.mp4", "sound-first.mov"] {
        let whole = fs::read(made.join(name)).unwrap();
        let (all_frames, damage) = read_all(whole.clone()).unwrap();
        assert!(damage.is_none(), "{name}: {damage:?}");
        let mut n_frames_before = 0;
        for percent in [30, 50, 70, 90, 99] {
            let n_bytes = whole.len() * percent / 100;
            let (frames, damage) = read_all(whole[..n_bytes].to_vec()).unwrap();
            assert!(
                frames.len() < all_frames.len() && frames.len() >= n_frames_before,
                "{name} at {percent} %"
            );
            assert!(!frames.is_empty() || percent < 50, "{name} at {percent} %");
            assert!(damage.n_bytes_missing > 0, "{name} at {percent} %: {damage:?}");
            // the pictures that are there are the right ones at the right time
            for frame in &frames {
                assert!(
                    all_frames.contains(frame),
                    "{name} at {percent} %: a frame that isn't in the whole file"
                );
            }
            if name != "fragmented.mp4" {
                let n_lost = (all_frames.len() - frames.len()) as u64;
                assert_eq!(damage.n_frames_lost, n_lost, "{name} at {percent} %");
            }
            n_frames_before = frames.len();
        }
    }
}

#[test]
fn a_movie_header_that_is_missing_or_cut_is_said_so() {
    let Some(made) = made() else { return };
    let whole = fs::read(made.join("high.mp4")).unwrap();
    let error = read_all(whole[..whole.len() / 2].to_vec()).unwrap_err();
    assert!(error.to_string().contains("movie header"), "{error}");
    let fast = fs::read(made.join("faststart.mp4")).unwrap();
    let error = read_all(fast[..200].to_vec()).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    assert!(read_all(Vec::new()).is_err());
}

/// xorshift64*: a sequence that a failure can be repeated with.
fn random(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    usize::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap()
}

#[test]
fn damaged_bytes_never_panic_and_are_counted() {
    let Some(made) = made() else { return };
    for name in ["high.mp4", "slices-cavlc.mp4", "mbaff.mp4", "fragmented.mp4"] {
        let whole = fs::read(made.join(name)).unwrap();
        let n_whole = read_all(whole.clone()).unwrap().0.len();
        let (mut n_reported, mut n_changed) = (0, 0);
        let n_seeds = std::env::var("CANDOR_FUZZ_SEEDS").map_or(12, |seeds| seeds.parse().unwrap());
        for seed in 1..=n_seeds {
            let mut state = seed;
            let mut bytes = whole.clone();
            for _ in 0..=seed % 16 {
                let at = random(&mut state) % bytes.len();
                bytes[at] ^= 1 << (random(&mut state) % 8);
            }
            // an error is an answer too; what may not happen is a panic or no end
            if let Ok((frames, damage)) = read_all(bytes) {
                assert!(frames.len() <= n_whole, "{name}, seed {seed}: {} frames", frames.len());
                if frames.len() < n_whole {
                    n_changed += 1;
                    n_reported += u32::from(!damage.is_none());
                }
            }
        }
        assert_eq!(n_reported, n_changed, "{name}: frames went missing without a word");
    }
}
