//! The networks as plain data: layers in order, each with a name, numbers and the layers that it reads.
//!
//! Whoever runs or writes a network walks this one list. Names are those of the scripts in `models/`.
//! Sources: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019); the
//! EfficientNet-Lite changes (no squeeze-and-excitation, ReLU6, stem and head not scaled, first and last group not
//! deepened); He et al., "Deep Residual Learning for Image Recognition" (2015).

use super::spec::{Backbone, Family, Padding, Spec};

/// Number of classes: real, fake.
pub const N_CLASSES: i64 = 2;

/// A square convolution without a dilation.
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    /// Input channels.
    pub n_in: i64,
    /// Output channels.
    pub n_out: i64,
    /// Side of the kernel.
    pub kernel_px: i64,
    /// Step along both axes.
    pub stride: i64,
    /// 1, or `n_in` of a depthwise convolution.
    pub groups: i64,
    /// What surrounds the picture.
    pub padding: Padding,
    /// Batch normalisation follows and there is no bias; otherwise there is a bias.
    pub has_norm: bool,
}

/// What a layer does to [N,C,H,W] (after [`Op::Flatten`], [N,C]).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The normalised picture; reads nothing.
    Input,
    /// Convolution with its batch normalisation or bias.
    Convolution(Convolution),
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// x sigmoid(x).
    Silu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// Largest of each window, padded symmetrically.
    MaxPool {
        /// Side of the window.
        kernel_px: i64,
        /// Step along both axes.
        stride: i64,
    },
    /// Mean over the picture: [N,C,1,1].
    Mean,
    /// [N,C,1,1] as [N,C].
    Flatten,
    /// First input x second, which is [N,C,1,1].
    Multiply,
    /// First input + second.
    Add,
    /// While training, zero for whole pictures with this probability, others scaled so that the mean stays.
    DropConnect(f64),
    /// While training, zero for single numbers with this probability, others scaled so that the mean stays.
    Dropout(f64),
    /// Fully connected, with a bias.
    Dense {
        /// Input features.
        n_in: i64,
        /// Output features.
        n_out: i64,
    },
}

/// One step of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Unique; the start of its weights' names.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Which earlier layers it reads, by index.
    pub inputs: Vec<usize>,
    /// Which block it belongs to: see [`Description::n_blocks`].
    pub block_idx: usize,
}

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Layers in an order in which they can run; the first is the input, the last the logits.
    pub layers: Vec<Layer>,
    /// Index of the layer whose output [N,F] is called the features.
    pub features_idx: usize,
    /// F.
    pub n_features: i64,
    /// Blocks of the backbone: the stem is block 0, then each residual block, then EfficientNet's last convolution.
    /// The head's layers bear this number.
    pub n_blocks: usize,
}

impl Description {
    /// Describes the network of `spec`.
    pub fn new(spec: &Spec) -> Self {
        let mut network = Builder::new(spec);
        let (flow, n_features) = match spec.backbone {
            Backbone::ResNet18 => network.resnet([2, 2, 2, 2]),
            Backbone::ResNet34 => network.resnet([3, 4, 6, 3]),
            member => network.efficientnet(&Scaling::of(member)),
        };
        network.head(flow, n_features)
    }
}

/// Multipliers of channels and of repeats.
#[derive(Clone, Copy)]
struct Scaling {
    width: f64,
    depth: f64,
}

impl Scaling {
    fn of(member: Backbone) -> Self {
        let (width, depth) = match member {
            Backbone::B1 | Backbone::Lite1 => (1.0, 1.1),
            Backbone::B2 | Backbone::Lite2 => (1.1, 1.2),
            Backbone::B3 | Backbone::Lite3 => (1.2, 1.4),
            Backbone::B4 | Backbone::Lite4 => (1.4, 1.8),
            Backbone::B5 => (1.6, 2.2),
            Backbone::B0 | Backbone::Lite0 | Backbone::ResNet18 | Backbone::ResNet34 => (1.0, 1.0),
        };
        Scaling { width, depth }
    }

    /// Scaled and rounded to a multiple of 8, never by more than a tenth downwards.
    fn channels(&self, n_channels: i64) -> i64 {
        let wanted = n_channels as f64 * self.width;
        let rounded = (((wanted + 4.0) / 8.0).floor() * 8.0).max(8.0);
        // Channels are a few thousand.
        #[allow(clippy::cast_possible_truncation, reason = "a few thousand")]
        let rounded = if rounded < 0.9 * wanted { rounded + 8.0 } else { rounded } as i64;
        rounded
    }

    fn repeats(&self, n_repeats: u8) -> usize {
        let repeats = (f64::from(n_repeats) * self.depth).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 9")]
        let repeats = repeats as usize;
        repeats
    }
}

/// A group of EfficientNet's inverted residual blocks, unscaled; only its first block has the stride.
struct Group {
    kernel_px: i64,
    stride: i64,
    expansion: i64,
    n_out: i64,
    n_repeats: u8,
}

const fn group(kernel_px: i64, stride: i64, expansion: i64, n_out: i64, n_repeats: u8) -> Group {
    Group { kernel_px, stride, expansion, n_out, n_repeats }
}

const GROUPS: [Group; 7] = [
    group(3, 1, 1, 16, 1),
    group(3, 2, 6, 24, 2),
    group(5, 2, 6, 40, 2),
    group(3, 2, 6, 80, 3),
    group(5, 1, 6, 112, 3),
    group(5, 2, 6, 192, 4),
    group(3, 1, 6, 320, 1),
];
const STEM_CHANNELS: i64 = 32;
const FEATURES: i64 = 1280;
/// Squeeze-and-excitation's inner width is a block's input width divided by this.
const SQUEEZE: i64 = 4;
const RESNET_STEM_CHANNELS: i64 = 64;

/// An inverted residual block.
struct InvertedResidual {
    kernel_px: i64,
    stride: i64,
    n_in: i64,
    n_expanded: i64,
    n_out: i64,
    drop_connect: f64,
}

/// Appends layers; what it hands out are indices of layers.
struct Builder<'a> {
    spec: &'a Spec,
    layers: Vec<Layer>,
    block_idx: usize,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a Spec) -> Self {
        let input = Layer { name: "input".into(), op: Op::Input, inputs: Vec::new(), block_idx: 0 };
        Builder { spec, layers: vec![input], block_idx: 0 }
    }

    fn layer(&mut self, name: impl Into<String>, op: Op, inputs: &[usize]) -> usize {
        let (name, inputs) = (name.into(), inputs.to_vec());
        self.layers.push(Layer { name, op, inputs, block_idx: self.block_idx });
        self.layers.len() - 1
    }

    /// A convolution with batch normalisation and without groups.
    fn convolution(&mut self, from: usize, name: String, sizes: [i64; 4]) -> usize {
        let [n_in, n_out, kernel_px, stride] = sizes;
        let padding = self.spec.padding;
        let op = Convolution { n_in, n_out, kernel_px, stride, groups: 1, padding, has_norm: true };
        self.layer(name, Op::Convolution(op), &[from])
    }

    fn relu(&mut self, from: usize) -> usize {
        let name = format!("{}.relu", self.layers[from].name);
        self.layer(name, Op::Relu, &[from])
    }

    /// The EfficientNet families' activation.
    fn activation(&mut self, from: usize) -> usize {
        let name = &self.layers[from].name;
        let (name, op) = match self.spec.backbone.family() {
            Family::Lite => (format!("{name}.relu6"), Op::Relu6),
            Family::B | Family::ResNet => (format!("{name}.silu"), Op::Silu),
        };
        self.layer(name, op, &[from])
    }

    fn efficientnet(&mut self, scaling: &Scaling) -> (usize, i64) {
        let is_lite = self.spec.backbone.family() == Family::Lite;
        let outer = if is_lite { Scaling { width: 1.0, depth: 1.0 } } else { *scaling };
        let (mut n_in, n_features) = (outer.channels(STEM_CHANNELS), outer.channels(FEATURES));
        let stem = self.convolution(0, "stem".into(), [3, n_in, 3, 2]);
        let mut flow = self.activation(stem);
        let n_repeats = |group_idx: usize| {
            let is_fixed = is_lite && (group_idx == 0 || group_idx == GROUPS.len() - 1);
            let n_repeats = GROUPS[group_idx].n_repeats;
            if is_fixed { usize::from(n_repeats) } else { scaling.repeats(n_repeats) }
        };
        let n_blocks: usize = (0..GROUPS.len()).map(n_repeats).sum();
        for (group_idx, group) in GROUPS.iter().enumerate() {
            for repeat in 0..n_repeats(group_idx) {
                let block = InvertedResidual {
                    kernel_px: group.kernel_px,
                    stride: if repeat == 0 { group.stride } else { 1 },
                    n_in,
                    n_expanded: n_in * group.expansion,
                    n_out: scaling.channels(group.n_out),
                    drop_connect: self.spec.drop_connect * self.block_idx as f64 / n_blocks as f64,
                };
                let name = format!("blocks.{}", self.block_idx);
                self.block_idx += 1;
                flow = self.inverted_residual(flow, &name, &block);
                n_in = block.n_out;
            }
        }
        self.block_idx += 1;
        let features = self.convolution(flow, "features".into(), [n_in, n_features, 1, 1]);
        (self.activation(features), n_features)
    }

    fn inverted_residual(&mut self, source: usize, name: &str, block: &InvertedResidual) -> usize {
        let InvertedResidual { kernel_px, stride, n_in, n_expanded, n_out, drop_connect } = *block;
        let mut inner = source;
        if n_expanded != n_in {
            let expanded = self.convolution(inner, format!("{name}.expand"), [n_in, n_expanded, 1, 1]);
            inner = self.activation(expanded);
        }
        let depthwise = Convolution {
            n_in: n_expanded,
            n_out: n_expanded,
            kernel_px,
            stride,
            groups: n_expanded,
            padding: self.spec.padding,
            has_norm: true,
        };
        inner = self.layer(format!("{name}.depthwise"), Op::Convolution(depthwise), &[inner]);
        inner = self.activation(inner);
        if self.spec.backbone.family() == Family::B {
            inner = self.squeeze_excite(inner, name, n_expanded, n_in / SQUEEZE);
        }
        inner = self.convolution(inner, format!("{name}.project"), [n_expanded, n_out, 1, 1]);
        if stride != 1 || n_in != n_out {
            return inner;
        }
        if drop_connect > 0.0 {
            inner = self.layer(format!("{name}.drop"), Op::DropConnect(drop_connect), &[inner]);
        }
        self.layer(format!("{name}.sum"), Op::Add, &[inner, source])
    }

    /// Multiplies each channel by a gate made of all channels' means.
    fn squeeze_excite(&mut self, source: usize, name: &str, n_channels: i64, n_squeezed: i64) -> usize {
        let pointwise = |n_in, n_out| {
            let padding = Padding::Symmetric;
            Op::Convolution(Convolution {
                n_in,
                n_out,
                kernel_px: 1,
                stride: 1,
                groups: 1,
                padding,
                has_norm: false,
            })
        };
        let mean = self.layer(format!("{name}.se_pool"), Op::Mean, &[source]);
        let reduced = self.layer(format!("{name}.se_reduce"), pointwise(n_channels, n_squeezed), &[mean]);
        let reduced = self.activation(reduced);
        let expanded = self.layer(format!("{name}.se_expand"), pointwise(n_squeezed, n_channels), &[reduced]);
        let gate = self.layer(format!("{name}.se_gate"), Op::Sigmoid, &[expanded]);
        self.layer(format!("{name}.se"), Op::Multiply, &[source, gate])
    }

    fn resnet(&mut self, n_repeats: [usize; 4]) -> (usize, i64) {
        let mut n_in = RESNET_STEM_CHANNELS;
        let stem = self.convolution(0, "stem".into(), [3, n_in, 7, 2]);
        let stem = self.relu(stem);
        let mut flow = self.layer("stem.pool", Op::MaxPool { kernel_px: 3, stride: 2 }, &[stem]);
        for (group_idx, n_repeats) in n_repeats.into_iter().enumerate() {
            let n_out = RESNET_STEM_CHANNELS << group_idx;
            for repeat in 0..n_repeats {
                self.block_idx += 1;
                let stride = if group_idx > 0 && repeat == 0 { 2 } else { 1 };
                flow = self.basic_block(flow, &format!("groups.{group_idx}.{repeat}"), [n_in, n_out], stride);
                n_in = n_out;
            }
        }
        (flow, n_in)
    }

    fn basic_block(&mut self, source: usize, name: &str, [n_in, n_out]: [i64; 2], stride: i64) -> usize {
        let inner = self.convolution(source, format!("{name}.conv1"), [n_in, n_out, 3, stride]);
        let inner = self.relu(inner);
        let inner = self.convolution(inner, format!("{name}.conv2"), [n_out, n_out, 3, 1]);
        let source = if stride != 1 || n_in != n_out {
            self.convolution(source, format!("{name}.shortcut"), [n_in, n_out, 1, stride])
        } else {
            source
        };
        let sum = self.layer(format!("{name}.sum"), Op::Add, &[inner, source]);
        self.relu(sum)
    }

    fn head(mut self, flow: usize, n_features: i64) -> Description {
        self.block_idx += 1;
        let hidden = i64::from(self.spec.hidden);
        let mean = self.layer("pool", Op::Mean, &[flow]);
        let features_idx = self.layer("flat", Op::Flatten, &[mean]);
        let mut flow = features_idx;
        if self.spec.dropout > 0.0 {
            flow = self.layer("dropout", Op::Dropout(self.spec.dropout), &[flow]);
        }
        flow = self.layer("hidden", Op::Dense { n_in: n_features, n_out: hidden }, &[flow]);
        flow = self.relu(flow);
        self.layer("classes", Op::Dense { n_in: hidden, n_out: N_CLASSES }, &[flow]);
        Description { features_idx, n_features, n_blocks: self.block_idx, layers: self.layers }
    }
}
