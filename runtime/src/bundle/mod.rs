//! A bundle: the classifier's ONNX file and the manifest that says how to feed it and how to read it.
//!
//! Three forms: built into the program, a folder for development, and one signed file (`models/FORMAT.md`).

mod channel;
mod digest;
mod file;
mod keys;
mod manifest;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

pub use self::channel::{
    Channel, ChannelError, ListedChannel, MAX_CHANNEL_BYTES, Offer, UnverifiedChannel, VerifiedChannel,
};
pub(crate) use self::digest::Hasher;
pub use self::digest::{Digest, from_hex, to_hex};
pub use self::file::{Head, UnverifiedBundle, VerifiedBundle, read_key_list, write_bundle, write_key_list};
pub use self::keys::{
    KeyId, KeyList, ListedKey, MAX_KEYS, PublicKey, Purpose, Roots, Signature, Signed, Signs, TrustError,
};
pub use self::manifest::{
    Blob, Calibration, Golden, Input, MAX_DOCUMENT_BYTES, MAX_GOLDENS, Manifest, Release, Status, Thresholds,
    Version,
};

/// The manifest's format that this program reads.
pub const FORMAT: u32 = 1;
/// Longest name of a model, of its version and of a key; a device's history keeps them.
pub(crate) const MAX_NAME_BYTES: usize = 128;
/// Largest manifest that is read.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Most bytes of a bundle's file before its files: magic and format, two signed texts with 16 signatures each.
pub const MAX_HEAD_BYTES: u64 = 12 + 2 * (8 + 16 * 80) + (1 << 16) + (1 << 20);
/// Largest model file that is read.
pub const MAX_MODEL_BYTES: u64 = 512 << 20;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file of the bundle can't be read.
    #[error("bundle {path}: {operation}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The manifest is no JSON of the manifest's form.
    #[error("bundle manifest: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A field has a value that makes no sense.
    #[error("bundle manifest: {field}: expected {expected}, found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A bundle's file is no bundle, or of a format that this program doesn't read.
    #[error("bundle {what}: expected {expected}, found {found}")]
    Format {
        /// Which part.
        what: &'static str,
        /// What a bundle has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A bundle's bytes can't be read, or end too early.
    #[error("bundle {what}: {cause}")]
    Read {
        /// Which part.
        what: String,
        /// The reader's reason.
        cause: std::io::Error,
    },
    /// What the bundle's bytes are copied to fails.
    #[error("copy of the bundle: {0}")]
    Copy(std::io::Error),
    /// Signatures don't make it trusted.
    #[error("bundle: {0}")]
    Trust(#[from] TrustError),
    /// A file is not the one that the manifest names.
    #[error("bundle file {file}: {what}: expected {expected}, found {found}")]
    Blob {
        /// The file's name.
        file: String,
        /// What differs.
        what: &'static str,
        /// By the manifest.
        expected: String,
        /// In the file.
        found: String,
    },
}

/// A bundle whose files are the ones that its manifest names.
#[derive(Clone, Debug)]
pub struct Bundle {
    manifest: Manifest,
    model: Cow<'static, [u8]>,
    /// The inputs of the release's goldens, in their order.
    golden_inputs: Vec<Vec<u8>>,
}

impl Blob {
    fn differs(&self, what: &'static str, expected: String, found: String) -> BundleError {
        BundleError::Blob { file: self.file.clone(), what, expected, found }
    }

    fn check_digest(&self, found: Digest) -> Result<(), BundleError> {
        let found = found.to_string();
        if found == self.sha256 {
            return Ok(());
        }
        Err(self.differs("SHA-256", self.sha256.clone(), found))
    }
}

impl Bundle {
    /// The bundle that is built into the program.
    ///
    /// # Errors
    /// [`BundleError`] when the build put in a broken one.
    pub fn embedded() -> Result<Self, BundleError> {
        let manifest = Manifest::from_json(include_bytes!("../../../models/default/manifest.json"))?;
        Self::verified(manifest, Cow::Borrowed(include_bytes!("../../../models/default/model.onnx")))
    }

    /// Reads the bundle in `folder`: `manifest.json` and the file that it names.
    ///
    /// # Errors
    /// [`BundleError`] when a file can't be read, the manifest is wrong or a digest differs.
    pub fn open(folder: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::from_json(&read(&folder.join("manifest.json"), MAX_MANIFEST_BYTES as u64)?)?;
        let model = read(&folder.join(&manifest.model.file), MAX_MODEL_BYTES)?;
        Self::verified(manifest, Cow::Owned(model))
    }

    /// Checks length and digest before anything parses the model.
    fn verified(manifest: Manifest, model: Cow<'static, [u8]>) -> Result<Self, BundleError> {
        let blob = &manifest.model;
        if model.len() as u64 != blob.size_bytes {
            let found = model.len().to_string();
            return Err(blob.differs("length in bytes", blob.size_bytes.to_string(), found));
        }
        blob.check_digest(Digest::of(&model))?;
        Ok(Bundle { manifest, model, golden_inputs: Vec::new() })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The network, ONNX.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The golden inputs with the bits of the logits that they must give; none for a folder.
    pub fn goldens(&self) -> impl Iterator<Item = (&[u8], [u32; 2])> {
        let expected = self.manifest.release.iter().flat_map(|r| &r.goldens).map(|g| g.logits_bits);
        self.golden_inputs.iter().map(Vec::as_slice).zip(expected)
    }
}

fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, BundleError> {
    use std::io::Read as _;
    let failed = |operation| {
        let path = path.to_owned();
        move |cause| BundleError::Io { path, operation, cause }
    };
    let file = std::fs::File::open(path).map_err(failed("open"))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() as u64 > limit_bytes {
        let cause = std::io::Error::other(format!("expected at most {limit_bytes} bytes, found more"));
        return Err(failed("read")(cause));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = include_str!("../../../models/default/manifest.json");

    #[test]
    fn the_embedded_bundle_is_whole() {
        let bundle = Bundle::embedded().unwrap();
        assert_eq!(bundle.manifest().model.size_bytes, bundle.model().len() as u64);
    }

    #[test]
    fn one_changed_byte_is_refused() {
        let mut model = Bundle::embedded().unwrap().model().to_vec();
        model[1000] ^= 1;
        let manifest = Manifest::from_json(JSON.as_bytes()).unwrap();
        let error = Bundle::verified(manifest, Cow::Owned(model)).unwrap_err().to_string();
        assert!(error.contains("SHA-256"), "{error}");
    }

    #[test]
    fn wrong_fields_are_named() {
        let limit = Manifest::from_json(JSON.as_bytes()).unwrap().thresholds.real_below;
        for (from, to, named) in [
            ("\"format\": 1", "\"format\": 2", "format"),
            ("\"size_px\": 224", "\"size_px\": 1", "input.size_px"),
            (&format!("\"real_below\": {limit}"), "\"real_below\": 0.9999", "thresholds.fake_above"),
            ("\"file\": \"model.onnx\"", "\"file\": \"../model.onnx\"", "model.file"),
            ("\"format\": 1", "\"format\": 1, \"surprise\": 1", "surprise"),
            ("\"id\": \"", &format!("\"id\": \"{}", "x".repeat(MAX_NAME_BYTES)), "id: expected at most 128"),
            (
                "\"version\": \"",
                &format!("\"version\": \"{}", "x".repeat(MAX_NAME_BYTES)),
                "version: expected",
            ),
        ] {
            let json = JSON.replacen(from, to, 1);
            assert_ne!(json, JSON, "{from} is not in the manifest");
            let error = Manifest::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
