//! Where frames come from: video files, folders of pictures, single pictures, Y4M on a pipe.

mod avi;
mod contain;
mod h264;
mod jpeg;
mod mjpeg;
pub mod mp4;
mod rate;
mod sequence;
mod sniff;
mod still;
mod y4m;

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read, Seek};
use std::path::Path;

pub use avi::AviSource;
pub use mp4::Mp4Source;
pub use rate::{FrameRate, FrameRateError};
pub use sequence::SequenceSource;
pub use still::StillSource;
pub use y4m::Y4mSource;

use crate::frame::{ColorMatrix, Frame};
use h264::{AccessUnitDecoder, H264Decoder};
use sniff::Kind;

/// Longest side of a picture that is decoded.
pub const MAX_SIDE_PX: u32 = 16_384;
/// Most pixels of a picture that is decoded; phones reach 108 million.
pub const MAX_PIXELS: u64 = 120_000_000;

/// What is known about a source before its frames are read.
#[derive(Clone, Debug, Default)]
pub struct SourceInfo {
    /// Container and codec in words, for people: "MP4, H.264 High".
    pub description: String,
    /// Width of the upright picture; 0 when not yet known.
    pub width_px: u32,
    /// Height of the upright picture; 0 when not yet known.
    pub height_px: u32,
    /// Frames that the container promises; `None` on a pipe.
    pub n_frames: Option<u64>,
    /// Time that the container promises, first frame to the end of the last; `None` on a pipe.
    pub duration_ns: Option<i64>,
    /// True for a photo: one picture and no time.
    pub is_still: bool,
}

/// What could not be decoded, counted while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Frames that were lost or came out broken.
    pub n_frames_lost: u64,
    /// Bytes that the container promises and the file does not hold.
    pub n_bytes_missing: u64,
    /// The first few causes, in words; at most [`Damage::MAX_NOTES`].
    pub notes: Vec<String>,
}

impl Damage {
    /// Most notes that are kept.
    pub const MAX_NOTES: usize = 8;

    /// True when nothing was lost.
    pub fn is_none(&self) -> bool {
        self.n_frames_lost == 0 && self.n_bytes_missing == 0 && self.notes.is_empty()
    }

    /// Counts what `other` counts as well.
    pub fn add(&mut self, other: &Damage) {
        self.n_frames_lost += other.n_frames_lost;
        self.n_bytes_missing += other.n_bytes_missing;
        for note in &other.notes {
            self.note(note.clone());
        }
    }

    /// Keeps `note` unless there are enough of them or it is there already.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < Self::MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Counts one lost frame and keeps why.
    pub(crate) fn lose_frame(&mut self, why: impl Into<String>) {
        self.n_frames_lost += 1;
        self.note(why);
    }
}

/// Why a source can't be read at all. Damage inside a readable source is a [`Damage`] instead.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operating system refused.
    #[error("{path}: {operation}: {cause}")]
    Io {
        /// The file, or "-" for standard input.
        path: String,
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
    /// The container is readable; its codec is not built in.
    #[error("{path}: codec {codec} is not built in; this works: {}", ffmpeg_pipe(.path))]
    UnsupportedCodec {
        /// The file.
        path: String,
        /// The codec's four-character code or name.
        codec: String,
    },
    /// The bytes are no container or picture that is built in.
    #[error("{path}: expected {expected}, found {found}; if ffmpeg reads it, this works: {}", ffmpeg_pipe(.path))]
    UnknownFormat {
        /// The file.
        path: String,
        /// What is built in.
        expected: &'static str,
        /// What the bytes look like.
        found: String,
    },
    /// The container is built in, and this one is broken beyond use or over a limit.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        path: String,
        /// The part of the file.
        what: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

/// A stream of frames in presentation order.
pub trait FrameSource {
    /// What is known without decoding.
    fn info(&self) -> &SourceInfo;

    /// The next frame, or `None` at the end. Damaged frames are skipped and counted.
    ///
    /// # Errors
    /// Only when nothing more can come: the file can't be read any further by the system, or its
    /// codec turns out not to be built in.
    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError>;

    /// What was lost so far.
    fn damage(&self) -> &Damage;
}

/// Opens a video file, a picture or, for `-`, Y4M on standard input, by content and not by name.
///
/// # Errors
/// [`SourceError`] when the path can't be read or nothing built in reads its bytes.
pub fn open(path: &Path) -> Result<Box<dyn FrameSource>, SourceError> {
    if path == Path::new("-") {
        return open_stdin();
    }
    let name = path.display().to_string();
    let io_error = |operation| {
        let path = name.clone();
        move |cause| SourceError::Io { path, operation, cause }
    };
    let mut file = File::open(path).map_err(io_error("open"))?;
    let about = file.metadata().map_err(io_error("open"))?;
    if about.is_dir() {
        return Err(io_error("open")(io::ErrorKind::IsADirectory.into()));
    }
    let head = read_head(&mut file).map_err(io_error("read"))?;
    let kind = sniff::identify(&head);
    if kind == Kind::Y4m {
        // Y4M must also come through a named pipe, which can't seek back to its start.
        let n_bytes = about.is_file().then_some(about.len());
        return Ok(Box::new(Y4mSource::new(Cursor::new(head).chain(file), &name, n_bytes)?));
    }
    if matches!(kind, Kind::IsoMedia | Kind::Avi | Kind::Jpeg | Kind::Png) {
        file.rewind().map_err(io_error("seek"))?;
    }
    match kind {
        Kind::IsoMedia => Ok(Box::new(Mp4Source::from_reader(file, &name)?)),
        Kind::Avi => Ok(Box::new(AviSource::new(file, &name)?)),
        Kind::Jpeg | Kind::Png => Ok(Box::new(StillSource::new(file, &name)?)),
        _ => Err(not_built_in(&name, kind, &head, "MP4, MOV, AVI, Y4M, JPEG or PNG")),
    }
}

/// Opens the JPEG and PNG pictures of a folder as the frames of one video, `frame2` before `frame10`.
///
/// # Errors
/// [`SourceError`] when the folder can't be read or holds no picture.
pub fn open_sequence(folder: &Path, rate: FrameRate) -> Result<Box<dyn FrameSource>, SourceError> {
    Ok(Box::new(SequenceSource::open(folder, rate)?))
}

fn open_stdin() -> Result<Box<dyn FrameSource>, SourceError> {
    const EXPECTED: &str = "Y4M on standard input";
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        let found = "a terminal".to_owned();
        return Err(SourceError::UnknownFormat { path: "-".to_owned(), expected: EXPECTED, found });
    }
    let head = read_head(&mut stdin).map_err(|cause| SourceError::Io {
        path: "-".to_owned(),
        operation: "read",
        cause,
    })?;
    match sniff::identify(&head) {
        Kind::Y4m => Ok(Box::new(Y4mSource::new(Cursor::new(head).chain(stdin), "-", None)?)),
        kind => Err(not_built_in("-", kind, &head, EXPECTED)),
    }
}

fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(sniff::HEAD_BYTES);
    reader.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn not_built_in(path: &str, kind: Kind, head: &[u8], expected: &'static str) -> SourceError {
    let found = match kind {
        _ if head.is_empty() => {
            return SourceError::Malformed {
                path: path.to_owned(),
                what: "content",
                expected: expected.to_owned(),
                found: "no bytes at all".to_owned(),
            };
        }
        Kind::IsoMedia => "MP4 or MOV".to_owned(),
        Kind::Avi => "AVI".to_owned(),
        Kind::Y4m => "Y4M".to_owned(),
        Kind::Jpeg => "JPEG".to_owned(),
        Kind::Png => "PNG".to_owned(),
        Kind::Foreign(name) => name.to_owned(),
        Kind::Unknown => sniff::describe_unknown(head),
    };
    SourceError::UnknownFormat { path: path.to_owned(), expected, found }
}

/// The shell command that brings `path` into Candor through ffmpeg; quoted for a POSIX shell.
pub fn ffmpeg_pipe(path: &str) -> String {
    let input = match path {
        "-" => "FILE".to_owned(),
        // ffmpeg takes what stands before a colon for a protocol.
        _ if path.contains(':') => shell_word(&format!("file:{path}")),
        _ => shell_word(path),
    };
    format!("ffmpeg -i {input} -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -")
}

/// `text` as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&b);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The matrix of a picture that doesn't name its own: SD is BT.601, larger is BT.709, as players guess.
pub(crate) fn unnamed_matrix(width_px: u32, height_px: u32) -> ColorMatrix {
    if width_px >= 1280 || height_px > 576 { ColorMatrix::Bt709 } else { ColorMatrix::Bt601 }
}

/// Checks a declared size against [`MAX_SIDE_PX`] and [`MAX_PIXELS`]; the error is what was found.
pub(crate) fn check_size_px(width_px: u32, height_px: u32) -> Result<(), String> {
    let is_fine = (1..=MAX_SIDE_PX).contains(&width_px)
        && (1..=MAX_SIDE_PX).contains(&height_px)
        && u64::from(width_px) * u64::from(height_px) <= MAX_PIXELS;
    if is_fine { Ok(()) } else { Err(format!("{width_px}x{height_px} pixels")) }
}

/// The limits of [`check_size_px`] in words.
pub(crate) fn size_limit() -> String {
    format!("1 to {MAX_SIDE_PX} pixels a side and at most {} million", MAX_PIXELS / 1_000_000)
}

/// Decodes a frame of Motion JPEG whose sender promises `height_px` rows (0: unknown); time and index are 0.
///
/// # Errors
/// What was expected and what was found.
pub fn decode_motion_jpeg(bytes: &[u8], height_px: u32) -> Result<Frame, (String, String)> {
    mjpeg::decode(bytes, height_px).map_err(|error| (error.expected, error.found))
}

/// Feeds the H.264 decoder outside bytes: an avcC record, then access units, each behind its length in
/// two bytes.
pub(crate) fn feed_h264(mut bytes: &[u8]) {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(part)
    };
    let Some(Ok((mut decoder, _))) = next().map(H264Decoder::new) else { return };
    let (mut damage, mut pictures) = (Damage::default(), vec![]);
    for (sample_idx, unit) in std::iter::from_fn(next).enumerate() {
        if decoder.decode(unit, sample_idx, sample_idx == 0, &mut damage, &mut pictures).is_err() {
            return;
        }
        pictures.clear();
    }
    decoder.flush(&mut damage, &mut pictures);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_is_one_shell_word_whatever_the_name() {
        for (path, word) in [
            ("clip.mkv", "clip.mkv"),
            ("my clip.mkv", "'my clip.mkv'"),
            ("it's.mkv", r"'it'\''s.mkv'"),
            ("$(reboot).mkv", "'$(reboot).mkv'"),
            ("12:30.mkv", "file:12:30.mkv"),
            ("-", "FILE"),
        ] {
            let expected = format!("ffmpeg -i {word} -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -");
            assert_eq!(ffmpeg_pipe(path), expected);
        }
    }

    #[test]
    fn sizes_over_the_limits_are_refused() {
        assert!(check_size_px(12_000, 9_000).is_ok());
        for (width_px, height_px) in [(0, 5), (5, 0), (16_385, 1), (12_000, 12_000), (u32::MAX, u32::MAX)] {
            assert!(check_size_px(width_px, height_px).is_err(), "{width_px}x{height_px}");
        }
    }
}
