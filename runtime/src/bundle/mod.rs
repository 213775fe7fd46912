//! A bundle: the classifier's ONNX file and the manifest that says how to feed it and how to read it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::verdict::{Rules, WINDOW};

/// The manifest's format that this program reads.
pub const FORMAT: u32 = 1;
/// Largest manifest that is read.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
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

/// Whether the model has learnt anything yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The head's weights are random: verdicts mean nothing.
    Untrained,
    /// Trained, quality measured.
    Trained,
}

impl Status {
    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            Status::Untrained => "untrained",
            Status::Trained => "trained",
        }
    }
}

/// How a crop becomes the network's input: `(u8 - mean) / std` per channel, RGB, NCHW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the square input.
    pub size_px: u32,
    /// Subtracted from each channel, in units of 0..=255.
    pub mean: [f32; 3],
    /// Divides each channel, in units of 0..=255; > 0.
    pub std: [f32; 3],
    /// How much the face's box grows before it is cut out; 0.3 = 30 %.
    pub margin: f32,
}

/// How a pair of logits becomes a score: sigmoid((fake - real) / temperature + bias).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// > 0; above 1 makes the model less sure of itself.
    pub temperature: f32,
    /// Shifts the score after the temperature.
    pub bias: f32,
}

/// The means that separate the verdicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// A mean score below is Real.
    pub real_below: f32,
    /// A mean score above is Fake.
    pub fake_above: f32,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Name beside the manifest, without a folder.
    pub file: String,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Its length.
    pub size_bytes: u64,
}

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The model's name.
    pub id: String,
    /// The model's version.
    pub version: String,
    /// Whether verdicts mean anything.
    pub status: Status,
    /// The network's family, for people.
    pub architecture: String,
    /// How crops are fed.
    pub input: Input,
    /// How logits are read.
    pub score: Calibration,
    /// How means are read.
    pub thresholds: Thresholds,
    /// Fewest scores of a verdict on a video.
    pub min_scores: usize,
    /// Narrowest face that is scored.
    pub min_face_px: f32,
    /// The network.
    pub model: Blob,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// What the data it learnt from allows.
    pub data_terms: String,
    /// Measured quality; `null` for an untrained model.
    pub quality: Option<serde_json::Value>,
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// [`BundleError::Syntax`] or [`BundleError::Field`] for the first thing that is wrong.
    pub fn from_json(json: &[u8]) -> Result<Self, BundleError> {
        let manifest: Manifest = serde_json::from_slice(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), BundleError> {
        let check = |holds: bool, field: &'static str, expected: &str, found: String| {
            if holds { Ok(()) } else { Err(BundleError::Field { field, expected: expected.into(), found }) }
        };
        let unit = 0.0..=1.0f32;
        check(self.format == FORMAT, "format", &FORMAT.to_string(), self.format.to_string())?;
        let (input, score) = (&self.input, &self.score);
        check((16..=1024).contains(&input.size_px), "input.size_px", "16..=1024", input.size_px.to_string())?;
        check(
            input.mean.iter().all(|v| v.is_finite()),
            "input.mean",
            "numbers",
            format!("{:?}", input.mean),
        )?;
        let positive = |v: &f32| v.is_finite() && *v > 0.0;
        check(input.std.iter().all(positive), "input.std", "numbers > 0", format!("{:?}", input.std))?;
        check((0.0..=2.0).contains(&input.margin), "input.margin", "0..=2", input.margin.to_string())?;
        check(positive(&score.temperature), "score.temperature", "> 0", score.temperature.to_string())?;
        check(score.bias.is_finite(), "score.bias", "a number", score.bias.to_string())?;
        let t = &self.thresholds;
        check(unit.contains(&t.real_below), "thresholds.real_below", "0..=1", t.real_below.to_string())?;
        let above = t.real_below..=1.0;
        check(
            above.contains(&t.fake_above),
            "thresholds.fake_above",
            "real_below..=1",
            t.fake_above.to_string(),
        )?;
        let enough = (1..=WINDOW).contains(&self.min_scores);
        check(enough, "min_scores", "1..=15", self.min_scores.to_string())?;
        let face = (1.0..=4096.0).contains(&self.min_face_px);
        check(face, "min_face_px", "1..=4096", self.min_face_px.to_string())?;
        let file = &self.model.file;
        let plain = !file.is_empty() && !file.contains(['/', '\\', '\0']) && file != "." && file != "..";
        check(plain, "model.file", "a file name without a folder", file.clone())?;
        let small = self.model.size_bytes <= MAX_MODEL_BYTES;
        check(
            small,
            "model.size_bytes",
            &format!("at most {MAX_MODEL_BYTES}"),
            self.model.size_bytes.to_string(),
        )
    }

    /// The limits of a verdict.
    pub fn rules(&self) -> Rules {
        Rules {
            real_below: self.thresholds.real_below,
            fake_above: self.thresholds.fake_above,
            min_scores: self.min_scores,
            min_face_px: self.min_face_px,
        }
    }
}

/// A bundle whose files are the ones that its manifest names.
#[derive(Clone, Debug)]
pub struct Bundle {
    manifest: Manifest,
    model: Cow<'static, [u8]>,
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
        let manifest = Manifest::from_json(&read(&folder.join("manifest.json"), MAX_MANIFEST_BYTES)?)?;
        let model = read(&folder.join(&manifest.model.file), MAX_MODEL_BYTES)?;
        Self::verified(manifest, Cow::Owned(model))
    }

    /// Checks length and digest before anything parses the model.
    fn verified(manifest: Manifest, model: Cow<'static, [u8]>) -> Result<Self, BundleError> {
        let blob = &manifest.model;
        let differs = |what, expected: &str, found: String| BundleError::Blob {
            file: blob.file.clone(),
            what,
            expected: expected.into(),
            found,
        };
        if model.len() as u64 != blob.size_bytes {
            return Err(differs("length in bytes", &blob.size_bytes.to_string(), model.len().to_string()));
        }
        let digest = hex(&Sha256::digest(&model));
        if digest != blob.sha256 {
            return Err(differs("SHA-256", &blob.sha256, digest));
        }
        Ok(Bundle { manifest, model })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The network, ONNX.
    pub fn model(&self) -> &[u8] {
        &self.model
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
        for (from, to, named) in [
            ("\"format\": 1", "\"format\": 2", "format"),
            ("\"size_px\": 224", "\"size_px\": 1", "input.size_px"),
            ("\"real_below\": 0.35", "\"real_below\": 0.9", "thresholds.fake_above"),
            ("\"file\": \"model.onnx\"", "\"file\": \"../model.onnx\"", "model.file"),
            ("\"format\": 1", "\"format\": 1, \"surprise\": 1", "surprise"),
        ] {
            let json = JSON.replacen(from, to, 1);
            assert_ne!(json, JSON, "{from} is not in the manifest");
            let error = Manifest::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
