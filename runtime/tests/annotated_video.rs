//! The annotated video against two decoders that aren't its encoder: ffmpeg and `rust_h264`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use candor::geom::Rect;
use candor::report::annotate::AnnotatedVideo;
use candor::report::draw::{FaceMark, Tone, draw_marks};
use image::{Rgb, RgbImage};
use mp4_atom::{Atom, Codec, Header, Moov, ReadAtom, ReadFrom, StszSamples};
use rust_h264::decoder::OrderedDecoder;
use rust_h264::nal::{parse_annex_b, parse_avcc};

const BANNER: &str = "untrained model: verdicts mean nothing";

/// The ffmpeg of the test environment; `None`, with a printed reason, where there is none.
fn ffmpeg() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.cache/venv/lib/python3.11/site-packages/imageio_ffmpeg/binaries");
    let found = std::fs::read_dir(&packages).ok().and_then(|entries| {
        entries
            .filter_map(|e| Some(e.ok()?.path()))
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ffmpeg")))
    });
    if found.is_none() {
        let reason = format!("no ffmpeg in {}", packages.display());
        assert!(std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_none(), "{reason}");
        println!("skipped: {reason}");
    }
    found
}

fn run(ffmpeg: &Path, args: &[&str]) -> Vec<u8> {
    let found = Command::new(ffmpeg).args(["-v", "error", "-nostdin"]).args(args).output().unwrap();
    let complaints = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(found.status.success() && complaints.is_empty(), "ffmpeg {args:?}: {complaints}");
    found.stdout
}

/// A textured picture that pans by a fraction of a pixel a frame, with a disc crossing it.
fn scene(width: u32, height: u32, frame_idx: u32) -> RgbImage {
    let (w, h, t) = (f64::from(width), f64::from(height), f64::from(frame_idx));
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = ((f64::from(x) + 0.7 * t) / w * 9.0, f64::from(y) / h * 7.0);
        let (dx, dy) = (f64::from(x) - t * 4.0, f64::from(y) - h / 2.0);
        let disc = if dx * dx + dy * dy < h * h / 25.0 { 60.0 } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let byte = |v: f64| v.clamp(0.0, 255.0) as u8;
        Rgb([
            byte(120.0 + 60.0 * (u * 2.0).sin() * v.cos() + disc),
            byte(110.0 + 50.0 * (u + v * 3.0).sin()),
            byte(100.0 + 40.0 * (v * 2.0 - u).cos() + disc / 2.0),
        ])
    })
}

fn marks(width: u32, frame_idx: u32, scores: &[f32]) -> [FaceMark<'_>; 2] {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let (w, x) = (width as f32, (frame_idx * 2) as f32);
    let at = |x, tone, word, track_id| FaceMark {
        bbox: Rect { x, y: w * 0.2, w: w * 0.2, h: w * 0.25 },
        track_id,
        word,
        tone,
        mean_score: Some(0.71),
        scores,
    };
    [at(x, Tone::Fake, "Fake", 1), at(w * 0.7, Tone::Real, "Real", 2)]
}

struct Written {
    pictures: Vec<RgbImage>,
    pts_ns: Vec<i64>,
}

/// What the video should show: `picture` with an odd side's last line twice, and the marks on it.
fn drawn(picture: &RgbImage, marks: &[FaceMark]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (even_width, even_height) = (width.next_multiple_of(2), height.next_multiple_of(2));
    let mut canvas = RgbImage::from_fn(even_width, even_height, |x, y| {
        *picture.get_pixel(x.min(width - 1), y.min(height - 1))
    });
    draw_marks(&mut canvas, marks, Some(BANNER));
    canvas
}

/// Writes `n_frames` at 30000/1001 Hz, with every seventh frame left out, and returns what was drawn.
fn push_all(video: &mut AnnotatedVideo, width: u32, height: u32, n_frames: u32) -> Written {
    let scores = [0.9, 0.4, 0.7, 0.1, 0.8];
    let mut written = Written { pictures: Vec::new(), pts_ns: Vec::new() };
    for idx in (0..n_frames).filter(|idx| idx % 7 != 3) {
        let picture = scene(width, height, idx);
        let pts_ns = 70_000_000 + i64::from(idx) * 1001 * 1_000_000_000 / 30_000;
        let marks = marks(width, idx, &scores[..(idx as usize / 10).min(5)]);
        video.push(&picture, &marks, pts_ns).unwrap();
        written.pictures.push(drawn(&picture, &marks));
        written.pts_ns.push(pts_ns);
    }
    written
}

fn psnr_db(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: u64 = a.iter().zip(b).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    #[expect(clippy::cast_precision_loss, reason = "sums of a small picture")]
    let mse = (squares as f64 / a.len() as f64).max(1e-9);
    10.0 * (255.0 * 255.0 / mse).log10()
}

/// The video's pictures as ffmpeg decodes them, Y, U and V planes one after the other.
fn decoded(ffmpeg: &Path, path: &Path, (width, height): (u32, u32)) -> Vec<Vec<u8>> {
    let passthrough = ["-fps_mode", "passthrough", "-enc_time_base", "demux"];
    let raw = run(ffmpeg, &[&["-i", path.to_str().unwrap()][..], &passthrough, &RAW_YUV].concat());
    let frame_bytes = width as usize * height as usize * 3 / 2;
    assert_eq!(raw.len() % frame_bytes, 0);
    raw.chunks(frame_bytes).map(<[u8]>::to_vec).collect()
}

const RAW_YUV: [&str; 5] = ["-pix_fmt", "yuv420p", "-f", "rawvideo", "-"];

/// `pictures` as ffmpeg converts them to BT.709 at limited range.
fn converted(ffmpeg: &Path, folder: &Path, pictures: &[RgbImage]) -> Vec<Vec<u8>> {
    let (width, height) = pictures[0].dimensions();
    let raw_path = folder.join("drawn.rgb");
    std::fs::write(&raw_path, pictures.iter().flat_map(|p| p.as_raw()).copied().collect::<Vec<u8>>())
        .unwrap();
    let size = format!("{width}x{height}");
    let from = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-i", raw_path.to_str().unwrap()];
    let to = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+area"];
    let raw = run(ffmpeg, &[&from[..], &to, &RAW_YUV].concat());
    std::fs::remove_file(raw_path).unwrap();
    raw.chunks(width as usize * height as usize * 3 / 2).map(<[u8]>::to_vec).collect()
}

/// The lowest PSNR of a frame against what was drawn, over luma and chroma.
fn worst_psnr_db(ffmpeg: &Path, folder: &Path, frames: &[Vec<u8>], pictures: &[RgbImage]) -> f64 {
    let pictures = converted(ffmpeg, folder, &pictures[..frames.len()]);
    assert_eq!(frames.len(), pictures.len());
    frames.iter().zip(&pictures).map(|(frame, picture)| psnr_db(frame, picture)).fold(f64::MAX, f64::min)
}

/// Presentation times as ffmpeg's demuxer gives them, in nanoseconds from the first.
fn demuxed_pts_ns(ffmpeg: &Path, path: &Path) -> Vec<i64> {
    let args = ["-i", path.to_str().unwrap(), "-c", "copy", "-f", "framecrc", "-"];
    let listing = String::from_utf8(run(ffmpeg, &args)).unwrap();
    assert!(listing.contains("#tb 0: 1/360000"), "{listing}");
    let rows = listing.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| row.split(',').nth(2).unwrap().trim().parse::<i64>().unwrap() * 25_000 / 9).collect()
}

#[test]
fn ffmpeg_reads_every_frame_at_its_time() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (width, height) in [(320u32, 240u32), (321, 179), (640, 360)] {
        let path = folder.path().join(format!("{width}.mp4"));
        let mut video = AnnotatedVideo::create(&path, width, height, Some(BANNER)).unwrap();
        let (even_width, even_height) = video.size_px();
        assert_eq!((even_width, even_height), (width.next_multiple_of(2), height.next_multiple_of(2)));
        let written = push_all(&mut video, width, height, 100);
        assert!(!path.exists(), "the target appears only when it is complete");
        assert_eq!(video.finish().unwrap(), written.pictures.len());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the video stays");

        let frames = decoded(&ffmpeg, &path, (even_width, even_height));
        assert_eq!(frames.len(), written.pictures.len());
        let worst_db = worst_psnr_db(&ffmpeg, folder.path(), &frames, &written.pictures);
        assert!(worst_db >= 35.0, "{width}x{height}: worst frame {worst_db:.2} dB");
        let from_first: Vec<i64> = written.pts_ns.iter().map(|pts| pts - written.pts_ns[0]).collect();
        let found = demuxed_pts_ns(&ffmpeg, &path);
        assert_eq!(found.len(), from_first.len());
        let off_ns = found.iter().zip(&from_first).map(|(a, b)| (a - b).abs()).max().unwrap();
        assert!(off_ns <= 1, "a time is {off_ns} ns off");
        let size_bytes = std::fs::metadata(&path).unwrap().len();
        println!("{width}x{height}: worst {worst_db:.2} dB, {size_bytes} bytes, {} frames", frames.len());
        std::fs::remove_file(path).unwrap();
    }
}

/// Colour tags and keyframe distance as ffmpeg reports them.
#[test]
fn stream_says_what_it_is() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let mut video = AnnotatedVideo::create(&path, 320, 240, None).unwrap();
    push_all(&mut video, 320, 240, 160);
    video.finish().unwrap();
    let report = Command::new(&ffmpeg).args(["-hide_banner", "-i", path.to_str().unwrap()]).output().unwrap();
    let report = String::from_utf8_lossy(&report.stderr).into_owned();
    for tag in
        ["h264 (Constrained Baseline)", "avc1", "yuv420p(tv, bt709, progressive)", "320x240", "0:00:05.3"]
    {
        assert!(report.contains(tag), "no {tag:?} in {report}");
    }
    let key_rows =
        run(&ffmpeg, &["-skip_frame", "nokey", "-i", path.to_str().unwrap(), "-f", "framecrc", "-"]);
    let n_keyframes =
        String::from_utf8(key_rows).unwrap().lines().filter(|row| !row.starts_with('#')).count();
    assert_eq!(n_keyframes, 3, "one at 0, 2 and 4 s of 5.3 s");
}

/// A process that is killed never calls `finish`: what it wrote must play.
#[test]
fn a_killed_writer_leaves_a_video() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    std::fs::write(&path, "an older file").unwrap();
    let mut video = AnnotatedVideo::create(&path, 320, 240, Some(BANNER)).unwrap();
    let written = push_all(&mut video, 320, 240, 150);
    std::mem::forget(video);
    assert_eq!(std::fs::read(&path).unwrap(), b"an older file");

    let part = folder.path().join("v.part.mp4");
    let frames = decoded(&ffmpeg, &part, (320, 240));
    // Frames before the keyframe at 4 s, the last one that was pushed.
    let n_before = written.pts_ns.iter().filter(|pts| *pts - written.pts_ns[0] < 4_000_000_000).count();
    assert_eq!(frames.len(), n_before);
    let worst_db = worst_psnr_db(&ffmpeg, folder.path(), &frames, &written.pictures);
    assert!(worst_db >= 35.0, "worst frame {worst_db:.2} dB");
}

/// The finished file through Candor's own kind of decoder: sample tables, then every slice.
#[test]
fn rust_h264_decodes_the_same_pixels_as_ffmpeg() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let mut video = AnnotatedVideo::create(&path, 322, 182, None).unwrap();
    let written = push_all(&mut video, 322, 182, 100);
    video.finish().unwrap();

    let bytes = std::fs::read(&path).unwrap();
    let mut reader = std::io::Cursor::new(&bytes);
    let moov = loop {
        let header = Header::read_from(&mut reader).unwrap();
        if header.kind == Moov::KIND {
            break Moov::read_atom(&header, &mut reader).unwrap();
        }
        reader.set_position(reader.position() + header.size.unwrap() as u64);
    };
    assert_eq!(reader.position(), bytes.len() as u64, "one mdat around the fragments, then the tables");
    let stbl = &moov.trak[0].mdia.minf.stbl;
    let Codec::Avc1(avc1) = &stbl.stsd.codecs[0] else { panic!("{:?}", stbl.stsd) };
    let StszSamples::Different { sizes } = &stbl.stsz.samples else { panic!("{:?}", stbl.stsz) };
    let mut decoder = OrderedDecoder::new();
    let mut planes = Vec::new();
    let mut keep = |frame: rust_h264::decoder::Frame| planes.extend([frame.y, frame.u, frame.v].concat());
    for set in [&avc1.avcc.sequence_parameter_sets[0], &avc1.avcc.picture_parameter_sets[0]] {
        let annex_b = [&[0, 0, 0, 1], set.as_slice()].concat();
        parse_annex_b(&annex_b).iter().for_each(|nal| {
            decoder.decode_nal(nal).unwrap();
        });
    }
    let mut sizes = sizes.iter();
    let offsets = &stbl.co64.as_ref().unwrap().entries;
    for (chunk, &offset) in (1u32..).zip(offsets) {
        let run = stbl.stsc.entries.iter().rfind(|run| run.first_chunk <= chunk).unwrap();
        let mut at = usize::try_from(offset).unwrap();
        for _ in 0..run.samples_per_chunk {
            let size = *sizes.next().unwrap() as usize;
            for nal in parse_avcc(&bytes[at..at + size], 4) {
                decoder.decode_nal(&nal).unwrap().into_iter().for_each(&mut keep);
            }
            at += size;
        }
    }
    assert_eq!(sizes.next(), None);
    decoder.flush().into_iter().for_each(&mut keep);

    let reference = decoded(&ffmpeg, &path, (322, 182));
    assert_eq!(reference.len(), written.pictures.len());
    assert!(planes == reference.concat(), "the two decoders differ");
}

#[test]
fn large_pictures_are_scaled_down_with_their_marks() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let bbox = Rect { x: 1000.0, y: 400.0, w: 600.0, h: 800.0 };
    let mark = FaceMark { bbox, track_id: 7, word: "Fake", tone: Tone::Fake, mean_score: None, scores: &[] };
    let mut video = AnnotatedVideo::create(&path, 3840, 2160, None).unwrap();
    video.push(&RgbImage::from_pixel(3840, 2160, Rgb([90, 120, 60])), &[mark], 0).unwrap();
    video.finish().unwrap();
    let mut expected = RgbImage::from_pixel(1920, 1080, Rgb([90, 120, 60]));
    let bbox = Rect { x: 500.0, y: 200.0, w: 300.0, h: 400.0 };
    draw_marks(&mut expected, &[FaceMark { bbox, ..mark }], None);
    let frames = decoded(&ffmpeg, &path, (1920, 1080));
    assert_eq!(frames.len(), 1);
    let found_db = worst_psnr_db(&ffmpeg, folder.path(), &frames, &[expected]);
    assert!(found_db >= 40.0, "{found_db:.2} dB");
}

#[test]
fn misuse_is_an_error_and_nothing_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let message = |e: candor::report::annotate::AnnotateError| e.to_string();
    assert!(
        AnnotatedVideo::create(&path, 0, 5, None).map(drop).map_err(message).unwrap_err().contains("0x5")
    );
    let nowhere = folder.path().join("missing/v.mp4");
    assert!(
        AnnotatedVideo::create(&nowhere, 8, 8, None)
            .map(drop)
            .map_err(message)
            .unwrap_err()
            .contains("missing")
    );

    let mut video = AnnotatedVideo::create(&path, 8, 8, None).unwrap();
    let error = video.push(&RgbImage::new(8, 9), &[], 0).map_err(message).unwrap_err();
    assert!(error.contains("frame 0 is (8, 9) px, expected (8, 8)"), "{error}");
    assert_eq!(video.finish().unwrap(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no frame, no file");
}

/// Times that stand still or run back still give a file whose frames follow each other.
#[test]
fn times_that_run_back_are_put_in_order() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let mut video = AnnotatedVideo::create(&path, 64, 48, None).unwrap();
    for (idx, pts_ms) in [0, 40, 40, 20, 100, 100_000_000_000, 140].into_iter().enumerate() {
        let shade = u8::try_from(idx * 30).unwrap();
        video.push(&RgbImage::from_pixel(64, 48, Rgb([shade; 3])), &[], pts_ms * 1_000_000).unwrap();
    }
    video.finish().unwrap();
    let pts = demuxed_pts_ns(&ffmpeg, &path);
    assert!(pts.is_sorted_by(|a, b| a < b), "{pts:?}");
    assert_eq!(decoded(&ffmpeg, &path, (64, 48)).len(), 7);
}
