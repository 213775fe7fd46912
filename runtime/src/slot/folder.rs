//! The slots' folder on a real file system.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::SlotError;
use super::store::{Files, Store};
use crate::files;

/// Held by whoever changes the folder.
const LOCK: &str = "lock";
/// Held by the run that makes a trial, from its start to its end.
const TRIAL_LOCK: &str = "trial";

/// No other run makes a trial while this lives.
pub struct TrialLock(#[expect(dead_code, reason = "locked until it is closed")] File);

/// A folder; a locked one is changed by no other process while this lives.
pub struct Folder {
    path: PathBuf,
    /// Open for its syncs.
    handle: File,
    /// Locked until it is closed.
    _lock: Option<File>,
}

impl Folder {
    /// Creates the folder where it is missing, and waits until this process is alone with it.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path.canonicalize()?.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        let lock = files::open_to_lock(&path.join(LOCK))?;
        lock.lock()?;
        Ok(Folder { path: path.to_owned(), handle: File::open(path)?, _lock: Some(lock) })
    }

    /// As [`Folder::lock`] without waiting: nothing where another process is at work.
    ///
    /// # Errors
    /// The system's.
    pub fn try_lock(path: &Path) -> io::Result<Option<Self>> {
        let Some(lock) = files::try_lock(&path.join(LOCK))? else { return Ok(None) };
        Ok(Some(Folder { path: path.to_owned(), handle: File::open(path)?, _lock: Some(lock) }))
    }

    /// The right to make a trial: nothing where another run has it.
    ///
    /// # Errors
    /// The system's.
    pub fn try_lock_trial(&self) -> io::Result<Option<TrialLock>> {
        Ok(files::try_lock(&self.path.join(TRIAL_LOCK))?.map(TrialLock))
    }

    /// The folder to read from: what a record names stays there while another process changes it.
    ///
    /// # Errors
    /// The system's.
    pub fn to_read(path: &Path) -> io::Result<Self> {
        Ok(Folder { path: path.to_owned(), handle: File::open(path)?, _lock: None })
    }
}

impl Store<Folder> {
    /// The slots in a folder, which this process is alone with; waits for whoever changes them.
    ///
    /// # Errors
    /// [`SlotError::Record`], [`SlotError::Io`].
    pub fn locked(path: &Path) -> Result<Self, SlotError> {
        Store::open(Folder::lock(path).map_err(SlotError::io("lock", path))?)
    }

    /// The slots in a folder that is there, to be read.
    ///
    /// # Errors
    /// As [`Store::locked`].
    pub fn readable(path: &Path) -> Result<Self, SlotError> {
        Store::open(Folder::to_read(path).map_err(SlotError::io("open", path))?)
    }
}

impl Files for Folder {
    type Writer = File;

    fn open(&self, name: &str) -> io::Result<impl io::Read> {
        File::open(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        files::open_unfinished(&self.path.join(name), File::create)
    }

    fn sync(&self, file: File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.path)?;
        // A name that is no UTF-8 is none of ours.
        entries.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
    }
}
