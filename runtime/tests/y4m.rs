//! YUV4MPEG2 streams against ffmpeg's raw planes, and streams that break the rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Cursor;
use std::path::Path;

use candor::frame::{ColorRange, Frame, PixelFormat};
use candor::source::{self, FrameSource, SourceError, Y4mSource};

#[path = "support/ffmpeg.rs"]
mod ffmpeg;

fn open(bytes: &[u8]) -> Result<Y4mSource<Cursor<&[u8]>>, SourceError> {
    Y4mSource::new(Cursor::new(bytes), "test.y4m", Some(bytes.len() as u64))
}

fn all_frames(source: &mut dyn FrameSource) -> Vec<Frame> {
    std::iter::from_fn(|| source.next_frame().unwrap()).collect()
}

fn make(ffmpeg: &Path, pix_fmt: &str) -> Vec<u8> {
    let source = ["-f", "lavfi", "-i", "testsrc2=size=37x23:rate=30000/1001", "-frames:v", "3"];
    let format = ["-pix_fmt", pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-"];
    ffmpeg::run(ffmpeg, source.iter().chain(&format))
}

/// The stream's planes one after the other, as ffmpeg reads them back.
fn raw_planes(ffmpeg: &Path, y4m: &[u8], pix_fmt: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.y4m");
    std::fs::write(&path, y4m).unwrap();
    ffmpeg::run(ffmpeg, ["-i", path.to_str().unwrap(), "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"])
}

#[test]
fn planes_are_those_of_ffmpeg() {
    let Some(ffmpeg) = ffmpeg::find() else { return };
    for (pix_fmt, format, depth_bits) in [
        ("yuv420p", PixelFormat::I420, 8),
        ("yuv422p", PixelFormat::I422, 8),
        ("yuv444p", PixelFormat::I444, 8),
        ("gray", PixelFormat::Gray, 8),
        ("yuv420p9le", PixelFormat::I420, 9),
        ("yuv420p10le", PixelFormat::I420, 10),
        ("yuv422p12le", PixelFormat::I422, 12),
        ("yuv444p14le", PixelFormat::I444, 14),
        ("yuv420p16le", PixelFormat::I420, 16),
        ("gray10le", PixelFormat::Gray, 10),
    ] {
        let y4m = make(&ffmpeg, pix_fmt);
        let mut source = open(&y4m).unwrap();
        assert_eq!(source.info().n_frames, Some(3), "{pix_fmt}");
        let frames = all_frames(&mut source);
        assert!(source.damage().is_none(), "{pix_fmt}: {:?}", source.damage());
        let times: Vec<i64> = frames.iter().map(|frame| frame.pts_ns).collect();
        assert_eq!(times, [0, 33_366_667, 66_733_333], "{pix_fmt}");
        assert!(frames.iter().all(|frame| frame.format == format), "{pix_fmt}");
        let ours: Vec<u8> =
            frames.iter().flat_map(|f| f.planes.iter().flat_map(|p| p.samples.clone())).collect();
        let raw = raw_planes(&ffmpeg, &y4m, pix_fmt);
        if depth_bits == 8 {
            assert_eq!(ours, raw, "{pix_fmt}");
            continue;
        }
        assert_eq!(ours.len() * 2, raw.len(), "{pix_fmt}");
        for (ours, deep) in ours.iter().zip(raw.chunks_exact(2)) {
            let exact = f64::from(u16::from_le_bytes([deep[0], deep[1]])) / f64::from(1 << (depth_bits - 8));
            assert!((f64::from(*ours) - exact.min(255.0)).abs() <= 0.5, "{pix_fmt}: {ours} for {exact}");
        }
    }
}

#[test]
fn alpha_is_dropped_and_other_chroma_refused_by_name() {
    let mut with_alpha = b"YUV4MPEG2 W2 H1 F25:1 C444alpha\n".to_vec();
    for frame in [1u8, 11] {
        with_alpha.extend_from_slice(b"FRAME\n");
        with_alpha.extend(frame..frame + 8);
    }
    let frames = all_frames(&mut open(&with_alpha).unwrap());
    let planes: Vec<_> = frames[1].planes.iter().map(|plane| plane.samples.clone()).collect();
    assert_eq!(planes, [[11, 12], [13, 14], [15, 16]]);

    let error = open(b"YUV4MPEG2 W4 H4 F25:1 C411\nFRAME\n").err().unwrap();
    assert!(matches!(error, SourceError::UnsupportedCodec { .. }), "{error}");
    assert!(error.to_string().contains("chroma 411"), "{error}");
}

#[test]
fn fields_of_the_header_that_change_nothing_are_taken() {
    let stream =
        b"YUV4MPEG2 W2 H2 F0:0 It A1:1 C420paldv XYSCSS=420PALDV XCOLORRANGE=FULL\nFRAME Ixyz Xa\n123456";
    let mut source = open(stream).unwrap();
    assert!(source.info().description.contains("25/s assumed"), "{}", source.info().description);
    let frames = all_frames(&mut source);
    assert_eq!((frames.len(), frames[0].range), (1, ColorRange::Full));
    assert_eq!(frames[0].planes[0].samples, b"1234");
    assert!(source.damage().is_none());
}

#[test]
fn a_stream_that_breaks_off_gives_its_whole_frames() {
    let mut source = open(b"YUV4MPEG2 W2 H2 F25:1\nFRAME\n123456FRAME\n123").unwrap();
    assert_eq!(source.info().n_frames, Some(2));
    assert_eq!(all_frames(&mut source).len(), 1);
    assert_eq!((source.damage().n_frames_lost, source.damage().n_bytes_missing), (1, 3));

    for broken in ["FRAMES\n12345", "FRAM", "\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let stream = format!("YUV4MPEG2 W2 H2 F25:1\nFRAME\n123456{broken}");
        let mut source = open(stream.as_bytes()).unwrap();
        assert_eq!(all_frames(&mut source).len(), 1, "{broken:?}");
        assert_eq!(source.damage().n_frames_lost, 1, "{broken:?}");
        assert!(source.damage().notes[0].contains("frame 1"), "{:?}", source.damage());
    }
}

#[test]
fn headers_that_lie_are_refused_before_memory_is_taken() {
    for (header, word) in [
        ("YUV4MPEG2 W16384 H16384 F25:1\n", "16384x16384"),
        ("YUV4MPEG2 W4294967296 H2 F25:1\n", "W4294967296"),
        ("YUV4MPEG2 W-2 H2 F25:1\n", "W-2"),
        ("YUV4MPEG2 H2 F25:1\n", "0x2"),
        ("YUV4MPEG2 W2 H2 F25\n", "F25"),
        ("YUV4MPEG2 W2 H2 F25:0\n", "F25:0"),
        ("YUV4MPEG2 W2 H2", "YUV4MPEG2 W2 H2"),
    ] {
        let error = open(header.as_bytes()).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
    // A size within the limits that never comes.
    let mut source = open(b"YUV4MPEG2 W10000 H10000 F25:1 C444p16\nFRAME\n123").unwrap();
    assert!(all_frames(&mut source).is_empty());
    assert_eq!(source.damage().n_bytes_missing, 600_000_000 - 3);
}

#[cfg(unix)]
#[test]
fn a_named_pipe_needs_no_seeking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut stream = b"YUV4MPEG2 W40 H30 F10:1 C420jpeg\n".to_vec();
    for _ in 0..20 {
        stream.extend_from_slice(b"FRAME\n");
        stream.resize(stream.len() + 1800, 7);
    }
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, stream).unwrap()
    });
    let mut source = source::open(&path).unwrap();
    assert_eq!(source.info().n_frames, None);
    let frames = all_frames(source.as_mut());
    writer.join().unwrap();
    assert_eq!((frames.len(), frames[19].pts_ns), (20, 1_900_000_000));
}
