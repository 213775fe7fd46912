//! Scores of one face -> its verdict; verdicts of the faces -> the file's. Pure.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Most scores that one verdict rests on.
pub const WINDOW: usize = 15;

/// What Candor says of a face or of a file. Never `Real` by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The mean score is under the bundle's lower threshold.
    Real,
    /// The mean score is over the bundle's upper threshold.
    Fake,
    /// Between the thresholds, or too little to go by.
    Uncertain,
    /// No face was found.
    NoFace,
    /// Every look at the face was smaller than the bundle's model can judge.
    FaceTooSmall,
}

impl Verdict {
    /// Those that a face can get.
    pub const OF_FACES: [Verdict; 4] =
        [Verdict::Real, Verdict::Fake, Verdict::Uncertain, Verdict::FaceTooSmall];

    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Real => "Real",
            Verdict::Fake => "Fake",
            Verdict::Uncertain => "Uncertain",
            Verdict::NoFace => "NoFace",
            Verdict::FaceTooSmall => "FaceTooSmall",
        }
    }
}

/// The limits a verdict is made by; they belong to the model and come with its bundle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// A mean below this is `Real`; 0..=1.
    pub real_below: f32,
    /// A mean above this is `Fake`; `real_below..=1`.
    pub fake_above: f32,
    /// Fewer scores than this are `Uncertain`; 1..=[`WINDOW`]. A photo needs just its one.
    pub min_scores: usize,
    /// Faces narrower than this are not scored.
    pub min_face_px: f32,
}

/// Why a verdict is what it is; in words for people, also in JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "numbers of scores, and limits of `Rules`")]
pub enum Reason {
    /// There is nobody to judge.
    NoFace,
    /// No look was large enough for a score.
    TooSmall { min_face_px: f32 },
    /// A score is no number.
    NoNumber,
    /// A verdict needs more scores.
    TooFew { n_scores: usize, min_scores: usize },
    /// The mean is over the upper limit.
    Over { n_scores: usize, fake_above: f32 },
    /// The mean is under the lower limit.
    Under { n_scores: usize, real_below: f32 },
    /// The mean is at the limits or between them.
    Between { n_scores: usize, real_below: f32, fake_above: f32 },
}

impl fmt::Display for Reason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::NoFace => to.write_str("no face was found"),
            Reason::TooSmall { min_face_px } => {
                write!(to, "the face is never {min_face_px} px wide, the least this model can judge")
            }
            Reason::NoNumber => to.write_str("the model gave no number"),
            Reason::TooFew { n_scores, min_scores } => {
                write!(to, "{n_scores} of the {min_scores} scores that a verdict needs")
            }
            Reason::Over { n_scores, fake_above } => {
                write!(to, "mean of {n_scores} scores is over {fake_above:.2}")
            }
            Reason::Under { n_scores, real_below } => {
                write!(to, "mean of {n_scores} scores is under {real_below:.2}")
            }
            Reason::Between { n_scores, real_below, fake_above } => {
                write!(to, "mean of {n_scores} scores is between {real_below:.2} and {fake_above:.2}")
            }
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A verdict with what it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Mean of the scores, 0..=1; `None` without a score.
    pub mean_score: Option<f32>,
    /// Why.
    pub reason: Reason,
}

/// The mean of `scores`; `None` when there are none.
pub fn mean(scores: &[f32]) -> Option<f32> {
    #[expect(clippy::cast_precision_loss, reason = "at most WINDOW scores")]
    (!scores.is_empty()).then(|| scores.iter().sum::<f32>() / scores.len() as f32)
}

/// Judges one face by its scores, each 0..=1. `is_still` says that the source is one photo, which
/// can give no more than one score.
pub fn judge_face(scores: &[f32], is_still: bool, rules: &Rules) -> Judgement {
    let Rules { real_below, fake_above, min_face_px, .. } = *rules;
    let Some(mean_score) = mean(scores) else {
        let reason = Reason::TooSmall { min_face_px };
        return Judgement { verdict: Verdict::FaceTooSmall, mean_score: None, reason };
    };
    let min_scores = if is_still { 1 } else { rules.min_scores };
    let n_scores = scores.len();
    let (verdict, reason) = if !mean_score.is_finite() {
        (Verdict::Uncertain, Reason::NoNumber)
    } else if n_scores < min_scores {
        (Verdict::Uncertain, Reason::TooFew { n_scores, min_scores })
    } else if mean_score > fake_above {
        (Verdict::Fake, Reason::Over { n_scores, fake_above })
    } else if mean_score < real_below {
        (Verdict::Real, Reason::Under { n_scores, real_below })
    } else {
        (Verdict::Uncertain, Reason::Between { n_scores, real_below, fake_above })
    };
    Judgement { verdict, mean_score: mean_score.is_finite().then_some(mean_score), reason }
}

/// Judges a file by its faces: the one with the highest mean score speaks for it.
pub fn judge_file(faces: &[Judgement]) -> Judgement {
    let Some(first) = faces.first() else {
        return Judgement { verdict: Verdict::NoFace, mean_score: None, reason: Reason::NoFace };
    };
    let highest = faces
        .iter()
        .filter(|f| f.mean_score.is_some())
        .max_by(|a, b| a.mean_score.unwrap_or(0.0).total_cmp(&b.mean_score.unwrap_or(0.0)));
    // A face that may be fake must not vanish behind one that is surely real.
    *highest.unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { real_below: 0.35, fake_above: 0.65, min_scores: 5, min_face_px: 50.0 };

    #[test]
    fn thresholds_decide_and_the_edges_are_uncertain() {
        for (score, verdict) in [
            (0.0, Verdict::Real),
            (0.34, Verdict::Real),
            (0.36, Verdict::Uncertain),
            (0.64, Verdict::Uncertain),
            (0.66, Verdict::Fake),
            (1.0, Verdict::Fake),
        ] {
            assert_eq!(judge_face(&[score; 15], false, &RULES).verdict, verdict, "{score}");
        }
        let edge = Rules { real_below: 0.25, fake_above: 0.75, ..RULES };
        assert_eq!(judge_face(&[0.25; 15], false, &edge).verdict, Verdict::Uncertain);
        assert_eq!(judge_face(&[0.75; 15], false, &edge).verdict, Verdict::Uncertain);
    }

    #[test]
    fn too_little_is_never_real() {
        assert_eq!(judge_face(&[], false, &RULES).verdict, Verdict::FaceTooSmall);
        assert_eq!(judge_face(&[0.0; 4], false, &RULES).verdict, Verdict::Uncertain);
        assert_eq!(judge_face(&[f32::NAN; 15], false, &RULES).verdict, Verdict::Uncertain);
        assert_eq!(judge_face(&[0.0], true, &RULES).verdict, Verdict::Real);
        assert_eq!(judge_file(&[]).verdict, Verdict::NoFace);
    }

    #[test]
    fn the_highest_face_speaks_for_the_file() {
        let face = |s: f32| judge_face(&[s; 15], false, &RULES);
        let file = judge_file(&[face(0.1), face(0.9), face(0.5)]);
        assert_eq!((file.verdict, file.mean_score), (Verdict::Fake, face(0.9).mean_score));
        let none = judge_face(&[], false, &RULES);
        assert_eq!(judge_file(&[none, face(0.1)]).verdict, Verdict::Real);
        assert_eq!(judge_file(&[none]).verdict, Verdict::FaceTooSmall);
    }
}
