//! How far a spool was sent: a file to which every acknowledgement appends a number, so that what stood there before
//! is never in danger; the highest whole entry counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::record::digest;
use crate::files;

const NAME: &str = "cursor";
/// A number (u64, little-endian) and its digest.
const ENTRY_BYTES: usize = 16;
/// Entries at which the file is begun anew.
const MAX_ENTRIES: u64 = 4096;

/// The file.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    file: File,
    n_entries: u64,
    is_dirty: bool,
    /// The first number that isn't acknowledged.
    pub(super) next: u64,
}

fn entry(next: u64) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    let number = next.to_le_bytes();
    entry[..8].copy_from_slice(&number);
    entry[8..].copy_from_slice(&digest(&number, b"cursor"));
    entry
}

impl Cursor {
    /// Reads the file of `folder`; without a whole entry it stands at 0.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        // However long it was made, only as much is read as is ever written.
        let n_bytes = file.metadata()?.len().min((MAX_ENTRIES + 1) * ENTRY_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(n_bytes).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let whole = bytes.as_chunks::<ENTRY_BYTES>().0.iter().filter_map(|found| {
            let mut number = [0; 8];
            number.copy_from_slice(&found[..8]);
            let next = u64::from_le_bytes(number);
            (entry(next) == *found).then_some(next)
        });
        let next = whole.max().unwrap_or(0);
        let mut cursor = Cursor { path, file, n_entries: 0, is_dirty: false, next };
        // A torn entry would shift those after it.
        cursor.begin_anew()?;
        Ok(cursor)
    }

    /// Replaces the file by one with the last entry alone.
    fn begin_anew(&mut self) -> io::Result<()> {
        let file = files::replace(&self.path, 0o666, &entry(self.next))?;
        (self.file, self.n_entries, self.is_dirty) = (file, 1, false);
        Ok(())
    }

    /// Moves to `next`: at once for this process and those after it, for a power cut with the next [`Cursor::sync`].
    ///
    /// # Errors
    /// The system's; the move holds for this process all the same.
    pub(super) fn advance(&mut self, next: u64) -> io::Result<()> {
        self.next = next;
        if self.n_entries >= MAX_ENTRIES {
            return self.begin_anew();
        }
        self.is_dirty = true;
        self.file.write_all_at(&entry(next), self.n_entries * ENTRY_BYTES as u64)?;
        self.n_entries += 1;
        Ok(())
    }

    /// Makes the last move hold through a power cut.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}
