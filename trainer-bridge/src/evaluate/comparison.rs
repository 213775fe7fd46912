//! Several runs, baselines among them, on the same groups.

use serde::Serialize;

use super::bootstrap::Bootstrap;
use super::evaluation::{Settings, calibrate, unknown};
use super::figure::{Estimate, Figure};
use super::level::{Groups, Judged, Level, Levels};
use super::metrics::{self, Scored};
use super::prediction::Prediction;
use super::roc::{self, Ranking};

/// A network's, a baseline's or a probe's predictions.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the table calls it.
    pub name: String,
    /// At least one.
    pub predictions: Vec<Prediction>,
}

/// A run's figures of one level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// What is judged.
    pub level: Level,
    /// Reals with a score.
    pub n_real: usize,
    /// Fakes with a score.
    pub n_fake: usize,
    /// The area under the ROC, as trained.
    pub auc: Estimate,
    /// How much higher the first run's is, on the same resamples; unknown for the first.
    pub auc_behind: Estimate,
    /// The equal error rate, as trained.
    pub eer: Figure,
    /// The share that the calibrated score >= 0.5 decides rightly (as trained where nothing is calibrated).
    pub accuracy: Estimate,
    /// The mean loss, calibrated likewise.
    pub log_loss: Estimate,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The run's name.
    pub name: String,
    /// Crops, faces, videos.
    pub levels: Vec<Standing>,
}

/// Both ways to read a run at one level.
struct Read {
    as_trained: Vec<Scored>,
    calibrated: Vec<Scored>,
    ranking: Ranking,
}

/// Measures every run; `groups` holds the groups of all.
pub fn compare(runs: &[Run], groups: &Groups, settings: &Settings, bootstrap: &Bootstrap) -> Vec<Comparison> {
    let read = |run: &Run| {
        let levels = Levels::new(&run.predictions, groups);
        let reading = settings.aim.as_trained();
        let as_trained = levels.judge(|_| &reading);
        // A given calibration belongs to the first run's network.
        let settings = Settings { given: None, ..settings.clone() };
        let (_, calibrated) = calibrate(&levels, groups.len(), &settings);
        let items = |judged: &Judged, level| -> Vec<Scored> {
            levels.scored(judged, level).into_iter().map(|(_, item)| item).collect()
        };
        Level::ALL.map(|level| {
            let raw = items(&as_trained, level);
            let calibrated = items(calibrated.as_ref().unwrap_or(&as_trained), level);
            Read { ranking: Ranking::new(&raw), as_trained: raw, calibrated }
        })
    };
    let reads: Vec<[Read; 3]> = runs.iter().map(read).collect();
    let row = |(idx, run): (usize, &Run)| {
        let standing =
            |(level, (ours, theirs))| standing(level, ours, (idx > 0).then_some(theirs), bootstrap);
        let pairs = reads[idx].iter().zip(&reads[0]);
        Comparison {
            name: run.name.clone(),
            levels: Level::ALL.into_iter().zip(pairs).map(standing).collect(),
        }
    };
    runs.iter().enumerate().map(row).collect()
}

fn standing(level: Level, run: &Read, first: Option<&Read>, bootstrap: &Bootstrap) -> Standing {
    let n_fake = run.as_trained.iter().filter(|item| item.is_fake).count();
    let behind = |first: &Read| {
        let rankings = [&first.ranking, &run.ranking];
        bootstrap.difference([&first.as_trained, &run.as_trained], |of, weights| rankings[of].auc(weights))
    };
    Standing {
        level,
        n_real: run.as_trained.len() - n_fake,
        n_fake,
        auc: bootstrap.estimate(&run.as_trained, |weights| run.ranking.auc(weights)),
        auc_behind: first.map_or(unknown("the first run"), behind),
        eer: match run.ranking.points() {
            Ok(points) => Figure::Known(roc::equal_error_rate(&points)),
            Err(why) => Figure::Unknown(why),
        },
        accuracy: metrics::accuracy(&run.calibrated, bootstrap),
        log_loss: metrics::mean(&run.calibrated, bootstrap, |item| item.loss),
    }
}
