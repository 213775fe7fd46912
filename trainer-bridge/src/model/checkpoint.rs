//! A network on the disk: `NAME.safetensors` with its variables, and `model.json` with its [`Spec`] beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::weights::{self, WeightsError};
use super::{Network, Spec, SpecError};

/// The spec's name in a folder of checkpoints.
pub const SPEC_FILE: &str = "model.json";
/// The name of the weights that a run ends with.
pub const BEST_FILE: &str = "best.safetensors";

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{path}: {operation}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
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
    /// libtorch refused.
    #[error("{path}: writing: {cause}")]
    Torch {
        /// The file.
        path: PathBuf,
        /// libtorch's reason.
        cause: tch::TchError,
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
    replace(&path, |scratch| fs::write(scratch, &json).map_err(|cause| io_error(scratch, "writing", cause)))
}

/// Writes every variable to `path`, a `.safetensors` file.
///
/// # Errors
/// [`CheckpointError`] when it can't be written; an older file stays whole.
pub fn save_weights(variables: &VarStore, path: &Path) -> Result<(), CheckpointError> {
    let mut named: Vec<(String, Tensor)> = variables.variables().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, tensor) in &mut named {
        *tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    }
    replace(path, |scratch| {
        Tensor::write_safetensors(&named, scratch)
            .map_err(|cause| CheckpointError::Torch { path: scratch.to_owned(), cause })
    })
}

/// Writes to a file beside `path`, then lets it take its place: at any instant `path` is the old or the new, whole.
fn replace(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let scratch = path.with_file_name(name);
    write(&scratch)?;
    let synced = File::open(&scratch).and_then(|file| file.sync_all());
    synced.map_err(|cause| io_error(&scratch, "writing", cause))?;
    fs::rename(&scratch, path).map_err(|cause| io_error(path, "replacing", cause))
}

/// Reads the spec in `folder`.
///
/// # Errors
/// [`CheckpointError`] for a file that can't be read or isn't a possible [`Spec`].
pub fn load_spec(folder: &Path) -> Result<Spec, CheckpointError> {
    let path = folder.join(SPEC_FILE);
    let json = fs::read(&path).map_err(|cause| io_error(&path, "reading", cause))?;
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

fn io_error(path: &Path, operation: &'static str, cause: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), operation, cause }
}
