//! What has come of a bundle: one file beside the slots, which no record names and only one process writes.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::SlotError;
use super::folder::Folder;
use crate::bundle::{Digest, Hasher};
use crate::files;

/// The ending of a part's name.
const ENDING: &str = ".part";
/// Held by the process that receives.
const LOCK: &str = "receiving";
/// Bytes that are moved at a time.
pub(super) const PIECE_BYTES: usize = 1 << 16;

/// A part of a bundle, and the right to write it while this lives.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// What the whole is to be.
    wanted: (Digest, u64),
    n_bytes: u64,
    hash: Hasher,
    _lock: File,
}

impl Part {
    /// The part of the bundle with this digest, with what came of it before; whatever else was being received is
    /// forgotten. Nothing where another process receives.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub(super) fn open(folder: &Path, digest: Digest, size_bytes: u64) -> Result<Option<Self>, SlotError> {
        if !folder.is_dir() {
            drop(Folder::lock(folder).map_err(SlotError::io("create", folder))?);
        }
        let lock = files::try_lock(&folder.join(LOCK)).map_err(SlotError::io("lock", folder))?;
        let Some(lock) = lock else { return Ok(None) };
        let name = format!("{digest}{ENDING}");
        remove_all_but(folder, Some(&name))?;
        let path = folder.join(name);
        let open = |path| File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = files::open_unfinished(&path, open).map_err(SlotError::io("open", &path))?;
        let mut part = Part {
            path,
            file,
            wanted: (digest, size_bytes),
            n_bytes: 0,
            hash: Hasher::default(),
            _lock: lock,
        };
        if part.file.metadata().map_err(SlotError::io("look at", &part.path))?.len() > size_bytes {
            part.empty()?;
        }
        part.take_in()?;
        Ok(Some(part))
    }

    /// Hashes what is there.
    fn take_in(&mut self) -> Result<(), SlotError> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.hash.update(&piece[..n]);
                    self.n_bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SlotError::io("read", &self.path)(error)),
            }
        }
    }

    /// How many have come.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Of what has come.
    pub(super) fn digest(&self) -> Digest {
        self.hash.clone().digest()
    }

    /// Whether all has come.
    pub(super) fn is_whole(&self) -> bool {
        self.n_bytes == self.wanted.1
    }

    /// What makes a part that is whole another file than the one that was wanted.
    pub(super) fn difference(&self) -> Option<String> {
        let (expected, found) = (self.wanted.0, self.digest());
        (found != expected).then(|| format!("expected SHA-256 {expected}, found {found}"))
    }

    /// Takes from `reader` what is missing, and tells `each` how many bytes there are after every piece. Nothing when the
    /// part is whole; else why nothing more came, and what has come lasts.
    ///
    /// # Errors
    /// [`SlotError::Io`]; a part that the disk has no room for is gone.
    pub(super) fn fill(
        &mut self,
        reader: &mut impl Read,
        mut each: impl FnMut(u64),
    ) -> Result<Option<io::Error>, SlotError> {
        let mut piece = vec![0; PIECE_BYTES];
        while !self.is_whole() {
            let n_left = usize::try_from(self.wanted.1 - self.n_bytes).unwrap_or(usize::MAX);
            let ended = match reader.read(&mut piece[..n_left.min(PIECE_BYTES)]) {
                Ok(0) => {
                    let why = format!("expected {} bytes, found {}", self.wanted.1, self.n_bytes);
                    io::Error::new(io::ErrorKind::UnexpectedEof, why)
                }
                Ok(n) => {
                    self.append(&piece[..n])?;
                    each(self.n_bytes);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.sync()?;
            return Ok(Some(ended));
        }
        Ok(None)
    }

    /// Starts anew.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub(super) fn empty(&mut self) -> Result<(), SlotError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(SlotError::io("empty", &self.path))?;
        self.n_bytes = 0;
        self.hash = Hasher::default();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SlotError> {
        if let Err(error) = self.file.write_all(bytes) {
            // A device must not stay with a full disk.
            if is_full(error.kind()) {
                fs::remove_file(&self.path).map_err(SlotError::io("remove", &self.path))?;
            }
            return Err(SlotError::io("write", &self.path)(error));
        }
        self.hash.update(bytes);
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes what has come last through a power cut.
    fn sync(&self) -> Result<(), SlotError> {
        self.file.sync_all().map_err(SlotError::io("sync", &self.path))
    }

    /// Everything that has come, from the start.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub(super) fn reader(&mut self) -> Result<&mut File, SlotError> {
        self.file.rewind().map_err(SlotError::io("read", &self.path))?;
        Ok(&mut self.file)
    }

    /// Removes the part.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub(super) fn forget(self) -> Result<(), SlotError> {
        fs::remove_file(&self.path).map_err(SlotError::io("remove", &self.path))
    }

    /// Removes every part in the folder, unless one is being received.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub(super) fn forget_all(folder: &Path) -> Result<(), SlotError> {
        match files::try_lock(&folder.join(LOCK)).map_err(SlotError::io("lock", folder))? {
            Some(_lock) => remove_all_but(folder, None),
            None => Ok(()),
        }
    }
}

/// Whether the disk has no room.
pub(super) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remove_all_but(folder: &Path, kept: Option<&str>) -> Result<(), SlotError> {
    for entry in fs::read_dir(folder).map_err(SlotError::io("list", folder))? {
        let name = entry.map_err(SlotError::io("list", folder))?.file_name();
        let is_part = name.to_str().is_some_and(|name| name.ends_with(ENDING) && Some(name) != kept);
        if is_part {
            let path = folder.join(name);
            fs::remove_file(&path).map_err(SlotError::io("remove", &path))?;
        }
    }
    Ok(())
}
