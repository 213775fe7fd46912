//! How well scores rank fakes above reals: ROC, AUC, equal error rate, rates at fixed points.

use super::figure::Figure;
use super::metrics::{Scored, one_class};

/// A point of the ROC: what happens when everything from some rank on counts as fake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The share of reals that count as fake.
    pub false_alarms: f64,
    /// The share of fakes that count as fake.
    pub recall: f64,
}

/// Items by falling rank. Equal ranks form one block: no threshold parts them.
#[derive(Clone, Debug)]
pub struct Ranking {
    order: Vec<usize>,
    /// For every place of `order`, whether a block ends with it.
    ends: Vec<bool>,
    is_fake: Vec<bool>,
}

impl Ranking {
    /// Ranks items.
    pub fn new(items: &[Scored]) -> Self {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by(|&a, &b| items[b].rank.total_cmp(&items[a].rank));
        let rank = |place: usize| items[order[place]].rank;
        let ends = (0..order.len()).map(|at| at + 1 == order.len() || rank(at + 1) != rank(at)).collect();
        let is_fake = order.iter().map(|&idx| items[idx].is_fake).collect();
        Ranking { order, ends, is_fake }
    }

    /// The area under the ROC = P(a fake ranks above a real) + P(equal) / 2, with item i counted `weights[i]` times.
    pub fn auc(&self, weights: &[f64]) -> Figure {
        // The sums of whole blocks that lie above, and of the block so far.
        let (mut fakes, mut reals, mut area) = (0.0, 0.0, 0.0);
        let (mut block_fakes, mut block_reals) = (0.0, 0.0);
        for (place, &idx) in self.order.iter().enumerate() {
            if self.is_fake[place] {
                block_fakes += weights[idx];
            } else {
                block_reals += weights[idx];
            }
            if self.ends[place] {
                area += block_reals * (fakes + block_fakes / 2.0);
                fakes += block_fakes;
                reals += block_reals;
                (block_fakes, block_reals) = (0.0, 0.0);
            }
        }
        match one_class(reals, fakes) {
            Some(why) => Figure::Unknown(why),
            None => Figure::Known(area / (fakes * reals)),
        }
    }

    /// The ROC from (0, 0) to (1, 1), one point a block.
    ///
    /// # Errors
    /// Why there is none: a class is missing.
    pub fn points(&self) -> Result<Vec<Point>, &'static str> {
        let n_fakes = self.is_fake.iter().filter(|is_fake| **is_fake).count() as f64;
        let n_reals = self.is_fake.len() as f64 - n_fakes;
        if let Some(why) = one_class(n_reals, n_fakes) {
            return Err(why);
        }
        let mut points = vec![Point { false_alarms: 0.0, recall: 0.0 }];
        let mut fakes = 0.0;
        for (place, (&is_fake, &ends)) in self.is_fake.iter().zip(&self.ends).enumerate() {
            fakes += f64::from(u8::from(is_fake));
            if ends {
                let reals = (place + 1) as f64 - fakes;
                points.push(Point { false_alarms: reals / n_reals, recall: fakes / n_fakes });
            }
        }
        Ok(points)
    }
}

/// Where the ROC, its points joined by straight lines, has as many false alarms as misses.
pub fn equal_error_rate(points: &[Point]) -> f64 {
    let excess = |p: &Point| p.false_alarms + p.recall - 1.0;
    let after = points.iter().position(|p| excess(p) >= 0.0).unwrap_or(points.len() - 1).max(1);
    let (a, b) = (&points[after - 1], &points[after]);
    let share = excess(a) / (excess(a) - excess(b));
    a.false_alarms + share * (b.false_alarms - a.false_alarms)
}

/// The fewest false alarms of a threshold that finds at least `recall` of the fakes.
pub fn false_alarms_at(points: &[Point], recall: f64) -> f64 {
    points.iter().find(|p| p.recall >= recall).map_or(1.0, |p| p.false_alarms)
}

/// The most fakes that a threshold with at most `false_alarms` finds.
pub fn recall_at(points: &[Point], false_alarms: f64) -> f64 {
    points.iter().rev().find(|p| p.false_alarms <= false_alarms).map_or(0.0, |p| p.recall)
}
