//! The data flow: source -> cut? -> convert -> detect -> track -> crop -> classify -> verdict -> observer.

use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;

use crate::bundle::{Bundle, Manifest};
use crate::classify::Classifier;
use crate::detect;
use crate::engine::{Engine, EngineError};
use crate::follow::{FollowError, Follower, Look, Step, Walk};
pub use crate::follow::{Settings, Sighting};
use crate::frame::Frame;
use crate::gallery::{Album, MAX_SAMPLES, Sample};
use crate::geom::Rect;
use crate::source::{Damage, FrameSource, SourceError};
use crate::stopwatch::{Stage, Stopwatch};
use crate::verdict::{Judgement, Rules, WINDOW, judge_face, judge_file};

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

impl From<FollowError> for ScanError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Source(error) => ScanError::Source(error),
            FollowError::Engine(error) => ScanError::Engine(error),
        }
    }
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
    follower: Follower,
    judge: Judge,
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
        let input = &manifest.input;
        let look = Look { size_px: input.size_px, margin: input.margin, min_face_px: manifest.min_face_px };
        Ok(Scanner {
            follower: Follower::new(engine, detect, settings, look)?,
            judge: Judge { classifier: Classifier::new(engine, &manifest, bundle.model())?, manifest },
        })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.judge.manifest
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
        let judge = &mut self.judge;
        let mut judgements: Vec<Judgement> = Vec::new();
        let mut walk = self.follower.follow(source);
        while !stop.load(Ordering::Relaxed)
            && let Some(Step { frame, mut sightings, ended }) = walk.next_step()?
        {
            for album in ended {
                let face = judge.face(album, is_still, &mut walk.watch)?;
                judgements.push(face.judgement);
                walk.watch.time(Stage::Report, || observer.face(&face))?;
            }
            if observer.wants_running_scores() {
                for sighting in sightings.iter_mut().flatten() {
                    sighting.scores = judge.running_scores(sighting.track_id, &mut walk)?;
                }
            }
            walk.watch.time(Stage::Report, || observer.frame(&frame, sightings.as_deref()))?;
        }
        for album in walk.finish() {
            let face = judge.face(album, is_still, &mut walk.watch)?;
            judgements.push(face.judgement);
            walk.watch.time(Stage::Report, || observer.face(&face))?;
        }
        Ok(Summary {
            n_frames: walk.n_frames,
            n_searched: walk.n_searched,
            n_faces: judgements.len(),
            judgement: judge_file(&judgements),
            damage: walk.damage(),
            is_interrupted: stop.load(Ordering::Relaxed),
            stopwatch: walk.watch,
        })
    }
}

/// Crops to scores, scores to a verdict.
#[derive(Clone)]
struct Judge {
    classifier: Classifier,
    manifest: Manifest,
}

impl Judge {
    /// Scores what a verdict rests on, and makes it.
    fn face(&mut self, album: Album, is_still: bool, watch: &mut Stopwatch) -> Result<Face, EngineError> {
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

    /// The scores of a track that is not over, with those that are due.
    fn running_scores(
        &mut self,
        track_id: u32,
        walk: &mut Walk,
    ) -> Result<heapless::Vec<f32, WINDOW>, EngineError> {
        let mut watch = std::mem::take(&mut walk.watch);
        let scored = walk.album_mut(track_id).map_or(Ok(heapless::Vec::new()), |album| {
            let samples = album.samples_mut();
            if samples.iter().any(|s| s.score.is_none()) {
                self.score(samples, &mut watch)?;
            }
            Ok(album.running_scores())
        });
        walk.watch = watch;
        scored
    }

    fn score(&mut self, samples: &mut [Sample], watch: &mut Stopwatch) -> Result<(), EngineError> {
        score_samples(&mut self.classifier, samples, watch).map(|_| ())
    }
}

/// Scores those of `samples` that have no score yet; true if there were some.
///
/// # Errors
/// [`EngineError`] when the network fails.
pub fn score_samples(
    classifier: &mut Classifier,
    samples: &mut [Sample],
    watch: &mut Stopwatch,
) -> Result<bool, EngineError> {
    let mut is_any = false;
    for some in samples.chunks_mut(MAX_SAMPLES) {
        let unscored = some.iter().filter(|sample| sample.score.is_none());
        let crops: heapless::Vec<&RgbImage, MAX_SAMPLES> = unscored.map(|sample| &sample.crop).collect();
        if crops.is_empty() {
            continue;
        }
        is_any = true;
        let mut scores: heapless::Vec<f32, MAX_SAMPLES> = heapless::Vec::new();
        watch.time(Stage::Classify, || {
            classifier.scores(&crops, |score| {
                // There is room for as many as there are crops.
                let _ = scores.push(score);
            })
        })?;
        drop(crops);
        let unscored = some.iter_mut().filter(|sample| sample.score.is_none());
        unscored.zip(scores).for_each(|(sample, score)| sample.score = Some(score));
    }
    Ok(is_any)
}
