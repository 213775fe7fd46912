//! What the slots hold, and what happened to models on this device.

use std::path::PathBuf;

use serde_json::Value;

use crate::bundle::Roots;
use crate::slot::{Settings, SlotError, Store};

/// The slots' folder, to be looked into.
pub struct Slots {
    folder: PathBuf,
    roots: Roots,
}

impl Slots {
    /// Of a device that takes models; `None` for one that doesn't.
    pub fn of(settings: &Settings) -> Option<Self> {
        let folder = settings.trusted_folder()?.to_owned();
        Some(Slots { folder, roots: settings.roots().ok()? })
    }

    /// The object of `candor slot status --json`; `None` where nothing was ever installed.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(super) fn status(&self) -> Result<Option<Value>, SlotError> {
        if !self.folder.is_dir() {
            return Ok(None);
        }
        Store::readable(&self.folder)?.status(&self.roots).map(Some)
    }
}
