//! The numbers of int8: steps of activations, scales of weights. `candor`'s engine defines what is done with them.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Largest |w|: -128 is left out so that a kernel may add two products in 16 bits.
pub const MOST_WEIGHT: f64 = 127.0;
/// A channel of next to no weight gets no scale in which its bias takes more bits than this.
const BIAS_BITS: i32 = 28;

/// What a tensor's bytes stand for: (q - zero) * scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// > 0.
    pub scale: f32,
    /// The byte of 0.
    pub zero: u8,
}

impl Step {
    /// The step whose 255 intervals cover `low`..`high`, which is widened to hold 0.
    pub fn covering(low: f64, high: f64) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        // A tensor of zeros needs some scale.
        let scale = ((high - low) / 255.0).max(1e-8);
        let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0..=255; f32 is meant"
        )]
        let step = Step { scale: scale as f32, zero: zero as u8 };
        step
    }

    /// The least and the largest value.
    pub fn limits(self) -> (f64, f64) {
        let (scale, zero) = (f64::from(self.scale), f64::from(self.zero));
        (-zero * scale, (255.0 - zero) * scale)
    }

    /// Real values -> q - zero, as candor's engine and ONNX Runtime do it; the gradient is that of a clip.
    pub fn centred(self, reals: &Tensor) -> Tensor {
        self.rounded(&(reals / f64::from(self.scale)))
    }

    /// Values in units of the scale -> q - zero, ties to even; the gradient is that of a clip.
    pub fn rounded(self, values: &Tensor) -> Tensor {
        let zero = f64::from(self.zero);
        round(&values.clamp(-zero, 255.0 - zero))
    }

    /// q - zero -> real values.
    pub fn reals(self, centred: &Tensor) -> Tensor {
        centred * f64::from(self.scale)
    }
}

/// Rounds to whole numbers, ties to even, and lets gradients through as if it didn't.
pub fn round(values: &Tensor) -> Tensor {
    if !values.requires_grad() {
        return values.round();
    }
    // The difference is exact, and so is the sum.
    values + (values.round() - values).detach()
}

/// An integer layer: what stands in the file.
#[derive(Debug)]
pub struct Integers {
    /// Whole numbers in -127..=127, f32 as the layer's weight is shaped.
    pub weight: Tensor,
    /// f32 [outputs].
    pub scale: Tensor,
    /// Whole numbers in steps of input scale x weight scale, f64 [outputs].
    pub bias: Tensor,
}

/// A layer's numbers before rounding.
#[derive(Debug)]
pub struct Latent {
    /// Real weights, f32; the first axis counts outputs.
    pub weight: Tensor,
    /// Real biases, f32 [outputs].
    pub bias: Tensor,
    /// One for each output, f32 [outputs].
    pub scale: Tensor,
}

impl Latent {
    /// Rounds; gradients pass through to weight and bias.
    pub fn integers(&self, input_scale: f32) -> Integers {
        let columns = per_output(&self.scale, &self.weight);
        let weight = round(&(&self.weight / columns).clamp(-MOST_WEIGHT, MOST_WEIGHT));
        let step = (&self.scale * f64::from(input_scale)).to_kind(Kind::Double);
        let limit = f64::from(i32::MAX);
        let bias = round(&(self.bias.to_kind(Kind::Double) / step).clamp(-limit, limit));
        Integers { weight, scale: self.scale.shallow_clone(), bias }
    }
}

/// `values` [outputs] in a shape that meets each output's weights.
pub fn per_output(values: &Tensor, weight: &Tensor) -> Tensor {
    let mut shape = vec![1; weight.dim()];
    shape[0] = -1;
    values.reshape(shape)
}

/// How a channel's scale is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WeightRange {
    /// The largest weight is +-127.
    Minmax,
    /// The scale that loses least by mean square.
    Mse,
}

/// Scales of symmetric weights, f32 [outputs].
pub fn weight_scales(weight: &Tensor, bias: &Tensor, input_scale: f32, range: WeightRange) -> Tensor {
    let rows = weight.detach().reshape([weight.size()[0], -1]).to_kind(Kind::Double);
    let peak = rows.abs().amax([1i64].as_slice(), false);
    let least = bias.detach().to_kind(Kind::Double).abs() / (f64::from(input_scale) * 2f64.powi(BIAS_BITS));
    let mut scale = &peak / MOST_WEIGHT;
    if range == WeightRange::Mse {
        let mut best = Tensor::full_like(&scale, f64::INFINITY);
        let mut found = scale.copy();
        for percent in 50..=100 {
            let tried = &peak * (f64::from(percent) / 100.0 / MOST_WEIGHT);
            let columns = tried.unsqueeze(1).clamp_min(f64::MIN_POSITIVE);
            let kept = (&rows / &columns).round().clamp(-MOST_WEIGHT, MOST_WEIGHT) * &columns;
            let lost = (kept - &rows).square().sum_dim_intlist([1i64].as_slice(), false, None);
            // Of equals the wider one.
            let is_better = lost.le_tensor(&best);
            best = lost.where_self(&is_better, &best);
            found = tried.where_self(&is_better, &found);
        }
        scale = found;
    }
    let scale = scale.maximum(&least);
    let ones = Tensor::ones_like(&scale);
    scale.where_self(&scale.gt(0.0), &ones).to_kind(Kind::Float)
}
