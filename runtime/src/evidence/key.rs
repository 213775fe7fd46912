//! The device's key, which signs its entries.

use std::fs;
use std::io;
use std::path::Path;

use ed25519_dalek::SigningKey;

use super::EvidenceError;
use crate::bundle::{from_hex, to_hex};
use crate::files;

/// The key in the file `path`, a seed of 64 hexadecimal digits that only its owner may read; made at random where the file
/// is missing.
///
/// # Errors
/// [`EvidenceError`] for a file that can't be read or written, or that holds no key: it is never written over.
pub fn device_key(path: &Path) -> Result<SigningKey, EvidenceError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let seed = from_hex(text.trim()).ok_or_else(|| EvidenceError::Key(path.display().to_string()))?;
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| EvidenceError::io(path)(error.into()))?;
            let text = format!("{}\n", to_hex(&seed));
            files::replace(path, 0o600, text.as_bytes()).map_err(EvidenceError::io(path))?;
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) => Err(EvidenceError::io(path)(error)),
    }
}
