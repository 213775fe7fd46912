//! What waits to be sent, on the disk: segments of records, oldest first, and a cursor that says how far they were sent.
//!
//! A record is appended, read, and acknowledged. What was appended and not acknowledged is there again after a restart, in
//! order; after a power cut all but the last second of it, and what was acknowledged within the last second may come again.
//! A torn record is no record. Over the limit the oldest segment goes, and is counted.

mod cursor;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files;
use cursor::Cursor;

const ENDING: &str = "segment";
/// A spool is divided into so many segments, which is also the share of it that goes when it is full.
const N_SEGMENTS: u64 = 16;
/// How often a record is read that the disk doesn't give: what is wrong may pass.
const MAX_TRIES: u32 = 5;
/// The longest time for which what was written isn't yet safe from a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Why a spool can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refuses something.
    #[error("{}: {cause}", .folder.display())]
    Io {
        /// The spool's folder.
        folder: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another process uses it.
    #[error("{}: in use by another process", .0.display())]
    InUse(PathBuf),
    /// A record that no segment may hold.
    #[error("a record of {found} bytes, expected at most {most}")]
    TooLong {
        /// Its length.
        found: usize,
        /// What is possible.
        most: u64,
    },
}

/// What became of records since the spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not acknowledged yet.
    pub n_waiting: u64,
    /// Gave way to newer ones.
    pub n_dropped: u64,
    /// Pieces of segments that could not be read.
    pub n_damaged: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    n_bytes: u64,
    n_waiting: u64,
}

/// A bounded queue on the disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// Locked until it is closed.
    _lock: File,
    segments: VecDeque<Segment>,
    cursor: Cursor,
    next: u64,
    /// Where in the first segment the first record stands that isn't acknowledged.
    at: u64,
    /// Number and length of that record, once it was read.
    read: Option<(u64, u64)>,
    /// How often it could not be read.
    n_tries: u32,
    max_bytes: u64,
    is_dirty: bool,
    synced: Instant,
    counts: Counts,
}

impl Spool {
    /// Goes on with what is in `folder`, which is created where it is missing, or begins there. It keeps `max_bytes` of
    /// segments at most.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn open(folder: &Path, max_bytes: u64, now: Instant) -> Result<Self, SpoolError> {
        let io = |cause| SpoolError::Io { folder: folder.to_owned(), cause };
        fs::create_dir_all(folder).map_err(io)?;
        let lock = files::try_lock(&folder.join("lock")).map_err(io)?;
        let lock = lock.ok_or_else(|| SpoolError::InUse(folder.to_owned()))?;
        let cursor = Cursor::open(folder).map_err(io)?;
        let next = cursor.next.max(1);
        let mut spool = Spool {
            folder: folder.to_owned(),
            _lock: lock,
            segments: VecDeque::new(),
            cursor,
            next,
            at: 0,
            read: None,
            n_tries: 0,
            max_bytes,
            is_dirty: false,
            synced: now,
            counts: Counts::default(),
        };
        spool.read_segments().map_err(io)?;
        spool.make_room(0).map_err(io)?;
        Ok(spool)
    }

    /// Finds the segments and what of them is whole and not acknowledged.
    fn read_segments(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let first = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let (Some(first @ 0_u64..), true) =
                (first, path.extension().is_some_and(|ending| ending == ENDING))
            {
                found.push((first, path));
            }
        }
        found.sort();
        let mut newest = 0;
        for (_, path) in found {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let end = file.metadata()?.len();
            let mut segment = Segment { path, file, n_bytes: 0, n_waiting: 0 };
            let mut at = None;
            while let Some((place, record)) =
                record::read_or_next(&segment.file, segment.n_bytes, end, &(newest + 1..u64::MAX))
            {
                if record.number <= newest {
                    break;
                }
                if place > segment.n_bytes {
                    log::warn!("{}: unreadable at byte {}", segment.path.display(), segment.n_bytes);
                    self.counts.n_damaged += 1;
                }
                newest = record.number;
                if record.number >= self.cursor.next {
                    at.get_or_insert(place);
                    segment.n_waiting += 1;
                }
                segment.n_bytes = place + record::stored_bytes(record.bytes.len());
            }
            if segment.n_bytes < end {
                log::warn!("{}: torn at byte {} of {end}", segment.path.display(), segment.n_bytes);
                self.counts.n_damaged += 1;
                segment.file.set_len(segment.n_bytes)?;
            }
            let Some(at) = at else {
                fs::remove_file(&segment.path)?;
                continue;
            };
            if self.segments.is_empty() {
                self.at = at;
            }
            self.counts.n_waiting += segment.n_waiting;
            self.segments.push_back(segment);
        }
        self.next = self.next.max(newest + 1);
        Ok(())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What became of records.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What its segments take on the disk; the cursor adds 64 KiB at most.
    pub fn n_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.n_bytes).sum()
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`SpoolError`]; then it isn't there, and all others still are.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let most = self.max_bytes.min(record::MAX_BYTES as u64).saturating_sub(record::stored_bytes(0));
        if bytes.len() as u64 > most {
            return Err(SpoolError::TooLong { found: bytes.len(), most });
        }
        self.try_append(bytes).map_err(|cause| SpoolError::Io { folder: self.folder.clone(), cause })
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let encoded = record::encode(self.next, bytes);
        let n_more = encoded.len() as u64;
        self.make_room(n_more)?;
        let full = self.max_bytes / N_SEGMENTS;
        if self.segments.back().is_none_or(|last| last.n_bytes > 0 && last.n_bytes + n_more > full) {
            self.begin_segment()?;
        }
        let Some(last) = self.segments.back_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = last.file.write_all_at(&encoded, last.n_bytes) {
            // The next one is written over what came of it.
            let _ = last.file.set_len(last.n_bytes);
            return Err(error);
        }
        last.n_bytes += n_more;
        last.n_waiting += 1;
        self.next += 1;
        self.counts.n_waiting += 1;
        self.is_dirty = true;
        Ok(())
    }

    /// Drops the oldest segments until `n_more` bytes fit.
    fn make_room(&mut self, n_more: u64) -> io::Result<()> {
        while self.n_bytes() + n_more > self.max_bytes && !self.segments.is_empty() {
            let n_dropped = self.remove_first()?;
            if n_dropped > 0 && self.counts.n_dropped == 0 {
                log::warn!("{}: full; the oldest that wait are dropped", self.folder.display());
            }
            self.counts.n_dropped += n_dropped;
        }
        Ok(())
    }

    /// Removes the first segment: how many records of it were waiting.
    fn remove_first(&mut self) -> io::Result<u64> {
        let Some(first) = self.segments.pop_front() else { return Ok(0) };
        (self.at, self.read, self.n_tries) = (0, None, 0);
        self.counts.n_waiting -= first.n_waiting;
        match fs::remove_file(&first.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(first.n_waiting),
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        if let Some(last) = self.segments.back() {
            last.file.sync_data()?;
            if last.n_waiting == 0 && self.segments.len() == 1 {
                self.remove_first()?;
            }
        }
        let path = self.folder.join(format!("{:020}.{ENDING}", self.next));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        File::open(&self.folder)?.sync_all()?;
        if self.segments.is_empty() {
            self.at = 0;
        }
        self.segments.push_back(Segment { path, file, n_bytes: 0, n_waiting: 0 });
        Ok(())
    }

    /// The oldest record that isn't acknowledged, and its number.
    ///
    /// # Errors
    /// [`SpoolError`] when it can't be read now.
    pub fn first(&mut self) -> Result<Option<(u64, Vec<u8>)>, SpoolError> {
        self.try_first().map_err(|cause| SpoolError::Io { folder: self.folder.clone(), cause })
    }

    fn try_first(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        while let Some(first) = self.segments.front() {
            if first.n_waiting == 0 {
                return Ok(None);
            }
            match record::read(&first.file, self.at, first.n_bytes) {
                Ok(Some(found)) => {
                    self.n_tries = 0;
                    self.read = Some((found.number, record::stored_bytes(found.bytes.len())));
                    return Ok(Some((found.number, found.bytes)));
                }
                // It was whole once: the disk has lost it, and with it the way to those behind it.
                Ok(None) => {
                    log::warn!("{}: damaged at byte {}", first.path.display(), self.at);
                    self.counts.n_damaged += 1;
                    self.counts.n_dropped += self.remove_first()?;
                }
                Err(error) => {
                    self.n_tries += 1;
                    if self.n_tries < MAX_TRIES {
                        return Err(error);
                    }
                    log::warn!("{}: byte {}: {error}; passed over", first.path.display(), self.at);
                    self.pass_over()?;
                }
            }
        }
        Ok(None)
    }

    /// Goes on behind the first record, which the disk doesn't give.
    fn pass_over(&mut self) -> io::Result<()> {
        (self.n_tries, self.read) = (0, None);
        self.counts.n_damaged += 1;
        let numbers = self.cursor.next..self.next;
        let Some(first) = self.segments.front_mut() else { return Ok(()) };
        let Some((at, found)) = record::next(&first.file, self.at + 1, first.n_bytes, &numbers) else {
            self.counts.n_dropped += self.remove_first()?;
            return Ok(());
        };
        // How many are left is counted anew: nobody knows how many stood in what can't be read.
        let (mut n_left, mut end) = (1, at + record::stored_bytes(found.bytes.len()));
        while let Some((place, found)) = record::read_or_next(&first.file, end, first.n_bytes, &numbers) {
            n_left += 1;
            end = place + record::stored_bytes(found.bytes.len());
        }
        let n_lost = first.n_waiting.saturating_sub(n_left);
        first.n_waiting -= n_lost;
        self.counts.n_waiting -= n_lost;
        self.counts.n_dropped += n_lost;
        self.at = at;
        Ok(())
    }

    /// Record `number`, which [`Spool::first`] gave last, has arrived, and is not given again. One that was dropped
    /// meanwhile changes nothing.
    ///
    /// # Errors
    /// [`SpoolError`] when that can't be written; then it may come again after a restart.
    pub fn acknowledge(&mut self, number: u64) -> Result<(), SpoolError> {
        self.try_acknowledge(number).map_err(|cause| SpoolError::Io { folder: self.folder.clone(), cause })
    }

    fn try_acknowledge(&mut self, number: u64) -> io::Result<()> {
        let n_segments = self.segments.len();
        let (Some((read, n_bytes)), Some(first)) = (self.read, self.segments.front_mut()) else {
            return Ok(());
        };
        if read != number {
            return Ok(());
        }
        (self.at, self.read) = (self.at + n_bytes, None);
        first.n_waiting -= 1;
        self.counts.n_waiting -= 1;
        let advanced = self.cursor.advance(number + 1);
        if first.n_waiting == 0 && n_segments > 1 {
            self.remove_first()?;
        }
        advanced
    }

    /// Makes all safe from a power cut, if that is due at `now`.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn sync_if_due(&mut self, now: Instant) -> Result<(), SpoolError> {
        if now.saturating_duration_since(self.synced) >= SYNC_EVERY { self.sync(now) } else { Ok(()) }
    }

    /// Makes all safe from a power cut.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn sync(&mut self, now: Instant) -> Result<(), SpoolError> {
        self.synced = now;
        let mut all = || {
            if let (true, Some(last)) = (self.is_dirty, self.segments.back()) {
                last.file.sync_data()?;
            }
            self.is_dirty = false;
            self.cursor.sync()
        };
        all().map_err(|cause| SpoolError::Io { folder: self.folder.clone(), cause })
    }
}
