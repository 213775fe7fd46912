//! A learning rate from one short sweep: the loss while the rate grows.
//!
//! Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tch::Device;

use super::config::Config;
use super::dataset::Dataset;
use super::ema;
use super::learner::Learner;
use super::loader::{Batch, LoadError, Loader};
use super::plot::{self, Chart, Line, Mark};
use super::setup;
use crate::files;

/// A sweep ends where the running mean of the loss is this many times its best.
const DIVERGED: f64 = 4.0;
/// Share of the last running mean in the next one.
const MEMORY: f64 = 0.9;
/// The share of a sweep's steps, on each side of a step, that its straight line is fitted to.
const REACH: f64 = 1.0 / 16.0;
/// A fall this many standard errors steep is no noise.
const CLEAR: f64 = 3.0;
/// The loss falls quickly where its slope is at least this share of the steepest one.
const QUICK: f64 = 0.5;

/// Which rates are tried, in equal ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sweep {
    /// The first, > 0.
    pub first: f64,
    /// The last, > `first`.
    pub last: f64,
    /// Steps.
    pub n_steps: u64,
}

impl Sweep {
    /// The rate of step `step_idx`, from 0.
    pub fn rate(&self, step_idx: u64) -> f64 {
        let position = step_idx as f64 / (self.n_steps.max(2) - 1) as f64;
        self.first * (self.last / self.first).powf(position)
    }
}

/// One step of a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The head's learning rate.
    pub rate: f64,
    /// Its loss, before the step.
    pub loss: f64,
}

/// Where the straight line through a trial and its neighbours passes, and how it falls.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trend {
    /// The loss at the trial.
    loss: f64,
    /// Change of the loss a decade.
    slope: f64,
    /// Standard deviation of the slope if neighbours differ by noise of 1.
    slope_error: f64,
}

/// The interval of the highest rates at which the loss still falls quickly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suggestion {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Its middle on the logarithmic scale: what is suggested.
    pub rate: f64,
}

/// Trains through `sweep`; the weights of `learner` are put back, its optimizer's moments are not.
///
/// A loss that is no number ends the sweep, as one does that has grown to four times the best.
///
/// # Errors
/// [`LoadError`] of a batch.
pub fn trials(
    learner: &mut Learner,
    sweep: &Sweep,
    base_ratio: f64,
    momentum: f64,
    batches: impl Iterator<Item = Result<Batch, LoadError>>,
) -> Result<Vec<Trial>, LoadError> {
    let weights = ema::snapshot(&learner.store);
    let mut trials: Vec<Trial> = Vec::new();
    let (mut mean, mut weight, mut best) = (0.0, 0.0, f64::INFINITY);
    let mut outcome = Ok(());
    for (step_idx, batch) in (0..sweep.n_steps).zip(batches) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        };
        let rate = sweep.rate(step_idx);
        let Ok(step) = learner.step(&[batch], [rate * base_ratio, rate], momentum, step_idx) else { break };
        trials.push(Trial { rate, loss: step.loss });
        mean = MEMORY * mean + (1.0 - MEMORY) * step.loss;
        weight = MEMORY * weight + (1.0 - MEMORY);
        best = f64::min(mean / weight, best);
        if mean / weight > DIVERGED * best {
            break;
        }
    }
    ema::put_back(&learner.store, &weights).unwrap_or_else(|name| unreachable!("{name} was just there"));
    outcome.map(|()| trials)
}

/// The middle of the interval of the highest rates at which the loss still falls quickly; `None` where it never clearly
/// falls.
///
/// Loss and slope at a rate are those of the straight line, by least squares over log10(rate), through it and the
/// sixteenth of the sweep on either side. Only rates up to the lowest such loss count. The loss falls quickly where it
/// falls at least half as steeply as at its steepest, which must be three standard errors steep; the interval is the
/// highest run of such rates, gaps of up to a sixteenth of the sweep closed.
pub fn suggest(trials: &[Trial]) -> Option<Suggestion> {
    let trends = trends(trials);
    let lowest = (0..trials.len()).min_by(|&a, &b| trends[a].loss.total_cmp(&trends[b].loss))?;
    let falling = &trends[..=lowest];
    let steepest = falling.iter().min_by(|a, b| a.slope.total_cmp(&b.slope))?;
    let residuals = trials.iter().zip(falling).map(|(trial, trend)| (trial.loss - trend.loss).powi(2));
    let noise = (residuals.sum::<f64>() / falling.len() as f64).sqrt();
    if steepest.slope >= 0.0 || steepest.slope > -CLEAR * noise * steepest.slope_error {
        return None;
    }
    let is_quick = |idx: usize| trends[idx].slope <= QUICK * steepest.slope;
    let high = (0..=lowest).rev().find(|&idx| is_quick(idx))?;
    let mut low = high;
    for idx in (0..high).rev() {
        if is_quick(idx) {
            low = idx;
        } else if low - idx > reach(trials.len()) {
            break;
        }
    }
    let (low, high) = (trials[low].rate, trials[high].rate);
    Some(Suggestion { low, high, rate: (low * high).sqrt() })
}

fn reach(n_trials: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below n_trials")]
    let reach = (n_trials as f64 * REACH) as usize;
    reach.max(3)
}

/// The trend at every trial; at the ends there are fewer neighbours.
fn trends(trials: &[Trial]) -> Vec<Trend> {
    let reach = reach(trials.len());
    let trend = |idx: usize| {
        let near = &trials[idx.saturating_sub(reach)..(idx + reach + 1).min(trials.len())];
        let mean = |value: &dyn Fn(&Trial) -> f64| near.iter().map(value).sum::<f64>() / near.len() as f64;
        let (x_mean, y_mean) = (mean(&|t| t.rate.log10()), mean(&|t| t.loss));
        let covariance = mean(&|t| (t.rate.log10() - x_mean) * (t.loss - y_mean));
        let variance = mean(&|t| (t.rate.log10() - x_mean).powi(2));
        let slope = if variance > 0.0 { covariance / variance } else { 0.0 };
        let loss = y_mean + slope * (trials[idx].rate.log10() - x_mean);
        Trend { loss, slope, slope_error: 1.0 / (variance * near.len() as f64).sqrt() }
    };
    (0..trials.len()).map(trend).collect()
}

/// Sweeps by a recipe, and writes `lr-find.svg` and `lr-find.csv` into `out`.
pub(super) fn run(config: &Config, device: Device, sweep: &Sweep, out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("{}: creating", out.display()))?;
    let dataset = Arc::new(Dataset::open(config)?);
    let mut learner = setup::learner(config, device)?;
    let sampler = setup::sampler(config, &dataset)?;
    let batches = (0..).flat_map(|epoch| {
        let (make, n_batches) = setup::epoch_batches(config, &dataset, &sampler, epoch);
        Loader::start(0..n_batches, setup::n_loader_threads(config), config.loader.queue_batches, &make)
    });
    let ratio = config.optimizer.base_lr / config.optimizer.head_lr;
    let trials = trials(&mut learner, sweep, ratio, config.schedule.cycle.momentum, batches)?;
    let suggestion = suggest(&trials);
    let mut table = "head_lr,base_lr,loss,smoothed\n".to_owned();
    for (Trial { rate, loss }, trend) in trials.iter().zip(trends(&trials)) {
        let _ = writeln!(table, "{rate:e},{:e},{loss},{}", rate * ratio, trend.loss);
    }
    files::replace(&out.join("lr-find.csv"), table.as_bytes())?;
    files::replace(&out.join("lr-find.svg"), plot::svg(&[chart(&trials, suggestion)])?.as_bytes())?;
    match suggestion {
        Some(Suggestion { low, high, rate }) => println!(
            "the loss falls quickly up to {high:.1e}, from {low:.1e}\nsuggestion: --set optimizer.head_lr={rate:.1e} \
             --set optimizer.base_lr={:.1e}",
            rate * ratio
        ),
        None => println!(
            "no suggestion: no fall of the loss is clear of its noise; more --steps or larger batches may show one; see {}",
            out.join("lr-find.svg").display()
        ),
    }
    Ok(())
}

fn chart(trials: &[Trial], suggestion: Option<Suggestion>) -> Chart<'static> {
    let trends = trends(trials);
    // What blows up at the end would hide what falls before it.
    let top = 2.0 * trends.first().map_or(1.0, |trend| trend.loss);
    let points = |loss: &dyn Fn(usize) -> f64| {
        (0..trials.len()).map(|idx| (trials[idx].rate, loss(idx).clamp(0.0, top))).collect()
    };
    let lines = vec![
        Line { name: "smoothed", points: points(&|idx| trends[idx].loss), is_faint: false },
        Line { name: "each step", points: points(&|idx| trials[idx].loss), is_faint: true },
    ];
    let mark = |x: f64, what: &str| Mark { x, name: format!("{what}: {x:.1e}") };
    let marks = suggestion.map_or_else(Vec::new, |Suggestion { low, high, rate }| {
        vec![mark(low, "falls quickly from"), mark(rate, "suggestion"), mark(high, "falls quickly to")]
    });
    Chart {
        title: "Loss while the learning rate grows",
        x_name: "learning rate of the head",
        lines,
        marks,
        is_log_x: true,
        is_share: false,
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;
    use crate::train::sampler::stream;

    const SWEEP: Sweep = Sweep { first: 1e-7, last: 10.0, n_steps: 161 };

    /// A sweep whose loss is a function of log10(rate).
    fn curve(loss: impl Fn(f64) -> f64) -> Vec<Trial> {
        let trial = |step_idx| {
            let rate = SWEEP.rate(step_idx);
            Trial { rate, loss: loss(rate.log10()) }
        };
        (0..SWEEP.n_steps).map(trial).collect()
    }

    #[test]
    fn rates_grow_in_equal_ratios() {
        assert!((SWEEP.rate(0) - 1e-7).abs() < 1e-20 && (SWEEP.rate(160) - 10.0).abs() < 1e-9);
        assert!((SWEEP.rate(80) - 1e-3).abs() < 1e-12);
    }

    #[test]
    fn the_middle_of_the_only_slope_is_suggested() {
        // Flat, falls from 1e-4 to 1e-2, flat, grows from 1e-1.
        let loss = |x: f64| 0.7 - 0.2 * (x + 4.0).clamp(0.0, 2.0) + 5.0 * (x + 1.0).max(0.0);
        let Suggestion { low, high, rate } = suggest(&curve(loss)).unwrap();
        // A slope is half the steepest where half of its neighbours are on the slope: within one step of its ends.
        let near = |found: f64, expected: f64| (found.log10() - expected).abs() <= 0.11;
        assert!(near(low, -4.0) && near(high, -2.0) && near(rate, -3.0), "{low:e} {high:e} {rate:e}");
    }

    #[test]
    fn the_higher_of_two_slopes_is_taken() {
        // Falls by 0.2 a decade from 1e-6 to 1e-5, and again from 1e-3 to 1e-2; the second counts.
        let loss = |x: f64| 0.9 - 0.2 * (x + 6.0).clamp(0.0, 1.0) - 0.2 * (x + 3.0).clamp(0.0, 1.0);
        let grows = |x: f64| loss(x) + 5.0 * (x + 1.0).max(0.0);
        let rate = suggest(&curve(grows)).unwrap().rate;
        assert!((rate.log10() + 2.5).abs() <= 0.11, "{rate:e}");
        // A higher slope that is much gentler doesn't.
        let gentle = |x: f64| loss(x) + 0.16 * (x + 3.0).clamp(0.0, 1.0) + 5.0 * (x + 1.0).max(0.0);
        let rate = suggest(&curve(gentle)).unwrap().rate;
        assert!((rate.log10() + 5.5).abs() <= 0.11, "{rate:e}");
    }

    #[test]
    fn a_gap_of_a_few_steps_is_noise() {
        let ripple = |x: f64| if (x + 3.0).abs() < 0.05 { 0.03 } else { 0.0 };
        let loss = |x: f64| 0.7 - 0.2 * (x + 4.0).clamp(0.0, 2.0) + 5.0 * (x + 1.0).max(0.0) + ripple(x);
        let Suggestion { low, high, .. } = suggest(&curve(loss)).unwrap();
        assert!(low < 1.3e-4 && high > 0.7e-2, "{low:e} {high:e}");
    }

    #[test]
    fn a_loss_that_never_falls_gives_none() {
        assert_eq!(suggest(&curve(|x| 0.7 + 0.1 * (x + 7.0))), None);
        assert_eq!(suggest(&curve(|_| 0.7)), None);
        assert_eq!(suggest(&[]), None);
    }

    #[test]
    fn noise_neither_makes_nor_hides_a_fall() {
        let mut rng = stream(3, 0, 0);
        let mut noisy = |fall: f64| {
            let sum = |rng: &mut rand_chacha::ChaCha8Rng| {
                (0..12).map(|_| rng.random_range(-0.05..0.05)).sum::<f64>()
            };
            curve(|x| 0.7 - fall * (x + 4.0).clamp(0.0, 2.0) + (x + 1.0).max(0.0))
                .into_iter()
                .map(|trial| Trial { loss: trial.loss + sum(&mut rng), ..trial })
                .collect::<Vec<_>>()
        };
        let n_found = (0..200).filter(|_| suggest(&noisy(0.0)).is_some()).count();
        assert!(n_found <= 10, "{n_found} of 200 falls are noise");
        let found: Vec<f64> = (0..200).filter_map(|_| suggest(&noisy(0.3))).map(|s| s.rate.log10()).collect();
        let n_right = found.iter().filter(|x| (*x + 3.0).abs() < 0.6).count();
        assert!(n_right >= 180, "{n_right} of 200 are within the slope's inner half");
    }
}
