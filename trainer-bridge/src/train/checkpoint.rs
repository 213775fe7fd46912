//! A training that stops and goes on: all of its state in one file, replaced in one step.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::model::checkpoint::{self as model, Saved, load_tensors, save_tensors};

/// The key of [`Progress`] among the file's metadata.
const PROGRESS: &str = "progress";

/// The key of a validation loss among the metadata of weights.
const LOSS: &str = "validation_loss";

/// Why a checkpoint can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Its tensors can't be written or read.
    #[error(transparent)]
    Tensors(#[from] model::CheckpointError),
    /// It doesn't hold what it should.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
}

/// Which part of the recipe runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// All blocks.
    #[default]
    Main,
    /// The early blocks are frozen.
    Finetune,
    /// Nothing is left to do.
    Done,
}

/// Where a training is. What is random follows from the recipe's seed and these numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The running phase.
    pub phase: Phase,
    /// Epochs that are done, of all phases: it numbers the next epoch's order.
    pub epoch: u64,
    /// Epochs that are done in this phase.
    pub phase_epoch: u64,
    /// Optimizer steps that are done in the running epoch.
    pub step_in_epoch: u64,
    /// Optimizer steps that are done, of all phases.
    pub step: u64,
    /// The optimizer's count, which starts again with a phase; smaller where mixed precision left steps out.
    pub optimizer_steps: u64,
    /// Steps that the mean of weights has seen.
    pub ema_steps: u64,
    /// Sum of the running epoch's losses, one a step.
    pub loss_sum: f64,
    /// The best validation loss so far.
    pub best_loss: f64,
    /// The best validation loss of the mean of weights so far.
    pub best_ema_loss: f64,
    /// Epochs of this phase since the best one.
    pub epochs_without_better: u64,
    /// What mixed precision multiplies the loss by.
    pub loss_scale: f64,
    /// Steps since the scale last changed.
    pub steps_at_scale: u64,
    /// SHA-256 of each dataset's manifest, in the recipe's order: a run goes on only with the same data.
    pub manifests_sha256: Vec<String>,
}

/// Writes a training's tensors and its progress, in place of `path`.
///
/// # Errors
/// [`CheckpointError`]; an older file stays whole.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    progress: &Progress,
) -> Result<(), CheckpointError> {
    let text = toml::to_string(progress)
        .map_err(|error| CheckpointError::Content { path: path.to_owned(), problem: error.to_string() })?;
    Ok(save_tensors(tensors, Some(HashMap::from([(PROGRESS.to_owned(), text)])), path)?)
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`CheckpointError`].
pub fn load(path: &Path) -> Result<(BTreeMap<String, Tensor>, Progress), CheckpointError> {
    let fails = |problem: String| CheckpointError::Content { path: path.to_owned(), problem };
    let Saved { tensors, metadata } = load_tensors(path)?;
    let text = metadata.get(PROGRESS);
    let text = text.ok_or_else(|| fails("holds weights, and no progress of a training".into()))?;
    let progress = toml::from_str(text).map_err(|error| fails(error.to_string()))?;
    Ok((tensors, progress))
}

/// What a file of weights says of their validation loss.
pub fn loss_metadata(loss: f64) -> HashMap<String, String> {
    HashMap::from([(LOSS.to_owned(), loss.to_string())])
}

/// The loss that [`loss_metadata`] put into `path`; `None` where there is no file.
///
/// # Errors
/// [`CheckpointError`] for a file that can't be read or holds no loss.
pub fn loss_of(path: &Path) -> Result<Option<f64>, CheckpointError> {
    if !path.exists() {
        return Ok(None);
    }
    let Saved { metadata, .. } = load_tensors(path)?;
    let loss = metadata.get(LOSS).and_then(|text| text.parse().ok());
    let problem = || format!("metadata {LOSS}: expected a number, found {:?}", metadata.get(LOSS));
    loss.map(Some).ok_or_else(|| CheckpointError::Content { path: path.to_owned(), problem: problem() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn progress() -> Progress {
        Progress {
            phase: Phase::Finetune,
            epoch: 7,
            phase_epoch: 2,
            step_in_epoch: 3,
            step: 1003,
            optimizer_steps: 31,
            ema_steps: 1003,
            loss_sum: 0.1 + 0.2,
            best_loss: 1.0 / 3.0,
            best_ema_loss: f64::INFINITY,
            epochs_without_better: 1,
            loss_scale: 65536.0,
            steps_at_scale: 12,
            manifests_sha256: vec!["0a".into(), "ff".into()],
        }
    }

    #[test]
    fn what_is_saved_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let odd = [0.1f32, f32::MIN_POSITIVE / 2.0, -0.0, 3.4e38];
        let tensors = BTreeMap::from([
            ("w".to_owned(), Tensor::from_slice(&odd).view([2, 2])),
            ("n".to_owned(), Tensor::from_slice(&[i64::MAX])),
        ]);
        save(&path, &tensors, &progress()).unwrap();
        let (found, found_progress) = load(&path).unwrap();
        assert_eq!(found_progress, progress());
        let bits = |tensor: &Tensor| {
            Vec::<f32>::try_from(tensor.flatten(0, -1))
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&found["w"]), odd.map(f32::to_bits));
        assert_eq!(found["w"].size(), [2, 2]);
        assert_eq!(found["n"].int64_value(&[0]), i64::MAX);
        // Nothing but the file is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn weights_know_their_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("best.safetensors");
        assert_eq!(loss_of(&path).unwrap(), None);
        let weights = BTreeMap::from([("w".to_owned(), Tensor::from_slice(&[1.0_f32]))]);
        let loss = 0.1 + 0.2;
        save_tensors(&weights, Some(loss_metadata(loss)), &path).unwrap();
        assert_eq!(loss_of(&path).unwrap(), Some(loss));
        save_tensors(&weights, None, &path).unwrap();
        assert!(loss_of(&path).unwrap_err().to_string().contains("validation_loss"));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let error = || load(&path).unwrap_err().to_string();
        assert!(error().contains("reading"));
        save_tensors(&BTreeMap::new(), None, &path).unwrap();
        assert!(error().contains("no progress"));
        fs::write(&path, b"short").unwrap();
        assert!(error().contains("state.safetensors"));
    }
}
