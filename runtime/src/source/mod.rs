//! Where frames come from: video files, folders of pictures, single pictures, Y4M on a pipe.

mod h264;
pub mod mp4;

use std::path::Path;

use crate::frame::Frame;

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

    /// Keeps `note` unless there are enough of them or it is there already.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < Self::MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
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
        cause: std::io::Error,
    },
    /// The container is readable; its codec is not built in.
    #[error(
        "{path}: codec {codec} is not built in; this works: \
         ffmpeg -i {path} -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -"
    )]
    UnsupportedCodec {
        /// The file.
        path: String,
        /// The codec's four-character code or name.
        codec: String,
    },
    /// The bytes are no container or picture that is built in.
    #[error(
        "{path}: expected {expected}, found {found}; if ffmpeg reads it, this works: \
         ffmpeg -i {path} -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -"
    )]
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
    Err(SourceError::UnknownFormat {
        path: path.display().to_string(),
        expected: "MP4, MOV, AVI, Y4M, JPEG or PNG",
        found: String::new(),
    })
}
