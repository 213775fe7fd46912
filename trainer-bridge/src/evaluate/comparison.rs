//! Several runs, baselines among them, on the same groups.

use serde::Serialize;

use super::bootstrap::Bootstrap;
use super::evaluation::{LevelFigures, Settings, calibrate, items, unknown};
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

/// What is known of the first run already.
pub struct First<'a> {
    /// Its figures, crops, faces, videos.
    pub figures: &'a [LevelFigures; 3],
    /// Its predictions.
    pub levels: &'a Levels<'a>,
    /// As they are read without a calibration.
    pub as_trained: &'a Judged,
}

/// Puts every run beside `runs[0]`; `groups` holds the groups of all.
pub fn compare(
    runs: &[Run],
    first: &First,
    groups: &Groups,
    settings: &Settings,
    bootstrap: &Bootstrap,
) -> Vec<Comparison> {
    let firsts = Level::ALL.map(|level| items(first.levels, first.as_trained, level));
    let firsts: Vec<(Ranking, Vec<Scored>)> =
        firsts.into_iter().map(|items| (Ranking::new(&items), items)).collect();
    // A given calibration belongs to the first run's network.
    let settings = Settings { given: None, ..settings.clone() };
    let other = |run: &Run| {
        let levels = Levels::new(&run.predictions, groups);
        let reading = settings.aim.as_trained();
        let as_trained = levels.judge(|_| &reading);
        let (_, calibrated) = calibrate(&levels, groups.len(), &settings);
        let calibrated = calibrated.as_ref().unwrap_or(&as_trained);
        let standing = |(level, first): (Level, &(Ranking, Vec<Scored>))| {
            let [raw, calibrated] = [&as_trained, calibrated].map(|judged| items(&levels, judged, level));
            standing(level, [&raw, &calibrated], first, bootstrap)
        };
        Comparison {
            name: run.name.clone(),
            levels: Level::ALL.into_iter().zip(&firsts).map(standing).collect(),
        }
    };
    let own =
        Comparison { name: runs[0].name.clone(), levels: first.figures.iter().map(own_standing).collect() };
    std::iter::once(own).chain(runs[1..].iter().map(other)).collect()
}

fn own_standing(figures: &LevelFigures) -> Standing {
    let (as_trained, calibrated) = (&figures.as_trained, figures.calibrated.as_ref());
    let calibrated = calibrated.unwrap_or(as_trained);
    Standing {
        level: figures.level,
        n_real: as_trained.n_real,
        n_fake: as_trained.n_fake,
        auc: as_trained.auc,
        auc_behind: unknown("the first run"),
        eer: as_trained.eer,
        accuracy: calibrated.accuracy,
        log_loss: calibrated.log_loss,
    }
}

fn standing(
    level: Level,
    [as_trained, calibrated]: [&[Scored]; 2],
    (first, firsts): &(Ranking, Vec<Scored>),
    bootstrap: &Bootstrap,
) -> Standing {
    let n_fake = as_trained.iter().filter(|item| item.is_fake).count();
    let ranking = Ranking::new(as_trained);
    let rankings = [first, &ranking];
    Standing {
        level,
        n_real: as_trained.len() - n_fake,
        n_fake,
        auc: bootstrap.estimate(as_trained, |weights| ranking.auc(weights)),
        auc_behind: bootstrap.difference([firsts, as_trained], |of, weights| rankings[of].auc(weights)),
        eer: match ranking.points() {
            Ok(points) => Figure::Known(roc::equal_error_rate(&points)),
            Err(why) => Figure::Unknown(why),
        },
        accuracy: metrics::accuracy(calibrated, bootstrap),
        log_loss: metrics::mean(calibrated, bootstrap, |item| item.loss),
    }
}
