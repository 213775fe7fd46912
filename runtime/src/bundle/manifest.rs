//! The manifest: what a bundle says of itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::keys::KeyId;
use super::{BundleError, FORMAT, MAX_MODEL_BYTES, MAX_NAME_BYTES};
use crate::verdict::{Rules, WINDOW};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The model's name, at most 128 bytes.
    pub id: String,
    /// The model's version, at most 128 bytes.
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
    /// What a device asks of a bundle that is signed; folders have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// Most golden inputs of a bundle.
pub const MAX_GOLDENS: usize = 16;
/// Most documents of a bundle.
const MAX_DOCUMENTS: usize = 8;
/// Largest document.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// What a signed bundle says beyond a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The key that signs it; others may sign too.
    pub key_id: KeyId,
    /// Once a device has confirmed a bundle, it takes none with a lower number.
    pub security_epoch: u32,
    /// From this time on it is not installed.
    pub expires_unix_s: u64,
    /// The oldest program that runs it.
    pub minimum_runtime: Version,
    /// What the network must give, to the bit; 1 to [`MAX_GOLDENS`].
    pub goldens: Vec<Golden>,
    /// Card, licence and the like, for people; at most [`MAX_DOCUMENTS`].
    pub documents: Vec<Blob>,
}

/// An input and what the network gives for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// A crop: u8 RGB, row by row, of the bundle's input size.
    pub input: Blob,
    /// The bits of the two logits as f32, real then fake.
    pub logits_bits: [u32; 2],
}

/// A program's version: three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version([u32; 3]);

impl Version {
    /// This program's.
    ///
    /// # Errors
    /// Says so when the build gave it none of three numbers.
    pub fn of_this_program() -> Result<Self, String> {
        Version::try_from(env!("CARGO_PKG_VERSION").to_owned())
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
        let numbers = parts.and_then(|parts| <[u32; 3]>::try_from(parts).ok());
        numbers.map(Version).ok_or_else(|| format!("expected a version like 1.2.3, found {text:?}"))
    }
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
        for (field, name) in [("id", &self.id), ("version", &self.version)] {
            let expected = format!("at most {MAX_NAME_BYTES} bytes");
            check(name.len() <= MAX_NAME_BYTES, field, &expected, name.len().to_string())?;
        }
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
        self.check_blobs()
    }

    fn check_blobs(&self) -> Result<(), BundleError> {
        check_blob(&self.model, "model.file", "model.size_bytes", MAX_MODEL_BYTES)?;
        let Some(release) = &self.release else { return Ok(()) };
        let count = |field, least, most, found: usize| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            let expected = format!("{least}..={most} of them");
            Err(BundleError::Field { field, expected, found: found.to_string() })
        };
        count("release.goldens", 1, MAX_GOLDENS, release.goldens.len())?;
        count("release.documents", 0, MAX_DOCUMENTS, release.documents.len())?;
        let crop_bytes = 3 * u64::from(self.input.size_px).pow(2);
        for golden in &release.goldens {
            let (input, field) = (&golden.input, "release.goldens.input.size_bytes");
            check_blob(input, "release.goldens.input.file", field, crop_bytes)?;
            if input.size_bytes != crop_bytes {
                let expected = format!("{crop_bytes}, a crop of the input's size");
                return Err(BundleError::Field { field, expected, found: input.size_bytes.to_string() });
            }
        }
        for document in &release.documents {
            let field = "release.documents.size_bytes";
            check_blob(document, "release.documents.file", field, MAX_DOCUMENT_BYTES)?;
        }
        let mut names = BTreeSet::new();
        match self.blobs().find(|blob| !names.insert(&blob.file)) {
            None => Ok(()),
            Some(twice) => Err(BundleError::Field {
                field: "file",
                expected: "each name once".into(),
                found: format!("{} twice", twice.file),
            }),
        }
    }

    /// Every file of the bundle in the order in which a signed bundle holds them: the model, the golden
    /// inputs, the documents.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let goldens = self.release.iter().flat_map(|r| r.goldens.iter().map(|golden| &golden.input));
        let documents = self.release.iter().flat_map(|r| &r.documents);
        std::iter::once(&self.model).chain(goldens).chain(documents)
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

/// A name that can't leave a folder, a length within the limit and a digest that can be compared.
fn check_blob(
    blob: &Blob,
    file_field: &'static str,
    size_field: &'static str,
    limit_bytes: u64,
) -> Result<(), BundleError> {
    let check = |holds: bool, field, expected: String, found: String| {
        if holds { Ok(()) } else { Err(BundleError::Field { field, expected, found }) }
    };
    let file = &blob.file;
    let is_plain = (1..=255).contains(&file.len())
        && !file.contains(['/', '\\'])
        && !file.contains(char::is_control)
        && file != "."
        && file != "..";
    check(is_plain, file_field, "a file name without a folder".into(), format!("{file:?}"))?;
    let is_small = blob.size_bytes <= limit_bytes;
    check(is_small, size_field, format!("at most {limit_bytes}"), blob.size_bytes.to_string())
}
