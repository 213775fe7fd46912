//! The folder that a quantized network is made in: files to use, and the state to go on from.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::Tensor;

use super::float::Float;
use super::numbers::Step;
use super::qdq;
use super::recipe::{Recipe, Stage, State};
use super::sqnr::Row;
use crate::files::{self, FileError};
use crate::model::Spec;
use crate::model::checkpoint::{CheckpointError, Saved, load_tensors, save_tensors};

/// The int8 network's file in the folder.
pub const MODEL: &str = "int8.onnx";
/// The state to go on from; what it is of stands in its metadata, so that neither is there without the other.
const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress";

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file isn't what this program writes.
    #[error("{path}: {cause}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// A state can't be written or read.
    #[error(transparent)]
    State(#[from] CheckpointError),
    /// The state isn't of this network.
    #[error("{path}: expected the state of {expected}, found another network's")]
    Network {
        /// The file.
        path: PathBuf,
        /// The network.
        expected: String,
    },
    /// No int8 network is there yet.
    #[error(
        "{path}: expected a finished int8 network, found stage {stage:?}: run `trainer-bridge quantize` to its end"
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// How far it is.
        stage: Stage,
    },
}

/// What a state depends on; another one starts afresh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Which methods.
    pub recipe: Recipe,
    /// The network's shape and input.
    pub spec: Spec,
    /// SHA-256 of the float network's numbers.
    pub network: String,
    /// SHA-256 of the crops' pixels as the network sees them, and of their classes.
    pub crops: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    source: Source,
    stage: Stage,
    steps: Option<Vec<Step>>,
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder, if need be.
    ///
    /// # Errors
    /// [`FolderError`] when it can't be made.
    pub fn create(path: &Path) -> Result<Self, FolderError> {
        fs::create_dir_all(path).map_err(FileError::of(path, "creating"))?;
        Ok(Folder { path: path.to_owned() })
    }

    /// A folder that `trainer-bridge quantize` has made.
    pub fn open(path: &Path) -> Self {
        Folder { path: path.to_owned() }
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The state to go on from, of the same source; none where there is none.
    ///
    /// # Errors
    /// [`FolderError`] for a file that is there and can't be read.
    pub fn state(&self, source: &Source, float: &Float) -> Result<Option<State>, FolderError> {
        if !self.file(STATE).exists() {
            return Ok(None);
        }
        let (progress, tensors) = self.kept()?;
        if progress.source != *source {
            return Ok(None);
        }
        self.restored(progress, tensors, float).map(Some)
    }

    /// The finished network, with the source that it is of; `float` is the network that was quantized.
    ///
    /// # Errors
    /// [`FolderError`] where it isn't finished or of another network.
    pub fn finished(&self, float: &Float) -> Result<(Source, State), FolderError> {
        let (progress, tensors) = self.kept()?;
        let (source, stage) = (progress.source.clone(), progress.stage);
        if stage < Stage::Widened {
            return Err(FolderError::Unfinished { path: self.file(STATE), stage });
        }
        Ok((source, self.restored(progress, tensors, float)?))
    }

    fn kept(&self) -> Result<(Progress, BTreeMap<String, Tensor>), FolderError> {
        let path = self.file(STATE);
        let Saved { tensors, metadata } = load_tensors(&path)?;
        let json = metadata.get(PROGRESS).map_or("", String::as_str);
        let progress = serde_json::from_str(json).map_err(|cause| FolderError::Syntax { path, cause })?;
        Ok((progress, tensors))
    }

    fn restored(
        &self,
        progress: Progress,
        tensors: BTreeMap<String, Tensor>,
        float: &Float,
    ) -> Result<State, FolderError> {
        let expected = progress.source.spec.backbone.to_string();
        State::restored(float, progress.stage, tensors.into_iter().collect(), progress.steps)
            .ok_or(FolderError::Network { path: self.file(STATE), expected })
    }

    /// Keeps a state, in place of the one before.
    ///
    /// # Errors
    /// [`FolderError`] when it can't be written; the one before stays whole.
    pub fn keep(&self, source: &Source, state: &State) -> Result<(), FolderError> {
        let path = self.file(STATE);
        let steps = state.int8.as_ref().map(|int8| int8.steps.clone());
        let progress = Progress { source: source.clone(), stage: state.stage, steps };
        let json = serde_json::to_string(&progress)
            .map_err(|cause| FolderError::Syntax { path: path.clone(), cause })?;
        let tensors = state.tensors().into_iter().collect();
        Ok(save_tensors(&tensors, Some(HashMap::from([(PROGRESS.to_owned(), json)])), &path)?)
    }

    /// Writes the int8 network as ONNX; gives the number of its bytes.
    ///
    /// # Errors
    /// [`FolderError`] when it can't be written.
    pub fn write_model(&self, state: &State, spec: &Spec) -> Result<usize, FolderError> {
        let int8 = state.int8.as_ref().unwrap_or_else(|| unreachable!("a finished state has integers"));
        let onnx = qdq::onnx(int8, spec);
        self.write(MODEL, &onnx)?;
        Ok(onnx.len())
    }

    /// Writes the measurement of each node as sqnr.json and sqnr.html.
    ///
    /// # Errors
    /// [`FolderError`] when they can't be written.
    pub fn write_report(&self, source: &Source, rows: &[Row], divergence: f64) -> Result<(), FolderError> {
        let report = json!({"source": source, "divergence": divergence, "nodes": rows});
        self.write_json("sqnr.json", &report)?;
        let title = format!("{} at {} px", source.spec.backbone, source.spec.size_px());
        let note = format!("Mean divergence of the classes' probabilities: {divergence:.6}.");
        self.write("sqnr.html", super::page::html(&title, &note, &source.recipe, rows).as_bytes())
    }

    /// Writes JSON.
    ///
    /// # Errors
    /// [`FolderError`] when it can't be written; an older file stays whole.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), FolderError> {
        let json = serde_json::to_vec_pretty(value)
            .map_err(|cause| FolderError::Syntax { path: self.file(name), cause })?;
        self.write(name, &json)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`FolderError`] when it can't be written; an older file stays whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        Ok(files::replace(&self.file(name), bytes)?)
    }
}
