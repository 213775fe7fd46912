//! Figures of parts: by face size, sharpness, compression, method and set.

use std::collections::BTreeMap;

use candor::verdict::Verdict;
use serde::Serialize;

use super::bootstrap::{Bootstrap, quantile};
use super::figure::{Estimate, Figure};
use super::level::{Level, Levels, Readings};
use super::metrics::{self, NO_FAKES, NO_REALS, Scored, n_groups};
use super::prediction::Prediction;
use super::roc::{self, Ranking};

/// Edges between the parts by face size, px of the frame.
pub const FACE_SIZES_PX: [f32; 5] = [64.0, 96.0, 128.0, 192.0, 256.0];
/// At which recall the false alarms of a part are given.
pub const PART_RECALL: f64 = 0.9;
/// With fewer groups than this, figures of a part are marked.
pub const FEW_GROUPS: usize = 10;

/// What parts differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The folder of videos or photos.
    Set,
    /// How fakes were made; each method's fakes against all reals.
    Method,
    /// What the video went through.
    Condition,
    /// Median width of the face's box.
    FaceSize,
    /// Median sharpness of the crops, in quarters of all crops.
    Sharpness,
}

impl By {
    /// All of them, in the report's order.
    pub const ALL: [By; 5] = [By::Set, By::Method, By::Condition, By::FaceSize, By::Sharpness];

    /// The words that people see.
    pub fn words(self) -> &'static str {
        match self {
            By::Set => "set of videos or photos",
            By::Method => "method",
            By::Condition => "compression",
            By::FaceSize => "face size",
            By::Sharpness => "sharpness",
        }
    }
}

/// Figures of a part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Reals with a score.
    pub n_real: usize,
    /// Fakes with a score.
    pub n_fake: usize,
    /// Groups that these come from.
    pub n_groups: usize,
    /// The area under the ROC.
    pub auc: Estimate,
    /// The share that score >= 0.5 decides rightly.
    pub accuracy: Estimate,
    /// The mean loss.
    pub log_loss: Estimate,
    /// False alarms where [`PART_RECALL`] of this part's fakes are found.
    pub false_alarms_at_recall: Figure,
    /// The share of reals whose verdict is Fake; unknown for crops and without thresholds.
    pub real_called_fake: Estimate,
    /// The share of fakes whose verdict is Fake.
    pub fake_called_fake: Estimate,
}

/// A level's parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breakdown {
    /// What they differ in.
    pub by: By,
    /// What is judged.
    pub level: Level,
    /// The parts that hold anything.
    pub parts: Vec<Part>,
}

/// Names a part and gives its place among the others.
type Key = (usize, String);

/// Measures the parts of a level: what ranks as trained, the rest calibrated where there is a calibration.
pub fn measure(
    levels: &Levels,
    readings: &Readings,
    level: Level,
    by: By,
    bootstrap: &Bootstrap,
) -> Breakdown {
    // A calibration changes no item's being scored, so both list the same items.
    let trained: BTreeMap<usize, Scored> = levels.scored(&readings.as_trained, level).into_iter().collect();
    let scored = levels.scored(readings.calibrated.as_ref().unwrap_or(&readings.as_trained), level);
    let edges = sharpness_edges(levels.predictions);
    let mut parts = BTreeMap::<Key, Vec<(usize, Scored)>>::new();
    for (idx, item) in &scored {
        if by != By::Method || item.is_fake {
            let key = key(by, &levels.crops(level, *idx), &edges);
            parts.entry(key).or_default().push((*idx, *item));
        }
    }
    if by == By::Method {
        let reals: Vec<_> = scored.iter().filter(|(_, item)| !item.is_fake).copied().collect();
        parts.values_mut().for_each(|part| part.extend(&reals));
    }
    let verdicts = readings.calibrated.as_ref().and_then(|judged| judged.verdicts(level));
    let part = |((_, name), members): (Key, Vec<(usize, Scored)>)| {
        let items: Vec<Scored> = members.iter().map(|(_, item)| *item).collect();
        let called_fake = |is_fake: bool| {
            let Some(verdicts) = verdicts else {
                return Estimate { value: Figure::Unknown("no verdicts"), interval: None };
            };
            let says: Vec<f64> = members
                .iter()
                .map(|(idx, _)| f64::from(u8::from(verdicts[*idx].verdict == Verdict::Fake)))
                .collect();
            share_of_class(&items, &says, is_fake, bootstrap)
        };
        let ranked: Vec<Scored> = members.iter().map(|(idx, _)| trained[idx]).collect();
        let ranking = Ranking::new(&ranked);
        let n_fake = items.iter().filter(|item| item.is_fake).count();
        Part {
            name,
            n_real: items.len() - n_fake,
            n_fake,
            n_groups: n_groups(&items),
            auc: bootstrap.estimate(&items, |weights| ranking.auc(weights)),
            accuracy: metrics::accuracy(&items, bootstrap),
            log_loss: metrics::mean(&items, bootstrap, |item| item.loss),
            false_alarms_at_recall: match ranking.points() {
                Ok(points) => Figure::Known(roc::false_alarms_at(&points, PART_RECALL)),
                Err(why) => Figure::Unknown(why),
            },
            real_called_fake: called_fake(false),
            fake_called_fake: called_fake(true),
        }
    };
    Breakdown { by, level, parts: parts.into_iter().map(part).collect() }
}

/// The share of a class that `says` (0 or 1 for every item) holds for, by group.
pub(crate) fn share_of_class(
    items: &[Scored],
    says: &[f64],
    is_fake: bool,
    bootstrap: &Bootstrap,
) -> Estimate {
    let of_class: Vec<(Scored, f64)> =
        items.iter().copied().zip(says.iter().copied()).filter(|(item, _)| item.is_fake == is_fake).collect();
    let (items, says): (Vec<Scored>, Vec<f64>) = of_class.into_iter().unzip();
    bootstrap.share(&items, &says, if is_fake { NO_FAKES } else { NO_REALS })
}

fn sharpness_edges(predictions: &[Prediction]) -> [f64; 3] {
    let mut all: Vec<f64> = predictions.iter().map(|prediction| f64::from(prediction.sharpness)).collect();
    all.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| quantile(&all, share))
}

fn median(numbers: impl Iterator<Item = f32>) -> f64 {
    let mut sorted: Vec<f64> = numbers.map(f64::from).collect();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The part that crops, at least one, of one unit belong to.
fn key(by: By, crops: &[&Prediction], sharpness_edges: &[f64; 3]) -> Key {
    let first = crops[0];
    match by {
        By::Set => (0, first.set().to_owned()),
        By::Method => {
            let method = crops.iter().find(|crop| !crop.method.is_empty()).map(|crop| crop.method.as_str());
            (usize::from(method.is_none()), method.unwrap_or("unknown method").to_owned())
        }
        By::Condition => (usize::from(first.condition != "clean"), first.condition.clone()),
        By::FaceSize => {
            let edges = FACE_SIZES_PX.map(f64::from);
            interval(median(crops.iter().map(|crop| crop.face_px)), &edges, " px", 0)
        }
        By::Sharpness => {
            let digits = if sharpness_edges[2] < 10.0 { 2 } else { 0 };
            interval(median(crops.iter().map(|crop| crop.sharpness)), sharpness_edges, "", digits)
        }
    }
}

/// Which of the intervals between `edges`, each with its lower end, holds a number.
fn interval(number: f64, edges: &[f64], unit: &str, digits: usize) -> Key {
    let place = edges.partition_point(|edge| *edge <= number);
    let name = match place {
        0 => format!("under {:.digits$}{unit}", edges[0]),
        _ if place == edges.len() => format!("{:.digits$}{unit} and more", edges[place - 1]),
        _ => format!("{:.digits$} to {:.digits$}{unit}", edges[place - 1], edges[place]),
    };
    (place, name)
}
