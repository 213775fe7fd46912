//! Tables as CSV: a head, then rows of one type.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{self, FileError};

/// Why a table can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A row doesn't hold what it should.
    #[error("{path}: {cause}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Which row, what was expected and what was found.
        cause: csv::Error,
    },
}

/// Reads a table.
///
/// # Errors
/// [`TableError`] for a file that can't be read, and for the first row that isn't a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, TableError> {
    let file = File::open(path).map_err(FileError::of(path, "opening"))?;
    let rows: Result<_, _> = csv::Reader::from_reader(file).into_deserialize().collect();
    rows.map_err(|cause| TableError::Row { path: path.to_owned(), cause })
}

/// Writes a table; the old file stays whole until the new one is on the disk.
///
/// # Errors
/// [`TableError`] when it can't be written.
pub fn write(path: &Path, rows: &[impl Serialize]) -> Result<(), TableError> {
    let text = || {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in rows {
            writer.serialize(row)?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    };
    let text = text().map_err(|cause| TableError::Row { path: path.to_owned(), cause })?;
    Ok(files::replace(path, &text)?)
}
