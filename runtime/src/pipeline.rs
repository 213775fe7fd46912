//! The data flow: source -> cut? -> convert -> detect -> track -> crop -> classify -> verdict -> observer.

use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Manifest};
use crate::classify::Classifier;
use crate::detect::{self, Mtcnn};
use crate::engine::{Engine, EngineError};
use crate::frame::Frame;
use crate::gallery::{Album, Gallery, Sample};
use crate::geom::Rect;
use crate::preprocess::{appearance::appearance, color, crop::Cropper, scene::CutDetector};
use crate::source::{Damage, FrameSource, SourceError};
use crate::stopwatch::{Stage, Stopwatch};
use crate::track::{self, Observation, Tracker};
use crate::verdict::{Judgement, Rules, WINDOW, judge_face, judge_file};

/// Nanoseconds of a millisecond.
const MS_NS: i64 = 1_000_000;

/// How often faces are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Longest time between two frames that are searched for faces. Short videos are searched more
    /// often, so that each face gets its 15 scores; a cut is searched at once.
    pub interval_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { interval_ms: 200 }
    }
}

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The source can't be read on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A network failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What the observer writes can't be written.
    #[error("{0}")]
    Observer(String),
}

/// A face in a searched frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Whose face.
    pub track_id: u32,
    /// Where in the upright picture.
    pub bbox: Rect,
    /// The track's scores so far, oldest first; empty unless the observer asks for them.
    pub scores: heapless::Vec<f32, WINDOW>,
}

/// A face that is over, with its verdict.
#[derive(Clone, Debug)]
pub struct Face {
    /// Its track.
    pub track_id: u32,
    /// The verdict and what it rests on.
    pub judgement: Judgement,
    /// The looks that were scored, oldest first, at most [`WINDOW`]; each has its score.
    pub samples: Vec<Sample>,
    /// First sighting.
    pub start_ns: i64,
    /// Last sighting.
    pub end_ns: i64,
    /// Its box in the middle sample, or in the last sighting where it has none.
    pub bbox: Rect,
}

impl Face {
    /// The scores, oldest first.
    pub fn scores(&self) -> Vec<f32> {
        self.samples.iter().filter_map(|s| s.score).collect()
    }
}

/// What a whole source came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Frames that were decoded.
    pub n_frames: u64,
    /// Frames that were searched for faces.
    pub n_searched: u64,
    /// Faces that were followed.
    pub n_faces: usize,
    /// The file's verdict: its highest face's.
    pub judgement: Judgement,
    /// What could not be read.
    pub damage: Damage,
    /// True when the scan was stopped before the end.
    pub is_interrupted: bool,
    /// CPU time by stage.
    pub stopwatch: Stopwatch,
}

/// Who wants to know what happens during a scan.
pub trait Observer {
    /// True when [`Sighting::scores`] is wanted: samples are then scored at once, which costs more
    /// scores than the final 15.
    fn wants_running_scores(&self) -> bool {
        false
    }

    /// A frame was decoded; `sightings` says who is in it when it was searched.
    ///
    /// # Errors
    /// [`ScanError::Observer`] ends the scan.
    fn frame(&mut self, frame: &Frame, sightings: Option<&[Sighting]>) -> Result<(), ScanError>;

    /// A face is over.
    ///
    /// # Errors
    /// [`ScanError::Observer`] ends the scan.
    fn face(&mut self, face: &Face) -> Result<(), ScanError>;
}

/// The networks and the rules of a bundle, loaded; clones share the weights.
#[derive(Clone)]
pub struct Scanner {
    settings: Settings,
    detector: Mtcnn,
    classifier: Classifier,
    manifest: Manifest,
}

impl Scanner {
    /// Loads all networks.
    ///
    /// # Errors
    /// [`EngineError`] when one can't be loaded.
    pub fn new(
        engine: &Engine,
        detect: detect::Settings,
        settings: Settings,
        bundle: &Bundle,
    ) -> Result<Self, EngineError> {
        let manifest = bundle.manifest().clone();
        Ok(Scanner {
            settings,
            detector: Mtcnn::new(engine, detect)?,
            classifier: Classifier::new(engine, &manifest, bundle.model())?,
            manifest,
        })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads `source` to its end, or until `stop` is set, and judges every face in it.
    ///
    /// # Errors
    /// [`ScanError`]; faces that the observer was told of stay valid.
    pub fn scan(
        &mut self,
        source: &mut dyn FrameSource,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Summary, ScanError> {
        let is_still = source.info().is_still;
        let mut cadence = Cadence::new(source.info().duration_ns, self.settings.interval_ms);
        let mut watch = Stopwatch::default();
        let mut cuts = CutDetector::new();
        let mut tracker = Box::new(Tracker::new(track::Settings::default()));
        let mut cropper = Cropper::default();
        let mut gallery = Gallery::default();
        let mut picture = RgbImage::default();
        let mut damage = Damage::default();
        let mut judgements: Vec<Judgement> = Vec::new();
        let (mut n_frames, mut n_searched) = (0, 0);
        // A cut between two searched frames must not be forgotten before the next search.
        let mut is_cut = false;

        while !stop.load(Ordering::Relaxed)
            && let Some(frame) = watch.time(Stage::Source, || source.next_frame())?
        {
            n_frames += 1;
            is_cut |= watch.time(Stage::Track, || cuts.is_cut(&frame));
            if !cadence.is_due(frame.pts_ns, is_cut) {
                watch.time(Stage::Report, || observer.frame(&frame, None))?;
                continue;
            }
            if let Err(error) = watch.time(Stage::Convert, || color::to_rgb_into(&frame, &mut picture)) {
                damage.n_frames_lost += 1;
                damage.note(format!("frame {}: {error}", frame.frame_idx));
                continue;
            }
            n_searched += 1;
            let detections = watch.time(Stage::Detect, || self.detector.detect(&picture))?;
            let (observations, update) = watch.time(Stage::Track, || {
                let looks = |d: &_| Observation { detection: *d, appearance: appearance(&picture, d) };
                let observations: Vec<Observation> = detections.iter().map(looks).collect();
                let update = tracker.update(frame.pts_ns, &observations, std::mem::take(&mut is_cut));
                (observations, update)
            });
            for ended in &update.ended {
                if let Some(album) = gallery.take(ended.track_id) {
                    let face = self.judge(album, is_still, &mut watch)?;
                    judgements.push(face.judgement.clone());
                    watch.time(Stage::Report, || observer.face(&face))?;
                }
            }
            let mut sightings = Vec::with_capacity(observations.len());
            for (seen, track_id) in observations.iter().zip(&update.track_ids) {
                let Some(track_id) = *track_id else { continue };
                let bbox = seen.detection.bbox;
                let is_due = gallery.see(track_id, frame.pts_ns, bbox);
                if is_due && bbox.w.max(bbox.h) >= self.manifest.min_face_px {
                    let input = &self.manifest.input;
                    let crop = watch
                        .time(Stage::Crop, || cropper.crop(&picture, &bbox, input.margin, input.size_px));
                    let mut sample = [Sample { pts_ns: frame.pts_ns, bbox, crop, score: None }];
                    if observer.wants_running_scores() {
                        self.score(&mut sample, &mut watch)?;
                    }
                    let [sample] = sample;
                    gallery.keep(track_id, sample);
                }
                let scores = gallery.album(track_id).map(Album::running_scores).unwrap_or_default();
                sightings.push(Sighting { track_id, bbox, scores });
            }
            watch.time(Stage::Report, || observer.frame(&frame, Some(&sightings)))?;
        }
        for ended in tracker.finish() {
            if let Some(album) = gallery.take(ended.track_id) {
                let face = self.judge(album, is_still, &mut watch)?;
                judgements.push(face.judgement.clone());
                watch.time(Stage::Report, || observer.face(&face))?;
            }
        }
        damage.add(source.damage());
        Ok(Summary {
            n_frames,
            n_searched,
            n_faces: judgements.len(),
            judgement: judge_file(&judgements),
            damage,
            is_interrupted: stop.load(Ordering::Relaxed),
            stopwatch: watch,
        })
    }

    /// Scores what a verdict rests on, and makes it.
    fn judge(&mut self, album: Album, is_still: bool, watch: &mut Stopwatch) -> Result<Face, ScanError> {
        let (track_id, start_ns, end_ns) = (album.track_id, album.start_ns, album.end_ns);
        let last_bbox = album.bbox;
        let mut samples = album.into_window();
        self.score(&mut samples, watch)?;
        let scores: Vec<f32> = samples.iter().filter_map(|s| s.score).collect();
        let rules: Rules = self.manifest.rules();
        let judgement = judge_face(&scores, is_still, &rules);
        let bbox = samples.get(samples.len() / 2).map_or(last_bbox, |s| s.bbox);
        Ok(Face { track_id, judgement, samples, start_ns, end_ns, bbox })
    }

    /// Scores the samples that have no score yet.
    fn score(&mut self, samples: &mut [Sample], watch: &mut Stopwatch) -> Result<(), EngineError> {
        let mut unscored: Vec<&mut Sample> = samples.iter_mut().filter(|s| s.score.is_none()).collect();
        let crops: Vec<&RgbImage> = unscored.iter().map(|s| &s.crop).collect();
        let scores = watch.time(Stage::Classify, || self.classifier.scores(&crops))?;
        for (sample, score) in unscored.iter_mut().zip(scores) {
            sample.score = Some(score);
        }
        Ok(())
    }
}

/// Says which frames are searched for faces.
struct Cadence {
    interval_ns: i64,
    /// True when the length is unknown: the interval then grows with the time that has passed.
    is_growing: bool,
    first_ns: Option<i64>,
    last_ns: i64,
}

impl Cadence {
    /// Searches in a window's worth of time; twice as many as its samples, so that a face seen in only
    /// a part of a short video can still give enough.
    const SEARCHES: i64 = 2 * WINDOW as i64;

    fn new(duration_ns: Option<i64>, interval_ms: u32) -> Self {
        let most_ns = i64::from(interval_ms) * MS_NS;
        let interval_ns = duration_ns.map_or(most_ns, |d| most_ns.min(d / Self::SEARCHES));
        Cadence { interval_ns, is_growing: duration_ns.is_none(), first_ns: None, last_ns: 0 }
    }

    fn is_due(&mut self, pts_ns: i64, is_cut: bool) -> bool {
        let is_due = match self.first_ns {
            None => {
                self.first_ns = Some(pts_ns);
                true
            }
            Some(first_ns) => {
                let passed_ns = pts_ns.saturating_sub(first_ns);
                let interval_ns = if self.is_growing {
                    self.interval_ns.min(passed_ns / Self::SEARCHES)
                } else {
                    self.interval_ns
                };
                // Half a millisecond of grace, or rounded timestamps would skip a frame now and then.
                is_cut || pts_ns.saturating_sub(self.last_ns) >= interval_ns - MS_NS / 2
            }
        };
        if is_due {
            self.last_ns = pts_ns;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searches(duration_ns: Option<i64>, n_frames: i64, cuts: &[i64]) -> Vec<i64> {
        let mut cadence = Cadence::new(duration_ns, 200);
        (0..n_frames).filter(|i| cadence.is_due(i * 1_000_000_000 / 30, cuts.contains(i))).collect()
    }

    #[test]
    fn a_long_video_is_searched_at_the_interval() {
        assert_eq!(searches(Some(60_000_000_000), 31, &[]), [0, 6, 12, 18, 24, 30]);
    }

    #[test]
    fn a_short_video_is_searched_in_every_frame() {
        assert_eq!(searches(Some(1_000_000_000), 30, &[]).len(), 30);
        assert_eq!(searches(Some(2_000_000_000), 60, &[]).len(), 30);
    }

    #[test]
    fn unknown_length_starts_dense_and_thins_out() {
        let found = searches(None, 600, &[]);
        assert_eq!(found[..15], (0..15).collect::<Vec<_>>());
        assert_eq!(found[found.len() - 1] - found[found.len() - 2], 6);
    }

    #[test]
    fn a_cut_is_searched_at_once() {
        assert_eq!(searches(Some(60_000_000_000), 16, &[2]), [0, 2, 8, 14]);
    }
}
