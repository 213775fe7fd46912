//! Pretrained weights of others into a network's variables: which names they have is seen from the file.

mod names;
mod pickle;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use tch::nn::VarStore;
use tch::{Kind, Tensor, no_grad};

use super::Spec;
use super::description::{Description, Op};
pub use names::Naming;
pub use pickle::PickleError;

/// How many names an error lists.
const N_LISTED: usize = 5;

/// Why a file gives a network no weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("{path}: reading: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The file isn't a checkpoint.
    #[error("{path}: {cause}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: PickleError,
    },
    /// libtorch refused.
    #[error("{path}: {cause}")]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: tch::TchError,
    },
    /// Nothing in the file has a name of a known network.
    #[error("{path}: expected weights named as timm, torchvision or efficientnet-pytorch do, found {found}")]
    Naming {
        /// The file.
        path: PathBuf,
        /// The first names of the file.
        found: String,
    },
    /// The file is of another network.
    #[error("{path}: not the weights of {network} ({naming} names): {mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What was to be filled.
        network: String,
        /// How the file's names were read.
        naming: &'static str,
        /// Tensors that are missing, have another shape, or have no place.
        mismatch: Box<Mismatch>,
    },
}

/// What keeps a file's tensors from being a network's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that the file lacks.
    pub missing: Vec<String>,
    /// Names whose shape differs, with both shapes.
    pub shapes: Vec<String>,
    /// Names of the file that the network lacks.
    pub odd: Vec<String>,
}

impl Mismatch {
    fn is_none(&self) -> bool {
        self.missing.is_empty() && self.shapes.is_empty() && self.odd.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts =
            [("missing", &self.missing), ("of another shape", &self.shapes), ("of no place", &self.odd)];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<_> =
            parts.map(|(what, names)| format!("{} {what}: {}", names.len(), listed(names))).collect();
        f.write_str(&parts.join("; "))
    }
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > N_LISTED { ", ..." } else { "" };
    names.iter().take(N_LISTED).cloned().collect::<Vec<_>>().join(", ") + more
}

/// Reads every tensor of a `.safetensors` file or of a `.pth` in PyTorch's older format (before 1.6).
///
/// # Errors
/// [`WeightsError`] for a file that is neither, or is damaged.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let at = || path.to_owned();
    let unread = |cause| WeightsError::Read { path: at(), cause };
    let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
        std::fs::File::open(path).map_err(unread)?;
        Tensor::read_safetensors(path).map_err(|cause| WeightsError::Torch { path: at(), cause })?
    } else {
        pickle::state_dict(&std::fs::read(path).map_err(unread)?)
            .map_err(|cause| WeightsError::Pickle { path: at(), cause })?
    };
    Ok(tensors.into_iter().collect())
}

/// Fills the backbone of `spec`'s network, whose variables are in `variables`, from `path`; the head stays.
///
/// Names may be timm's (`efficientnet_*`, `tf_efficientnet_*`, `resnet*`), torchvision's, those of the
/// `efficientnet-pytorch` packages, or a checkpoint's of this program. The file's ImageNet classifier is left out.
///
/// # Errors
/// [`WeightsError`] with the names of tensors that are missing, of another shape or of no place; nothing is changed
/// then.
pub fn load_imagenet(variables: &VarStore, spec: &Spec, path: &Path) -> Result<Naming, WeightsError> {
    let tensors = read(path)?;
    let naming = Naming::of(&tensors).ok_or_else(|| WeightsError::Naming {
        path: path.to_owned(),
        found: listed(&tensors.keys().cloned().collect::<Vec<_>>()),
    })?;
    let backbone = backbone_names(spec, naming);
    let found = fill(variables, &tensors, &backbone, |name| naming.is_left_out(name));
    mismatch(found, path, spec, naming.word())?;
    Ok(naming)
}

/// The names (own, `naming`'s) of every variable of the backbone of `spec`'s network, in its order.
pub fn backbone_names(spec: &Spec, naming: Naming) -> Vec<(String, String)> {
    let description = Description::new(spec);
    let is_backbone = |block_idx| block_idx < description.n_blocks;
    pairs(&description, is_backbone, |layer| naming.folders(&description, layer))
}

/// Fills every variable of `spec`'s network from a checkpoint of this program.
///
/// # Errors
/// As [`load_imagenet`].
pub fn load_own(variables: &VarStore, spec: &Spec, path: &Path) -> Result<(), WeightsError> {
    let description = Description::new(spec);
    let all = pairs(&description, |_| true, |layer| Naming::Own.folders(&description, layer));
    let found = fill(variables, &read(path)?, &all, |_| false);
    mismatch(found, path, spec, Naming::Own.word())
}

fn mismatch(
    found: Result<(), Mismatch>,
    path: &Path,
    spec: &Spec,
    naming: &'static str,
) -> Result<(), WeightsError> {
    found.map_err(|mismatch| WeightsError::Mismatch {
        path: path.to_owned(),
        network: spec.backbone.to_string(),
        naming,
        mismatch: Box::new(mismatch),
    })
}

/// The names (own, file's) of all variables of the layers whose block `is_wanted`; `folders` gives a layer's name and its
/// batch normalisation's in the file.
fn pairs(
    description: &Description,
    is_wanted: impl Fn(usize) -> bool,
    folders: impl Fn(&str) -> (String, String),
) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for layer in description.layers.iter().filter(|layer| is_wanted(layer.block_idx)) {
        let has_norm = match &layer.op {
            Op::Convolution(convolution) => convolution.has_norm,
            Op::Dense { .. } => false,
            _ => continue,
        };
        let (folder, norm) = folders(&layer.name);
        let mut pair = |own: &str, folder: &str, name: &str| {
            pairs.push((format!("{}.{own}{name}", layer.name), format!("{folder}.{name}")));
        };
        pair("", &folder, "weight");
        if has_norm {
            for name in ["weight", "bias", "running_mean", "running_var"] {
                pair("norm.", &norm, name);
            }
        } else {
            pair("", &folder, "bias");
        }
    }
    pairs
}

/// Copies the file's tensors over the variables, all or none.
fn fill(
    variables: &VarStore,
    tensors: &BTreeMap<String, Tensor>,
    pairs: &[(String, String)],
    is_left_out: impl Fn(&str) -> bool,
) -> Result<(), Mismatch> {
    let own = variables.variables();
    let mut found = Mismatch::default();
    let mut copies = Vec::with_capacity(pairs.len());
    for (name, theirs) in pairs {
        let (Some(variable), Some(tensor)) = (own.get(name), tensors.get(theirs)) else {
            found.missing.push(theirs.clone());
            continue;
        };
        if variable.size() == tensor.size() {
            copies.push((variable, tensor));
        } else {
            let (expected, size) = (variable.size(), tensor.size());
            found.shapes.push(format!("{theirs}: expected {expected:?}, found {size:?}"));
        }
    }
    let known: HashSet<&str> = pairs.iter().map(|(_, theirs)| theirs.as_str()).collect();
    let odd = tensors.keys().filter(|name| !known.contains(name.as_str()) && !is_left_out(name));
    found.odd.extend(odd.cloned());
    if !found.is_none() {
        return Err(found);
    }
    no_grad(|| {
        for (variable, tensor) in copies {
            variable.shallow_clone().copy_(&tensor.to_kind(Kind::Float));
        }
    });
    Ok(())
}
