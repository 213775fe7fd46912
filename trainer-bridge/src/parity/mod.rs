//! The same crops through every form of a network: libtorch, float ONNX, int8 in libtorch, int8 ONNX.

pub mod command;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::evaluate::bootstrap::Bootstrap;
use crate::evaluate::metrics::{Scored, measure};
use crate::manifest::{Label, Row};

/// What is compared.
#[derive(Clone, Debug)]
pub struct Stage {
    /// For people.
    pub name: &'static str,
    /// Which stage it should equal, by index.
    pub like: usize,
    /// How far a logit may be from that stage's; `None` where int8 differs from float by its nature.
    pub most: Option<f64>,
    /// Of each crop: real, fake.
    pub logits: Vec<[f32; 2]>,
}

/// What int8 may change against the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Of the area under the ROC.
    pub auc: f64,
    /// Share of crops whose class flips.
    pub crop_flips: f64,
    /// Share of videos whose class flips.
    pub video_flips: f64,
    /// Of the expected calibration error.
    pub ece: f64,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The stage.
    pub stage: &'static str,
    /// The stage that it is compared with.
    pub like: &'static str,
    /// Largest difference of a logit from that stage's.
    pub largest: f64,
    /// Mean difference.
    pub mean: f64,
    /// Share of crops that P(fake) >= 1/2 decides otherwise than in the first stage.
    pub crop_flips: f64,
    /// The same of videos, by the mean score of their crops.
    pub video_flips: f64,
    /// Area under the ROC, where both classes are there.
    pub auc: Option<f64>,
    /// Mean loss.
    pub log_loss: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Which bounds are broken.
    pub broken: Vec<String>,
}

/// P(fake), uncalibrated.
fn score([real, fake]: [f32; 2]) -> f32 {
    1.0 / (1.0 + (real - fake).exp())
}

/// Compares all stages; the first is what was trained.
pub fn compare(rows: &[&Row], stages: &[Stage], bounds: Bounds) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for stage in stages {
        let like = &stages[stage.like];
        let differences: Vec<f64> = (stage.logits.iter().flatten().zip(like.logits.iter().flatten()))
            .map(|(a, b)| f64::from((a - b).abs()))
            .collect();
        // A logit that is no number differs from all.
        let largest =
            differences.iter().fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { d.max(most) });
        let figures = measure(&scored(rows, &stage.logits), &Bootstrap::new(rows.len(), 1, 0));
        let mut line = Line {
            stage: stage.name,
            like: like.name,
            largest,
            mean: differences.iter().sum::<f64>() / differences.len() as f64,
            crop_flips: flips(&crop_classes(&stages[0].logits), &crop_classes(&stage.logits)),
            video_flips: flips(&video_classes(rows, &stages[0].logits), &video_classes(rows, &stage.logits)),
            auc: figures.auc.value.value(),
            log_loss: figures.log_loss.value.value(),
            ece: figures.calibration.ece.value(),
            broken: Vec::new(),
        };
        line.broken = broken(&line, lines.first(), stage.most, bounds);
        lines.push(line);
    }
    lines
}

fn broken(line: &Line, first: Option<&Line>, most: Option<f64>, bounds: Bounds) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |what: &str, found: f64, most: f64| {
        // Not a number is broken, too.
        if found.is_nan() || found > most {
            broken.push(format!("{what}: expected at most {most}, found {found:.6}"));
        }
    };
    match most {
        Some(most) => check("logits", line.largest, most),
        None => {
            check("flips of crops", line.crop_flips, bounds.crop_flips);
            check("flips of videos", line.video_flips, bounds.video_flips);
            let change = |of: fn(&Line) -> Option<f64>| Some((of(line)? - of(first?)?).abs());
            for (what, change, most) in
                [("AUC", change(|line| line.auc), bounds.auc), ("ECE", change(|line| line.ece), bounds.ece)]
            {
                if let Some(change) = change {
                    check(&format!("change of {what}"), change, most);
                }
            }
        }
    }
    broken
}

fn scored(rows: &[&Row], logits: &[[f32; 2]]) -> Vec<Scored> {
    let item = |(group, (row, logits)): (usize, (&&Row, &[f32; 2]))| {
        let is_fake = row.label == Label::Fake;
        let odds = f64::from(logits[1]) - f64::from(logits[0]);
        let against = if is_fake { -odds } else { odds };
        let loss = against.max(0.0) + (-against.abs()).exp().ln_1p();
        Scored { score: score(*logits), rank: odds, loss, is_fake, group }
    };
    rows.iter().zip(logits).enumerate().map(item).filter(|item| item.rank.is_finite()).collect()
}

fn crop_classes(logits: &[[f32; 2]]) -> Vec<bool> {
    logits.iter().map(|logits| score(*logits) >= 0.5).collect()
}

fn video_classes(rows: &[&Row], logits: &[[f32; 2]]) -> Vec<bool> {
    // Compressed, a video is another one.
    let mut videos: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for (row, logits) in rows.iter().zip(logits) {
        videos.entry((&row.video, &row.condition)).or_default().push(f64::from(score(*logits)));
    }
    videos.values().map(|scores| scores.iter().sum::<f64>() / scores.len() as f64 >= 0.5).collect()
}

fn flips(a: &[bool], b: &[bool]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a != b).count() as f64 / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Split;

    const BOUNDS: Bounds = Bounds { auc: 0.01, crop_flips: 0.2, video_flips: 0.4, ece: 0.3 };

    fn rows() -> Vec<Row> {
        let row = |at: u32| Row {
            crop: format!("{at}.png"),
            video: format!("{}.mp4", at / 2),
            source: String::new(),
            group: String::new(),
            method: String::new(),
            condition: "clean".into(),
            track: 0,
            frame: 0,
            pts_ns: 0,
            x: 0.0,
            y: 0.0,
            w: 9.0,
            h: 9.0,
            confidence: 1.0,
            label: if at < 2 { Label::Real } else { Label::Fake },
            split: Split::Validation,
        };
        (0..4).map(row).collect()
    }

    fn lines(second: &[f32], most: Option<f64>) -> Vec<Line> {
        let rows = rows();
        let stage = |name, logits: &[f32], most| Stage {
            name,
            like: 0,
            most,
            logits: logits.iter().map(|&odds| [0.0, odds]).collect(),
        };
        let stages = [stage("a", &[-2.0, -1.0, 0.5, 2.0], Some(0.0)), stage("b", second, most)];
        compare(&rows.iter().collect::<Vec<_>>(), &stages, BOUNDS)
    }

    #[test]
    fn equal_stages_break_nothing() {
        let lines = lines(&[-2.0, -1.0, 0.5, 2.0], Some(0.0));
        assert!(lines.iter().all(|line| line.broken.is_empty() && line.auc == Some(1.0)), "{lines:?}");
    }

    #[test]
    fn every_bound_can_break() {
        let line = &lines(&[-2.0, -1.0, 0.75, 2.0], Some(0.2))[1];
        assert_eq!((line.largest, line.broken.len()), (0.25, 1), "{line:?}");
        // One crop of four flips, and with it one video of two; it ranks below a real one.
        let line = &lines(&[-2.0, -1.0, -3.0, 2.0], None)[1];
        assert_eq!((line.crop_flips, line.video_flips, line.auc), (0.25, 0.5, Some(0.5)));
        let words = ["flips of crops", "flips of videos", "AUC"];
        assert!(words.iter().all(|word| line.broken.iter().any(|broken| broken.contains(word))), "{line:?}");
        let line = &lines(&[f32::NAN, -1.0, 0.5, 2.0], Some(0.2))[1];
        assert_eq!(line.broken.len(), 1, "{line:?}");
    }
}
