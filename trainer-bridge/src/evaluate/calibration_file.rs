//! What a report chose for a bundle, as a file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use candor::bundle::{Calibration, Thresholds};
use serde::{Deserialize, Serialize};

use super::calibrate::{Aim, Chosen};

/// Name of a [`CalibrationFile`] in a report's folder.
pub const CALIBRATION_FILE: &str = "calibration.json";

/// [`CALIBRATION_FILE`]: the sections of a bundle's manifest, and what they rest on.
#[derive(Debug, Serialize, Deserialize)]
pub struct CalibrationFile {
    /// How logits become a score.
    pub score: Calibration,
    /// How means become verdicts.
    pub thresholds: Thresholds,
    /// Fewest scores of a verdict on a video.
    pub min_scores: usize,
    /// Narrowest face that is scored, px.
    pub min_face_px: f32,
    /// What the thresholds rest on; for people.
    #[serde(default)]
    pub chosen_on: serde_json::Value,
}

impl CalibrationFile {
    /// What was chosen for an aim.
    pub(crate) fn new(aim: &Aim, chosen: &Chosen) -> Self {
        CalibrationFile {
            score: chosen.score.clone(),
            thresholds: chosen.thresholds.clone(),
            min_scores: aim.min_scores,
            min_face_px: aim.min_face_px,
            chosen_on: serde_json::json!({
                "false_alarms": aim.false_alarms,
                "n_crops": chosen.n_crops,
                "share_fake": chosen.share_fake,
                "n_real_groups": chosen.n_real_groups,
                "n_fake_groups": chosen.n_fake_groups,
                "notes": chosen.notes,
            }),
        }
    }

    /// Reads a report's choice.
    ///
    /// # Errors
    /// A file that can't be read, or holds what no bundle may.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let json = fs::read(file).with_context(|| format!("{}: reading", file.display()))?;
        let found: Self = serde_json::from_slice(&json).with_context(|| file.display().to_string())?;
        let (score, limits) = (&found.score, &found.thresholds);
        let is_possible = score.temperature.is_finite() && score.temperature > 0.0 && score.bias.is_finite();
        ensure!(
            is_possible,
            "{}: expected a temperature above 0 and a bias, found {score:?}",
            file.display()
        );
        let is_ordered =
            0.0 <= limits.real_below && limits.real_below <= limits.fake_above && limits.fake_above <= 1.0;
        ensure!(
            is_ordered,
            "{}: expected 0 <= real_below <= fake_above <= 1, found {limits:?}",
            file.display()
        );
        Ok(found)
    }
}
