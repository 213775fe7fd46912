//! One layer after the other, with what came before already in integers: rounding of weights, correction of biases.

use tch::{Kind as Type, Tensor};

use super::adaround::{self, After, Pixels};
use super::float::{Float, product};
use super::int8::{Int8, Layer, real_weight};
use super::latent;
use super::numbers::{Integers, Latent, WeightRange};
use super::plan::{Kind, Plan};

/// What is done to each layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How weights' scales are chosen.
    pub weights: WeightRange,
    /// Learned rounding.
    pub adaround: Option<adaround::Settings>,
    /// Each channel's mean brought back to the float network's.
    /// Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), empirical.
    pub bias_correction: bool,
}

/// A tensor of every batch: real values of the float network, q - zero of the int8 network.
struct Pair {
    float: Vec<Tensor>,
    int8: Vec<Tensor>,
}

/// Rounds the int8 network's layers anew by what both networks give on `batches`; layers in float stay.
///
/// `progress` is called after each node.
pub fn refine(
    float: &Float,
    int8: &mut Int8,
    batches: &[Tensor],
    settings: Settings,
    mut progress: impl FnMut(),
) {
    let plan = float.plan.clone();
    let _logits = plan.walk(|idx, inputs: &[&Pair]| {
        let inputs_of = |of: fn(&Pair) -> &Vec<Tensor>, batch: usize| -> Vec<&Tensor> {
            inputs.iter().map(|pair| &of(pair)[batch]).collect()
        };
        let node = &plan.nodes[idx];
        let unclipped: Vec<Tensor> = (0..batches.len())
            .map(|batch| {
                let inputs = inputs_of(|pair| &pair.float, batch);
                tch::no_grad(|| {
                    if idx == 0 { batches[batch].shallow_clone() } else { float.unclipped(idx, &inputs) }
                })
            })
            .collect();
        if let Some(Layer::Int8(_)) = &int8.layers[idx] {
            let step = int8.input_step(idx, 0);
            let reals: Vec<Tensor> = inputs[0].int8.iter().map(|centred| step.reals(centred)).collect();
            let layer = refined(float, idx, (&reals, &unclipped), step.scale, settings);
            int8.layers[idx] = Some(Layer::Int8(layer));
        }
        let values = (0..batches.len()).map(|batch| {
            let inputs = inputs_of(|pair| &pair.int8, batch);
            tch::no_grad(|| int8.node(idx, &inputs, &batches[batch]))
        });
        let int8 = values.collect();
        progress();
        Pair { float: unclipped.into_iter().map(|values| node.activated(values)).collect(), int8 }
    });
}

/// A layer's integers for real `inputs`, whose sums should be `wanted`.
fn refined(
    float: &Float,
    idx: usize,
    (inputs, wanted): (&[Tensor], &[Tensor]),
    input_scale: f32,
    settings: Settings,
) -> Integers {
    let node = &float.plan.nodes[idx];
    let mut latent = latent(float, idx, input_scale, settings.weights);
    let mut weight = latent.integers(input_scale).weight;
    if let Some(adaround) = settings.adaround {
        let n_crops: i64 = inputs.iter().map(|batch| batch.size()[0]).sum();
        let n_pixels = i64::try_from(adaround.n_pixels).unwrap_or(i64::MAX);
        let n_each = (n_pixels / n_crops.max(1)).max(1);
        let parts =
            inputs.iter().zip(wanted).map(|(input, wanted)| adaround::sample(node, input, wanted, n_each));
        let (windows, wanted): (Vec<_>, Vec<_>) = parts.map(|part| (part.windows, part.wanted)).unzip();
        let pixels = Pixels { windows: Tensor::cat(&windows, 0), wanted: Tensor::cat(&wanted, 0) };
        weight = adaround::round_weight(&latent, &pixels, after(&float.plan, idx), adaround);
    }
    if settings.bias_correction {
        let integers = Integers { weight: weight.copy(), ..latent.integers(input_scale) };
        let reals = real_weight(&integers);
        let mut shifts = Vec::new();
        for (input, wanted) in inputs.iter().zip(wanted) {
            let found = tch::no_grad(|| product(node, input, &reals, Some(&latent.bias)));
            shifts.push(channel_means(&(wanted - found)));
        }
        let shift = Tensor::cat(&shifts, 0).mean_dim([0i64].as_slice(), false, None);
        latent = Latent { bias: &latent.bias + shift.to_kind(Type::Float), ..latent };
    }
    Integers { weight, ..latent.integers(input_scale) }
}

/// Each picture's mean of each channel, f64 [n,C].
fn channel_means(values: &Tensor) -> Tensor {
    let size = values.size();
    values.reshape([size[0], size[1], -1]).to_kind(Type::Double).mean_dim([2i64].as_slice(), false, None)
}

/// What follows a layer.
fn after(plan: &Plan, idx: usize) -> After<'_> {
    let is_silu = plan.readers(idx).any(|reader| plan.nodes[reader].kind == Kind::Silu);
    if is_silu { After::Silu } else { After::Own(&plan.nodes[idx]) }
}
