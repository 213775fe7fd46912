//! A private key on a disk, encrypted with a passphrase: Argon2id (RFC 9106), then XChaCha20-Poly1305.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params};
use candor::bundle::{KeyId, PublicKey, from_hex, to_hex};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files::FileError;

/// The file's format.
const FORMAT: u32 = 1;
/// Most memory that a file may ask for, KiB.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// Most passes that a file may ask for.
const MAX_PASSES: u32 = 64;
/// Largest file.
const MAX_BYTES: u64 = 1 << 16;

/// Why a private key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The file is no key.
    #[error("private key: expected {expected}, found {found}")]
    File {
        /// What a key's file has.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The passphrase is wrong, or the file was changed.
    #[error("private key {0}: the passphrase is wrong, or the file was changed")]
    Passphrase(KeyId),
    /// The passphrase is too short to keep anything.
    #[error("passphrase: expected at least {0} bytes")]
    Short(usize),
    /// The system gives no random numbers, or too little memory.
    #[error("private key: {0}")]
    System(String),
}

/// Shortest passphrase.
pub const MIN_PASSPHRASE_BYTES: usize = 8;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    format: u32,
    public: PublicKey,
    /// Of Argon2id.
    memory_kib: u32,
    passes: u32,
    salt: String,
    /// Of XChaCha20-Poly1305.
    nonce: String,
    /// The 32 bytes of the private key and the tag.
    ciphertext: String,
}

impl KeyFile {
    /// What encrypts the private key.
    fn cipher(&self, passphrase: &str, salt: &[u8]) -> Result<XChaCha20Poly1305, KeyError> {
        let failed = |error: argon2::Error| KeyError::System(format!("Argon2id: {error}"));
        let params = Params::new(self.memory_kib, self.passes, 1, Some(32)).map_err(failed)?;
        let argon = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon.hash_password_into(passphrase.as_bytes(), salt, key.as_mut()).map_err(failed)?;
        Ok(XChaCha20Poly1305::new(&(*key).into()))
    }

    /// Fields that the tag covers, too.
    fn covered(&self) -> Vec<u8> {
        format!("candor private key {} {}", self.format, self.public).into_bytes()
    }
}

/// A new private key in a new file that only its owner may read.
///
/// # Errors
/// [`KeyError`]; a file that is there already is left alone.
pub fn create(path: &Path, passphrase: &str) -> Result<PublicKey, KeyError> {
    if passphrase.len() < MIN_PASSPHRASE_BYTES {
        return Err(KeyError::Short(MIN_PASSPHRASE_BYTES));
    }
    let (mut private, mut salt, mut nonce) = (Zeroizing::new([0; 32]), [0; 16], [0; 24]);
    for bytes in [private.as_mut_slice(), &mut salt, &mut nonce] {
        getrandom::fill(bytes).map_err(|error| KeyError::System(error.to_string()))?;
    }
    let public = PublicKey::of(&SigningKey::from_bytes(&private));
    let mut file = KeyFile {
        format: FORMAT,
        public,
        memory_kib: 64 << 10,
        passes: 3,
        salt: to_hex(&salt),
        nonce: to_hex(&nonce),
        ciphertext: String::new(),
    };
    let payload = Payload { msg: private.as_slice(), aad: &file.covered() };
    let sealed = file.cipher(passphrase, &salt)?.encrypt(&nonce.into(), payload);
    file.ciphertext = to_hex(&sealed.map_err(|error| KeyError::System(error.to_string()))?);
    let text = serde_json::to_string_pretty(&file).map_err(|error| KeyError::System(error.to_string()))?;
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::of(path, "creating"))?;
    writeln!(out, "{text}").and_then(|()| out.sync_all()).map_err(FileError::of(path, "writing"))?;
    Ok(public)
}

/// The private key of a file.
///
/// # Errors
/// [`KeyError`].
pub fn open(path: &Path, passphrase: &str) -> Result<SigningKey, KeyError> {
    let wrong = |expected, found: String| KeyError::File { expected, found };
    let length = fs::metadata(path).map_err(FileError::of(path, "opening"))?.len();
    if length > MAX_BYTES {
        return Err(wrong("at most 64 KiB", length.to_string()));
    }
    let text = fs::read(path).map_err(FileError::of(path, "reading"))?;
    let file: KeyFile =
        serde_json::from_slice(&text).map_err(|error| wrong("a key's JSON", error.to_string()))?;
    if file.format != FORMAT {
        return Err(wrong("format 1", file.format.to_string()));
    }
    if file.memory_kib > MAX_MEMORY_KIB || !(1..=MAX_PASSES).contains(&file.passes) {
        let found = format!("{} KiB and {} passes", file.memory_kib, file.passes);
        return Err(wrong("at most 1 GiB and 64 passes", found));
    }
    let salt: [u8; 16] = from_hex(&file.salt).ok_or_else(|| wrong("a salt", file.salt.clone()))?;
    let nonce: [u8; 24] = from_hex(&file.nonce).ok_or_else(|| wrong("a nonce", file.nonce.clone()))?;
    let sealed: [u8; 48] =
        from_hex(&file.ciphertext).ok_or_else(|| wrong("a sealed key", file.ciphertext.clone()))?;
    let payload = Payload { msg: &sealed, aad: &file.covered() };
    let private = file
        .cipher(passphrase, &salt)?
        .decrypt(&nonce.into(), payload)
        .map_err(|_| KeyError::Passphrase(file.public.id()))?;
    let private = Zeroizing::new(private);
    let bytes: &[u8; 32] =
        private.as_slice().try_into().map_err(|_| wrong("32 bytes", private.len().to_string()))?;
    let key = SigningKey::from_bytes(bytes);
    if PublicKey::of(&key) != file.public {
        return Err(wrong("the private key of its public key", file.public.to_string()));
    }
    Ok(key)
}
