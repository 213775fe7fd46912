//! What a device takes: a signed bundle that is neither old, nor expired, nor too new, nor too large.

use super::Settings;
use crate::bundle::{Manifest, Release, Version};

/// Why a signed bundle isn't installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inadmissible {
    /// A newer bundle has been confirmed, which this one must not undo.
    #[error("security epoch: expected {least} or more, found {found}")]
    Epoch {
        /// The device's.
        least: u32,
        /// The bundle's.
        found: u32,
    },
    /// Its time is over.
    #[error("expiry: the bundle expired at {expires_unix_s} s, it is {now_unix_s} s now")]
    Expired {
        /// The bundle's.
        expires_unix_s: u64,
        /// The device's clock.
        now_unix_s: u64,
    },
    /// It is made for a newer program.
    #[error("minimum runtime: expected at most {runtime}, which this program is, found {found}")]
    Runtime {
        /// This program.
        runtime: String,
        /// What the bundle needs.
        found: String,
    },
    /// It is too large for this device.
    #[error("size: expected at most {limit_bytes} bytes, found {found_bytes}")]
    Size {
        /// The device's limit.
        limit_bytes: u64,
        /// All files together.
        found_bytes: u64,
    },
}

/// Checks what a signed manifest says against the device: its size limit, its epoch and its clock.
///
/// # Errors
/// [`Inadmissible`] for the first thing that doesn't fit.
pub fn admit(
    manifest: &Manifest,
    release: &Release,
    limits: &Settings,
    security_epoch: u32,
    now_unix_s: u64,
) -> Result<(), Inadmissible> {
    if release.security_epoch < security_epoch {
        return Err(Inadmissible::Epoch { least: security_epoch, found: release.security_epoch });
    }
    if now_unix_s >= release.expires_unix_s {
        return Err(Inadmissible::Expired { expires_unix_s: release.expires_unix_s, now_unix_s });
    }
    let is_new_enough = Version::of_this_program().is_ok_and(|runtime| release.minimum_runtime <= runtime);
    if !is_new_enough {
        let found = release.minimum_runtime.to_string();
        return Err(Inadmissible::Runtime { runtime: env!("CARGO_PKG_VERSION").to_owned(), found });
    }
    let found_bytes = manifest.blobs().fold(0u64, |sum, blob| sum.saturating_add(blob.size_bytes));
    let limit_bytes = limits.max_bundle_bytes;
    if found_bytes > limit_bytes {
        return Err(Inadmissible::Size { limit_bytes, found_bytes });
    }
    Ok(())
}
