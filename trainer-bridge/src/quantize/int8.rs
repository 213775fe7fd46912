//! The int8 network in libtorch, with the bytes that `candor`'s engine gives, and gradients for training.
//!
//! Tensors are f32 of whole numbers: q - zero. Sums are exact: an f32 convolution is one as long as no partial sum can
//! reach 2^24; where one could, two convolutions, of the weights' high and low bits, are added in f64. Everything after
//! the sums is the engine's f32 operation in its order. Gradients are those of the unrounded values (Bengio et al.,
//! "Estimating or Propagating Gradients Through Stochastic Neurons", 2013: straight through), zero where a clip acts.

use tch::{Kind as Type, Tensor};

use super::float::{max_pool, product};
use super::numbers::{Integers, Step, per_output, round};
use super::plan::{Clip, Kind, Node, Plan};

/// Whole numbers below it are exact in f32.
const EXACT: f64 = 16_777_216.0;
/// Splits a weight: w = HIGH * high + low, |low| <= HIGH / 2.
const HIGH: f64 = 16.0;
/// Largest |q - zero|.
const MOST_BYTE: f64 = 255.0;

/// A network whose numbers are integers.
#[derive(Debug)]
pub struct Int8 {
    /// Its nodes.
    pub plan: Plan,
    /// For each node, its tensor's step; of the logits, one that nothing uses.
    pub steps: Vec<Step>,
    /// For each node, its weights, if it has any.
    pub layers: Vec<Option<Layer>>,
}

/// A layer of an int8 network.
#[derive(Debug)]
pub enum Layer {
    /// Integers.
    Int8(Integers),
    /// Real numbers: the layer takes what the bytes stand for and works in f32 up to the next step.
    Float {
        /// f32, as the layer's weight is shaped.
        weight: Tensor,
        /// f32 [outputs].
        bias: Tensor,
    },
}

impl Int8 {
    /// The step of a node's inputs.
    pub fn input_step(&self, idx: usize, nth: usize) -> Step {
        self.steps[self.plan.nodes[idx].inputs[nth]]
    }

    /// A node's q - zero, or the logits, of its inputs' q - zero; of the input node, of the normalised `input`.
    pub fn node(&self, idx: usize, inputs: &[&Tensor], input: &Tensor) -> Tensor {
        let node = &self.plan.nodes[idx];
        let step = self.steps[idx];
        match &node.kind {
            Kind::Input => step.centred(input),
            Kind::Convolution { .. } | Kind::Dense { .. } => self.product(idx, inputs[0]),
            Kind::Silu => self.table(idx, inputs[0], Tensor::silu, |x| x * candor::engine::sigmoid(x)),
            Kind::Relu => self.table(idx, inputs[0], Tensor::relu, |x| x.max(0.0)),
            Kind::Sigmoid => self.table(idx, inputs[0], Tensor::sigmoid, candor::engine::sigmoid),
            Kind::MaxPool(window) => max_pool(inputs[0], window),
            Kind::Flatten => inputs[0].flatten(1, -1),
            Kind::Mean => {
                let size = inputs[0].size();
                #[allow(clippy::cast_precision_loss, reason = "the engine's own rounding")]
                let n_pixels = (size[2] * size[3]) as f32;
                let multiplier = self.input_step(idx, 0).scale / (n_pixels * step.scale);
                let sum = inputs[0].sum_dim_intlist([2i64, 3].as_slice(), true, None);
                step.rounded(&(sum * f64::from(multiplier)))
            }
            Kind::Multiply => {
                let scales = [0, 1].map(|nth| self.input_step(idx, nth).scale);
                let multiplier = scales[0] * scales[1] / step.scale;
                step.rounded(&(inputs[0] * inputs[1] * f64::from(multiplier)))
            }
            Kind::Add => self.sum(idx, inputs),
        }
    }

    /// The logits of normalised f32 `input` [N,3,S,S].
    pub fn logits(&self, input: &Tensor) -> Tensor {
        self.plan.walk(|idx, inputs| self.node(idx, inputs, input))
    }

    fn product(&self, idx: usize, input: &Tensor) -> Tensor {
        let node = &self.plan.nodes[idx];
        let (source, step) = (self.input_step(idx, 0), self.steps[idx]);
        let is_last = idx == self.plan.logits_idx();
        match self.layers[idx].as_ref().unwrap_or_else(|| unreachable!("{} has weights", node.name)) {
            Layer::Int8(integers) => {
                let sums = sums(node, input, integers);
                // In the engine's order.
                let scales = &integers.scale * f64::from(source.scale);
                if is_last {
                    return sums * per_channel(&scales, node);
                }
                let multipliers = scales / f64::from(step.scale);
                step.rounded(&node.bent(sums * per_channel(&multipliers, node)))
            }
            Layer::Float { weight, bias } => {
                let values = product(node, &source.reals(input), weight, Some(bias));
                if is_last { values } else { step.centred(&node.activated(values)) }
            }
        }
    }

    /// A function of single bytes, as a table of 256.
    fn table(
        &self,
        idx: usize,
        input: &Tensor,
        smooth: impl Fn(&Tensor) -> Tensor,
        exact: impl Fn(f32) -> f32,
    ) -> Tensor {
        let (source, step) = (self.input_step(idx, 0), self.steps[idx]);
        let table: Vec<f32> = (0..=255u8)
            .map(|byte| {
                let real = (f32::from(byte) - f32::from(source.zero)) * source.scale;
                let zero = f32::from(step.zero);
                (exact(real) / step.scale).clamp(-zero, 255.0 - zero).round_ties_even()
            })
            .collect();
        let table = Tensor::from_slice(&table).to_device(input.device());
        let bytes = (input.detach() + f64::from(source.zero)).to_kind(Type::Int64);
        let found = table.index_select(0, &bytes.reshape([-1])).reshape(input.size());
        if !input.requires_grad() {
            return found;
        }
        let zero = f64::from(step.zero);
        let smooth = (smooth(&source.reals(input)) / f64::from(step.scale)).clamp(-zero, 255.0 - zero);
        // Off by a rounding at most, which the last rounding takes away.
        round(&(&smooth + (found - &smooth).detach()))
    }

    /// q = round(fma(a, a's scale, fma(b, b's scale, fixed))) of bytes. A product of a byte and an f32 is exact in f64, and
    /// so is its sum with an f32, but for scales that no network has.
    fn sum(&self, idx: usize, inputs: &[&Tensor]) -> Tensor {
        let (a, b, step) = (self.input_step(idx, 0), self.input_step(idx, 1), self.steps[idx]);
        let (own, other) = (a.scale / step.scale, b.scale / step.scale);
        let fixed = f32::from(step.zero) - (own * f32::from(a.zero) + other * f32::from(b.zero));
        let term = |values: &Tensor, zero: u8, scale: f32| {
            (values.to_kind(Type::Double) + f64::from(zero)) * f64::from(scale)
        };
        let inner = (term(inputs[1], b.zero, other) + f64::from(fixed)).to_kind(Type::Float);
        let whole = (term(inputs[0], a.zero, own) + inner.to_kind(Type::Double)).to_kind(Type::Float);
        round(&whole.clamp(0.0, 255.0)) - f64::from(step.zero)
    }

    /// What every node's bytes stand for, the last node's being the logits: `see` gets each node's index and values.
    pub fn watched(&self, input: &Tensor, mut see: impl FnMut(usize, &Tensor)) -> Tensor {
        let last = self.plan.logits_idx();
        self.plan.walk(|idx, inputs| {
            let value = self.node(idx, inputs, input);
            if idx == last {
                see(idx, &value);
            } else {
                see(idx, &self.steps[idx].reals(&value));
            }
            value
        })
    }
}

/// A layer's sums with their bias, rounded to f32 once.
fn sums(node: &Node, input: &Tensor, integers: &Integers) -> Tensor {
    let Integers { weight, bias, .. } = integers;
    let magnitude = weight.detach().abs().reshape([weight.size()[0], -1]).to_kind(Type::Double);
    let magnitude = magnitude.sum_dim_intlist([1i64].as_slice(), false, None) * MOST_BYTE;
    let largest = magnitude.max().double_value(&[]);
    let with_bias = (magnitude + bias.detach().abs()).max().double_value(&[]);
    if with_bias < EXACT {
        return product(node, input, weight, Some(&bias.to_kind(Type::Float)));
    }
    let bias = per_channel(bias, node);
    let plain = product(node, input, weight, None).to_kind(Type::Double);
    if largest < EXACT {
        return (plain + bias).to_kind(Type::Float);
    }
    let exact = tch::no_grad(|| {
        let high = (weight / HIGH).round();
        let low = weight - &high * HIGH;
        let high = product(node, input, &high, None).to_kind(Type::Double);
        high * HIGH + product(node, input, &low, None).to_kind(Type::Double)
    });
    let exact = if plain.requires_grad() { &plain + (exact - &plain).detach() } else { exact };
    (exact + bias).to_kind(Type::Float)
}

/// [outputs] in a shape that meets a node's output [N,C,H,W] or [N,F].
pub(super) fn per_channel(values: &Tensor, node: &Node) -> Tensor {
    match node.kind {
        Kind::Convolution { .. } => values.reshape([1, -1, 1, 1]),
        _ => values.reshape([1, -1]),
    }
}

/// The step that a clip leaves of a range that is wanted.
pub fn step_within(clip: Clip, low: f64, high: f64) -> Step {
    match clip {
        Clip::None => Step::covering(low, high),
        Clip::Relu => Step::covering(0.0, high),
        Clip::Relu6 => Step::covering(0.0, high.min(6.0)),
    }
}

/// A copy of a layer's weight as f32 of what its integers stand for.
pub fn real_weight(integers: &Integers) -> Tensor {
    &integers.weight * per_output(&integers.scale, &integers.weight)
}
