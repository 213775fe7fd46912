//! Files that are whole whenever the power goes, and files that one process has at a time.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Puts a file with `bytes` and these permissions in the place of `path`: whatever happens meanwhile, what was there or this
/// is there, whole. Gives it, to read and to write.
///
/// # Errors
/// The system's.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<File> {
    let new = with_ending(path, ".new");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(mode);
    let mut file = open_unfinished(&new, |new| options.open(new))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

/// Opens a file that counts only once it is whole. One that another user has left unfinished, and who alone may write it,
/// is begun anew.
///
/// # Errors
/// The system's.
pub(crate) fn open_unfinished<'a>(
    path: &'a Path,
    open: impl Fn(&'a Path) -> io::Result<File>,
) -> io::Result<File> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && fs::remove_file(path).is_ok() => {
            open(path)
        }
        opened => opened,
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Opens a file to be locked, made where it is missing. Whoever may read it may lock it: another user may have made it.
///
/// # Errors
/// The system's.
pub(crate) fn open_to_lock(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::options().create(true).append(true).open(path)
        }
        opened => opened,
    }
}

/// The file `path`, made where it is missing, as long as no other process has it; `None` while one does.
///
/// # Errors
/// The system's.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open_to_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    #[test]
    fn a_file_is_replaced_and_the_one_before_stays_whole_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "before").unwrap();
        let before = File::open(&path).unwrap();
        // What an attempt that was cut off has left.
        drop(replace(&folder.path().join("key.new"), 0o600, b"a longer half").unwrap());
        let file = replace(&path, 0o600, b"after").unwrap();
        file.write_all_at(b"!", 5).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after!");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut old = [0; 6];
        before.read_exact_at(&mut old, 0).unwrap();
        assert_eq!((&old, fs::read_dir(folder.path()).unwrap().count()), (b"before", 1));
        assert!(replace(&folder.path().join("missing/key"), 0o600, b"").is_err());
    }

    #[test]
    fn one_has_a_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = try_lock(&path).unwrap();
        assert!(first.is_some() && try_lock(&path).unwrap().is_none());
        drop(first);
        assert!(try_lock(&path).unwrap().is_some());
    }
}
