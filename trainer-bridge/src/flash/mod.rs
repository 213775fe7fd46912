//! A signed bundle onto a device, over the system's `ssh` client: the sender's side of `models/TRANSFER.md`.
//!
//! `ssh` says how the client is started and what its failures mean, `link` is one running client, `send` brings a bundle
//! over as many of them as it takes, `wait` asks what became of it.

pub mod command;
mod link;
mod send;
mod ssh;
mod wait;

use candor::bundle::BundleError;

use crate::files::FileError;

/// Why a bundle isn't on the device, or isn't confirmed there.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The bundle can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no bundle, or was changed while it was sent.
    #[error("{0}")]
    Bundle(String),
    /// The device's name or a path on it can't be used.
    #[error("{what}: expected {expected}, found {found:?}")]
    Usage {
        /// Which argument.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// There is no connection, or it broke too often.
    #[error("no connection to {target}: {why}")]
    Unreachable {
        /// The device.
        target: String,
        /// What `ssh` said, or what went wrong last.
        why: String,
    },
    /// The device answers and can't take a bundle.
    #[error("{target}: {why}")]
    Device {
        /// It.
        target: String,
        /// In its own words where it has some.
        why: String,
    },
    /// The device refuses the bundle.
    #[error("{target} refuses: {why}")]
    Refused {
        /// It.
        target: String,
        /// In its own words.
        why: String,
    },
    /// The device gave the bundle up.
    #[error("{target} gave the bundle up: {why}")]
    GivenUp {
        /// It.
        target: String,
        /// In its own words.
        why: String,
    },
    /// `--wait` is over.
    #[error("{target}: not confirmed after {after_s} s: {state}")]
    NotConfirmed {
        /// The device.
        target: String,
        /// How long was waited.
        after_s: u64,
        /// What the device said last.
        state: String,
    },
}

impl From<BundleError> for FlashError {
    fn from(error: BundleError) -> Self {
        FlashError::Bundle(error.to_string())
    }
}

impl FlashError {
    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            FlashError::File(_) | FlashError::Bundle(_) => 1,
            FlashError::Usage { .. } => 2,
            FlashError::Unreachable { .. } => 3,
            FlashError::Device { .. } => 4,
            FlashError::Refused { .. } => 5,
            FlashError::GivenUp { .. } => 6,
            FlashError::NotConfirmed { .. } => 7,
        }
    }
}

/// Text of a device as a terminal may show it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
