//! A candidate beside the model in use, on the same live faces: whether it may take over. Pure.
//!
//! A better model may well disagree with the one before it; the limits are for one that is broken: labels swapped, wrong
//! normalization, the same answer to everything, far too slow.

use super::Settings;
use crate::verdict::Verdict;

/// A spread of scores below which a network is deaf to its input.
const LEAST_SPREAD: f32 = 1e-4;

/// Why a candidate must not take over.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unlike {
    /// Its network failed, and how.
    #[error("beside the model in use: {0}")]
    Failed(String),
    /// A score is no number.
    #[error("beside the model in use: expected numbers, found {0}")]
    NotFinite(f32),
    /// It says Real where the model in use says Fake, or Fake for Real, too often.
    #[error(
        "beside the model in use: expected contrary verdicts in at most {limit} of the looks, found {found:.3}"
    )]
    Contrary {
        /// The limit.
        limit: f32,
        /// The share that was found.
        found: f32,
    },
    /// Its scores are higher or lower throughout.
    #[error("beside the model in use: expected a mean score at most {limit} away, found {found:+.3}")]
    Shifted {
        /// The limit.
        limit: f32,
        /// By how much.
        found: f32,
    },
    /// It gives the same score for everything.
    #[error("beside the model in use: expected scores that differ, found {0} throughout")]
    Constant(f32),
    /// It takes too long.
    #[error("beside the model in use: time: expected at most {limit} times its, found {found:.2} times")]
    Slow {
        /// The limit.
        limit: f32,
        /// Measured over all looks.
        found: f32,
    },
}

/// What was seen of a candidate that may take over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// Looks that both scored.
    pub n_looks: u32,
    /// Share of contrary verdicts.
    pub contrary: f32,
    /// By how much its mean score is higher.
    pub shift: f32,
    /// Its time as a multiple of the other's.
    pub time_ratio: f32,
}

/// One look at a face that both models scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Scores of the model in use and of the candidate, P(fake).
    pub scores: [f32; 2],
    /// What the last scores of the face come to by each; the verdict of too few scores is Uncertain.
    pub verdicts: [Verdict; 2],
    /// What each took, seconds.
    pub times_s: [f32; 2],
}

/// What was seen so far.
#[derive(Clone, Debug)]
pub struct Comparison {
    n_looks: u32,
    n_contrary: u32,
    sums: [f64; 2],
    ends: [f32; 2],
    times_s: [f64; 2],
    broken: Option<Unlike>,
}

impl Default for Comparison {
    fn default() -> Self {
        Comparison {
            n_looks: 0,
            n_contrary: 0,
            sums: [0.0; 2],
            ends: [f32::INFINITY, f32::NEG_INFINITY],
            times_s: [0.0; 2],
            broken: None,
        }
    }
}

impl Comparison {
    /// Takes a look into account.
    pub fn add(&mut self, pair: &Pair) {
        let [ours, theirs] = pair.scores;
        if !theirs.is_finite() {
            self.broken = Some(Unlike::NotFinite(theirs));
            return;
        }
        // Where the model in use gives no number, there is nothing to compare.
        if !ours.is_finite() {
            return;
        }
        self.n_looks += 1;
        self.n_contrary += u32::from(matches!(
            pair.verdicts,
            [Verdict::Real, Verdict::Fake] | [Verdict::Fake, Verdict::Real]
        ));
        for k in 0..2 {
            self.sums[k] += f64::from(pair.scores[k]);
            self.times_s[k] += f64::from(pair.times_s[k]);
        }
        self.ends = [self.ends[0].min(theirs), self.ends[1].max(theirs)];
    }

    /// The candidate's network failed.
    pub fn fail(&mut self, reason: String) {
        self.broken = Some(Unlike::Failed(reason));
    }

    /// What all looks come to, once there are enough of them; at once for a score that is no number, or for none.
    pub fn outcome(&self, limits: &Settings) -> Option<Result<Alike, Unlike>> {
        if let Some(unlike) = &self.broken {
            return Some(Err(unlike.clone()));
        }
        (self.n_looks >= limits.shadow_looks).then(|| self.judged(limits))
    }

    #[expect(clippy::cast_possible_truncation, reason = "shares and ratios")]
    fn judged(&self, limits: &Settings) -> Result<Alike, Unlike> {
        let n = f64::from(self.n_looks.max(1));
        let contrary = (f64::from(self.n_contrary) / n) as f32;
        let shift = ((self.sums[1] - self.sums[0]) / n) as f32;
        let time_ratio = (self.times_s[1] / self.times_s[0].max(1e-9)) as f32;
        if self.ends[1] - self.ends[0] < LEAST_SPREAD {
            return Err(Unlike::Constant(self.ends[0]));
        }
        if contrary > limits.max_contrary {
            return Err(Unlike::Contrary { limit: limits.max_contrary, found: contrary });
        }
        if shift.abs() > limits.max_shift {
            return Err(Unlike::Shifted { limit: limits.max_shift, found: shift });
        }
        if time_ratio > limits.max_time_ratio {
            return Err(Unlike::Slow { limit: limits.max_time_ratio, found: time_ratio });
        }
        Ok(Alike { n_looks: self.n_looks, contrary, shift, time_ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Fake, Real, Uncertain};

    /// What `n_looks` by this pair for look `k` come to.
    fn outcome(pair: impl Fn(u32) -> Pair) -> Option<Result<Alike, Unlike>> {
        let limits = Settings::default();
        let mut comparison = Comparison::default();
        for k in 0..limits.shadow_looks {
            assert_eq!(comparison.outcome(&limits), None, "after {k} looks");
            comparison.add(&pair(k));
        }
        comparison.outcome(&limits)
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn score(k: u32) -> f32 {
        0.1 + 0.001 * (k % 50) as f32
    }

    #[test]
    fn a_candidate_that_says_about_the_same_may_take_over() {
        let good = outcome(|k| Pair {
            scores: [score(k), score(k) + 0.1],
            verdicts: if k % 50 == 0 { [Real, Fake] } else { [Real, Uncertain] },
            times_s: [0.01, 0.03],
        });
        let alike = good.unwrap().unwrap();
        assert!((alike.contrary - 0.02).abs() < 1e-6 && (alike.shift - 0.1).abs() < 1e-5);
        assert!((alike.time_ratio - 3.0).abs() < 1e-5);
    }

    #[test]
    fn a_broken_candidate_may_not() {
        let like = |k| Pair { scores: [score(k); 2], verdicts: [Real; 2], times_s: [0.01; 2] };
        type Of = Box<dyn Fn(u32) -> Pair>;
        let cases: [(&str, Of, &str); 5] = [
            (
                "swapped labels",
                Box::new(move |k| Pair {
                    scores: [score(k), 1.0 - score(k)],
                    verdicts: [Real, Fake],
                    ..like(k)
                }),
                "contrary",
            ),
            (
                "all higher",
                Box::new(move |k| Pair { scores: [score(k), score(k) + 0.4], ..like(k) }),
                "mean score",
            ),
            (
                "always the same",
                Box::new(move |k| Pair { scores: [score(k), 0.12], ..like(k) }),
                "that differ",
            ),
            ("too slow", Box::new(move |k| Pair { times_s: [0.01, 0.3], ..like(k) }), "time"),
            (
                "contrary the other way",
                Box::new(move |k| Pair { verdicts: [Fake, Real], ..like(k) }),
                "contrary",
            ),
        ];
        for (name, pair, expected) in cases {
            let unlike = outcome(pair).unwrap().unwrap_err().to_string();
            assert!(unlike.contains(expected), "{name}: {unlike}");
        }
    }

    #[test]
    fn a_network_that_fails_or_gives_no_number_ends_it_at_once() {
        let mut comparison = Comparison::default();
        let pair = Pair { scores: [0.2, f32::NAN], verdicts: [Real, Uncertain], times_s: [0.0; 2] };
        comparison.add(&pair);
        assert!(matches!(comparison.outcome(&Settings::default()), Some(Err(Unlike::NotFinite(_)))));
        let mut comparison = Comparison::default();
        comparison.fail("network m: run: no memory".into());
        let unlike = comparison.outcome(&Settings::default()).unwrap().unwrap_err();
        assert_eq!(unlike.to_string(), "beside the model in use: network m: run: no memory");
    }
}
