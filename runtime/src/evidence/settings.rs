//! What can be set about the evidence log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The section `[evidence]` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The log's folder; without one no log is kept.
    pub folder: Option<PathBuf>,
    /// The device's private key; `device.key` in the folder without one. Made where it is missing.
    pub key: Option<PathBuf>,
    /// Size on the disk above which the oldest segment goes.
    pub max_bytes: u64,
}

impl Settings {
    /// The least that [`Settings::max_bytes`] may be.
    pub const LEAST_BYTES: u64 = 16 << 20;
}

impl Default for Settings {
    fn default() -> Self {
        Settings { folder: None, key: None, max_bytes: 1 << 30 }
    }
}
