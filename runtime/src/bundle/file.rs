//! A bundle as one signed file, and a key list as one; their format stands in `models/FORMAT.md`.
//!
//! The types say what has been checked: an [`UnverifiedBundle`] holds bytes, of which nothing is parsed; only
//! its `verify` gives a [`VerifiedBundle`], whose manifest can be read and whose blobs can be taken.

use std::borrow::Cow;
use std::io::{Read, Write};

use super::digest::{Digest, Hashed, Hasher};
use super::keys::{KeyList, ListedKey, Purpose, Roots, Signed, TrustError, read_u32};
use super::manifest::{Blob, Manifest, Release};
use super::{Bundle, BundleError};

/// First bytes of a bundle.
const BUNDLE_MAGIC: [u8; 8] = *b"CANDOR\x1aB";
/// First bytes of a key list.
const KEY_LIST_MAGIC: [u8; 8] = *b"CANDOR\x1aK";
/// First bytes of a channel.
pub(super) const CHANNEL_MAGIC: [u8; 8] = *b"CANDOR\x1aC";
/// The version of all three formats.
pub(super) const FORMAT: u32 = 1;
/// Bytes that are held of a blob that is only copied.
const PIECE_BYTES: usize = 1 << 16;

/// The signed texts of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Signed by root keys.
    pub key_list: Signed,
    /// Signed by keys of the list.
    pub manifest: Signed,
}

/// A bundle of which nothing has been checked but lengths.
pub struct UnverifiedBundle<R> {
    head: Head,
    reader: Hashed<R>,
}

impl<R: Read> UnverifiedBundle<R> {
    /// Reads the head; at most about 1.1 MiB, whatever the bytes say.
    ///
    /// # Errors
    /// [`BundleError::Format`] for something that is no bundle, [`BundleError::Read`] for one that ends early
    /// or has a length out of its range.
    pub fn read(reader: R) -> Result<Self, BundleError> {
        let mut reader = Hashed::new(reader);
        expect_magic(&mut reader, BUNDLE_MAGIC, "a Candor bundle")?;
        let mut signed = |purpose, what: &str| {
            let failed = |cause| BundleError::Read { what: what.to_owned(), cause };
            Signed::read(&mut reader, purpose).map_err(failed)
        };
        let key_list = signed(Purpose::KeyList, "key list")?;
        let manifest = signed(Purpose::Manifest, "manifest")?;
        Ok(UnverifiedBundle { head: Head { key_list, manifest }, reader })
    }

    /// The texts and signatures, unchecked.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Checks the key list against `roots` and the manifest against the key list, and parses both, each only
    /// once its signatures hold. `known`, a list with a higher serial, counts instead of the bundle's own. With
    /// `now_unix_s`, keys that have expired don't count.
    ///
    /// # Errors
    /// [`BundleError::Trust`]; [`BundleError::Syntax`] or [`BundleError::Field`] for a signed manifest that is
    /// wrong.
    pub fn verify(
        self,
        roots: &Roots,
        known: Option<&KeyList>,
        now_unix_s: Option<u64>,
    ) -> Result<VerifiedBundle<R>, BundleError> {
        let carried = roots.check(&self.head.key_list)?;
        let list = list_that_counts(&carried, known)?;
        let signers: Vec<ListedKey> =
            list.signers(&self.head.manifest, now_unix_s)?.into_iter().cloned().collect();
        let mut manifest = Manifest::from_json(&self.head.manifest.text)?;
        let release = manifest.release.take().ok_or_else(|| BundleError::Field {
            field: "release",
            expected: "what a device asks of a signed bundle".into(),
            found: "nothing".into(),
        })?;
        if !signers.iter().any(|key| key.public.id() == release.key_id) {
            return Err(BundleError::Field {
                field: "release.key_id",
                expected: "a key that signed the manifest".into(),
                found: release.key_id.to_string(),
            });
        }
        manifest.release = Some(release.clone());
        Ok(VerifiedBundle { manifest, release, carried, signers, head: self.head, reader: self.reader })
    }
}

/// The list that a file carries, or the device's where that is newer.
pub(super) fn list_that_counts<'a>(
    carried: &'a KeyList,
    known: Option<&'a KeyList>,
) -> Result<&'a KeyList, TrustError> {
    let Some(known) = known else { return Ok(carried) };
    if known.serial == carried.serial && known != carried {
        let serial = known.serial.to_string();
        let expected = format!("the device's list with serial {serial}, or another serial");
        let found = format!("another list with serial {serial}");
        return Err(TrustError::Field { field: "serial", expected, found });
    }
    Ok(if known.serial > carried.serial { known } else { carried })
}

/// A bundle whose manifest is signed by keys that count; its blobs are still to come.
pub struct VerifiedBundle<R> {
    manifest: Manifest,
    release: Release,
    carried: KeyList,
    signers: Vec<ListedKey>,
    head: Head,
    reader: Hashed<R>,
}

impl<R: Read> VerifiedBundle<R> {
    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it says as a release.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Who signed the manifest.
    pub fn signers(&self) -> &[ListedKey] {
        &self.signers
    }

    /// The key list that the bundle carries, and its signed text.
    pub fn key_list(&self) -> (&KeyList, &Signed) {
        (&self.carried, &self.head.key_list)
    }

    /// Copies the whole bundle, in pieces of at most 64 KiB behind the head; what was copied is only good
    /// when this returns.
    ///
    /// # Errors
    /// [`BundleError::Blob`] for bytes that aren't the manifest's, [`BundleError::Read`] for an early end,
    /// [`BundleError::Format`] for bytes behind the last blob, [`BundleError::Copy`] when `into` fails.
    pub fn copy(mut self, into: &mut impl Write) -> Result<Digest, BundleError> {
        write_head(&self.head, into).map_err(BundleError::Copy)?;
        for blob in self.manifest.blobs() {
            take(&mut self.reader, blob, |piece| into.write_all(piece).map_err(BundleError::Copy))?;
        }
        ended(self.reader)
    }

    /// Reads the model and the golden inputs into memory; also gives the digest of the whole file.
    ///
    /// # Errors
    /// As [`VerifiedBundle::copy`].
    pub fn load(mut self) -> Result<(Bundle, Digest), BundleError> {
        let mut loaded = Vec::new();
        let n_loaded = 1 + self.release.goldens.len();
        for (blob_idx, blob) in self.manifest.blobs().enumerate() {
            let mut bytes = Vec::new();
            take(&mut self.reader, blob, |piece| {
                if blob_idx < n_loaded {
                    bytes.extend_from_slice(piece);
                }
                Ok(())
            })?;
            if blob_idx < n_loaded {
                loaded.push(bytes);
            }
        }
        let digest = ended(self.reader)?;
        let golden_inputs = loaded.split_off(1);
        let model = Cow::Owned(loaded.pop().unwrap_or_default());
        Ok((Bundle { manifest: self.manifest, model, golden_inputs }, digest))
    }
}

/// Reads a blob piece by piece and compares its digest.
fn take(
    reader: &mut impl Read,
    blob: &Blob,
    mut each: impl FnMut(&[u8]) -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let mut hash = Hasher::default();
    let mut piece = [0; PIECE_BYTES];
    let mut n_left = blob.size_bytes;
    while n_left > 0 {
        let n_wanted = usize::try_from(n_left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = &mut piece[..n_wanted];
        reader
            .read_exact(piece)
            .map_err(|cause| BundleError::Read { what: format!("file {}", blob.file), cause })?;
        hash.update(piece);
        each(piece)?;
        n_left -= n_wanted as u64;
    }
    blob.check_digest(hash.digest())
}

/// The digest of everything, once nothing more comes.
pub(super) fn ended<R: Read>(mut reader: Hashed<R>) -> Result<Digest, BundleError> {
    let n_more = std::io::copy(&mut reader.by_ref().take(1), &mut std::io::sink())
        .map_err(|cause| BundleError::Read { what: "end".into(), cause })?;
    if n_more > 0 {
        let (expected, found) = ("nothing behind the last file".into(), "more bytes".into());
        return Err(BundleError::Format { what: "end", expected, found });
    }
    Ok(reader.digest())
}

pub(super) fn expect_magic(reader: &mut impl Read, magic: [u8; 8], name: &str) -> Result<(), BundleError> {
    let failed = |cause| BundleError::Read { what: "first bytes".into(), cause };
    let mut found = [0; 8];
    reader.read_exact(&mut found).map_err(failed)?;
    if found != magic {
        let expected = format!("{name}, which starts with \"{}\"", magic.escape_ascii());
        let found = format!("\"{}\"", found.escape_ascii());
        return Err(BundleError::Format { what: "first bytes", expected, found });
    }
    let format = read_u32(reader).map_err(failed)?;
    if format != FORMAT {
        let (expected, found) = (FORMAT.to_string(), format.to_string());
        return Err(BundleError::Format { what: "format", expected, found });
    }
    Ok(())
}

fn write_head(head: &Head, into: &mut impl Write) -> std::io::Result<()> {
    into.write_all(&BUNDLE_MAGIC)?;
    into.write_all(&FORMAT.to_le_bytes())?;
    head.key_list.write(into)?;
    head.manifest.write(into)
}

/// Writes a bundle: the head, then `blobs`, the bytes that follow it.
///
/// # Errors
/// The reader's or the writer's.
pub fn write_bundle(head: &Head, blobs: &mut impl Read, into: &mut impl Write) -> std::io::Result<()> {
    write_head(head, into)?;
    std::io::copy(blobs, into)?;
    Ok(())
}

/// Reads a key list's file; nothing of it is checked.
///
/// # Errors
/// [`BundleError::Format`] for something that is no key list, [`BundleError::Read`].
pub fn read_key_list(mut reader: impl Read) -> Result<Signed, BundleError> {
    expect_magic(&mut reader, KEY_LIST_MAGIC, "a Candor key list")?;
    let failed = |cause| BundleError::Read { what: "key list".into(), cause };
    let list = Signed::read(&mut reader, Purpose::KeyList).map_err(failed)?;
    ended(Hashed::new(reader)).map(|_| list)
}

/// Writes a key list's file.
///
/// # Errors
/// The writer's.
pub fn write_key_list(list: &Signed, into: &mut impl Write) -> std::io::Result<()> {
    into.write_all(&KEY_LIST_MAGIC)?;
    into.write_all(&FORMAT.to_le_bytes())?;
    list.write(into)
}
