//! Which range each tensor's 255 intervals cover, from what the float network gives on real crops.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::float::Float;
use super::int8::step_within;
use super::numbers::Step;
use super::plan::Clip;
use crate::model::Spec;

/// How many values of a tensor are kept.
const MAX_VALUES: usize = 65_536;
/// Bins of the histogram that entropy is computed of, and levels that it is rounded to.
const N_BINS: usize = 2048;
const N_LEVELS: usize = 256;

/// How a tensor's range is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The least and the largest value.
    Minmax,
    /// All but the outermost 0.01 % on each side.
    Percentile,
    /// What loses least by mean square.
    Mse,
    /// What changes the distribution least, by Kullback-Leibler divergence.
    /// Source: Migacz, "8-bit Inference with TensorRT" (2017).
    Entropy,
}

/// Values of one tensor over the crops.
#[derive(Debug, Default)]
pub struct Values {
    /// A random sample, sorted once complete.
    kept: Vec<f32>,
    least: f32,
    most: f32,
}

impl Values {
    fn add(&mut self, values: &Tensor, n_each: usize, rng: &mut ChaCha8Rng) {
        let flat = values.detach().contiguous().reshape([-1]);
        self.least = self.least.min(scalar(&flat.min()));
        self.most = self.most.max(scalar(&flat.max()));
        let n_values = flat.numel();
        let chosen = if n_values <= n_each {
            flat
        } else {
            use rand::Rng as _;
            let n_values = i64::try_from(n_values).unwrap_or(i64::MAX);
            let at: Vec<i64> = (0..n_each).map(|_| rng.random_range(0..n_values)).collect();
            flat.index_select(0, &Tensor::from_slice(&at))
        };
        self.kept.extend(floats(&chosen));
    }

    /// The step that `method` gives a tensor cut by `clip`.
    pub fn step(&self, method: Method, clip: Clip) -> Step {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        match method {
            Method::Minmax => step_within(clip, least, most),
            Method::Percentile => {
                let at = |rank: usize| self.kept.get(rank).map_or(0.0, |v| f64::from(*v));
                let outer = self.kept.len() / 10_000;
                step_within(clip, at(outer), at(self.kept.len().saturating_sub(outer + 1)))
            }
            Method::Mse => self.least_square(clip),
            Method::Entropy => self.least_divergence(clip),
        }
    }

    /// Shrinks one end, then the other, to where rounding and clipping lose least.
    fn least_square(&self, clip: Clip) -> Step {
        let values = Tensor::from_slice(&self.kept);
        let lost = |step: Step| {
            let kept = step.reals(&step.centred(&values));
            (kept - &values).to_kind(Kind::Double).square().mean(Kind::Double).double_value(&[])
        };
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let (mut low, mut high) = (least, most);
        let mut best = (lost(step_within(clip, low, high)), step_within(clip, low, high));
        for _ in 0..2 {
            for end in [&mut high, &mut low] {
                if *end == 0.0 {
                    continue;
                }
                let full = if *end > 0.0 { most } else { least };
                for percent in (20..=100).rev().step_by(2) {
                    let tried = full * f64::from(percent) / 100.0;
                    let step = if full > 0.0 {
                        step_within(clip, least, tried)
                    } else {
                        step_within(clip, tried, most)
                    };
                    let found = lost(step);
                    if found < best.0 {
                        best = (found, step);
                        *end = tried;
                    }
                }
            }
        }
        let both = step_within(clip, low, high);
        if lost(both) < best.0 { both } else { best.1 }
    }

    /// Shrinks both ends alike to where the rounded distribution is nearest to the values'.
    fn least_divergence(&self, clip: Clip) -> Step {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let mut best = (f64::INFINITY, step_within(clip, least, most));
        for percent in 20..=100 {
            let share = f64::from(percent) / 100.0;
            let step = step_within(clip, least * share, most * share);
            let found = divergence(&self.kept, step);
            if found <= best.0 {
                best = (found, step);
            }
        }
        best.1
    }
}

/// KL divergence of values' distribution, cut to a step's limits, from the same in the step's levels.
fn divergence(values: &[f32], step: Step) -> f64 {
    let (low, high) = step.limits();
    let width = (high - low) / N_BINS as f64;
    let mut inside = vec![0.0f64; N_BINS];
    let mut whole = vec![0.0f64; N_BINS];
    for &value in values {
        let place = (f64::from(value) - low) / width;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bins")]
        let bin = place.clamp(0.0, (N_BINS - 1) as f64) as usize;
        whole[bin] += 1.0;
        if (0.0..=N_BINS as f64).contains(&place) {
            inside[bin] += 1.0;
        }
    }
    // What lies outside counts in the end bins of the one, and is missing from the other: that is clipping's price.
    let per_level = N_BINS / N_LEVELS;
    let mut rounded = vec![0.0f64; N_BINS];
    for level in 0..N_LEVELS {
        let bins = level * per_level..(level + 1) * per_level;
        let n_filled = whole[bins.clone()].iter().filter(|n| **n > 0.0).count();
        let total: f64 = inside[bins.clone()].iter().sum();
        for bin in bins.filter(|&bin| whole[bin] > 0.0) {
            rounded[bin] = total / n_filled as f64;
        }
    }
    let (p_total, q_total): (f64, f64) = (whole.iter().sum(), rounded.iter().sum());
    let terms = whole.iter().zip(&rounded).filter(|(p, _)| **p > 0.0);
    terms
        .map(|(p, q)| {
            let (p, q) = (p / p_total, (q / q_total).max(1e-9));
            p * (p / q).ln()
        })
        .sum()
}

/// Runs the float network on `batches` of normalised crops and keeps values of each stepped tensor.
///
/// `progress` is called after each batch.
pub fn observe(
    float: &Float,
    batches: &[Tensor],
    rng: &mut ChaCha8Rng,
    mut progress: impl FnMut(),
) -> Vec<Values> {
    let mut all: Vec<Values> = float.plan.nodes.iter().map(|_| Values::default()).collect();
    let is_stepped: Vec<bool> = {
        let mut stepped = vec![false; all.len()];
        float.plan.stepped().for_each(|idx| stepped[idx] = true);
        stepped
    };
    let n_each = MAX_VALUES.div_ceil(batches.len().max(1));
    for batch in batches {
        let _logits = tch::no_grad(|| {
            float.plan.walk(|idx, inputs| {
                let value = float.node(idx, inputs, batch);
                if is_stepped[idx] {
                    all[idx].add(&value, n_each, rng);
                }
                value
            })
        });
        progress();
    }
    for values in &mut all {
        values.kept.sort_by(f32::total_cmp);
    }
    all
}

/// Every node's step: the observed tensors' by `method`, the input's by how crops are normalised, pools' their input's.
pub fn steps(float: &Float, values: &[Values], method: Method, spec: &Spec) -> Vec<Step> {
    let plan = &float.plan;
    let mut steps = vec![input_step(spec); plan.nodes.len()];
    for idx in plan.stepped() {
        steps[idx] = values[idx].step(method, plan.nodes[idx].clip);
    }
    (0..steps.len()).map(|idx| steps[plan.step_owner(idx)]).collect()
}

/// The step of a normalised picture: gives back the byte where all channels are normalised alike and 0 is one.
pub fn input_step(spec: &Spec) -> Step {
    let (mean, std) = (spec.input.mean, spec.input.std);
    let is_alike = mean == [mean[0]; 3] && std == [std[0]; 3];
    if is_alike && mean[0].fract() == 0.0 && (0.0..=255.0).contains(&mean[0]) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number of 0..=255"
        )]
        return Step { scale: 1.0 / std[0], zero: mean[0] as u8 };
    }
    let ends = |byte: f64| (0..3).map(move |at| (byte - f64::from(mean[at])) / f64::from(std[at]));
    Step::covering(ends(0.0).fold(0.0, f64::min), ends(255.0).fold(0.0, f64::max))
}

/// A tensor's numbers as f32, in the order of its axes.
pub fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().reshape([-1]);
    let mut values = vec![0.0f32; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}

fn scalar(tensor: &Tensor) -> f32 {
    #[allow(clippy::cast_possible_truncation, reason = "the tensor holds f32")]
    let value = tensor.double_value(&[]) as f32;
    value
}
