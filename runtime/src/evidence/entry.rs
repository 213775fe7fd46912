//! One line of the log: JSON whose last field is the signature of all that stands before it.

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bundle::{Digest, Manifest, PublicKey, from_hex, to_hex};

/// Version of the format.
pub const FORMAT: u32 = 1;
/// Longest line. The settings and 15 looks take a few kilobytes.
pub const MAX_LINE_BYTES: usize = 1 << 16;
/// What a signature is for; one of another text is none of an entry.
const PURPOSE: &[u8] = b"candor evidence entry 1\n";
const SIGNATURE_FIELD: &str = ",\"signature\":\"";

/// An entry without its signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`FORMAT`].
    pub format: u32,
    /// Position in the log, from 0.
    pub n: u64,
    /// SHA-256 of the line before, with its signature and without its line feed; of nothing for the first.
    pub previous: Digest,
    /// Milliseconds since 1970 by the device's clock, which may have been wrong.
    pub unix_ms: u64,
    /// What it tells.
    #[serde(flatten)]
    pub what: What,
}

/// What an entry tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum What {
    /// The program or a segment started, or the model or the settings are others: what the entries after it are made with.
    Start {
        /// Whether the program goes on.
        is_continued: bool,
        /// Its version.
        program: String,
        /// The key that signs from here on.
        key: PublicKey,
        /// The classifier.
        model: Model,
        /// The settings, TOML.
        settings: String,
    },
    /// A verdict.
    Verdict {
        /// The event as it was published.
        event: Value,
        /// SHA-256 of the settings that it was made under.
        settings_sha256: Digest,
        /// SHA-256 of the classifier's file.
        model_sha256: String,
        /// The scores that it rests on, as the bits of their f32, oldest first.
        scores_bits: Vec<u32>,
        /// Looks, oldest first: all of them for a last verdict, the newest for a running one.
        looks: Vec<Look>,
        /// Verdicts before this one that could not be entered.
        n_lost: u64,
    },
    /// The size went above what is allowed, and the oldest segment goes.
    Dropped {
        /// The segment.
        segment: u32,
        /// Its last entry.
        last_n: u64,
        /// SHA-256 of that entry's line.
        last_sha256: Digest,
    },
    /// A line that a cut of the power had left unfinished was taken away.
    Mended {
        /// Its length.
        n_bytes: u64,
    },
    /// A segment can't be read to its end, so that another was begun.
    Damaged {
        /// The segment.
        segment: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The program stopped in good order.
    Stop {
        /// Verdicts that could not be entered since the last entry that says so.
        n_lost: u64,
    },
}

/// The classifier, as far as scores and verdicts depend on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Temperature and bias of its scores, as the bits of their f32.
    pub calibration_bits: [u32; 2],
    /// Means below the first are Real, above the second Fake; bits of f32.
    pub thresholds_bits: [u32; 2],
    /// Fewer scores are Uncertain.
    pub min_scores: usize,
}

impl Model {
    /// The model that `manifest` describes.
    pub fn of(manifest: &Manifest) -> Self {
        let (score, limits) = (&manifest.score, &manifest.thresholds);
        Model {
            id: manifest.id.clone(),
            version: manifest.version.clone(),
            sha256: manifest.model.sha256.clone(),
            calibration_bits: [score.temperature.to_bits(), score.bias.to_bits()],
            thresholds_bits: [limits.real_below.to_bits(), limits.fake_above.to_bits()],
            min_scores: manifest.min_scores,
        }
    }
}

/// A look at a face that was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// SHA-256 of the crop's PNG file, which is named by it.
    pub crop: Digest,
    /// Its P(fake), as the bits of an f32.
    pub score_bits: u32,
    /// When, on the source's clock.
    pub pts_ns: i64,
    /// x, y, width, height in the upright picture.
    pub bbox: [f32; 4],
}

impl Entry {
    /// The line, without a line feed, that `key` signs.
    ///
    /// # Errors
    /// Why it can't be a line: an entry that is too long.
    pub fn line(&self, key: &SigningKey) -> Result<String, String> {
        let mut line = serde_json::to_string(self).map_err(|error| error.to_string())?;
        let signature = key.sign(&[PURPOSE, line.as_bytes()].concat());
        line.pop();
        line.push_str(SIGNATURE_FIELD);
        line.push_str(&to_hex(&signature.to_bytes()));
        line.push_str("\"}");
        if line.len() > MAX_LINE_BYTES {
            return Err(format!("an entry of {} bytes; at most {MAX_LINE_BYTES}", line.len()));
        }
        Ok(line)
    }

    /// The entry of a line and, given a key, whether that key signed it.
    ///
    /// # Errors
    /// Why it is no entry.
    pub fn read(line: &str, key: Option<&PublicKey>) -> Result<Self, String> {
        let signed_at = line.rfind(SIGNATURE_FIELD).ok_or("no signature")?;
        let (body, rest) = line.split_at(signed_at);
        let hex = rest.strip_prefix(SIGNATURE_FIELD).and_then(|rest| rest.strip_suffix("\"}"));
        let bytes: [u8; 64] = hex.and_then(from_hex).ok_or("its signature isn't 128 hexadecimal digits")?;
        let body = format!("{body}}}");
        if let Some(key) = key {
            let text = [PURPOSE, body.as_bytes()].concat();
            if !key.holds(&text, &Signature::from_bytes(&bytes)) {
                return Err("its signature doesn't hold".to_owned());
            }
        }
        let entry: Entry = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        if entry.format != FORMAT {
            return Err(format!("expected format {FORMAT}, found {}", entry.format));
        }
        if entry.n == u64::MAX {
            return Err("no entry can follow it".to_owned());
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let what = What::Mended { n_bytes: 7 };
        Entry { format: FORMAT, n: 3, previous: Digest::of(b""), unix_ms: 5, what }
    }

    #[test]
    fn a_line_holds_with_its_key_and_with_no_byte_changed() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let line = entry().line(&key).unwrap();
        assert_eq!(Entry::read(&line, Some(&PublicKey::of(&key))), Ok(entry()));
        let other = PublicKey::of(&SigningKey::from_bytes(&[8; 32]));
        assert_eq!(Entry::read(&line, Some(&other)), Err("its signature doesn't hold".to_owned()));
        for at in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[at] ^= 1;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            assert!(Entry::read(&changed, Some(&PublicKey::of(&key))).is_err(), "{changed}");
        }
    }

    #[test]
    fn the_signature_is_ed25519_of_purpose_and_body() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let line = entry().line(&key).unwrap();
        let (body, rest) = line.split_at(line.rfind(",\"signature\"").unwrap());
        let text = format!("candor evidence entry 1\n{body}}}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert!(rest.contains(value["signature"].as_str().unwrap()));
        let bytes = from_hex(value["signature"].as_str().unwrap()).unwrap();
        key.verify(text.as_bytes(), &Signature::from_bytes(&bytes)).unwrap();
    }
}
