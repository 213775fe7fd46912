//! What a device takes: a signed bundle that is neither old, nor expired, nor too new, nor too large.

use std::io::Read;

use super::{Settings, SlotError};
use crate::bundle::{KeyList, Manifest, Release, Roots, UnverifiedBundle, VerifiedBundle, Version};

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

/// What a device has seen that decides on a bundle; nothing of it for a device without slots.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The one with the highest serial.
    pub(super) key_list: Option<KeyList>,
    /// Bundles below are refused.
    pub(super) security_epoch: u32,
    /// A clock that is behind it is wrong.
    pub(super) latest_unix_s: u64,
}

impl Known {
    /// Checks everything about a bundle that comes before its files: signatures, epoch, expiry, runtime, size.
    ///
    /// # Errors
    /// [`SlotError::Bundle`], [`SlotError::Inadmissible`].
    pub fn verify<R: Read>(
        &self,
        reader: R,
        roots: &Roots,
        limits: &Settings,
        now_unix_s: u64,
    ) -> Result<VerifiedBundle<R>, SlotError> {
        let now_unix_s = self.latest_unix_s.max(now_unix_s);
        let bundle =
            UnverifiedBundle::read(reader)?.verify(roots, self.key_list.as_ref(), Some(now_unix_s))?;
        let manifest = bundle.manifest();
        admit(manifest, bundle.release(), limits, self.security_epoch, now_unix_s).map_err(|why| {
            SlotError::Inadmissible { id: manifest.id.clone(), version: manifest.version.clone(), why }
        })?;
        Ok(bundle)
    }
}

/// Checks what a signed manifest says against the device: its size limit, its epoch and its clock.
///
/// # Errors
/// [`Inadmissible`] for the first thing that doesn't fit.
fn admit(
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
