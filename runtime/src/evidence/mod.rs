//! The evidence log: what was judged, on which crops, by which model, under which settings; signed and chained.
//!
//! A folder holds segments, each a folder of its own: `000001/entries.jsonl`, one [`entry`] a line, and beside it the crops
//! that its entries name, as PNG, each named by its SHA-256. Every entry holds the SHA-256 of the line before and an Ed25519
//! signature (RFC 8032) of the device's key, so none can be changed, left out or put in without the key. What was cut off
//! at the end can't be told from the log alone: whoever keeps the digest of a newer entry elsewhere can.

pub mod entry;
mod key;
mod log;
mod recorder;
mod settings;
mod verify;

pub use self::key::device_key;
pub use self::log::{About, Log, Verdict};
pub use self::recorder::{Recorder, record};
pub use self::settings::Settings;
pub use self::verify::{Checked, Rescore, verify};

/// Why the log can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file or folder of it.
    #[error("evidence log: {path}: {cause}")]
    Io {
        /// Which.
        path: String,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// Another process keeps it.
    #[error("evidence log: {0}: another process keeps this log")]
    Busy(String),
    /// The key's file holds no key.
    #[error("evidence log: {0}: expected 64 hexadecimal digits of a private key")]
    Key(String),
    /// An entry that isn't what an entry must be.
    #[error("evidence log: {path}: {reason}")]
    Entry {
        /// Its file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The crop can't be kept as a picture.
    #[error("evidence log: crop: {0}")]
    Picture(#[from] image::ImageError),
}

impl EvidenceError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| EvidenceError::Io { path, cause }
    }
}
