//! A record in a segment: its length, its number, a digest of all, and its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

/// Bytes before a record's own: length (u32), number (u64), digest, all little-endian.
const HEAD_BYTES: usize = 4 + 8 + DIGEST_BYTES;
const DIGEST_BYTES: usize = 8;
/// The longest record; whatever claims to be longer is damage.
pub(super) const MAX_BYTES: usize = 1 << 18;

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
pub(super) fn read(file: &File, at: u64, end: u64) -> io::Result<Option<Record>> {
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

/// False where the file ends too early.
fn read_exact(file: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}
