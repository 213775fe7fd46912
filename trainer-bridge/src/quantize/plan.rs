//! Where a network's 8-bit steps are: its layers as nodes, each of which makes one tensor of bytes.
//!
//! ReLU and ReLU6 are no nodes: the step after the layer ends where they do. SiLU is one function of one byte. What only
//! training does is left out.

use tch::Tensor;

use crate::model::description::{Description, Op};

/// Square windows that move over a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side.
    pub kernel_px: i64,
    /// Step along both axes.
    pub stride: i64,
    /// What surrounds the picture: rows above, columns to the left, rows below, columns to the right.
    pub pads: [i64; 4],
}

/// What a node does to its inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The normalised picture.
    Input,
    /// A convolution with a bias, zeros around the picture.
    Convolution {
        /// Where its weights are laid.
        window: Window,
        /// 1, or the number of channels of a depthwise convolution.
        groups: i64,
    },
    /// A fully connected layer with a bias.
    Dense {
        /// Input features.
        n_in: i64,
        /// Output features.
        n_out: i64,
    },
    /// x sigmoid(x).
    Silu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// Largest of each window's part of the picture.
    MaxPool(Window),
    /// Mean over the picture.
    Mean,
    /// [N,C,1,1] as [N,C].
    Flatten,
    /// max(x, 0) of what others read as well.
    Relu,
    /// First input x second, which is [N,C,1,1].
    Multiply,
    /// First input + second.
    Add,
}

/// What a node's values are cut to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// Nothing.
    None,
    /// At least 0.
    Relu,
    /// From 0 to 6.
    Relu6,
}

impl Clip {
    /// Applies it to real values.
    pub fn apply(self, values: Tensor) -> Tensor {
        match self {
            Clip::None => values,
            Clip::Relu => values.relu(),
            Clip::Relu6 => values.relu6(),
        }
    }
}

/// A node and the tensor that it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The layer's name, with its activation's behind it: the tensor's name in the float file too.
    pub name: String,
    /// The name without the activation; the start of its weights' names.
    pub layer: String,
    /// What it does.
    pub kind: Kind,
    /// Which earlier nodes it reads, by index.
    pub inputs: Vec<usize>,
    /// For each channel, what its negative values are multiplied by (PReLU), before the clip.
    pub slopes: Option<Vec<f32>>,
    /// What its values are cut to.
    pub clip: Clip,
}

impl Node {
    /// Applies slopes to real values [N,C,...]; an activation's other part is the clip.
    pub fn bent(&self, values: Tensor) -> Tensor {
        let Some(slopes) = &self.slopes else { return values };
        let mut shape = vec![1; values.dim()];
        shape[1] = -1;
        let slopes = Tensor::from_slice(slopes).to_device(values.device()).reshape(shape);
        values.where_self(&values.ge(0.0), &(&values * slopes))
    }

    /// Applies slopes and clip to real values [N,C,...].
    pub fn activated(&self, values: Tensor) -> Tensor {
        self.clip.apply(self.bent(values))
    }

    /// Whether it has weights.
    pub fn is_product(&self) -> bool {
        matches!(self.kind, Kind::Convolution { .. } | Kind::Dense { .. })
    }

    /// Whether each of its channels reads only the same channel of its input.
    pub fn is_depthwise(&self) -> bool {
        matches!(self.kind, Kind::Convolution { groups, .. } if groups > 1)
    }
}

/// A network as nodes in an order in which they can run; the first is the input, the last one the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// For each node, the last one that reads it.
    last_reader: Vec<usize>,
}

impl Plan {
    /// The nodes of a whole network that sees squares of `size_px`.
    pub fn new(description: &Description, size_px: u32) -> Self {
        Plan::of(description, size_px, description.layers.len())
    }

    /// The nodes up to the features, and one dense layer called `name` of `n_classes` on them.
    pub fn with_classifier(description: &Description, size_px: u32, name: &str, n_classes: i64) -> Self {
        let mut plan = Plan::of(description, size_px, description.features_idx + 1);
        plan.nodes.push(Node {
            name: name.into(),
            layer: name.into(),
            kind: Kind::Dense { n_in: description.n_features, n_out: n_classes },
            inputs: vec![plan.nodes.len() - 1],
            slopes: None,
            clip: Clip::None,
        });
        plan.with_readers()
    }

    fn of(description: &Description, size_px: u32, n_layers: usize) -> Self {
        let layers = &description.layers[..n_layers];
        let mut n_readers = vec![0; n_layers];
        layers.iter().flat_map(|layer| &layer.inputs).for_each(|&input| n_readers[input] += 1);
        let mut nodes: Vec<Node> = Vec::new();
        // Of each node so far, the side of its square output.
        let mut sides_px: Vec<i64> = Vec::new();
        // Which node makes a layer's output.
        let mut maker = Vec::with_capacity(n_layers);
        for layer in layers {
            let inputs: Vec<usize> = layer.inputs.iter().map(|&input| maker[input]).collect();
            let side_px = inputs.first().map_or(i64::from(size_px), |&input| sides_px[input]);
            let kind = match &layer.op {
                Op::Input => Kind::Input,
                Op::Convolution(convolution) => {
                    let (kernel_px, stride) = (convolution.kernel_px, convolution.stride);
                    let (before, after) = convolution.pads(side_px);
                    let window = Window { kernel_px, stride, pads: [before, before, after, after] };
                    Kind::Convolution { window, groups: convolution.groups }
                }
                &Op::Dense { n_in, n_out } => Kind::Dense { n_in, n_out },
                Op::Silu => Kind::Silu,
                Op::Sigmoid => Kind::Sigmoid,
                &Op::MaxPool { kernel_px, stride } => {
                    Kind::MaxPool(Window { kernel_px, stride, pads: [kernel_px / 2; 4] })
                }
                Op::Mean => Kind::Mean,
                Op::Flatten => Kind::Flatten,
                Op::Multiply => Kind::Multiply,
                Op::Add => Kind::Add,
                Op::DropConnect(_) | Op::Dropout(_) => {
                    maker.push(inputs[0]);
                    continue;
                }
                Op::Relu | Op::Relu6 => {
                    assert_eq!(n_readers[layer.inputs[0]], 1, "{}: others read its input", layer.name);
                    let node = &mut nodes[inputs[0]];
                    node.clip = if layer.op == Op::Relu { Clip::Relu } else { Clip::Relu6 };
                    node.name.clone_from(&layer.name);
                    maker.push(inputs[0]);
                    continue;
                }
            };
            maker.push(nodes.len());
            sides_px.push(match &kind {
                Kind::Convolution { window, .. } | Kind::MaxPool(window) => {
                    (side_px + window.stride - 1) / window.stride
                }
                Kind::Mean => 1,
                _ => side_px,
            });
            let (name, clip) = (layer.name.clone(), Clip::None);
            nodes.push(Node { layer: name.clone(), name, kind, inputs, slopes: None, clip });
        }
        Plan::of_nodes(nodes)
    }

    /// A plan of nodes that each read earlier ones.
    pub(super) fn of_nodes(nodes: Vec<Node>) -> Self {
        Plan { nodes, last_reader: Vec::new() }.with_readers()
    }

    fn with_readers(mut self) -> Self {
        self.last_reader = vec![self.nodes.len(); self.nodes.len()];
        for (idx, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                self.last_reader[input] = idx;
            }
        }
        self
    }

    /// Index of the last node.
    pub fn logits_idx(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The node whose step a node's tensor has: itself, but for pools and flattening, which keep their input's.
    pub fn step_owner(&self, idx: usize) -> usize {
        match self.nodes[idx].kind {
            Kind::MaxPool(_) | Kind::Flatten => self.step_owner(self.nodes[idx].inputs[0]),
            _ => idx,
        }
    }

    /// The nodes that have a step of their own, besides the input.
    pub fn stepped(&self) -> impl Iterator<Item = usize> + '_ {
        (1..self.logits_idx()).filter(|&idx| self.step_owner(idx) == idx)
    }

    /// The nodes that read a node.
    pub fn readers(&self, idx: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(move |&reader| self.nodes[reader].inputs.contains(&idx))
    }

    /// Runs all nodes: `each` makes a node's value of its inputs' values; what nobody needs any more is dropped.
    ///
    /// Gives the last node's value.
    pub fn walk<V>(&self, mut each: impl FnMut(usize, &[&V]) -> V) -> V {
        let mut values: Vec<Option<V>> = Vec::with_capacity(self.nodes.len());
        for (idx, node) in self.nodes.iter().enumerate() {
            let inputs: Vec<&V> = node.inputs.iter().filter_map(|&input| values[input].as_ref()).collect();
            let value = each(idx, &inputs);
            for &input in &node.inputs {
                if self.last_reader[input] == idx {
                    values[input] = None;
                }
            }
            values.push(Some(value));
        }
        values.pop().flatten().unwrap_or_else(|| unreachable!("the last node has run"))
    }
}
