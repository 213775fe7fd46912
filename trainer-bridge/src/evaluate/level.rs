//! Crops, the faces that they show and the videos that these are in, judged as candor judges them.

use std::collections::{BTreeMap, BTreeSet};

use candor::bundle::Calibration;
use candor::classify::calibrated;
use candor::verdict::{Judgement, Rules, judge_face, judge_file};
use serde::Serialize;

use super::metrics::{Scored, softplus};
use super::prediction::Prediction;

/// Means of scores are f32 and can be 0 or 1, where the log loss has no value: they count as this far inside.
pub const CLIP: f64 = 1e-7;

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One crop by its score.
    Image,
    /// One face of a video, by the mean of its crops' scores.
    Face,
    /// One video or photo, by its highest face.
    Video,
}

impl Level {
    /// All of them, from the smallest.
    pub const ALL: [Level; 3] = [Level::Image, Level::Face, Level::Video];

    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            Level::Image => "image",
            Level::Face => "face",
            Level::Video => "video",
        }
    }
}

/// The names of groups, each with its index; shared by runs that are compared.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<String, usize>);

impl Groups {
    /// The groups of all `predictions`.
    pub fn new<'a>(predictions: impl IntoIterator<Item = &'a Prediction>) -> Self {
        let mut groups = Groups::default();
        groups.add(predictions);
        groups
    }

    /// Numbers groups of `predictions` that are new behind those that are there.
    pub fn add<'a>(&mut self, predictions: impl IntoIterator<Item = &'a Prediction>) {
        let names: BTreeSet<&String> = predictions.into_iter().map(|prediction| &prediction.group).collect();
        for name in names {
            let n_groups = self.0.len();
            self.0.entry(name.clone()).or_insert(n_groups);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How logits become scores, and scores a verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Logits to score.
    pub calibration: Calibration,
    /// Scores to verdict.
    pub rules: Rules,
}

/// The crops of one face or video.
#[derive(Clone, Debug)]
struct Unit {
    crops: Vec<usize>,
    is_fake: bool,
    group: usize,
}

/// Predictions by face and video. A video under two conditions is two videos of one group.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    /// The crops.
    pub predictions: &'a [Prediction],
    group_of: Vec<usize>,
    faces: Vec<Unit>,
    videos: Vec<Unit>,
    faces_of_video: Vec<Vec<usize>>,
}

/// All levels, judged in one way.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Of every crop; `None` where the network gave no number.
    images: Vec<Option<Scored>>,
    /// Of every face.
    pub faces: Vec<Judgement>,
    /// Of every video.
    pub videos: Vec<Judgement>,
}

/// A run judged as trained, and with a calibration where there is one.
#[derive(Clone, Debug)]
pub struct Readings {
    /// Temperature 1, no bias.
    pub as_trained: Judged,
    /// By what was chosen on other groups.
    pub calibrated: Option<Judged>,
}

impl Judged {
    /// The verdicts of faces or of videos; crops have none.
    pub fn verdicts(&self, level: Level) -> Option<&[Judgement]> {
        match level {
            Level::Image => None,
            Level::Face => Some(&self.faces),
            Level::Video => Some(&self.videos),
        }
    }
}

impl<'a> Levels<'a> {
    /// Sorts `predictions`, whose groups are all in `groups`, into faces and videos. A face or video is fake if any of
    /// its crops is, and belongs to its first crop's group.
    pub fn new(predictions: &'a [Prediction], groups: &Groups) -> Self {
        let group_of: Vec<usize> = predictions.iter().map(|p| groups.0[&p.group]).collect();
        let mut faces = BTreeMap::<_, Vec<usize>>::new();
        for (idx, p) in predictions.iter().enumerate() {
            faces.entry((&p.dataset, &p.video, &p.condition, p.track)).or_default().push(idx);
        }
        let mut faces_of = BTreeMap::<_, Vec<usize>>::new();
        for (face, (dataset, video, condition, _)) in faces.keys().enumerate() {
            faces_of.entry((*dataset, *video, *condition)).or_default().push(face);
        }
        let unit = |crops: Vec<usize>| Unit {
            is_fake: crops.iter().any(|&crop| predictions[crop].is_fake()),
            group: group_of[crops[0]],
            crops,
        };
        let faces: Vec<Unit> = faces.into_values().map(unit).collect();
        let faces_of_video: Vec<Vec<usize>> = faces_of.into_values().collect();
        let crops_of = |of: &Vec<usize>| of.iter().flat_map(|&face| faces[face].crops.clone()).collect();
        let videos = faces_of_video.iter().map(|of| unit(crops_of(of))).collect();
        Levels { predictions, group_of, faces, videos, faces_of_video }
    }

    /// How many crops, faces or videos there are.
    pub fn n(&self, level: Level) -> usize {
        match level {
            Level::Image => self.predictions.len(),
            Level::Face => self.faces.len(),
            Level::Video => self.videos.len(),
        }
    }

    /// The crops of a crop, face or video; at least one.
    pub fn crops(&self, level: Level, idx: usize) -> Vec<&'a Prediction> {
        match level {
            Level::Image => vec![&self.predictions[idx]],
            Level::Face => self.faces[idx].crops.iter().map(|&crop| &self.predictions[crop]).collect(),
            Level::Video => self.videos[idx].crops.iter().map(|&crop| &self.predictions[crop]).collect(),
        }
    }

    /// Label (is it fake?) and group of a crop, face or video.
    pub fn label_and_group(&self, level: Level, idx: usize) -> (bool, usize) {
        let unit = match level {
            Level::Image => return (self.predictions[idx].is_fake(), self.group_of[idx]),
            Level::Face => &self.faces[idx],
            Level::Video => &self.videos[idx],
        };
        (unit.is_fake, unit.group)
    }

    /// Whether a face has as many scores as `rules` ask for, so that its mean decides.
    pub fn is_decided_by_mean(&self, face: usize, rules: &Rules) -> bool {
        let crops = &self.faces[face].crops;
        let is_scored = |&&crop: &&usize| self.predictions[crop].face_px >= rules.min_face_px;
        let n_scores = crops.iter().filter(is_scored).count();
        n_scores >= if self.predictions[crops[0]].is_still() { 1 } else { rules.min_scores }
    }

    /// Judges everything; each group by its own reading.
    pub fn judge<'r>(&self, reading: impl Fn(usize) -> &'r Reading) -> Judged {
        let image = |idx: usize| {
            let (prediction, group) = (&self.predictions[idx], self.group_of[idx]);
            let calibration = &reading(group).calibration;
            let z = prediction.margin() / f64::from(calibration.temperature) + f64::from(calibration.bias);
            let score = calibrated(prediction.logits(), calibration);
            let is_fake = prediction.is_fake();
            let loss = softplus(if is_fake { -z } else { z });
            (z.is_finite() && score.is_finite()).then_some(Scored { score, rank: z, loss, is_fake, group })
        };
        let images: Vec<Option<Scored>> = (0..self.predictions.len()).map(image).collect();
        let face = |unit: &Unit| {
            let Reading { rules, .. } = reading(unit.group);
            let is_large = |&&crop: &&usize| self.predictions[crop].face_px >= rules.min_face_px;
            let score = |&crop: &usize| images[crop].map_or(f32::NAN, |image| image.score);
            let scores: Vec<f32> = unit.crops.iter().filter(is_large).map(score).collect();
            judge_face(&scores, self.predictions[unit.crops[0]].is_still(), rules)
        };
        let faces: Vec<Judgement> = self.faces.iter().map(face).collect();
        let video = |of: &Vec<usize>| judge_file(&of.iter().map(|&idx| faces[idx]).collect::<Vec<_>>());
        let videos = self.faces_of_video.iter().map(video).collect();
        Judged { images, faces, videos }
    }

    /// What has a score, in order, with its index.
    pub fn scored(&self, judged: &Judged, level: Level) -> Vec<(usize, Scored)> {
        let judgements = match level {
            Level::Image => {
                let images = judged.images.iter().enumerate();
                return images.filter_map(|(idx, image)| Some((idx, (*image)?))).collect();
            }
            Level::Face => &judged.faces,
            Level::Video => &judged.videos,
        };
        let scored = |(idx, judgement): (usize, &Judgement)| {
            let score = judgement.mean_score?;
            let (is_fake, group) = self.label_and_group(level, idx);
            let of_label = if is_fake { f64::from(score) } else { 1.0 - f64::from(score) };
            let loss = -of_label.clamp(CLIP, 1.0 - CLIP).ln();
            Some((idx, Scored { score, rank: f64::from(score), loss, is_fake, group }))
        };
        judgements.iter().enumerate().filter_map(scored).collect()
    }
}
