//! A file's bytes in pieces, each of which is given back to the system once it has been parsed, so that a
//! network's file and what is made of it are never in memory at the same time.

use std::collections::VecDeque;
use std::io::{self, Read};

use prost::bytes::Buf;

/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes that are read once, from the front.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    /// Of the first piece.
    n_read: usize,
    n_left: usize,
}

impl Pieces {
    /// Reads all of `from`, at most `limit_bytes`.
    ///
    /// # Errors
    /// The reader's, and one that says so when there are more bytes.
    pub fn read(mut from: impl Read, limit_bytes: usize) -> io::Result<Self> {
        let mut pieces = Pieces::default();
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let n_bytes = from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if n_bytes == 0 {
                return Ok(pieces);
            }
            pieces.n_left += n_bytes;
            if pieces.n_left > limit_bytes {
                return Err(io::Error::other(format!("expected at most {limit_bytes} bytes, found more")));
            }
            pieces.pieces.push_back(piece);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.n_left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[self.n_read..])
    }

    fn advance(&mut self, n_bytes: usize) {
        assert!(n_bytes <= self.n_left, "advanced by {n_bytes} of {} bytes", self.n_left);
        self.n_left -= n_bytes;
        self.n_read += n_bytes;
        while let Some(piece) = self.pieces.front()
            && self.n_read >= piece.len()
        {
            self.n_read -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_files_bytes() {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|i| i.to_le_bytes()[i % 3]).collect();
        let mut pieces = Pieces::read(&bytes[..], bytes.len()).unwrap();
        let mut found = vec![0; bytes.len()];
        let (head, tail) = found.split_at_mut(PIECE_BYTES + 7);
        pieces.copy_to_slice(head);
        pieces.copy_to_slice(tail);
        assert!(found == bytes);
        assert_eq!(pieces.remaining(), 0);
        assert_eq!(pieces.chunk(), [0; 0]);
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let error = Pieces::read(&[0; 10][..], 9).unwrap_err().to_string();
        assert!(error.contains("at most 9"), "{error}");
    }
}
