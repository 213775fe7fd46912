//! Why a step with slots fails.

use std::io;
use std::path::Path;

use super::admission::Inadmissible;
use super::state::Refusal;
use crate::bundle::{BundleError, ChannelError, Digest, TrustError};

/// The operation that says that a file is gone.
pub(super) const OPEN: &str = "open";

/// Why a step with slots fails.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The system refuses.
    #[error("slots: {operation} {file}: {cause}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        file: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The record is damaged.
    #[error("slots: the record is damaged: {0}")]
    Record(String),
    /// The bundle is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device doesn't take the bundle.
    #[error("bundle {id} {version} is refused: {why}")]
    Inadmissible {
        /// The model's name.
        id: String,
        /// Its version.
        version: String,
        /// Why.
        why: Inadmissible,
    },
    /// A channel isn't believed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A key list isn't trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A key list is older than the device's.
    #[error("key list: expected a serial over {known}, which the device has, found {found}")]
    Serial {
        /// The device's.
        known: u64,
        /// The list's.
        found: u64,
    },
    /// A slot's file isn't the one that was installed.
    #[error("slots: {file}: expected SHA-256 {expected}, found {found}")]
    Digest {
        /// The file.
        file: String,
        /// When it was installed.
        expected: Digest,
        /// Now.
        found: Digest,
    },
    /// The slots are in no state for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl SlotError {
    /// What a failed operation on a file comes to.
    pub fn io(operation: &'static str, file: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let file = file.as_ref().display().to_string();
        move |cause| SlotError::Io { operation, file, cause }
    }

    /// Whether the system refused, or a file of the slots is damaged: nothing that a bundle is to blame for.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, SlotError::Io { .. } | SlotError::Record(_) | SlotError::Bundle(BundleError::Copy(_)))
    }

    /// Whether a bundle's bytes are at fault: no other clock, key, setting or program of the device makes them good.
    pub(super) fn is_of_bytes(&self) -> bool {
        match self {
            // What a device has confirmed stays the least.
            SlotError::Inadmissible { why: Inadmissible::Epoch { .. }, .. } => true,
            SlotError::Bundle(error) => match error {
                BundleError::Read { .. } | BundleError::Blob { .. } => true,
                BundleError::Trust(error) => matches!(error, TrustError::Signature { .. }),
                // A newer program may read another format, and fields that this one doesn't know.
                BundleError::Format { what, .. } => *what != "format",
                BundleError::Syntax(_)
                | BundleError::Field { .. }
                | BundleError::Io { .. }
                | BundleError::Copy(_) => false,
            },
            _ => false,
        }
    }

    /// Whether the same step may go well later, without another bundle.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_of_disk() && !self.is_loss()
    }

    /// Whether the file that was installed is gone or is another one now. Anything else may be the fault of the
    /// disk, of the roots, or of a program that reads another manifest.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            SlotError::Io { operation, cause, .. } => {
                *operation == OPEN && cause.kind() == io::ErrorKind::NotFound
            }
            SlotError::Digest { .. } => true,
            _ => false,
        }
    }
}
