//! Which way each weight is rounded, chosen so that the layer's output stays, not the weight.
//!
//! Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), with the layer's inputs
//! already quantized and its activation in the loss.

use serde::{Deserialize, Serialize};
use tch::nn::{OptimizerConfig as _, VarStore};
use tch::{Kind as Type, Tensor};

use super::numbers::{Latent, MOST_WEIGHT, per_output};
use super::plan::{Clip, Kind, Node};

/// The sigmoid's ends are stretched by this, so that it reaches 0 and 1.
const STRETCH: f64 = 0.1;
/// Weight of the term that drives roundings to 0 or 1, and its exponent at first and at last.
const REGULARISATION: f64 = 0.01;
const EXPONENTS: (f64, f64) = (20.0, 2.0);
/// The share of the steps in which only the output counts.
const WARM_UP: f64 = 0.2;
const LEARNING_RATE: f64 = 1e-2;
/// Sampled output pixels of a step.
const N_EACH: i64 = 256;

/// How long is searched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Steps for each layer.
    pub n_steps: u32,
    /// Output pixels that are sampled of each layer.
    pub n_pixels: usize,
}

/// What follows a layer before its values are rounded or used.
#[derive(Clone, Copy, Debug)]
pub enum After<'a> {
    /// A clip.
    Clip(Clip),
    /// A node's own slopes and clip.
    Own(&'a Node),
    /// SiLU.
    Silu,
}

impl After<'_> {
    fn apply(self, values: Tensor) -> Tensor {
        match self {
            After::Clip(clip) => clip.apply(values),
            After::Own(node) => node.activated(values),
            After::Silu => values.silu(),
        }
    }
}

/// Some output pixels of a layer: what lies under its window, and what the float network gives.
#[derive(Debug)]
pub struct Pixels {
    /// Of a depthwise layer [n,C,taps], else [n,C x taps].
    pub windows: Tensor,
    /// [n,outputs].
    pub wanted: Tensor,
}

impl Pixels {
    /// The sums that a weight gives.
    fn sums(&self, weight: &Tensor, bias: &Tensor) -> Tensor {
        let rows = weight.reshape([weight.size()[0], -1]);
        if self.windows.dim() == 3 {
            (&self.windows * rows).sum_dim_intlist([2i64].as_slice(), false, None) + bias
        } else {
            self.windows.linear(&rows, Some(bias))
        }
    }

    /// Mean over pixels of the squared distance from what is wanted, after the activation.
    fn lost(&self, weight: &Tensor, bias: &Tensor, after: After<'_>) -> Tensor {
        let difference = after.apply(self.sums(weight, bias)) - after.apply(self.wanted.shallow_clone());
        difference.square().sum_dim_intlist([1i64].as_slice(), false, None).mean(Type::Float)
    }

    fn at(&self, chosen: &Tensor) -> Pixels {
        Pixels { windows: self.windows.index_select(0, chosen), wanted: self.wanted.index_select(0, chosen) }
    }
}

/// `n_each` random output pixels of a layer of one batch; `input` is real, `wanted` [n,outputs,...] the float network's
/// sums.
pub fn sample(node: &Node, input: &Tensor, wanted: &Tensor, n_each: i64) -> Pixels {
    let (n, n_out) = (wanted.size()[0], wanted.size()[1]);
    let Kind::Convolution { window, .. } = &node.kind else {
        return Pixels { windows: input.shallow_clone(), wanted: wanted.shallow_clone() };
    };
    let (padded, padding) = super::float::padded(window, input);
    let [kernel_px, stride] = [window.kernel_px, window.stride].map(|side| [side; 2]);
    let mut parts = (Vec::new(), Vec::new());
    // One picture at a time: windows take as many times the memory as they have taps.
    for at in 0..n {
        let windows = padded.narrow(0, at, 1).im2col(kernel_px, [1; 2], padding, stride).squeeze_dim(0);
        let chosen = Tensor::randint(windows.size()[1], [n_each], (Type::Int64, input.device()));
        parts.0.push(windows.index_select(1, &chosen).transpose(0, 1));
        let wanted = wanted.narrow(0, at, 1).reshape([n_out, -1]);
        parts.1.push(wanted.index_select(1, &chosen).transpose(0, 1));
    }
    let windows = Tensor::cat(&parts.0, 0);
    let windows =
        if node.is_depthwise() { windows.reshape([-1, n_out, kernel_px[0] * kernel_px[0]]) } else { windows };
    Pixels { windows, wanted: Tensor::cat(&parts.1, 0) }
}

/// The weight in whole numbers, rounded so that `pixels` come out best; rounded to the nearest where nothing better is
/// found. libtorch's randomness.
pub fn round_weight(latent: &Latent, pixels: &Pixels, after: After<'_>, settings: Settings) -> Tensor {
    let columns = per_output(&latent.scale, &latent.weight);
    let units = &latent.weight / &columns;
    let floor = units.floor();
    let rest = &units - &floor;
    let whole = |up: &Tensor| (&floor + up).clamp(-MOST_WEIGHT, MOST_WEIGHT);
    let start = -(((1.0 + 2.0 * STRETCH) / (&rest + STRETCH)) - 1.0).log();
    let variables = VarStore::new(latent.weight.device());
    let choice = variables.root().var_copy("choice", &start);
    let Ok(mut optimizer) = tch::nn::Adam::default().build(&variables, LEARNING_RATE) else {
        unreachable!("one variable can be optimized")
    };
    let up = || (choice.sigmoid() * (1.0 + 2.0 * STRETCH) - STRETCH).clamp(0.0, 1.0);
    let n_pixels = pixels.wanted.size()[0];
    for step in 0..settings.n_steps {
        let chosen = Tensor::randint(n_pixels, [N_EACH.min(n_pixels)], (Type::Int64, latent.weight.device()));
        let up = up();
        let mut loss = pixels.at(&chosen).lost(&(whole(&up) * &columns), &latent.bias, after);
        let gone = f64::from(step) / f64::from(settings.n_steps);
        if gone >= WARM_UP {
            let share = (gone - WARM_UP) / (1.0 - WARM_UP);
            let exponent = EXPONENTS.0 + (EXPONENTS.1 - EXPONENTS.0) * share;
            let decided: Tensor = (up * 2.0 - 1.0).abs().pow_tensor_scalar(exponent);
            loss += (-decided + 1.0).sum(Type::Float) * REGULARISATION;
        }
        optimizer.backward_step(&loss);
    }
    tch::no_grad(|| {
        let nearest = units.round().clamp(-MOST_WEIGHT, MOST_WEIGHT);
        let found = whole(&up().ge(0.5).to_kind(Type::Float));
        let [a, b] = [&found, &nearest]
            .map(|weight| pixels.lost(&(weight * &columns), &latent.bias, after).double_value(&[]));
        if a < b { found } else { nearest }
    })
}
