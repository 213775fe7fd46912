//! What a network said of each crop: `predictions.csv`, one row a crop.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use crate::manifest::{Label, Row, Split};
use crate::table::{self, TableError};

/// The file's name in a report's folder.
pub const FILE: &str = "predictions.csv";

/// Why predictions can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PredictionError {
    /// The table can't be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is nothing to measure.
    #[error("{path}: expected at least one row, found none")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// One crop with its logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The name of the dataset's folder.
    pub dataset: String,
    /// As in [`Row`], and so the next six.
    pub crop: String,
    /// The video or photo.
    pub video: String,
    /// What a fake was made from.
    pub source: String,
    /// What stays together in every split and resample.
    pub group: String,
    /// How a fake was made; empty where nothing is known.
    pub method: String,
    /// What the video went through: `clean` or a compression's name.
    pub condition: String,
    /// Which face of the video.
    pub track: u32,
    /// Width of the face's box in the frame, px.
    pub face_px: f32,
    /// Real or fake.
    pub label: Label,
    /// Train or validation.
    pub split: Split,
    /// The network's logit of "real"; NaN where it gave no number.
    pub logit_real: f32,
    /// The network's logit of "fake".
    pub logit_fake: f32,
    /// [`Facts::sharpness`].
    pub sharpness: f32,
    /// [`Facts::brightness`].
    pub brightness: f32,
    /// [`Facts::png_bytes`].
    pub png_bytes: u64,
}

impl Prediction {
    /// Puts together what is known of a crop and what the network said of it: `logits` are real, fake.
    pub fn new(dataset: &str, row: &Row, facts: Facts, [logit_real, logit_fake]: [f32; 2]) -> Self {
        Prediction {
            dataset: dataset.to_owned(),
            crop: row.crop.clone(),
            video: row.video.clone(),
            source: row.source.clone(),
            group: row.group.clone(),
            method: row.method.clone(),
            condition: row.condition.clone(),
            track: row.track,
            face_px: row.w,
            label: row.label,
            split: row.split,
            logit_real,
            logit_fake,
            sharpness: facts.sharpness,
            brightness: facts.brightness,
            png_bytes: facts.png_bytes,
        }
    }

    /// Both logits, real and fake.
    pub fn logits(&self) -> [f32; 2] {
        [self.logit_real, self.logit_fake]
    }

    /// fake - real: the log odds that the network gives "fake"; no number where a logit is none.
    pub fn margin(&self) -> f64 {
        f64::from(self.logit_fake) - f64::from(self.logit_real)
    }

    /// Whether the label is fake.
    pub fn is_fake(&self) -> bool {
        self.label == Label::Fake
    }

    /// The set of videos or photos that it comes from: the folder that `video` names, else the dataset.
    pub fn set(&self) -> &str {
        match self.video.rsplit_once('/') {
            Some((folder, _)) if !folder.is_empty() => folder,
            _ => &self.dataset,
        }
    }

    /// Whether the crop is of a photo, which can give no second score.
    pub fn is_still(&self) -> bool {
        let extension = self.video.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
    }
}

/// Reads predictions, at least one.
///
/// # Errors
/// [`PredictionError`] for a file that can't be read or is empty, and for the first row that isn't a [`Prediction`].
pub fn read(path: &Path) -> Result<Vec<Prediction>, PredictionError> {
    let rows: Vec<Prediction> = table::read(path)?;
    if rows.is_empty() { Err(PredictionError::Empty { path: path.to_owned() }) } else { Ok(rows) }
}

/// Writes predictions; an old file stays whole until the new one is written.
///
/// # Errors
/// [`PredictionError`] when it can't be written.
pub fn write(path: &Path, rows: &[Prediction]) -> Result<(), PredictionError> {
    Ok(table::write(path, rows)?)
}
