//! Stills and clips against what Pillow and ffmpeg make of them (golden/pictures/make.py).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candor::frame::Frame;
use candor::preprocess::color::to_rgb;
use candor::source::{self, FrameRate, FrameSource, SourceError, StillSource};

#[path = "support/compare.rs"]
mod compare;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures").join(name)
}

fn all_frames(source: &mut dyn FrameSource) -> Vec<Frame> {
    std::iter::from_fn(|| source.next_frame().unwrap()).collect()
}

/// Largest difference that is allowed, and least PSNR in dB.
///
/// JPEG leaves the inverse transform, the chroma filter and the matrix's rounding open within a step or
/// two; the chroma filter of ffmpeg is another one than that of every JPEG library.
fn bounds(name: &str) -> (u8, f64) {
    match name {
        "mjpeg420.avi" => (10, 42.0),
        // One more step: widening the range multiplies what the inverse transform leaves open.
        "mjpeg_limited.avi" => (4, 50.0),
        _ if name.ends_with(".png") => (0, f64::INFINITY),
        _ => (3, 50.0),
    }
}

#[test]
fn pixels_are_those_of_other_decoders() {
    let index = std::fs::read_to_string(golden("index.json")).unwrap();
    let index: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&index).unwrap();
    assert!(index.len() > 20);
    let mut faults = vec![];
    for (name, about) in &index {
        let mut source = source::open(&golden(name)).unwrap();
        let frames = all_frames(source.as_mut());
        assert!(source.damage().is_none(), "{name}: {:?}", source.damage());
        assert_eq!(Some(frames.len() as u64), about["n_frames"].as_u64(), "{name}");
        let mut rgb = vec![];
        for frame in &frames {
            let picture = to_rgb(frame).unwrap();
            assert_eq!(Some(u64::from(picture.width())), about["width_px"].as_u64(), "{name}");
            assert_eq!(Some(u64::from(picture.height())), about["height_px"].as_u64(), "{name}");
            rgb.extend_from_slice(&picture);
        }
        let expected = std::fs::read(golden(&format!("{name}.rgb"))).unwrap();
        let (max, psnr_db) = compare::distance(&rgb, &expected);
        println!("{name}: at most {max} of 255 off, {psnr_db:.1} dB");
        let (max_allowed, psnr_needed_db) = bounds(name);
        if max > max_allowed || psnr_db < psnr_needed_db {
            faults.push(format!("{name}: {max} off, {psnr_db:.1} dB"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn clips_know_their_length_and_time() {
    let mut source = source::open(&golden("mjpeg444.avi")).unwrap();
    let info = source.info().clone();
    assert_eq!((info.width_px, info.height_px, info.n_frames, info.is_still), (48, 32, Some(4), false));
    assert_eq!(info.duration_ns, Some(133_466_667));
    let times: Vec<i64> = all_frames(source.as_mut()).iter().map(|frame| frame.pts_ns).collect();
    assert_eq!(times, [0, 33_366_667, 66_733_333, 100_100_000]);
}

#[test]
fn stills_know_that_they_have_no_time() {
    let mut source = source::open(&golden("orientation6.jpg")).unwrap();
    let info = source.info().clone();
    assert_eq!((info.width_px, info.height_px, info.n_frames, info.is_still), (23, 37, Some(1), true));
    assert_eq!(all_frames(source.as_mut()).len(), 1);
}

#[test]
fn codecs_that_are_not_built_in_are_named_with_the_way_out() {
    for (name, codec) in
        [("mpeg4.avi", "MPEG-4 Part 2"), ("msmpeg4v3.avi", "Microsoft MPEG-4"), ("cinepak.avi", "Cinepak")]
    {
        let error = source::open(&golden(name)).err().unwrap();
        assert!(matches!(error, SourceError::UnsupportedCodec { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(codec) && text.contains("-f yuv4mpegpipe"), "{text}");
    }
}

#[test]
fn a_cut_picture_gives_what_is_there_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for (name, max_allowed) in [("baseline444.jpg", 3), ("rgb.png", 0)] {
        let whole = std::fs::read(golden(name)).unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, &whole[..whole.len() - 200]).unwrap();
        let mut source = source::open(&path).unwrap();
        assert_eq!(source.damage().n_frames_lost, 1, "{name}");
        let frames = all_frames(source.as_mut());
        let expected = std::fs::read(golden(&format!("{name}.rgb"))).unwrap();
        let first_rows = 8 * 37 * 3;
        let (max, _) = compare::distance(&frames[0].planes[0].samples[..first_rows], &expected[..first_rows]);
        assert!(max <= max_allowed, "{name}: the first rows are {max} off");

        std::fs::write(&path, &whole[..30]).unwrap();
        let error = source::open(&path).err().unwrap();
        assert!(matches!(error, SourceError::Malformed { .. }), "{error}");
    }
}

#[test]
fn bytes_that_make_a_decoder_panic_are_refused() {
    for bytes in [
        &include_bytes!("../fuzz/corpus/stills/palette_of_49_bytes")[..],
        include_bytes!("../fuzz/corpus/stills/scans_of_odd_sampling"),
    ] {
        let error = StillSource::new(bytes, "test").err().unwrap().to_string();
        assert!(error.contains("bytes that the decoder failed on"), "{error}");
    }
}

#[test]
fn frame_headers_that_contradict_each_other_are_refused() {
    let bytes = include_bytes!("../fuzz/corpus/stills/two_frame_headers");
    let error = StillSource::new(&bytes[..], "test.jpg").err().unwrap().to_string();
    assert!(error.contains("contradict"), "{error}");
}

#[test]
fn a_folder_is_a_video_in_the_order_that_people_count() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, from: &str| std::fs::copy(golden(from), folder.path().join(name)).unwrap();
    put("frame10.png", "rgb.png");
    put("frame2.jpg", "orientation6.jpg");
    put("frame1.JPG", "grey.jpg");
    std::fs::write(folder.path().join("frame3.png"), b"not a picture").unwrap();
    std::fs::write(folder.path().join("._frame1.jpg"), b"left by another system").unwrap();
    std::fs::write(folder.path().join("notes.txt"), b"notes").unwrap();

    let mut source = source::open_sequence(folder.path(), "12.5".parse().unwrap()).unwrap();
    assert_eq!(source.info().n_frames, Some(4));
    let frames = all_frames(source.as_mut());
    let seen: Vec<_> = frames.iter().map(|f| (f.frame_idx, f.pts_ns, f.upright_size_px())).collect();
    assert_eq!(seen, [(0, 0, (37, 23)), (1, 80_000_000, (23, 37)), (3, 240_000_000, (37, 23))]);
    assert_eq!(source.damage().n_frames_lost, 1);
    assert!(source.damage().notes[0].contains("frame3.png"), "{:?}", source.damage());

    let empty = tempfile::tempdir().unwrap();
    let error = source::open_sequence(empty.path(), FrameRate::new(25, 1).unwrap()).err().unwrap();
    assert!(error.to_string().contains("at least one JPEG or PNG"), "{error}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let error_of = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        source::open(&path).err().unwrap().to_string()
    };
    let webm = error_of("two words.webm", b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm");
    assert!(webm.contains("found WebM"), "{webm}");
    assert!(webm.contains("/two words.webm' -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -"), "{webm}");
    let empty = error_of("empty.mp4", b"");
    assert!(empty.contains("no bytes at all") && !empty.contains("ffmpeg"), "{empty}");
    assert!(error_of("a.txt", b"hello there").contains("text that begins \"hello there\""));
    let huge = error_of("huge.y4m", b"YUV4MPEG2 W99999 H99999 F25:1\n");
    assert!(huge.contains("found 99999x99999 pixels"), "{huge}");
    assert!(source::open(folder.path()).err().unwrap().to_string().contains("directory"));
    let missing = source::open(&folder.path().join("missing.mp4")).err().unwrap();
    assert!(matches!(missing, SourceError::Io { operation: "open", .. }), "{missing}");
}

#[test]
fn a_header_that_claims_more_pixels_than_its_bytes_can_hold_is_refused() {
    let mut jpeg = std::fs::read(golden("baseline444.jpg")).unwrap();
    let sof = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[sof + 5..sof + 9].copy_from_slice(&[0x27, 0x10, 0x27, 0x10]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.jpg");
    std::fs::write(&path, jpeg).unwrap();
    let error = source::open(&path).err().unwrap().to_string();
    assert!(error.contains("10000x10000"), "{error}");
}
