//! A network on the disk: `NAME.safetensors` with its variables, and `model.json` with its [`Spec`] beside it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::weights::{self, WeightsError};
use super::{Network, Spec, SpecError};
use crate::files::{self, FileError};

/// The spec's name in a folder of checkpoints.
pub const SPEC_FILE: &str = "model.json";
/// The name of the weights that a run ends with.
pub const BEST_FILE: &str = "best.safetensors";

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file isn't a spec.
    #[error("{path}: {cause}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Which field, what was expected and what was found.
        cause: serde_json::Error,
    },
    /// A spec that no network has.
    #[error("{path}: {cause}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// Which field.
        cause: SpecError,
    },
    /// A tensor that no file of this form holds.
    #[error("{path}: {problem}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Which tensor, and why.
        problem: String,
    },
    /// The weights aren't the spec's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Writes `spec` into `folder`.
///
/// # Errors
/// [`CheckpointError`] when it can't be written; an older file stays whole.
pub fn save_spec(spec: &Spec, folder: &Path) -> Result<(), CheckpointError> {
    let path = folder.join(SPEC_FILE);
    let json = serde_json::to_vec_pretty(spec)
        .map_err(|cause| CheckpointError::Syntax { path: path.clone(), cause })?;
    Ok(files::replace(&path, &json)?)
}

/// Writes every variable to `path`, a `.safetensors` file.
///
/// # Errors
/// [`CheckpointError`] when it can't be written; an older file stays whole.
pub fn save_weights(variables: &VarStore, path: &Path) -> Result<(), CheckpointError> {
    save_tensors(&variables.variables().into_iter().collect(), None, path)
}

/// Writes tensors and, where given, text beside them to `path`, a `.safetensors` file.
///
/// # Errors
/// [`CheckpointError`] when it can't be written; an older file stays whole.
pub fn save_tensors(
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
    path: &Path,
) -> Result<(), CheckpointError> {
    let fails = |problem| CheckpointError::Tensor { path: path.to_owned(), problem };
    let mut raw = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let dtype: Dtype = tensor.kind().try_into().map_err(|error| fails(format!("{name}: {error}")))?;
        let shape: Vec<usize> = tensor.size().iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        raw.push((name.as_str(), dtype, shape, bytes));
    }
    let views = raw.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view))
    });
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| fails(error.to_string()))?;
    let bytes = safetensors::serialize(views, &metadata).map_err(|error| fails(error.to_string()))?;
    Ok(files::replace(path, &bytes)?)
}

/// What [`save_tensors`] wrote.
#[derive(Debug)]
pub struct Saved {
    /// By name, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
    /// Text beside them.
    pub metadata: HashMap<String, String>,
}

/// Reads what [`save_tensors`] wrote.
///
/// # Errors
/// [`CheckpointError`] for a file that can't be read or isn't of this form.
pub fn load_tensors(path: &Path) -> Result<Saved, CheckpointError> {
    let fails = |problem: String| CheckpointError::Tensor { path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(FileError::of(path, "reading"))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| fails(error.to_string()))?;
    let views = SafeTensors::deserialize(&bytes).map_err(|error| fails(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in views.tensors() {
        let kind: Kind = view.dtype().try_into().map_err(|error| fails(format!("{name}: {error}")))?;
        let shape: Vec<i64> = view.shape().iter().map(|&n| i64::try_from(n).unwrap_or(0)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind);
        tensors.insert(name.clone(), tensor.map_err(|error| fails(format!("{name}: {error}")))?);
    }
    Ok(Saved { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}

/// Reads the spec in `folder`.
///
/// # Errors
/// [`CheckpointError`] for a file that can't be read or isn't a possible [`Spec`].
pub fn load_spec(folder: &Path) -> Result<Spec, CheckpointError> {
    let path = folder.join(SPEC_FILE);
    let json = fs::read(&path).map_err(FileError::of(&path, "reading"))?;
    let spec: Spec = serde_json::from_slice(&json)
        .map_err(|cause| CheckpointError::Syntax { path: path.clone(), cause })?;
    spec.check().map_err(|cause| CheckpointError::Spec { path, cause })?;
    Ok(spec)
}

/// Loads the network at `path`: a run's folder, whose best weights are meant, or a `.safetensors` file of one.
///
/// The variables live in the `VarStore`, which is on `device`.
///
/// # Errors
/// [`CheckpointError`] for files that can't be read, and for weights that aren't the spec's.
pub fn load(path: &Path, device: Device) -> Result<(VarStore, Network), CheckpointError> {
    let file = if path.is_dir() { path.join(BEST_FILE) } else { path.to_owned() };
    let spec = load_spec(file.parent().unwrap_or(Path::new("")))?;
    let variables = VarStore::new(device);
    let network = Network::new(&variables.root(), &spec);
    weights::load_own(&variables, &spec, &file)?;
    Ok((variables, network))
}
