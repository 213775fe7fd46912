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
        let lost = |step| mean_square(&values, step);
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let (mut low, mut high) = (least, most);
        let whole = step_within(clip, low, high);
        let mut best = (lost(whole), whole);
        // The end that is shrunk first is looked at again beside the other's new place; an activation leaves one end.
        let ends = if clip == Clip::None { &[true, false, true, false][..] } else { &[true] };
        for &is_high in ends {
            for percent in (20..=100).rev().step_by(2) {
                let share = f64::from(percent) / 100.0;
                let tried = if is_high { (low, most * share) } else { (least * share, high) };
                let step = step_within(clip, tried.0, tried.1);
                let found = lost(step);
                if found < best.0 {
                    best = (found, step);
                    (low, high) = tried;
                }
            }
        }
        best.1
    }

    /// Shrinks both ends alike to where the rounded distribution is nearest to the values'.
    fn least_divergence(&self, clip: Clip) -> Step {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let whole = step_within(clip, least, most);
        let histogram = Histogram::new(&self.kept, whole.limits());
        let mut best = (f64::INFINITY, whole);
        for percent in 20..=100 {
            let share = f64::from(percent) / 100.0;
            let step = step_within(clip, least * share, most * share);
            let found = histogram.divergence(step);
            if found <= best.0 {
                best = (found, step);
            }
        }
        best.1
    }
}

/// How many values lie in each of [`N_BINS`] equal parts of a range; what is outside counts at its ends.
struct Histogram {
    low: f64,
    width: f64,
    counts: Vec<f64>,
}

impl Histogram {
    fn new(values: &[f32], (low, high): (f64, f64)) -> Self {
        let width = (high - low) / N_BINS as f64;
        let mut counts = vec![0.0; N_BINS];
        for &value in values {
            counts[place(f64::from(value), low, width, N_BINS)] += 1.0;
        }
        Histogram { low, width, counts }
    }

    /// KL divergence of the distribution, cut to a step's limits, from the same in the step's levels.
    ///
    /// The bins are the same for every step, so that steps are compared by what they lose and not by how few values lie
    /// in a bin.
    fn divergence(&self, step: Step) -> f64 {
        let (low, high) = step.limits();
        let bins = (0..N_BINS).map(|bin| self.low + (bin as f64 + 0.5) * self.width);
        let bins: Vec<(f64, f64)> = bins.zip(self.counts.iter().copied()).collect();
        // What lies outside counts in the end bins of the one, and is missing from the other: that is clipping's price.
        let inside: Vec<(f64, f64)> =
            bins.iter().copied().filter(|(middle, _)| (low..=high).contains(middle)).collect();
        let mut cut: Vec<f64> = inside.iter().map(|(_, count)| *count).collect();
        let outside = |is_out: &dyn Fn(f64) -> bool| {
            bins.iter().filter(|(middle, _)| is_out(*middle)).map(|(_, count)| count).sum::<f64>()
        };
        let (below, above) = (outside(&|middle| middle < low), outside(&|middle| middle > high));
        if let Some(first) = cut.first_mut() {
            *first += below;
        }
        if let Some(last) = cut.last_mut() {
            *last += above;
        }
        let level_of = |middle: f64| place(middle, low, (high - low) / N_LEVELS as f64, N_LEVELS);
        let mut levels = vec![(0.0, 0.0); N_LEVELS];
        for ((middle, count), cut) in inside.iter().zip(&cut) {
            let (total, n_filled) = &mut levels[level_of(*middle)];
            *total += count;
            *n_filled += f64::from(u8::from(*cut > 0.0));
        }
        let (cut_total, inside_total): (f64, f64) =
            (cut.iter().sum(), inside.iter().map(|(_, count)| count).sum());
        let filled = inside.iter().zip(&cut).filter(|(_, cut)| **cut > 0.0);
        filled
            .map(|((middle, _), cut)| {
                let (total, n_filled) = levels[level_of(*middle)];
                let (p, q) = (cut / cut_total, (total / n_filled / inside_total).max(1e-9));
                p * (p / q).ln()
            })
            .sum()
    }
}

/// Which of `n` parts of `width` from `low` on holds `value`; the outer ones hold what is outside, too.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the parts")]
fn place(value: f64, low: f64, width: f64, n: usize) -> usize {
    ((value - low) / width).clamp(0.0, (n - 1) as f64) as usize
}

/// Mean square of what rounding and clipping change.
fn mean_square(values: &Tensor, step: Step) -> f64 {
    let kept = step.reals(&step.centred(values));
    (kept - values).to_kind(Kind::Double).square().mean(Kind::Double).double_value(&[])
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

/// Every node's step: the observed tensors' by `method`, the input's `input`, pools' their input's.
pub fn steps(float: &Float, values: &[Values], method: Method, input: Step) -> Vec<Step> {
    let plan = &float.plan;
    let mut steps = vec![input; plan.nodes.len()];
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

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// Values round zero, and a few far out on both sides.
    fn with_outliers() -> Values {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut kept: Vec<f32> =
            (0..6_000).map(|_| (0..6).map(|_| rng.random_range(-0.5..0.5)).sum()).collect();
        kept.extend([-9.0, -6.0, 14.0, 8.0]);
        kept.sort_by(f32::total_cmp);
        Values { least: kept[0], most: kept[kept.len() - 1], kept }
    }

    #[test]
    fn mean_square_chooses_both_ends_as_well_as_trying_all_pairs() {
        let values = with_outliers();
        let tensor = Tensor::from_slice(&values.kept);
        let shares = || (20..=100).step_by(2).map(|percent| f64::from(percent) / 100.0);
        let pairs = shares().flat_map(|a| shares().map(move |b| (a, b)));
        let all = pairs.map(|(a, b)| {
            mean_square(&tensor, Step::covering(f64::from(values.least) * a, f64::from(values.most) * b))
        });
        let best = all.fold(f64::INFINITY, f64::min);
        let whole = mean_square(&tensor, values.step(Method::Minmax, Clip::None));
        let found = mean_square(&tensor, values.step(Method::Mse, Clip::None));
        println!("whole range {whole:e}, found {found:e}, best of all pairs {best:e}");
        assert!(found <= best * 1.02 && found < whole);
    }

    #[test]
    fn methods_cover_what_they_say() {
        let values = with_outliers();
        let limits = |method, clip| values.step(method, clip).limits();
        let (low, high) = limits(Method::Minmax, Clip::None);
        assert!(low <= -8.9 && high >= 13.9, "{low} {high}");
        // The outermost 0.01 % of 6,004 values is none of them.
        assert_eq!(limits(Method::Percentile, Clip::None), (low, high));
        // Six uniform numbers of width 1 sum up to within 2 nearly always; the few that are far out are given up.
        let (low, high) = limits(Method::Entropy, Clip::None);
        assert!((-7.0..=-1.5).contains(&low) && (1.5..=10.0).contains(&high), "{low} {high}");
        assert_eq!(limits(Method::Minmax, Clip::Relu).0, 0.0);
        assert!((limits(Method::Minmax, Clip::Relu6).1 - 6.0).abs() < 1e-6);
    }
}
