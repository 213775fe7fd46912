//! Figures of scored items: accuracy, log loss, confusion, precision, recall, histogram of losses, calibration.

use std::f64::consts::FRAC_2_PI;

use serde::Serialize;

use super::bootstrap::Bootstrap;
use super::figure::{Estimate, Figure};
use super::roc::{self, Ranking};

/// Why a figure of both classes is missing.
pub(crate) const NO_REALS: &str = "no reals";
/// Why a figure of both classes is missing.
pub(crate) const NO_FAKES: &str = "no fakes";
/// Why every figure is missing.
pub(crate) const NOTHING: &str = "nothing scored";

/// Bins of the calibration curves.
pub const N_CALIBRATION_BINS: usize = 15;
/// Width of a bin of the histogram of losses.
pub const LOSS_BIN: f64 = 0.5;
/// Bins of the histogram of losses; the last one holds all that is larger, too.
pub const N_LOSS_BINS: usize = 30;
/// At which recall false alarms are reported.
pub const RECALLS: [f64; 4] = [0.5, 0.8, 0.9, 0.95];
/// At which share of false alarms recall is reported.
pub const FALSE_ALARMS: [f64; 3] = [0.01, 0.05, 0.1];

/// What figures need to know of a crop, a face or a video. All of its numbers are finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// P(fake), 0..=1.
    pub score: f32,
    /// What it is ranked by: a crop's log odds, since many scores of a sure network round to 0 or 1; else the score.
    pub rank: f64,
    /// -ln P(its label).
    pub loss: f64,
    /// Its label.
    pub is_fake: bool,
    /// Index of its group.
    pub group: usize,
}

impl Scored {
    /// Whether the score says fake: P(fake) of at least a half.
    pub fn says_fake(&self) -> bool {
        self.score >= 0.5
    }
}

/// ln(1 + e^x), also where e^x is no number: -ln P(label) for x the log odds against it.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Why a figure that needs both classes can't be had of so many reals and fakes.
pub(crate) fn one_class(reals: f64, fakes: f64) -> Option<&'static str> {
    match (reals > 0.0, fakes > 0.0) {
        (false, false) => Some(NOTHING),
        (false, true) => Some(NO_REALS),
        (true, false) => Some(NO_FAKES),
        (true, true) => None,
    }
}

/// A figure at a fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct At {
    /// The point.
    pub at: f64,
    /// The figure there.
    pub value: Figure,
}

/// One bin of a calibration curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Items in it, at least one.
    pub n: usize,
    /// Mean of their scores.
    pub mean_score: f64,
    /// The share of fakes among them.
    pub share_fake: f64,
}

/// How far scores are from the share of fakes that have them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    /// Bins that hold anything, by rising score.
    pub bins: Vec<Bin>,
    /// Expected calibration error: the mean over items of |mean score - share of fakes| of their bin.
    pub ece: Figure,
    /// The mean of that where every score is right and labels fall independently, which few items keep far above 0: the
    /// expected size of a normal variable of each bin's variance. Too small for crops, since those of a face share a label.
    pub ece_of_right_scores: Figure,
}

/// How losses are spread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Losses {
    /// Items by loss: bin i holds [i, i + 1) * [`LOSS_BIN`].
    pub counts: Vec<usize>,
    /// The share of items with a loss under 1.
    pub share_under_1: Figure,
    /// The largest loss.
    pub largest: Figure,
}

/// All figures of one level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measures {
    /// Reals with a score.
    pub n_real: usize,
    /// Fakes with a score.
    pub n_fake: usize,
    /// Groups that these come from.
    pub n_groups: usize,
    /// The share that score >= 0.5 decides rightly.
    pub accuracy: Estimate,
    /// The mean loss.
    pub log_loss: Estimate,
    /// The area under the ROC.
    pub auc: Estimate,
    /// The equal error rate.
    pub eer: Figure,
    /// `confusion[label][said]`, 0 real and 1 fake, by score >= 0.5.
    pub confusion: [[usize; 2]; 2],
    /// Of what is said to be real and fake, the share that is.
    pub precision: [Figure; 2],
    /// Of what is real and fake, the share that is said to be.
    pub recall: [Figure; 2],
    /// At [`RECALLS`].
    pub false_alarms_at_recall: Vec<At>,
    /// At [`FALSE_ALARMS`].
    pub recall_at_false_alarms: Vec<At>,
    /// The spread of losses.
    pub losses: Losses,
    /// Over [`N_CALIBRATION_BINS`] bins of equal width, each without its lower end.
    pub calibration: Reliability,
    /// Over as many bins of equal count.
    pub calibration_equal_count: Reliability,
}

/// Measures items; intervals are resampled by group.
pub fn measure(items: &[Scored], bootstrap: &Bootstrap) -> Measures {
    let confusion = confusion(items);
    let n_of = |is_fake: bool| confusion[usize::from(is_fake)].iter().sum::<usize>();
    let (n_real, n_fake) = (n_of(false), n_of(true));
    let ranking = Ranking::new(items);
    let points = ranking.points();
    let at_points = |at: &[f64], figure: fn(&[roc::Point], f64) -> f64| -> Vec<At> {
        let value = |at| match &points {
            Ok(points) => Figure::Known(figure(points, at)),
            Err(why) => Figure::Unknown(why),
        };
        at.iter().map(|&at| At { at, value: value(at) }).collect()
    };
    let column = |said: usize| (confusion[0][said] + confusion[1][said]) as f64;
    let none_said = ["nothing is said to be real", "nothing is said to be fake"];
    let none_is = [NO_REALS, NO_FAKES];
    Measures {
        n_real,
        n_fake,
        n_groups: n_groups(items),
        accuracy: accuracy(items, bootstrap),
        log_loss: mean(items, bootstrap, |item| item.loss),
        auc: bootstrap.estimate(items, |weights| ranking.auc(weights)),
        eer: match &points {
            Ok(points) => Figure::Known(roc::equal_error_rate(points)),
            Err(why) => Figure::Unknown(why),
        },
        confusion,
        precision: [0, 1].map(|c| Figure::share(confusion[c][c] as f64, column(c), none_said[c])),
        recall: [0, 1].map(|c| Figure::share(confusion[c][c] as f64, n_of(c == 1) as f64, none_is[c])),
        false_alarms_at_recall: at_points(&RECALLS, roc::false_alarms_at),
        recall_at_false_alarms: at_points(&FALSE_ALARMS, roc::recall_at),
        losses: losses(items),
        calibration: reliability(items, equal_width_bins(items)),
        calibration_equal_count: reliability(items, equal_count_bins(items)),
    }
}

/// How many groups items come from.
pub fn n_groups(items: &[Scored]) -> usize {
    items.iter().map(|item| item.group).collect::<std::collections::BTreeSet<_>>().len()
}

/// The share of items that score >= 0.5 decides rightly.
pub fn accuracy(items: &[Scored], bootstrap: &Bootstrap) -> Estimate {
    let is_right = |item: &Scored| f64::from(u8::from(item.says_fake() == item.is_fake));
    bootstrap.share(items, &items.iter().map(is_right).collect::<Vec<_>>(), NOTHING)
}

/// The mean of a number that each item has.
pub fn mean(items: &[Scored], bootstrap: &Bootstrap, number: impl Fn(&Scored) -> f64) -> Estimate {
    let numbers: Vec<f64> = items.iter().map(number).collect();
    bootstrap.estimate(items, |weights| {
        let sum = numbers.iter().zip(weights).map(|(number, weight)| number * weight).sum();
        Figure::share(sum, weights.iter().sum(), NOTHING)
    })
}

fn confusion(items: &[Scored]) -> [[usize; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for item in items {
        counts[usize::from(item.is_fake)][usize::from(item.says_fake())] += 1;
    }
    counts
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a loss is >= 0, the cast saturates"
)]
fn losses(items: &[Scored]) -> Losses {
    let mut counts = vec![0; N_LOSS_BINS];
    for item in items {
        counts[((item.loss / LOSS_BIN) as usize).min(N_LOSS_BINS - 1)] += 1;
    }
    let n_under_1 = items.iter().filter(|item| item.loss < 1.0).count();
    let largest = items.iter().map(|item| item.loss).max_by(f64::total_cmp);
    Losses {
        counts,
        share_under_1: Figure::share(n_under_1 as f64, items.len() as f64, NOTHING),
        largest: largest.map_or(Figure::Unknown(NOTHING), Figure::Known),
    }
}

/// The bin of each item: (i / n, (i + 1) / n], the first with its lower end.
fn equal_width_bins(items: &[Scored]) -> Vec<usize> {
    let edges: Vec<f64> = (1..N_CALIBRATION_BINS).map(|i| i as f64 / N_CALIBRATION_BINS as f64).collect();
    items.iter().map(|item| edges.partition_point(|edge| *edge < f64::from(item.score))).collect()
}

/// The bin of each item when the items by rising score are cut into runs whose lengths differ by at most one, the
/// longer ones first.
fn equal_count_bins(items: &[Scored]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| items[a].score.total_cmp(&items[b].score));
    let (length, n_longer) = (items.len() / N_CALIBRATION_BINS, items.len() % N_CALIBRATION_BINS);
    let mut bins = vec![0; items.len()];
    for (place, idx) in order.into_iter().enumerate() {
        let in_longer = n_longer * (length + 1);
        bins[idx] =
            if place < in_longer { place / (length + 1) } else { n_longer + (place - in_longer) / length };
    }
    bins
}

fn reliability(items: &[Scored], bin_of: Vec<usize>) -> Reliability {
    let mut sums = [(0usize, 0.0, 0usize); N_CALIBRATION_BINS];
    let mut variances = [0.0; N_CALIBRATION_BINS];
    for (item, bin) in items.iter().zip(bin_of) {
        let (n, scores, fakes) = &mut sums[bin];
        let score = f64::from(item.score);
        *n += 1;
        *scores += score;
        *fakes += usize::from(item.is_fake);
        variances[bin] += score * (1.0 - score);
    }
    let bins: Vec<Bin> = sums
        .into_iter()
        .filter(|(n, _, _)| *n > 0)
        .map(|(n, scores, fakes)| Bin {
            n,
            mean_score: scores / n as f64,
            share_fake: fakes as f64 / n as f64,
        })
        .collect();
    let gap: f64 = bins.iter().map(|bin| bin.n as f64 * (bin.mean_score - bin.share_fake).abs()).sum();
    let gap_of_right: f64 = variances.iter().map(|variance: &f64| (variance * FRAC_2_PI).sqrt()).sum();
    let mean = |sum| Figure::share(sum, items.len() as f64, NOTHING);
    Reliability { bins, ece: mean(gap), ece_of_right_scores: mean(gap_of_right) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_scores_err_by_as_much_as_a_sum_over_all_labels_says() {
        let scores = [0.05, 0.2, 0.35, 0.41, 0.48, 0.5, 0.55, 0.61, 0.72, 0.8, 0.88, 0.93];
        let of = |labels: usize| -> Vec<Scored> {
            let item = |(k, &score): (usize, &f32)| {
                let is_fake = labels >> k & 1 == 1;
                Scored { score, rank: score.into(), loss: 0.0, is_fake, group: k }
            };
            scores.iter().enumerate().map(item).collect()
        };
        for n_bins in [1, 2] {
            let bins: Vec<usize> = (0..scores.len()).map(|k| k * n_bins / scores.len()).collect();
            let mut expected = 0.0;
            for labels in 0..1 << scores.len() {
                let items = of(labels);
                let p = |item: &Scored| f64::from(if item.is_fake { item.score } else { 1.0 - item.score });
                let chance: f64 = items.iter().map(p).product();
                expected += chance * reliability(&items, bins.clone()).ece.value().unwrap();
            }
            let found = reliability(&of(0), bins).ece_of_right_scores.value().unwrap();
            assert!(
                (found / expected - 1.0).abs() < 0.05,
                "{n_bins} bins: {found}, by all labels {expected}"
            );
        }
    }
}
