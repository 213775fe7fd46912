//! Temperature, bias and the two thresholds, chosen on validation.

use std::collections::BTreeMap;

use candor::bundle::{Calibration, Thresholds};
use candor::verdict::Rules;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::level::{Level, Levels, Reading};
use super::metrics::{one_class, softplus};

/// Folds of the cross-fit, where there are groups enough.
pub const N_FOLDS: usize = 5;
/// Newton's steps before a fit counts as failed; it needs about ten.
const MAX_STEPS: usize = 100;

/// What a user declares, and what belongs to the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Aim {
    /// The share of real faces that may be called Fake, and of fake faces that may be called Real; 0..1.
    pub false_alarms: f64,
    /// As [`Rules::min_scores`].
    pub min_scores: usize,
    /// As [`Rules::min_face_px`].
    pub min_face_px: f32,
}

impl Aim {
    /// The rules of a verdict with `thresholds`.
    pub fn rules(&self, thresholds: &Thresholds) -> Rules {
        Rules {
            real_below: thresholds.real_below,
            fake_above: thresholds.fake_above,
            min_scores: self.min_scores,
            min_face_px: self.min_face_px,
        }
    }

    /// How the logits of a network are read before anything is chosen: temperature 1, no bias, thresholds at a half.
    pub fn as_trained(&self) -> Reading {
        let half = Thresholds { real_below: 0.5, fake_above: 0.5 };
        Reading { calibration: Calibration { temperature: 1.0, bias: 0.0 }, rules: self.rules(&half) }
    }
}

/// A calibration with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// Temperature and bias.
    pub score: Calibration,
    /// Where verdicts change.
    pub thresholds: Thresholds,
    /// Crops that temperature and bias are fitted on.
    pub n_crops: usize,
    /// The share of fakes among these crops: the score is P(fake) where fakes are as frequent.
    pub share_fake: f64,
    /// Groups that `fake_above` is chosen on, by the highest mean of each one's real faces.
    pub n_real_groups: usize,
    /// Groups that `real_below` is chosen on, by the lowest mean of each one's fake faces.
    pub n_fake_groups: usize,
    /// What a user should know of the choice.
    pub notes: Vec<String>,
}

/// Fits score = sigmoid(margin / T + b) by the least negative log likelihood, with Newton's method as in Lin, Lin and
/// Weng, "A note on Platt's probabilistic outputs", 2007. Labels count as (n + 1) / (n + 2) and 1 / (n + 2) instead of 1
/// and 0, as in Platt, 1999, so that classes without overlap have an optimum, too. Margins are numbers.
///
/// # Errors
/// Why there is none.
pub fn fit(margins: &[(f64, bool)]) -> Result<Calibration, &'static str> {
    let n_fake = margins.iter().filter(|(_, is_fake)| *is_fake).count() as f64;
    let n_real = margins.len() as f64 - n_fake;
    if let Some(why) = one_class(n_real, n_fake) {
        return Err(why);
    }
    let goal = |is_fake: bool| if is_fake { (n_fake + 1.0) / (n_fake + 2.0) } else { 1.0 / (n_real + 2.0) };
    let scale = margins.iter().map(|(margin, _)| margin.abs()).fold(0.0, f64::max);
    if scale == 0.0 {
        return Err("all margins are 0");
    }
    // Softplus(z) - goal z is -ln of the likelihood of one crop.
    let loss = |[a, b]: [f64; 2]| -> f64 {
        let of = |&(margin, is_fake): &(f64, bool)| {
            let z = a * margin / scale + b;
            softplus(z) - goal(is_fake) * z
        };
        margins.iter().map(of).sum()
    };
    let mut at = [0.0, ((n_fake + 1.0) / (n_real + 1.0)).ln()];
    let mut loss_at = loss(at);
    for _ in 0..MAX_STEPS {
        let (mut slope, mut curve) = ([0.0; 2], [1e-12, 0.0, 1e-12]);
        for &(margin, is_fake) in margins {
            let x = margin / scale;
            let p = 1.0 / (1.0 + (-(at[0] * x + at[1])).exp());
            let (gap, spread) = (p - goal(is_fake), p * (1.0 - p));
            slope = [slope[0] + gap * x, slope[1] + gap];
            curve = [curve[0] + spread * x * x, curve[1] + spread * x, curve[2] + spread];
        }
        let det = curve[0] * curve[2] - curve[1] * curve[1];
        let step = [
            (curve[2] * slope[0] - curve[1] * slope[1]) / det,
            (curve[0] * slope[1] - curve[1] * slope[0]) / det,
        ];
        let descent = slope[0] * step[0] + slope[1] * step[1];
        let mut length = 1.0;
        let (next, loss_next) = loop {
            let next = [at[0] - length * step[0], at[1] - length * step[1]];
            let loss_next = loss(next);
            if loss_next <= loss_at - 1e-4 * length * descent || length < 1e-10 {
                break (next, loss_next);
            }
            length /= 2.0;
        };
        let is_done = descent < 1e-14 * margins.len() as f64 || length < 1e-10;
        if loss_next <= loss_at {
            (at, loss_at) = (next, loss_next);
        }
        if is_done {
            return checked(at[0] / scale, at[1]);
        }
    }
    Err("the fit doesn't converge")
}

#[expect(clippy::cast_possible_truncation, reason = "a bundle holds f32")]
fn checked(slope: f64, bias: f64) -> Result<Calibration, &'static str> {
    let temperature = (1.0 / slope) as f32;
    if slope > 0.0 && temperature.is_finite() && temperature > 0.0 {
        Ok(Calibration { temperature, bias: bias as f32 })
    } else {
        Err("fakes score no higher than reals")
    }
}

/// The threshold that the next number, exchangeable with `sorted`, exceeds with a chance of at most `share`: the
/// k-th smallest of n, k = ceil((n + 1)(1 - share)), as in split conformal prediction (Vovk et al., 2005).
/// `None` where n is too small for such a promise.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1..=n + 1")]
pub fn upper_limit(sorted: &[f32], share: f64) -> Option<f32> {
    // The product is rounded so that 20 * 0.95 is 19 and not a hair more.
    let place = ((sorted.len() + 1) as f64 * (1.0 - share) - 1e-9).ceil() as usize;
    sorted.get(place.max(1) - 1).copied()
}

/// As [`upper_limit`], for numbers that fall below.
pub fn lower_limit(sorted: &[f32], share: f64) -> Option<f32> {
    let negated: Vec<f32> = sorted.iter().rev().map(|number| -number).collect();
    upper_limit(&negated, share).map(|limit| -limit)
}

/// Chooses a calibration on the groups that `is_in` holds for.
///
/// # Errors
/// Why there is none.
pub fn choose(levels: &Levels, aim: &Aim, is_in: impl Fn(usize) -> bool) -> Result<Chosen, &'static str> {
    let crops = (0..levels.n(Level::Image)).filter(|&idx| is_in(levels.label_and_group(Level::Image, idx).1));
    let margins: Vec<(f64, bool)> = crops
        .map(|idx| (levels.predictions[idx].margin(), levels.predictions[idx].is_fake()))
        .filter(|(margin, _)| margin.is_finite())
        .collect();
    let score = fit(&margins)?;
    let reading = Reading { calibration: score.clone(), ..aim.as_trained() };
    let judged = levels.judge(|_| &reading);
    // Faces of one person, above all compressed copies of one face, say much the same: a group counts once, by the face
    // that is the nearest to a wrong verdict.
    let mut hardest = [BTreeMap::<usize, f32>::new(), BTreeMap::new()];
    for (face, item) in levels.scored(&judged, Level::Face) {
        if is_in(item.group) && levels.is_decided_by_mean(face, &reading.rules) {
            let harder = if item.is_fake { f32::min } else { f32::max };
            let of_group = hardest[usize::from(item.is_fake)].entry(item.group).or_insert(item.score);
            *of_group = harder(*of_group, item.score);
        }
    }
    let mut scores = hardest.map(|of_class| of_class.into_values().collect::<Vec<f32>>());
    let (thresholds, notes) = thresholds(&mut scores, aim.false_alarms);
    let n_fake = margins.iter().filter(|(_, is_fake)| *is_fake).count();
    Ok(Chosen {
        score,
        thresholds,
        n_crops: margins.len(),
        share_fake: n_fake as f64 / margins.len() as f64,
        n_real_groups: scores[0].len(),
        n_fake_groups: scores[1].len(),
        notes,
    })
}

/// `fake_above` by the groups' highest real means, `real_below` by their lowest fake ones. Where the two cross, the
/// classes are apart by more than the aim asks for, and one threshold half-way keeps both promises.
fn thresholds(scores: &mut [Vec<f32>; 2], share: f64) -> (Thresholds, Vec<String>) {
    let mut notes = Vec::new();
    scores.iter_mut().for_each(|of_class| of_class.sort_by(f32::total_cmp));
    let [reals, fakes] = &*scores;
    let mut too_few = |n: usize, class: &str, verdict: &str| {
        notes.push(format!(
            "{n} groups with {class} faces are too few to promise a rate of {:.1} %, which takes {}: no mean is called {verdict}.",
            share * 100.0,
            n_needed(share),
        ));
    };
    let fake_above = upper_limit(reals, share).unwrap_or_else(|| {
        too_few(reals.len(), "real", "Fake");
        1.0
    });
    let real_below = lower_limit(fakes, share).unwrap_or_else(|| {
        too_few(fakes.len(), "fake", "Real");
        0.0
    });
    if real_below <= fake_above {
        return (Thresholds { real_below, fake_above }, notes);
    }
    notes.push(
        "The classes are apart by more than the declared rate asks for: both thresholds are one.".into(),
    );
    let between = real_below.midpoint(fake_above);
    (Thresholds { real_below: between, fake_above: between }, notes)
}

/// How many groups with a class a threshold for `share` takes.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "declared rates are above 1e-6")]
pub fn n_needed(share: f64) -> usize {
    ((1.0 - share) / share - 1e-9).ceil() as usize
}

/// Calibrations of which none has seen the groups that it reads.
#[derive(Clone, Debug)]
pub struct CrossFit {
    /// The fold of each group.
    pub fold_of: Vec<usize>,
    /// What was chosen on all the other folds.
    pub chosen: Vec<Chosen>,
    readings: Vec<Reading>,
}

impl CrossFit {
    /// Deals the groups out to [`N_FOLDS`] folds, fewer where there are few groups, classes evenly; chooses for each
    /// fold on the others.
    ///
    /// # Errors
    /// Why it can't be done.
    pub fn new(levels: &Levels, n_groups: usize, aim: &Aim, seed: u64) -> Result<Self, &'static str> {
        let mut has = vec![[false; 2]; n_groups];
        for idx in 0..levels.n(Level::Image) {
            let (is_fake, group) = levels.label_and_group(Level::Image, idx);
            has[group][usize::from(is_fake)] = true;
        }
        let n_with = |class: usize| has.iter().filter(|has| has[class]).count();
        let n_folds = N_FOLDS.min(n_with(0)).min(n_with(1));
        if n_folds < 2 {
            return Err("a cross-fit takes two groups with reals and two with fakes");
        }
        let mut fold_of = vec![0; n_groups];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_with_both = has.iter().filter(|has| has[0] && has[1]).count();
        // One class's groups go on where those with both classes end: each class is dealt out without a gap.
        for (kind, start) in [([true, true], 0), ([true, false], n_with_both), ([false, true], n_with_both)] {
            let mut groups: Vec<usize> = (0..n_groups).filter(|&group| has[group] == kind).collect();
            groups.shuffle(&mut rng);
            for (place, group) in groups.into_iter().enumerate() {
                fold_of[group] = (start + place) % n_folds;
            }
        }
        let choose = |fold| choose(levels, aim, |group| fold_of[group] != fold);
        let chosen: Vec<Chosen> = (0..n_folds).map(choose).collect::<Result<_, _>>()?;
        let reading = |chosen: &Chosen| Reading {
            calibration: chosen.score.clone(),
            rules: aim.rules(&chosen.thresholds),
        };
        let readings = chosen.iter().map(reading).collect();
        Ok(CrossFit { fold_of, chosen, readings })
    }

    /// The reading of a group, chosen on other folds.
    pub fn reading(&self, group: usize) -> &Reading {
        &self.readings[self.fold_of[group]]
    }
}
