//! One-cycle: how learning rate and momentum move over a training.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of a cycle.
///
/// Source: Smith, "A disciplined approach to neural network hyper-parameters" (2018), in the form that fast.ai
/// published as `fit_one_cycle`: half cosines, momentum against the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// Where the peak is, as a share of all steps, 0..1.
    pub peak_at: f64,
    /// The first learning rate is the peak divided by this, >= 1.
    pub start_divisor: f64,
    /// The last learning rate is the peak divided by this, >= 1.
    pub end_divisor: f64,
    /// Momentum (Adam's first beta) at the start and the end, 0..1.
    pub momentum: f64,
    /// Momentum at the peak, 0..1.
    pub momentum_at_peak: f64,
}

/// What the optimizer is told at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Each group's learning rate is its peak times this.
    pub lr_factor: f64,
    /// Adam's first beta.
    pub momentum: f64,
}

impl Cycle {
    /// The point of step `step_idx` (from 0) of `n_steps`: step k of n is at k / n of the cycle, so that the very end is
    /// never reached, as with fast.ai.
    pub fn at(&self, step_idx: u64, n_steps: u64) -> Point {
        let position = step_idx as f64 / n_steps.max(1) as f64;
        let (start, end) = (1.0 / self.start_divisor, 1.0 / self.end_divisor);
        if position < self.peak_at {
            let position = position / self.peak_at;
            Point {
                lr_factor: half_cosine(start, 1.0, position),
                momentum: half_cosine(self.momentum, self.momentum_at_peak, position),
            }
        } else {
            let position = ((position - self.peak_at) / (1.0 - self.peak_at)).min(1.0);
            Point {
                lr_factor: half_cosine(1.0, end, position),
                momentum: half_cosine(self.momentum_at_peak, self.momentum, position),
            }
        }
    }
}

/// From `start` to `end` as `position` goes from 0 to 1.
fn half_cosine(start: f64, end: f64, position: f64) -> f64 {
    start + (1.0 + (PI * (1.0 - position)).cos()) * (end - start) / 2.0
}

#[cfg(test)]
mod tests {
    use crate::train::config::Config;

    /// Written by `trainer-bridge/tests/reference/training.py` from fast.ai's published definition.
    const GOLDEN: &str = include_str!("../../tests/goldens/one_cycle.csv");

    #[test]
    fn the_default_cycle_is_fast_ais() {
        let cycle = Config::default().schedule.cycle;
        let mut lines = GOLDEN.lines();
        assert_eq!(lines.next(), Some("step,n_steps,head_lr,base_lr,momentum"));
        let mut n_points = 0;
        for line in lines {
            let (at, numbers) = line.split_at(line.match_indices(',').nth(1).unwrap().0);
            let (step_idx, n_steps) = at.split_once(',').unwrap();
            let point = cycle.at(step_idx.parse().unwrap(), n_steps.parse().unwrap());
            let expected: Vec<f64> = numbers[1..].split(',').map(|text| text.parse().unwrap()).collect();
            let config = Config::default().optimizer;
            let found = [config.head_lr * point.lr_factor, config.base_lr * point.lr_factor, point.momentum];
            for (found, expected) in found.into_iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-12 * expected, "{line}: {found}");
            }
            n_points += 1;
        }
        assert_eq!(n_points, 107);
    }
}
