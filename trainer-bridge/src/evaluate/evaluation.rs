//! Predictions -> every figure of the report; `metrics.json`.

use candor::bundle::{Calibration, Thresholds};
use candor::verdict::{Judgement, Verdict};
use serde::Serialize;

use super::bootstrap::Bootstrap;
use super::breakdown::{self, Breakdown, By, share_of_class};
use super::calibrate::{Aim, Chosen, CrossFit, choose};
use super::comparison::{self, Comparison, Run};
use super::figure::{Estimate, Figure};
use super::level::{Groups, Judged, Level, Levels, Reading, Readings};
use super::metrics::{Measures, Scored, measure};
use super::roc::{Point, Ranking};

/// The JSON's schema; changes when a field changes its meaning.
pub const SCHEMA: u32 = 1;
/// Bins of the histograms of scores.
pub const N_SCORE_BINS: usize = 20;
/// With fewer groups of a class than this, the report warns.
const ENOUGH_GROUPS: usize = 20;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What thresholds are for.
    pub aim: Aim,
    /// Resamples of an interval.
    pub n_resamples: usize,
    /// Of folds and resamples.
    pub seed: u64,
    /// A calibration chosen on other data; without one it is cross-fitted on the data at hand.
    pub given: Option<(Calibration, Thresholds)>,
}

/// How the calibrated figures came by their calibration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Calibrated {
    /// Chosen on the other folds' groups, fold by fold; `chosen` on all, for use elsewhere.
    CrossFitted {
        /// What to put into a bundle.
        chosen: Chosen,
        /// What was chosen without each fold.
        folds: Vec<Chosen>,
    },
    /// Chosen on other data.
    Given {
        /// Temperature and bias.
        score: Calibration,
        /// Where verdicts change.
        thresholds: Thresholds,
    },
    /// Not at all.
    Not {
        /// Why.
        why: &'static str,
    },
}

/// How often each verdict was given to one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdicts {
    /// Is the class fake?
    pub is_fake: bool,
    /// Verdict, how often, and the share.
    pub given: Vec<(Verdict, usize, Estimate)>,
}

/// Everything of one level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LevelFigures {
    /// What is judged.
    pub level: Level,
    /// How many there are.
    pub n: usize,
    /// Those without a score: no number, or a face that is too small.
    pub n_without_score: usize,
    /// Temperature 1, no bias.
    pub as_trained: Measures,
    /// With temperature and bias that were chosen on other groups.
    pub calibrated: Option<Measures>,
    /// By thresholds that were chosen on other groups: of reals and of fakes. None for crops.
    pub verdicts: Option<[Verdicts; 2]>,
    /// Reals and fakes by calibrated score (as trained where there is none), in [`N_SCORE_BINS`] bins.
    pub scores: [Vec<usize>; 2],
    /// The ROC of the scores as trained; empty where there is none.
    #[serde(skip)]
    pub roc: Vec<Point>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The run's name.
    pub name: String,
    /// The aim of the thresholds.
    pub aim: Aim,
    /// Resamples of an interval.
    pub n_resamples: usize,
    /// Of folds and resamples.
    pub seed: u64,
    /// Groups, those with reals and those with fakes.
    pub n_groups: [usize; 3],
    /// Crops for which the network gave no number.
    pub n_without_number: usize,
    /// How the calibrated figures came by their calibration.
    pub calibration: Calibrated,
    /// Crops, faces, videos.
    pub levels: Vec<LevelFigures>,
    /// Parts of crops and of faces.
    pub breakdowns: Vec<Breakdown>,
    /// This run and others.
    pub comparison: Vec<Comparison>,
    /// What a reader must know.
    pub warnings: Vec<String>,
}

/// Measures `runs[0]` and compares it with the others.
///
/// # Panics
/// If `runs` is empty.
pub fn evaluate(runs: &[Run], settings: &Settings) -> Evaluation {
    let ours = &runs[0];
    let mut groups = Groups::new(&ours.predictions);
    let n_ours = groups.len();
    groups.add(runs[1..].iter().flat_map(|run| &run.predictions));
    // This run's figures are the same whatever it is compared with.
    let mut bootstrap = Bootstrap::new(n_ours, settings.n_resamples, settings.seed);
    bootstrap.add(groups.len() - n_ours, settings.seed, 1);
    let levels = Levels::new(&ours.predictions, &groups);
    let as_trained = settings.aim.as_trained();
    let (calibration, calibrated) = calibrate(&levels, groups.len(), settings);
    let readings = Readings { as_trained: levels.judge(|_| &as_trained), calibrated };
    let figures: [LevelFigures; 3] =
        Level::ALL.map(|level| figures_of(&levels, &readings, level, &bootstrap));
    let breakdown = |(level, by)| breakdown::measure(&levels, &readings, level, by, &bootstrap);
    let parts = [Level::Face, Level::Image].iter().flat_map(|level| By::ALL.map(|by| (*level, by)));
    let breakdowns = parts.map(breakdown).collect();
    let with_class = |class: bool| {
        let members = levels.predictions.iter().filter(|p| p.is_fake() == class);
        Groups::new(members).len()
    };
    let n_groups = [n_ours, with_class(false), with_class(true)];
    let n_without_number = figures[0].n_without_score;
    let first = comparison::First { figures: &figures, levels: &levels, as_trained: &readings.as_trained };
    let comparison = comparison::compare(runs, &first, &groups, settings, &bootstrap);
    let mut evaluation = Evaluation {
        schema: SCHEMA,
        name: ours.name.clone(),
        aim: settings.aim,
        n_resamples: settings.n_resamples,
        seed: settings.seed,
        n_groups,
        n_without_number,
        calibration,
        levels: figures.into(),
        breakdowns,
        comparison,
        warnings: Vec::new(),
    };
    evaluation.warnings = warnings(&evaluation);
    evaluation
}

/// Judges with a calibration that has not seen what it judges.
pub(crate) fn calibrate(
    levels: &Levels,
    n_groups: usize,
    settings: &Settings,
) -> (Calibrated, Option<Judged>) {
    let aim = &settings.aim;
    if let Some((score, thresholds)) = settings.given.clone() {
        let reading = Reading { calibration: score.clone(), rules: aim.rules(&thresholds) };
        return (Calibrated::Given { score, thresholds }, Some(levels.judge(|_| &reading)));
    }
    let chosen = choose(levels, aim, |_| true);
    match chosen.and_then(|chosen| Ok((chosen, CrossFit::new(levels, n_groups, aim, settings.seed)?))) {
        Ok((chosen, cross_fit)) => {
            let judged = levels.judge(|group| cross_fit.reading(group));
            (Calibrated::CrossFitted { chosen, folds: cross_fit.chosen }, Some(judged))
        }
        Err(why) => (Calibrated::Not { why }, None),
    }
}

pub(crate) fn items(levels: &Levels, judged: &Judged, level: Level) -> Vec<Scored> {
    levels.scored(judged, level).into_iter().map(|(_, item)| item).collect()
}

fn figures_of(levels: &Levels, readings: &Readings, level: Level, bootstrap: &Bootstrap) -> LevelFigures {
    let as_trained = items(levels, &readings.as_trained, level);
    let calibrated = readings.calibrated.as_ref().map(|judged| items(levels, judged, level));
    let judgements = readings.calibrated.as_ref().and_then(|judged| judged.verdicts(level));
    let shown = calibrated.as_ref().unwrap_or(&as_trained);
    LevelFigures {
        level,
        n: levels.n(level),
        n_without_score: levels.n(level) - as_trained.len(),
        as_trained: measure(&as_trained, bootstrap),
        calibrated: calibrated.as_ref().map(|items| measure(items, bootstrap)),
        verdicts: judgements
            .map(|all| [false, true].map(|is_fake| verdicts_of(levels, level, all, is_fake, bootstrap))),
        scores: [false, true].map(|is_fake| histogram(shown, is_fake)),
        roc: Ranking::new(&as_trained).points().unwrap_or_default(),
    }
}

fn verdicts_of(
    levels: &Levels,
    level: Level,
    judgements: &[Judgement],
    is_fake: bool,
    bootstrap: &Bootstrap,
) -> Verdicts {
    // The numbers of these stand-ins are never read: a face without a score has a verdict, too.
    let item = |idx| {
        let (is_fake, group) = levels.label_and_group(level, idx);
        Scored { score: 0.0, rank: 0.0, loss: 0.0, is_fake, group }
    };
    let items: Vec<Scored> = (0..judgements.len()).map(item).collect();
    let given = [Verdict::Real, Verdict::Uncertain, Verdict::Fake, Verdict::FaceTooSmall].map(|verdict| {
        let says: Vec<f64> =
            judgements.iter().map(|judgement| f64::from(u8::from(judgement.verdict == verdict))).collect();
        let n = (items.iter().zip(&says)).filter(|(i, says)| i.is_fake == is_fake && **says > 0.0).count();
        (verdict, n, share_of_class(&items, &says, is_fake, bootstrap))
    });
    Verdicts { is_fake, given: given.into() }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a score is 0..=1")]
fn histogram(items: &[Scored], is_fake: bool) -> Vec<usize> {
    let mut counts = vec![0; N_SCORE_BINS];
    for item in items.iter().filter(|item| item.is_fake == is_fake) {
        counts[((item.score * N_SCORE_BINS as f32) as usize).min(N_SCORE_BINS - 1)] += 1;
    }
    counts
}

fn warnings(evaluation: &Evaluation) -> Vec<String> {
    let mut warnings = Vec::new();
    let [_, n_real, n_fake] = evaluation.n_groups;
    for (n, class) in [(n_real, "reals"), (n_fake, "fakes")] {
        if n == 0 {
            warnings.push(format!("There are no {class}: every figure that needs both classes is n/a."));
        } else if n < ENOUGH_GROUPS {
            warnings.push(format!(
                "Only {n} groups have {class}: figures are rough, and intervals by resampling so few groups are too narrow.",
            ));
        }
    }
    if evaluation.n_without_number > 0 {
        warnings.push(format!(
            "For {} crops the network gave no number. They are left out of figures of crops; faces with such a crop are Uncertain and left out of rankings.",
            evaluation.n_without_number,
        ));
    }
    for figures in &evaluation.levels[1..] {
        if figures.n_without_score > 0 {
            warnings.push(format!(
                "{} of {} {}s have no score (no number, or faces too small): they are in the verdicts and in no other figure.",
                figures.n_without_score,
                figures.n,
                figures.level.word(),
            ));
        }
    }
    match &evaluation.calibration {
        Calibrated::CrossFitted { chosen, folds } => {
            warnings.extend(chosen.notes.iter().cloned());
            let n_noted = folds.iter().filter(|fold| !fold.notes.is_empty()).count();
            if n_noted > 0 && chosen.notes.is_empty() {
                let n_folds = folds.len();
                warnings.push(format!(
                    "In {n_noted} of {n_folds} folds: {}",
                    folds.iter().find_map(|fold| fold.notes.first()).map_or("", |note| note.as_str()),
                ));
            }
        }
        Calibrated::Given { .. } => {}
        Calibrated::Not { why } => {
            warnings.push(format!("Nothing is calibrated, and there are no thresholds: {why}."));
        }
    }
    warnings
}

/// Why there is no figure of a kind, for a table's cell.
pub(crate) fn unknown(why: &'static str) -> Estimate {
    Estimate { value: Figure::Unknown(why), interval: None }
}
