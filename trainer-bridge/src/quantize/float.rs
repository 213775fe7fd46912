//! The float network over a plan's nodes: what int8 is measured against.

use tch::Tensor;

use super::plan::{Kind, Node, Plan, Window};
use crate::model::Network;

/// A layer's numbers.
#[derive(Debug)]
pub struct Parameters {
    /// f32; the first axis counts outputs.
    pub weight: Tensor,
    /// f32 [outputs].
    pub bias: Tensor,
}

impl Clone for Parameters {
    fn clone(&self) -> Self {
        Parameters { weight: self.weight.copy(), bias: self.bias.copy() }
    }
}

/// A network in inference, batch normalisation folded.
#[derive(Clone, Debug)]
pub struct Float {
    /// Its nodes.
    pub plan: Plan,
    /// For each node, its numbers, if it has any.
    pub parameters: Vec<Option<Parameters>>,
}

impl Float {
    /// A copy of a network.
    pub fn new(network: &Network) -> Self {
        let plan = Plan::new(network.description(), network.spec().size_px());
        let parameters = folded(network, &plan);
        Float { plan, parameters }
    }

    /// A copy of a network's backbone with one dense layer, called `name`, on the features.
    pub fn with_classifier(network: &Network, name: &str, classifier: Parameters) -> Self {
        let (description, n_classes) = (network.description(), classifier.weight.size()[0]);
        let plan = Plan::with_classifier(description, network.spec().size_px(), name, n_classes);
        let mut parameters = folded(network, &plan);
        parameters[plan.logits_idx()] = Some(classifier);
        Float { plan, parameters }
    }

    /// A node's numbers.
    pub fn of(&self, idx: usize) -> &Parameters {
        let parameters = self.parameters[idx].as_ref();
        parameters.unwrap_or_else(|| unreachable!("{} has weights", self.plan.nodes[idx].name))
    }

    /// A node's values before its slopes and its clip, of its inputs' values.
    pub fn unclipped(&self, idx: usize, inputs: &[&Tensor]) -> Tensor {
        let node = &self.plan.nodes[idx];
        if node.is_product() {
            let Parameters { weight, bias } = self.of(idx);
            return product(node, inputs[0], weight, Some(bias));
        }
        match &node.kind {
            Kind::Silu => inputs[0].silu(),
            Kind::Sigmoid => inputs[0].sigmoid(),
            Kind::MaxPool(window) => max_pool(inputs[0], window),
            Kind::Mean => inputs[0].mean_dim([2i64, 3].as_slice(), true, None),
            Kind::Flatten => inputs[0].flatten(1, -1),
            Kind::Relu => inputs[0].relu(),
            Kind::Multiply => inputs[0] * inputs[1],
            Kind::Add => inputs[0] + inputs[1],
            Kind::Input | Kind::Convolution { .. } | Kind::Dense { .. } => inputs[0].shallow_clone(),
        }
    }

    /// A node's values; of the input node, `input`.
    pub fn node(&self, idx: usize, inputs: &[&Tensor], input: &Tensor) -> Tensor {
        if idx == 0 {
            return input.shallow_clone();
        }
        self.plan.nodes[idx].activated(self.unclipped(idx, inputs))
    }

    /// The logits of f32 `input` [N,3,S,S].
    pub fn logits(&self, input: &Tensor) -> Tensor {
        self.plan.walk(|idx, inputs| self.node(idx, inputs, input))
    }
}

fn folded(network: &Network, plan: &Plan) -> Vec<Option<Parameters>> {
    let folded = network.folded();
    let layers = &network.description().layers;
    let of = |node: &Node| {
        let layer_idx = layers.iter().position(|layer| layer.name == node.layer)?;
        let (weight, bias) = folded.weight_and_bias(layer_idx)?;
        Some(Parameters { weight: weight.copy(), bias: bias.copy() })
    };
    plan.nodes.iter().map(|node| if node.is_product() { of(node) } else { None }).collect()
}

/// A convolution's or a dense layer's sums.
pub(super) fn product(node: &Node, input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let Kind::Convolution { window, groups } = &node.kind else { return input.linear(weight, bias) };
    let (padded, padding) = padded(window, input);
    padded.conv2d(weight, bias, [window.stride; 2], padding, [1; 2], *groups)
}

/// The input with the zeros that one side has more of than the other, and those that both sides have.
pub(super) fn padded(window: &Window, input: &Tensor) -> (Tensor, [i64; 2]) {
    let [top, left, bottom, right] = window.pads;
    let both = [top.min(bottom), left.min(right)];
    let excess = [left - both[1], right - both[1], top - both[0], bottom - both[0]];
    let padded = if excess == [0; 4] { input.shallow_clone() } else { input.constant_pad_nd(excess) };
    (padded, both)
}

/// The largest of each window.
pub(super) fn max_pool(input: &Tensor, window: &Window) -> Tensor {
    let Window { kernel_px, stride, pads: [top, left, bottom, right] } = *window;
    let pool =
        |input: &Tensor, padding| input.max_pool2d([kernel_px; 2], [stride; 2], padding, [1; 2], false);
    // What libtorch does by itself.
    if (top, left) == (bottom, right) && top.max(left) <= kernel_px / 2 {
        return pool(input, [top, left]);
    }
    pool(&input.pad([left, right, top, bottom], "constant", f64::NEG_INFINITY), [0; 2])
}
