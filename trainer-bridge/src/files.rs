//! Files that are there whole or not at all, whenever the process ends.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {operation}: {cause}")]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was being done.
    pub operation: &'static str,
    /// The system's reason.
    pub cause: io::Error,
}

impl FileError {
    /// What `map_err` makes of the system's reason.
    pub fn of(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| FileError { path, operation, cause }
    }
}

/// Writes `bytes` to `path` so that at any time the old or the new file is there, whole: a file beside it,
/// `NAME.new`, is on the disk before it takes its place.
///
/// # Errors
/// [`FileError`]; an older file stays as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_through(&path.with_added_extension("new"), path, bytes)
}

/// [`replace`] with another file on the same disk in place of `NAME.new`; nobody else may write it.
///
/// # Errors
/// [`FileError`]; an older file stays as it was.
pub fn replace_through(scratch: &Path, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(scratch).map_err(FileError::of(scratch, "creating"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FileError::of(scratch, "writing"))?;
    fs::rename(scratch, path).map_err(FileError::of(path, "replacing"))?;
    // The rename itself is on the disk once its folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::of(folder, "syncing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        for text in ["old and longer", "new"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("none/a.csv"), b"").unwrap_err().to_string();
        assert!(error.contains("a.csv.new: creating"), "{error}");
    }
}
