//! What a source has to remember: a JSON file in the slots' folder, replaced whole.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files;
use crate::slot::SlotError;

/// Most bytes of such a file.
const MAX_BYTES: u64 = 1 << 16;

/// What was remembered under `name`; nothing where that is nothing.
///
/// # Errors
/// [`SlotError::Io`]; [`SlotError::Record`] for a file that is damaged: what it protected from must not come in unseen.
pub(super) fn read<T: DeserializeOwned + Default>(folder: &Path, name: &str) -> Result<T, SlotError> {
    let path = folder.join(name);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        opened => opened.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)),
    }
    .map_err(SlotError::io("read", &path))?;
    let damaged = |error| SlotError::Record(format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map_err(damaged)
}

/// Remembers `memo` under `name`, whenever the power goes.
///
/// # Errors
/// [`SlotError::Io`].
pub(super) fn write<T: Serialize>(folder: &Path, name: &str, memo: &T) -> Result<(), SlotError> {
    let path = folder.join(name);
    let written = serde_json::to_vec_pretty(memo).map_err(io::Error::from);
    let written = written.and_then(|bytes| files::replace(&path, 0o666, &bytes));
    written.map(drop).map_err(SlotError::io("write", &path))
}
