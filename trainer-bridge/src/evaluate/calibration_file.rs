//! `calibration.json`: what thresholds and calibration were chosen, for a bundle's manifest.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use candor::bundle::{Calibration, Thresholds};
use serde::{Deserialize, Serialize};

use super::calibrate::Chosen;
use super::evaluation::Evaluation;

/// `calibration.json`: the sections of a bundle's manifest, and what they rest on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CalibrationFile {
    score: Calibration,
    thresholds: Thresholds,
    min_scores: usize,
    min_face_px: f32,
    /// What the thresholds rest on; for people.
    #[serde(default)]
    chosen_on: serde_json::Value,
}

/// Reads temperature, bias and thresholds.
///
/// # Errors
/// For a file that can't be read or holds what can't be.
pub(super) fn read(file: &Path) -> anyhow::Result<(Calibration, Thresholds)> {
    let json = fs::read(file).with_context(|| format!("{}: reading", file.display()))?;
    let found: CalibrationFile = serde_json::from_slice(&json).with_context(|| file.display().to_string())?;
    let (score, limits) = (found.score, found.thresholds);
    let is_possible = score.temperature.is_finite() && score.temperature > 0.0 && score.bias.is_finite();
    ensure!(is_possible, "{}: expected a temperature above 0 and a bias, found {score:?}", file.display());
    let is_ordered =
        0.0 <= limits.real_below && limits.real_below <= limits.fake_above && limits.fake_above <= 1.0;
    ensure!(is_ordered, "{}: expected 0 <= real_below <= fake_above <= 1, found {limits:?}", file.display());
    Ok((score, limits))
}

/// The file of what `evaluation` chose.
pub(super) fn of(evaluation: &Evaluation, chosen: &Chosen) -> CalibrationFile {
    CalibrationFile {
        score: chosen.score.clone(),
        thresholds: chosen.thresholds.clone(),
        min_scores: evaluation.aim.min_scores,
        min_face_px: evaluation.aim.min_face_px,
        chosen_on: serde_json::json!({
            "false_alarms": evaluation.aim.false_alarms,
            "n_crops": chosen.n_crops,
            "share_fake": chosen.share_fake,
            "n_real_faces": chosen.n_real_faces,
            "n_fake_faces": chosen.n_fake_faces,
            "notes": chosen.notes,
        }),
    }
}
