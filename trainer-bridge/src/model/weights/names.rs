//! What other projects call the layers.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::model::description::Description;

/// Whose names a file of weights has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// timm's EfficientNets, also the Lite and `tf_` ones: `blocks.1.0.conv_dw`.
    Timm,
    /// torchvision's EfficientNets: `features.2.0.block.1.0`.
    Torchvision,
    /// The ResNets' of both: `layer1.0.conv1`.
    ResNet,
    /// The `efficientnet-pytorch` packages': `_blocks.1._depthwise_conv`.
    Package,
    /// This program's: `blocks.1.depthwise`.
    Own,
}

impl Naming {
    /// Finds out by the first layer's name.
    pub(super) fn of(tensors: &BTreeMap<String, Tensor>) -> Option<Self> {
        let stems = [
            ("conv_stem.weight", Naming::Timm),
            ("features.0.0.weight", Naming::Torchvision),
            ("conv1.weight", Naming::ResNet),
            ("_conv_stem.weight", Naming::Package),
            ("stem.weight", Naming::Own),
        ];
        stems.into_iter().find_map(|(stem, naming)| tensors.contains_key(stem).then_some(naming))
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Naming::Timm => "timm",
            Naming::Torchvision => "torchvision",
            Naming::ResNet => "ResNet",
            Naming::Package => "efficientnet-pytorch",
            Naming::Own => "own",
        }
    }

    /// Whether a tensor belongs to the ImageNet classifier or another head, or is a counter.
    pub(super) fn is_left_out(self, name: &str) -> bool {
        let heads: &[&str] = match self {
            Naming::Timm | Naming::Torchvision => &["classifier."],
            Naming::ResNet => &["fc."],
            Naming::Package => &["_fc."],
            Naming::Own => &["hidden.", "classes."],
        };
        name.ends_with(".num_batches_tracked") || heads.iter().any(|head| name.starts_with(head))
    }

    /// The names of our layer and of its batch normalisation in the file; one that can't have the layer gives a name that
    /// no file holds.
    pub(super) fn folders(self, description: &Description, layer: &str) -> (String, String) {
        let own = || (layer.to_owned(), format!("{layer}.norm"));
        let parts: Vec<&str> = layer.split('.').collect();
        let found = match (self, &parts[..]) {
            (Naming::Own, _) => Some(own()),
            (_, ["stem"]) => Some(self.stem()),
            (_, ["features"]) => self.features(),
            (Naming::ResNet, ["groups", group_idx, repeat, part]) => resnet(group_idx, repeat, part),
            (_, ["blocks", block_idx, part]) => block_idx
                .parse()
                .ok()
                .and_then(|block_idx| self.block(&Place::of(description, block_idx), part)),
            _ => None,
        };
        found.unwrap_or_else(own)
    }

    fn stem(self) -> (String, String) {
        match self {
            Naming::Timm => pair("conv_stem", "bn1"),
            Naming::Torchvision => pair("features.0.0", "features.0.1"),
            Naming::ResNet => pair("conv1", "bn1"),
            Naming::Package => pair("_conv_stem", "_bn0"),
            Naming::Own => pair("stem", "stem.norm"),
        }
    }

    fn features(self) -> Option<(String, String)> {
        match self {
            Naming::Timm => Some(pair("conv_head", "bn2")),
            Naming::Torchvision => Some(pair("features.8.0", "features.8.1")),
            Naming::Package => Some(pair("_conv_head", "_bn1")),
            Naming::ResNet | Naming::Own => None,
        }
    }

    fn block(self, place: &Place, part: &str) -> Option<(String, String)> {
        let Place { block_idx, stage, repeat, has_expand } = *place;
        let (folder, convolution, norm) = match self {
            Naming::Timm => {
                let (convolution, norm) = match (part, has_expand) {
                    ("expand", _) => ("conv_pw", "bn1"),
                    ("depthwise", true) => ("conv_dw", "bn2"),
                    ("depthwise", false) => ("conv_dw", "bn1"),
                    ("se_reduce", _) => ("se.conv_reduce", ""),
                    ("se_expand", _) => ("se.conv_expand", ""),
                    ("project", true) => ("conv_pwl", "bn3"),
                    ("project", false) => ("conv_pw", "bn2"),
                    _ => return None,
                };
                (format!("blocks.{stage}.{repeat}"), convolution.to_owned(), norm.to_owned())
            }
            Naming::Torchvision => {
                let first = usize::from(has_expand);
                let (convolution, norm) = match part {
                    "expand" => ("0.0".into(), "0.1".into()),
                    "depthwise" => (format!("{first}.0"), format!("{first}.1")),
                    "se_reduce" => (format!("{}.fc1", first + 1), String::new()),
                    "se_expand" => (format!("{}.fc2", first + 1), String::new()),
                    "project" => (format!("{}.0", first + 2), format!("{}.1", first + 2)),
                    _ => return None,
                };
                (format!("features.{}.{repeat}.block", stage + 1), convolution, norm)
            }
            Naming::Package => {
                let (convolution, norm) = match part {
                    "expand" => ("_expand_conv", "_bn0"),
                    "depthwise" => ("_depthwise_conv", "_bn1"),
                    "se_reduce" => ("_se_reduce", ""),
                    "se_expand" => ("_se_expand", ""),
                    "project" => ("_project_conv", "_bn2"),
                    _ => return None,
                };
                (format!("_blocks.{block_idx}"), convolution.to_owned(), norm.to_owned())
            }
            Naming::ResNet | Naming::Own => return None,
        };
        Some((format!("{folder}.{convolution}"), format!("{folder}.{norm}")))
    }
}

fn pair(convolution: &str, norm: &str) -> (String, String) {
    (convolution.to_owned(), norm.to_owned())
}

fn resnet(group_idx: &str, repeat: &str, part: &str) -> Option<(String, String)> {
    let group_idx: usize = group_idx.parse().ok()?;
    let (convolution, norm) = match part {
        "conv1" => ("conv1", "bn1"),
        "conv2" => ("conv2", "bn2"),
        "shortcut" => ("downsample.0", "downsample.1"),
        _ => return None,
    };
    let folder = format!("layer{}.{repeat}", group_idx + 1);
    Some((format!("{folder}.{convolution}"), format!("{folder}.{norm}")))
}

/// Where an inverted residual block stands: others count by stage.
struct Place {
    block_idx: usize,
    stage: usize,
    repeat: usize,
    has_expand: bool,
}

impl Place {
    fn of(description: &Description, block_idx: usize) -> Self {
        let has = |block_idx: usize, part: &str| {
            let name = format!("blocks.{block_idx}.{part}");
            description.layers.iter().any(|layer| layer.name == name)
        };
        // A stage's first block changes the size or the number of channels, so that it has no sum.
        let starts: Vec<usize> = (0..=block_idx).filter(|&idx| !has(idx, "sum")).collect();
        let stage = starts.len().saturating_sub(1);
        let repeat = block_idx - starts.last().copied().unwrap_or(0);
        Place { block_idx, stage, repeat, has_expand: has(block_idx, "expand") }
    }
}
