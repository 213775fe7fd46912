//! A record in a segment: its length, its number, a digest of all, and its bytes.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

/// Bytes before a record's own: length (u32), number (u64), digest, all little-endian.
const HEAD_BYTES: usize = 4 + 8 + DIGEST_BYTES;
const DIGEST_BYTES: usize = 8;
/// The longest record; whatever claims to be longer is damage.
pub(super) const MAX_BYTES: usize = 1 << 18;

/// What a disk gives or doesn't give as a whole, bytes.
const SECTOR_BYTES: u64 = 512;
/// How far behind a record that can't be read the next one is looked for: it may itself be as long as records get.
const REACH_BYTES: u64 = 2 * MAX_BYTES as u64;

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
}

/// What `n_bytes` take in a segment.
pub(super) fn stored_bytes(n_bytes: usize) -> u64 {
    (HEAD_BYTES + n_bytes) as u64
}

/// A record as it stands in a segment. `bytes` are at most [`MAX_BYTES`].
pub(super) fn encode(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + bytes.len());
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(number.to_le_bytes());
    let digest = digest(&out, bytes);
    out.extend(digest);
    out.extend(bytes);
    out
}

/// The first bytes of SHA-256 over length, number and bytes.
pub(super) fn digest(head: &[u8], bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let whole =
        Sha256::new().chain_update(b"candor spool 1").chain_update(head).chain_update(bytes).finalize();
    let mut first = [0; DIGEST_BYTES];
    first.copy_from_slice(&whole[..DIGEST_BYTES]);
    first
}

/// The record at `at` of a segment that ends at `end`; `None` where no whole one stands.
///
/// # Errors
/// The system's.
pub(super) fn read(file: &impl FileExt, at: u64, end: u64) -> io::Result<Option<Record>> {
    let mut head = [0; HEAD_BYTES];
    if at.saturating_add(HEAD_BYTES as u64) > end || !read_exact(file, &mut head, at)? {
        return Ok(None);
    }
    let (plain, told) = head.split_at(12);
    let n_bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if n_bytes > MAX_BYTES || at + stored_bytes(n_bytes) > end {
        return Ok(None);
    }
    let mut bytes = vec![0; n_bytes];
    if !read_exact(file, &mut bytes, at + HEAD_BYTES as u64)? || digest(plain, &bytes) != told {
        return Ok(None);
    }
    let mut number = [0; 8];
    number.copy_from_slice(&plain[4..]);
    Ok(Some(Record { number: u64::from_le_bytes(number), bytes }))
}

/// The record at `at` and its place; where the disk doesn't give it, the first one behind it with one of `numbers`.
pub(super) fn read_or_next(
    file: &impl FileExt,
    at: u64,
    end: u64,
    numbers: &Range<u64>,
) -> Option<(u64, Record)> {
    match read(file, at, end) {
        Ok(found) => found.map(|record| (at, record)),
        Err(_) => next(file, at + 1, end, numbers),
    }
}

/// The first record at `from` or behind it with one of `numbers`, and its place; what the disk doesn't give is passed over.
pub(super) fn next(file: &impl FileExt, from: u64, end: u64, numbers: &Range<u64>) -> Option<(u64, Record)> {
    let (mut at, end_of_search) = (from, end.min(from.saturating_add(REACH_BYTES)));
    while at < end_of_search {
        let mut number = [0; 8];
        match read_exact(file, &mut number, at + 4) {
            Ok(true) => {
                if numbers.contains(&u64::from_le_bytes(number))
                    && let Ok(Some(record)) = read(file, at, end)
                {
                    return Some((at, record));
                }
                at += 1;
            }
            Ok(false) => return None,
            Err(_) => at = (at / SECTOR_BYTES + 1) * SECTOR_BYTES,
        }
    }
    None
}

/// False where the file ends too early.
fn read_exact(file: &impl FileExt, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of which the disk doesn't give some sectors.
    struct Worn {
        bytes: Vec<u8>,
        worn: Range<usize>,
    }

    impl FileExt for Worn {
        fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
            let at = usize::try_from(at).unwrap().min(self.bytes.len());
            let end = (at + into.len()).min(self.bytes.len());
            let end = if at < self.worn.start { end.min(self.worn.start) } else { end };
            if self.worn.contains(&at) && at < end {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            into[..end - at].copy_from_slice(&self.bytes[at..end]);
            Ok(end - at)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
    }

    #[test]
    fn what_stands_behind_worn_sectors_is_found() {
        let bytes: Vec<u8> = (1..=40_u64).flat_map(|n| encode(n, &[b'x'; 130])).collect();
        let (end, n_one) = (bytes.len() as u64, usize::try_from(stored_bytes(130)).unwrap());
        for sector in 0..bytes.len() / 512 {
            let worn = sector * 512..(sector + 1) * 512;
            // Records without a byte in that sector.
            let is_whole = |n: &usize| (n + 1) * n_one <= worn.start || n * n_one >= worn.end;
            let expected: Vec<u64> = (0..40).filter(is_whole).map(|n| n as u64 + 1).collect();
            let file = Worn { bytes: bytes.clone(), worn };
            let (mut at, mut found) = (0, Vec::new());
            while let Some((place, record)) = read_or_next(&file, at, end, &(1..41)) {
                assert_eq!(record.bytes, [b'x'; 130]);
                found.push(record.number);
                at = place + stored_bytes(130);
            }
            assert_eq!(found, expected, "sector {sector}");
        }
        // Nothing that isn't to be there is found, and nothing behind the end.
        let file = Worn { bytes, worn: 0..512 };
        assert_eq!(read_or_next(&file, 0, end, &(41..50)), None);
        assert_eq!(read_or_next(&file, 0, stored_bytes(130), &(1..41)), None);
    }
}
