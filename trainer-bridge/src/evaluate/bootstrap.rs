//! Intervals by resampling groups: crops of one person say much the same, so only groups count as independent.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::figure::{Estimate, Figure};
use super::metrics::{Scored, n_groups};

/// Resamples that a report uses by default.
pub const N_RESAMPLES: usize = 2000;

/// Resamples of groups: the percentile bootstrap over clusters (Efron and Tibshirani, 1993; Field and Welsh, 2007).
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// How often each group was drawn, `n_resamples` x `n_groups`.
    draws: Vec<Vec<u16>>,
}

impl Bootstrap {
    /// Draws `n_groups` groups with replacement, `n_resamples` times.
    pub fn new(n_groups: usize, n_resamples: usize, seed: u64) -> Self {
        let mut bootstrap = Bootstrap { draws: vec![Vec::new(); n_resamples] };
        bootstrap.add(n_groups, seed, 0);
        bootstrap
    }

    /// Draws `n_groups` further groups among themselves, so that what was drawn before stays the same; `stream` is
    /// another number than any before.
    pub fn add(&mut self, n_groups: usize, seed: u64, stream: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        for times in &mut self.draws {
            let n_before = times.len();
            times.resize(n_before + n_groups, 0);
            for _ in 0..n_groups {
                let drawn = &mut times[n_before + rng.random_range(0..n_groups)];
                *drawn = drawn.saturating_add(1);
            }
        }
    }

    /// A figure of weighted items, with its interval. `figure` gets as many weights as there are items.
    pub fn estimate(&self, items: &[Scored], figure: impl Fn(&[f64]) -> Figure) -> Estimate {
        let value = figure(&vec![1.0; items.len()]);
        let mut weights = vec![0.0; items.len()];
        let found = self.draws.iter().filter_map(|times| {
            for (weight, item) in weights.iter_mut().zip(items) {
                *weight = f64::from(times[item.group]);
            }
            figure(&weights).value()
        });
        Estimate { value, interval: self.interval(value, found.collect()) }
    }

    /// The share of items that `says`, 0 or 1 for each, holds for. Where it holds for none or for all, the interval is
    /// Clopper and Pearson's (1934), with a group counted as one trial.
    pub fn share(&self, items: &[Scored], says: &[f64], why_not: &'static str) -> Estimate {
        let share = |weights: &[f64]| {
            let part = says.iter().zip(weights).map(|(says, weight)| says * weight).sum();
            Figure::share(part, weights.iter().sum(), why_not)
        };
        let mut estimate = self.estimate(items, share);
        let unseen = 1.0 - 0.025f64.powf(1.0 / n_groups(items).max(1) as f64);
        match estimate.value {
            Figure::Known(0.0) => estimate.interval = Some((0.0, unseen)),
            Figure::Known(1.0) => estimate.interval = Some((1.0 - unseen, 1.0)),
            _ => {}
        }
        estimate
    }

    /// How much higher a figure is of `ours` than of `theirs`, both of the same resamples.
    pub fn difference(
        &self,
        [ours, theirs]: [&[Scored]; 2],
        figure: impl Fn(usize, &[f64]) -> Figure,
    ) -> Estimate {
        let minus = |a: Figure, b: Figure| match (a, b) {
            (Figure::Known(a), Figure::Known(b)) => Figure::Known(a - b),
            (Figure::Unknown(why), _) | (_, Figure::Unknown(why)) => Figure::Unknown(why),
        };
        let of = |weight: &dyn Fn(&Scored) -> f64| {
            let weigh = |items: &[Scored]| items.iter().map(weight).collect::<Vec<f64>>();
            minus(figure(0, &weigh(ours)), figure(1, &weigh(theirs)))
        };
        let value = of(&|_| 1.0);
        let found = self.draws.iter().filter_map(|times| of(&|item| f64::from(times[item.group])).value());
        Estimate { value, interval: self.interval(value, found.collect()) }
    }

    /// `None` unless at least half of the resamples have the figure, since a resample may lack a class, and where all give
    /// the same: of no error seen, resampling knows nothing.
    fn interval(&self, value: Figure, mut found: Vec<f64>) -> Option<(f64, f64)> {
        if value.value().is_none() || found.is_empty() || found.len() * 2 < self.draws.len() {
            return None;
        }
        found.sort_by(f64::total_cmp);
        if found[0] == found[found.len() - 1] {
            return None;
        }
        Some((quantile(&found, 0.025), quantile(&found, 0.975)))
    }
}

/// The quantile of sorted numbers, at least one, with linear interpolation (type 7 of Hyndman and Fan, 1996).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..sorted.len()")]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
