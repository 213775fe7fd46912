//! AVI files as recorders, editors and power cuts leave them, against ffmpeg where it reads them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Cursor;
use std::path::Path;

use candor::frame::Frame;
use candor::preprocess::color::to_rgb;
use candor::source::{AviSource, Damage, FrameSource, SourceError};

#[path = "support/avi.rs"]
mod avi;
#[path = "support/compare.rs"]
mod compare;
#[path = "support/ffmpeg.rs"]
mod ffmpeg;

/// Four frames of 48 x 32, 4:4:4.
fn golden_packets() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures/mjpeg444.avi");
    let packets = avi::packets(&std::fs::read(path).unwrap());
    assert_eq!(packets.len(), 4);
    packets
}

fn read(bytes: &[u8]) -> (Vec<Frame>, Damage) {
    let mut source = AviSource::new(Cursor::new(bytes), "test.avi").unwrap();
    let frames = std::iter::from_fn(|| source.next_frame().unwrap()).collect();
    (frames, source.damage().clone())
}

fn indices(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.frame_idx).collect()
}

/// Times in units of the file's 1/25 s and RGB of all frames, as ffmpeg sees them.
fn ffmpeg_frames(ffmpeg: &Path, bytes: &[u8]) -> (Vec<i64>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.avi");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let input = ["-i", path, "-fps_mode", "passthrough"];
    let listing = ffmpeg::run(ffmpeg, input.iter().chain(&["-f", "framecrc", "-"]));
    let times = String::from_utf8(listing)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').nth(2).unwrap().trim().parse().unwrap())
        .collect();
    let rgb =
        ["-sws_flags", "accurate_rnd+full_chroma_int+bitexact", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"];
    (times, ffmpeg::run(ffmpeg, input.iter().chain(&rgb)))
}

fn assert_same_as_ffmpeg(bytes: &[u8]) {
    let (frames, damage) = read(bytes);
    assert!(damage.is_none(), "{damage:?}");
    let Some(ffmpeg) = ffmpeg::find() else { return };
    let (times, rgb) = ffmpeg_frames(&ffmpeg, bytes);
    assert_eq!(frames.iter().map(|frame| frame.pts_ns / 40_000_000).collect::<Vec<_>>(), times);
    let ours: Vec<u8> = frames.iter().flat_map(|frame| to_rgb(frame).unwrap().into_raw()).collect();
    let (max, psnr_db) = compare::distance(&ours, &rgb);
    println!("{} frames, at most {max} of 255 off, {psnr_db:.1} dB", frames.len());
    assert!(max <= 3 && psnr_db >= 50.0, "{max} off, {psnr_db:.1} dB");
}

#[test]
fn an_empty_chunk_takes_time_and_gives_no_frame() {
    let [a, b, c, _] = golden_packets().try_into().unwrap();
    let file = avi::file(48, 32, &[a, vec![], b, vec![], vec![], c]);
    assert_eq!(indices(&read(&file).0), [0, 2, 5]);
    assert_same_as_ffmpeg(&file);
}

#[test]
fn frames_in_rec_lists_and_further_riffs_behind_audio() {
    let [a, b, c, d] = golden_packets().try_into().unwrap();
    let sound = avi::chunk(b"00wb", &[0x80; 33]);
    let rec = |packet| avi::list(b"LIST", b"rec ", &[sound.clone(), avi::chunk(b"01dc", packet)]);
    let first = avi::list(
        b"RIFF",
        b"AVI ",
        &[
            avi::headers(48, 32, 4, true),
            avi::chunk(b"JUNK", &[0; 101]),
            avi::list(b"LIST", b"movi", &[rec(&a), rec(&b), avi::chunk(b"ix01", &[0; 24])]),
            avi::chunk(b"idx1", &[0; 32]),
        ],
    );
    let frames = avi::list(b"LIST", b"movi", &[avi::chunk(b"01dc", &c), sound, avi::chunk(b"01db", &d)]);
    let further = avi::list(b"RIFF", b"AVIX", &[frames]);
    let (frames, damage) = read(&[first, further].concat());
    assert!(damage.is_none(), "{damage:?}");
    let plain = read(&avi::file(48, 32, &[a, b, c, d])).0;
    assert_eq!(indices(&frames), [0, 1, 2, 3]);
    for (ours, expected) in frames.iter().zip(&plain) {
        assert_eq!(ours.planes[0].samples, expected.planes[0].samples);
    }
}

#[test]
fn fields_of_an_interlaced_picture_are_woven() {
    let packets = golden_packets();
    let mark = |jpeg: &[u8], field: u8| {
        let app0 = [&[0xff, 0xe0, 0, 16][..], b"AVI1", &[field, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        [&jpeg[..2], &app0, &jpeg[2..]].concat()
    };
    let file = |order: [u8; 2]| {
        let pair = |a: &[u8], b: &[u8]| [mark(a, order[0]), mark(b, order[1])].concat();
        avi::file(48, 64, &[pair(&packets[0], &packets[1]), pair(&packets[2], &packets[3])])
    };
    // ffmpeg takes the lower field for the first, whatever the marks say.
    assert_same_as_ffmpeg(&file([2, 1]));
    assert_same_as_ffmpeg(&file([0, 0]));
    let fields = read(&avi::file(48, 32, &packets)).0;
    let (frames, _) = read(&file([1, 2]));
    assert_eq!((frames.len(), frames[0].height_px), (2, 64));
    for (row_idx, row) in frames[0].planes[0].samples.chunks_exact(48 * 3).enumerate() {
        let field = &fields[row_idx % 2].planes[0];
        assert_eq!(row, &field.samples[row_idx / 2 * 48 * 3..][..48 * 3], "row {row_idx}");
    }
}

#[test]
fn pictures_without_huffman_tables_decode_as_those_with_them() {
    let bare = |jpeg: &Vec<u8>| {
        let (mut out, mut at) = (jpeg[..2].to_vec(), 2);
        while jpeg[at + 1] != 0xda {
            let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            if jpeg[at + 1] != 0xc4 {
                out.extend_from_slice(&jpeg[at..end]);
            }
            at = end;
        }
        [out, jpeg[at..].to_vec()].concat()
    };
    let packets = golden_packets();
    let without: Vec<Vec<u8>> = packets.iter().map(bare).collect();
    assert!(without[0].len() + 400 < packets[0].len());
    assert_same_as_ffmpeg(&avi::file(48, 32, &without));
}

#[test]
fn a_cut_file_gives_its_whole_frames_and_counts_the_rest() {
    let packets = golden_packets();
    let file = avi::file(48, 32, &packets);
    let last = packets[3].len().next_multiple_of(2);
    let n_cut = last + 8 + 100;
    let (frames, damage) = read(&file[..file.len() - n_cut]);
    assert_eq!(indices(&frames), [0, 1]);
    assert_eq!(damage.n_frames_lost, 2, "{damage:?}");
    assert_eq!(damage.n_bytes_missing, n_cut as u64, "{damage:?}");
}

#[test]
fn a_wrong_size_or_foreign_bytes_cost_one_frame_at_most() {
    let packets = golden_packets();
    let mut file = avi::file(48, 32, &packets);
    let second = avi::file(48, 32, &packets[..1]).len();
    assert_eq!(&file[second..second + 4], b"00dc");
    file[second + 4..second + 8].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let (frames, damage) = read(&file);
    assert_eq!(indices(&frames), [0, 2, 3]);
    assert_eq!((damage.n_frames_lost, damage.n_bytes_missing), (1, 0), "{damage:?}");

    let mut file = avi::file(48, 32, &packets);
    file.splice(second..second, [0xf0; 7]);
    let (frames, damage) = read(&file);
    assert_eq!(indices(&frames), [0, 1, 2, 3]);
    assert_eq!((damage.n_frames_lost, damage.notes.len()), (0, 1), "{damage:?}");
}

#[test]
fn a_broken_picture_is_skipped_and_counted() {
    let mut packets = golden_packets();
    let middle = packets[1].len() / 2;
    packets[1].truncate(middle);
    packets[2] = b"no picture".to_vec();
    let (frames, damage) = read(&avi::file(48, 32, &packets));
    assert_eq!(indices(&frames), [0, 3]);
    assert_eq!((damage.n_frames_lost, damage.notes.len()), (2, 2), "{damage:?}");
}

#[test]
fn files_without_pictures_are_refused() {
    let refuse = |bytes: &[u8]| AviSource::new(Cursor::new(bytes), "test.avi").err().unwrap();
    let error = refuse(b"RIFF\x04\0\0\0AVI ");
    assert!(error.to_string().contains("expected a video stream"), "{error}");
    let no_frames = avi::list(b"RIFF", b"AVI ", &[avi::headers(48, 32, 4, false)]);
    let error = refuse(&no_frames);
    assert!(matches!(error, SourceError::Malformed { what: "AVI", .. }), "{error}");
}
