//! Shortcuts: what tells a crop's label without a look at the face. Logistic regressions guess the label from facts that
//! say nothing of fakes, each group by what was learnt on others. Where they succeed, a network may learn no more.

pub mod command;
pub mod facts;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::Tensor;

use crate::evaluate::bootstrap::Bootstrap;
use crate::evaluate::figure::{Estimate, Figure};
use crate::evaluate::linear::{Linear, LinearError, Loss};
use crate::evaluate::metrics::Scored;
use crate::evaluate::roc::Ranking;

/// The regressions' C: they have few features, and need little restraint.
const C: f64 = 1.0;
/// Folds that groups are dealt out to.
pub const N_FOLDS: usize = 5;

/// A picture that is guessed.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its label.
    pub is_fake: bool,
    /// What must be in one fold.
    pub group: String,
    /// Its facts, as many as the families have together.
    pub facts: Vec<f32>,
}

/// Facts of one kind, which stand side by side in [`Item::facts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// For people.
    pub name: &'static str,
    /// How many facts.
    pub n_facts: usize,
}

/// How well a family guesses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The family's name, or `all`.
    pub family: &'static str,
    /// Its facts.
    pub n_facts: usize,
    /// The area under the ROC, a fake only being compared with reals of its own fold; 0.5 is chance.
    pub auc: Estimate,
}

/// Decisions on the rows of `asked` (above 0: fake) by a logistic regression on the rows of `train`.
///
/// # Errors
/// [`LinearError`], for example where `train` has one class.
pub fn guess(
    train: &[impl AsRef<[f32]>],
    is_fake: &[bool],
    asked: &[impl AsRef<[f32]>],
) -> Result<Vec<f64>, LinearError> {
    Linear::fit(&matrix(train)?, is_fake, Loss::Logistic, C)?.decide(&matrix(asked)?)
}

fn matrix(rows: &[impl AsRef<[f32]>]) -> Result<Tensor, tch::TchError> {
    let n_columns = i64::try_from(rows.first().map_or(0, |row| row.as_ref().len())).unwrap_or(i64::MAX);
    let numbers: Vec<f32> = rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect();
    Tensor::f_from_slice(&numbers)?.f_view([-1, n_columns])
}

/// The fold of each item: groups shuffled by `seed` and dealt out in turn.
pub fn folds(items: &[Item], seed: u64) -> Vec<usize> {
    let mut groups: Vec<&str> =
        items.iter().map(|item| item.group.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let fold_of: BTreeMap<&str, usize> =
        groups.into_iter().enumerate().map(|(idx, group)| (group, idx % N_FOLDS)).collect();
    items.iter().map(|item| fold_of[item.group.as_str()]).collect()
}

/// Decisions on all items by the facts in `columns`, each fold's by what the others teach.
///
/// # Errors
/// [`LinearError`], for example where all folds but one have one class.
pub fn cross_fitted(
    items: &[Item],
    fold_of: &[usize],
    columns: std::ops::Range<usize>,
) -> Result<Vec<f64>, LinearError> {
    let mut decisions = vec![0.0; items.len()];
    for fold in fold_of.iter().copied().collect::<BTreeSet<_>>() {
        let places = |is_held_out: bool| -> Vec<usize> {
            (0..items.len()).filter(|&idx| (fold_of[idx] == fold) == is_held_out).collect()
        };
        let (others, held_out) = (places(false), places(true));
        let rows = |places: &[usize]| {
            places.iter().map(|&idx| &items[idx].facts[columns.clone()]).collect::<Vec<_>>()
        };
        let labels: Vec<bool> = others.iter().map(|&idx| items[idx].is_fake).collect();
        for (idx, decision) in held_out.iter().zip(guess(&rows(&others), &labels, &rows(&held_out))?) {
            decisions[*idx] = decision;
        }
    }
    Ok(decisions)
}

/// Items by fold, ranked within each: classifiers of two folds have scales of their own.
#[derive(Clone, Debug)]
pub struct FoldRanking {
    /// The items of a fold, whether each is fake, and their ranking.
    folds: Vec<(Vec<usize>, Vec<bool>, Ranking)>,
}

impl FoldRanking {
    /// Ranks items.
    pub fn new(items: &[Scored], fold_of: &[usize]) -> Self {
        let of_fold = |fold: usize| {
            let places: Vec<usize> = (0..items.len()).filter(|&idx| fold_of[idx] == fold).collect();
            let items: Vec<Scored> = places.iter().map(|&idx| items[idx]).collect();
            (places, items.iter().map(|item| item.is_fake).collect(), Ranking::new(&items))
        };
        let folds: BTreeSet<usize> = fold_of.iter().copied().collect();
        FoldRanking { folds: folds.into_iter().map(of_fold).collect() }
    }

    /// The area under the ROC over the pairs of a real and a fake of one fold, with item i counted `weights[i]` times.
    pub fn auc(&self, weights: &[f64]) -> Figure {
        let (mut area, mut n_pairs) = (0.0, 0.0);
        for (places, is_fake, ranking) in &self.folds {
            let weights: Vec<f64> = places.iter().map(|&idx| weights[idx]).collect();
            let (mut reals, mut fakes) = (0.0, 0.0);
            for (is_fake, weight) in is_fake.iter().zip(&weights) {
                *(if *is_fake { &mut fakes } else { &mut reals }) += weight;
            }
            if let Figure::Known(auc) = ranking.auc(&weights) {
                area += auc * reals * fakes;
                n_pairs += reals * fakes;
            }
        }
        Figure::share(area, n_pairs, "no fold has both classes")
    }
}

/// How well each family, and all of them together, tell the labels of `items`; intervals by resampling groups.
///
/// # Errors
/// [`LinearError`].
pub fn probe(
    items: &[Item],
    families: &[Family],
    n_resamples: usize,
    seed: u64,
) -> Result<Vec<Guess>, LinearError> {
    let fold_of = folds(items, seed);
    let groups: BTreeSet<&str> = items.iter().map(|item| item.group.as_str()).collect();
    let groups: BTreeMap<&str, usize> = groups.into_iter().zip(0..).collect();
    let bootstrap = Bootstrap::new(groups.len(), n_resamples, seed);
    let mut first = 0;
    let mut parts: Vec<(&'static str, std::ops::Range<usize>)> = Vec::new();
    for family in families {
        parts.push((family.name, first..first + family.n_facts));
        first += family.n_facts;
    }
    parts.push(("all", 0..first));
    let estimate = |(family, columns): (&'static str, std::ops::Range<usize>)| {
        let n_facts = columns.len();
        let decisions = cross_fitted(items, &fold_of, columns)?;
        let scored: Vec<Scored> = items
            .iter()
            .zip(decisions)
            .map(|(item, rank)| {
                let group = groups[item.group.as_str()];
                Scored { score: 0.5, rank, loss: 0.0, is_fake: item.is_fake, group }
            })
            .collect();
        let ranking = FoldRanking::new(&scored, &fold_of);
        let auc = bootstrap.estimate(&scored, |weights| ranking.auc(weights));
        Ok(Guess { family, n_facts, auc })
    };
    parts.into_iter().map(estimate).collect()
}
