//! A candidate that scores the same live faces as the model in use, beside it.

use std::time::Instant;

use image::RgbImage;

use crate::bundle::{Bundle, Manifest};
use crate::classify::Classifier;
use crate::engine::{Engine, EngineError};
use crate::geom::Rect;
use crate::preprocess::crop::Cropper;
use crate::slot::{Alike, Comparison, Pair, Settings, Unlike};
use crate::track::MAX_TRACKS;
use crate::verdict::{Rules, Verdict, WINDOW, judge_face};

/// The candidate's last scores of a face.
type Scores = heapless::Deque<f32, WINDOW>;

/// A candidate, and how it compares.
pub struct Shadow {
    classifier: Classifier,
    manifest: Manifest,
    rules: Rules,
    cropper: Cropper,
    crop: RgbImage,
    people: Vec<(u32, Scores)>,
    comparison: Comparison,
    limits: Settings,
}

/// What the model in use made of a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    /// Its score.
    pub(super) score: f32,
    /// What the face's last scores come to.
    pub(super) verdict: Verdict,
    /// How long the score took.
    pub(super) time_s: f32,
}

impl Shadow {
    /// Loads the network of `bundle`, which has passed its self-test.
    ///
    /// # Errors
    /// [`EngineError`] when it can't be loaded.
    pub fn new(engine: &Engine, bundle: &Bundle, limits: Settings) -> Result<Self, EngineError> {
        let manifest = bundle.manifest().clone();
        Ok(Shadow {
            classifier: Classifier::new(engine, &manifest, bundle.model())?,
            rules: manifest.rules(),
            manifest,
            cropper: Cropper::default(),
            crop: RgbImage::default(),
            people: Vec::with_capacity(MAX_TRACKS),
            comparison: Comparison::default(),
            limits,
        })
    }

    /// Scores the face at `bbox` of `picture` too. A network that fails ends the comparison.
    pub(super) fn look(&mut self, picture: &RgbImage, track_id: u32, bbox: &Rect, ours: Ours) {
        if bbox.w.max(bbox.h) < self.rules.min_face_px {
            return;
        }
        let input = &self.manifest.input;
        self.cropper.crop_into(picture, bbox, input.margin, input.size_px, &mut self.crop);
        let start = Instant::now();
        let score = match self.classifier.score(&self.crop) {
            Ok(score) => score,
            Err(error) => return self.comparison.fail(error.to_string()),
        };
        let time_s = start.elapsed().as_secs_f32();
        let at = self.people.iter().position(|(id, _)| *id == track_id).unwrap_or_else(|| {
            self.people.push((track_id, Scores::new()));
            self.people.len() - 1
        });
        let scores = &mut self.people[at].1;
        if scores.is_full() {
            scores.pop_front();
        }
        // There is room now.
        let _ = scores.push_back(score);
        let last: heapless::Vec<f32, WINDOW> = scores.iter().copied().collect();
        let verdict = judge_face(&last, false, &self.rules).verdict;
        self.comparison.add(&Pair {
            scores: [ours.score, score],
            verdicts: [ours.verdict, verdict],
            times_s: [ours.time_s, time_s],
        });
    }

    /// A face is over.
    pub(super) fn forget(&mut self, track_id: u32) {
        self.people.retain(|(id, _)| *id != track_id);
    }

    /// Whether it may take over; `None` while too little was seen.
    pub fn outcome(&self) -> Option<Result<Alike, Unlike>> {
        self.comparison.outcome(&self.limits)
    }

    /// What the candidate says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What takes over.
    pub(super) fn into_parts(self) -> (Classifier, Manifest) {
        (self.classifier, self.manifest)
    }
}
