//! What validation says of a network after an epoch.

use crate::evaluate::metrics::softplus;

/// Measures of one set of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Mean over the two classes of a class's mean -ln P(its label), as training sees both equally often. NaN without
    /// a picture.
    pub loss: f64,
    /// Share of pictures whose more probable class is theirs, 0..=1.
    pub accuracy: f64,
    /// P(a fake scores above a real) + P(equal) / 2; NaN where a class is missing.
    pub auc: f64,
}

/// One validation picture.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Logit of fake minus logit of real.
    pub margin: f64,
    /// What it is.
    pub is_fake: bool,
}

impl Measures {
    /// Measures a network by its outcomes, whose margins are numbers.
    pub fn of(outcomes: &[Outcome]) -> Self {
        let class_loss = |is_fake: bool| {
            let sign = if is_fake { -1.0 } else { 1.0 };
            let losses: Vec<f64> = outcomes
                .iter()
                .filter(|outcome| outcome.is_fake == is_fake)
                .map(|outcome| softplus(sign * outcome.margin))
                .collect();
            (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
        };
        let by_class: Vec<f64> = [false, true].into_iter().filter_map(class_loss).collect();
        let n_right = outcomes.iter().filter(|outcome| (outcome.margin > 0.0) == outcome.is_fake).count();
        Measures {
            loss: by_class.iter().sum::<f64>() / by_class.len() as f64,
            accuracy: n_right as f64 / outcomes.len() as f64,
            auc: auc(outcomes),
        }
    }
}

/// The Mann-Whitney statistic by ranks, equal margins sharing theirs.
fn auc(outcomes: &[Outcome]) -> f64 {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| a.margin.total_cmp(&b.margin));
    let n_fakes = outcomes.iter().filter(|outcome| outcome.is_fake).count() as f64;
    let n_reals = outcomes.len() as f64 - n_fakes;
    let (mut n_before, mut rank_sum) = (0.0, 0.0);
    for equals in sorted.chunk_by(|a, b| a.margin == b.margin) {
        let n_fakes_here = equals.iter().filter(|outcome| outcome.is_fake).count() as f64;
        rank_sum += n_fakes_here * (n_before + (equals.len() as f64 + 1.0) / 2.0);
        n_before += equals.len() as f64;
    }
    (rank_sum - n_fakes * (n_fakes + 1.0) / 2.0) / (n_fakes * n_reals)
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;
    use crate::train::sampler::stream;

    #[test]
    fn measures_are_those_of_their_definitions() {
        let mut rng = stream(1, 0, 0);
        // Coarse margins, so that there are ties.
        let outcomes: Vec<Outcome> = (0..200)
            .map(|_| {
                let is_fake = rng.random_bool(0.3);
                let margin = f64::from(rng.random_range(-6..6)) + if is_fake { 2.0 } else { 0.0 };
                Outcome { margin, is_fake }
            })
            .collect();
        let of = |is_fake| outcomes.iter().filter(move |o| o.is_fake == is_fake);
        let pairs = of(true).flat_map(|f| of(false).map(move |r| (f.margin, r.margin)));
        let wins: Vec<f64> = pairs
            .map(|(f, r)| {
                if f > r {
                    1.0
                } else if f == r {
                    0.5
                } else {
                    0.0
                }
            })
            .collect();
        let measures = Measures::of(&outcomes);
        assert!((measures.auc - wins.iter().sum::<f64>() / wins.len() as f64).abs() < 1e-12);
        let probability = |o: &Outcome| 1.0 / (1.0 + (if o.is_fake { -o.margin } else { o.margin }).exp());
        let mean =
            |is_fake| of(is_fake).map(|o| -probability(o).ln()).sum::<f64>() / of(is_fake).count() as f64;
        assert!((measures.loss - (mean(false) + mean(true)) / 2.0).abs() < 1e-12);
        let n_right =
            outcomes.iter().filter(|o| probability(o) > 0.5 || (o.margin == 0.0 && !o.is_fake)).count();
        assert!((measures.accuracy - n_right as f64 / 200.0).abs() < 1e-12);
    }

    #[test]
    fn one_class_has_a_loss_and_no_auc() {
        let measures = Measures::of(&[Outcome { margin: 900.0, is_fake: false }]);
        assert_eq!(measures.loss, 900.0);
        assert!(measures.auc.is_nan());
        assert!(Measures::of(&[]).loss.is_nan());
    }
}
