//! What a network is, in a few numbers: a file beside its weights holds them.

use std::fmt;
use std::str::FromStr;

use candor::bundle::Input;
use serde::{Deserialize, Serialize};

/// A number that no network can have, or a name that none has.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct SpecError {
    /// Which field of [`Spec`].
    pub field: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// A family's member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// ResNet-18: basic blocks, 512 features.
    ResNet18,
    /// ResNet-34.
    ResNet34,
    /// EfficientNet-B0: squeeze-and-excitation, SiLU.
    B0,
    /// EfficientNet-B1.
    B1,
    /// EfficientNet-B2.
    B2,
    /// EfficientNet-B3.
    B3,
    /// EfficientNet-B4.
    B4,
    /// EfficientNet-B5: 2048 features.
    B5,
    /// EfficientNet-Lite0: ReLU6, no squeeze-and-excitation, 1280 features as all of its family.
    Lite0,
    /// EfficientNet-Lite1.
    Lite1,
    /// EfficientNet-Lite2.
    Lite2,
    /// EfficientNet-Lite3.
    Lite3,
    /// EfficientNet-Lite4.
    Lite4,
}

impl Backbone {
    /// Every member.
    pub const ALL: [Backbone; 13] = [
        Backbone::ResNet18,
        Backbone::ResNet34,
        Backbone::B0,
        Backbone::B1,
        Backbone::B2,
        Backbone::B3,
        Backbone::B4,
        Backbone::B5,
        Backbone::Lite0,
        Backbone::Lite1,
        Backbone::Lite2,
        Backbone::Lite3,
        Backbone::Lite4,
    ];

    /// The word that options and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Backbone::ResNet18 => "resnet18",
            Backbone::ResNet34 => "resnet34",
            Backbone::B0 => "b0",
            Backbone::B1 => "b1",
            Backbone::B2 => "b2",
            Backbone::B3 => "b3",
            Backbone::B4 => "b4",
            Backbone::B5 => "b5",
            Backbone::Lite0 => "lite0",
            Backbone::Lite1 => "lite1",
            Backbone::Lite2 => "lite2",
            Backbone::Lite3 => "lite3",
            Backbone::Lite4 => "lite4",
        }
    }

    /// Side of the square input that the member was designed for.
    pub fn native_size_px(self) -> u32 {
        match self {
            Backbone::ResNet18 | Backbone::ResNet34 | Backbone::B0 | Backbone::Lite0 => 224,
            Backbone::B1 | Backbone::Lite1 => 240,
            Backbone::B2 | Backbone::Lite2 => 260,
            Backbone::Lite3 => 280,
            Backbone::B3 | Backbone::Lite4 => 300,
            Backbone::B4 => 380,
            Backbone::B5 => 456,
        }
    }

    pub(super) fn family(self) -> Family {
        match self {
            Backbone::ResNet18 | Backbone::ResNet34 => Family::ResNet,
            Backbone::B0 | Backbone::B1 | Backbone::B2 | Backbone::B3 | Backbone::B4 | Backbone::B5 => {
                Family::B
            }
            Backbone::Lite0 | Backbone::Lite1 | Backbone::Lite2 | Backbone::Lite3 | Backbone::Lite4 => {
                Family::Lite
            }
        }
    }

    /// Dropout before the last layer in the published networks of the EfficientNet families; the ResNets have none.
    fn dropout(self) -> f64 {
        match self {
            Backbone::ResNet18 | Backbone::ResNet34 => 0.0,
            Backbone::B0 | Backbone::B1 | Backbone::Lite0 | Backbone::Lite1 => 0.2,
            Backbone::B2 | Backbone::B3 | Backbone::Lite2 | Backbone::Lite3 | Backbone::Lite4 => 0.3,
            Backbone::B4 | Backbone::B5 => 0.4,
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backbone {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        Backbone::ALL.into_iter().find(|member| member.name() == name).ok_or_else(|| SpecError {
            field: "backbone",
            expected: format!("one of {}", Backbone::ALL.map(Backbone::name).join(", ")),
            found: format!("{name:?}"),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    ResNet,
    B,
    Lite,
}

/// How a layer with a stride is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// TensorFlow's "SAME": as much as the output's size of ceil(input / stride) needs, the odd pixel right and below.
    Same,
    /// Half the kernel on all sides.
    Symmetric,
}

/// A network: everything that fixes its graph and how it is fed, without its weights.
///
/// [`Spec::named`] gives the values of the published networks; padding, epsilon and normalisation must be those that
/// the weights were trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The backbone.
    pub backbone: Backbone,
    /// Size and normalisation of the input, and the margin of the crops that it is made for.
    pub input: Input,
    /// Width of the head's hidden layer: features -> `hidden` -> ReLU -> 2.
    pub hidden: u32,
    /// Padding of layers with a stride.
    pub padding: Padding,
    /// Added to variances by batch normalisation.
    pub batch_norm_epsilon: f64,
    /// How far one batch moves the running statistics, 0..=1: new = old (1 - m) + batch m, libtorch's sense.
    pub batch_norm_momentum: f64,
    /// P(a feature is dropped) before the head while training, 0..1.
    pub dropout: f64,
    /// P(the last residual block is skipped) for a picture while training, 0..1; falls linearly to 0 at the first one.
    /// Source: Huang et al., "Deep Networks with Stochastic Depth" (2016).
    pub drop_connect: f64,
}

impl Spec {
    /// The published network called `name` (`resnet18`, `resnet34`, `b0`..`b5`, `lite0`..`lite4`) at `size_px`.
    ///
    /// Lite is as TensorFlow trained it ("SAME" padding, (x - 127) / 128). B and ResNet are as torchvision has them
    /// (symmetric padding, ImageNet's mean and deviation; epsilon 1e-3 in B5, else 1e-5). One batch moves running
    /// statistics by 1 % (ResNet: 10 %).
    ///
    /// # Errors
    /// [`SpecError`] for an unknown name or a size outside of 32..=1024.
    pub fn named(name: &str, size_px: u32) -> Result<Self, SpecError> {
        Spec::of(name.parse()?, size_px)
    }

    /// [`Spec::named`] by [`Backbone`].
    ///
    /// # Errors
    /// [`SpecError`] for a size outside of 32..=1024.
    pub fn of(backbone: Backbone, size_px: u32) -> Result<Self, SpecError> {
        let family = backbone.family();
        let (mean, std) = match family {
            Family::Lite => ([127.0; 3], [128.0; 3]),
            Family::B | Family::ResNet => ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        };
        let spec = Spec {
            backbone,
            input: Input { size_px, mean, std, margin: 0.3 },
            hidden: 1024,
            padding: if family == Family::Lite { Padding::Same } else { Padding::Symmetric },
            batch_norm_epsilon: if family == Family::Lite || backbone == Backbone::B5 { 1e-3 } else { 1e-5 },
            batch_norm_momentum: if family == Family::ResNet { 0.1 } else { 0.01 },
            dropout: backbone.dropout(),
            drop_connect: if family == Family::ResNet { 0.0 } else { 0.2 },
        };
        spec.check()?;
        Ok(spec)
    }

    /// Whether every number is possible; files and options are checked by it.
    ///
    /// # Errors
    /// [`SpecError`] for the first field that isn't.
    pub fn check(&self) -> Result<(), SpecError> {
        let check = |holds: bool, field: &'static str, expected: &str, found: String| {
            if holds { Ok(()) } else { Err(SpecError { field, expected: expected.into(), found }) }
        };
        let input = &self.input;
        let probability = 0.0..1.0;
        check((32..=1024).contains(&input.size_px), "input.size_px", "32..=1024", input.size_px.to_string())?;
        let is_number = input.mean.iter().all(|v| v.is_finite());
        check(is_number, "input.mean", "numbers", format!("{:?}", input.mean))?;
        let is_positive = input.std.iter().all(|v| v.is_finite() && *v > 0.0);
        check(is_positive, "input.std", "numbers > 0", format!("{:?}", input.std))?;
        check((0.0..=2.0).contains(&input.margin), "input.margin", "0..=2", input.margin.to_string())?;
        check((1..=65_536).contains(&self.hidden), "hidden", "1..=65536", self.hidden.to_string())?;
        let epsilon = self.batch_norm_epsilon;
        check(epsilon > 0.0 && epsilon <= 0.1, "batch_norm_epsilon", "> 0, <= 0.1", epsilon.to_string())?;
        let momentum = self.batch_norm_momentum;
        check((0.0..=1.0).contains(&momentum), "batch_norm_momentum", "0..=1", momentum.to_string())?;
        check(probability.contains(&self.dropout), "dropout", "0..1", self.dropout.to_string())?;
        check(probability.contains(&self.drop_connect), "drop_connect", "0..1", self.drop_connect.to_string())
    }

    /// Side of the input, px.
    pub fn size_px(&self) -> u32 {
        self.input.size_px
    }
}
