//! What watching says: one type for every outlet, serialized as `runtime/JSON.md` describes it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::machine;
use crate::bundle::Manifest;
use crate::camera::{Counts, State};
use crate::geom::Rect;
use crate::report::json::{SCHEMA, rounded, seconds};
use crate::verdict::{Judgement, Reason, Verdict};

/// What no other event has; as text `RUN-N`, RUN in 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// Drawn by each run of the program.
    pub run: u64,
    /// The event's number in its run, from 1.
    pub n: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:016x}-{}", self.run, self.n)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

fn as_text<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Version of the schema.
    pub schema: u32,
    /// Given by the hub.
    pub id: Id,
    /// The device or the clip, as it was named.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Seconds since watching began.
    pub at_s: f64,
    /// Milliseconds since 1970 by the system's clock.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The source does something else.
    State {
        /// What it does.
        state: State,
        /// Why, for people.
        reason: String,
    },
    /// A face that isn't known.
    FaceAppeared {
        /// Its track.
        track_id: u32,
        /// x, y, width, height in the upright picture.
        bbox: [f64; 4],
    },
    /// A look at a face was scored.
    Score {
        /// Its track.
        track_id: u32,
        /// x, y, width, height in the upright picture.
        bbox: [f64; 4],
        /// P(fake) of this look; `None` where the model gave no number.
        score: Option<f64>,
        /// What the last scores of the face come to.
        #[serde(flatten)]
        running: Running,
    },
    /// The last scores of a face come to another verdict, or are enough for the first time.
    RunningVerdict {
        /// Its track.
        track_id: u32,
        /// The verdict before, where there was one.
        before: Option<Verdict>,
        /// The verdict now.
        #[serde(flatten)]
        running: Running,
        /// Seconds from the capture of the first frame with this face to now.
        since_appeared_s: f64,
        /// The verdict rests on as many scores as one can rest on.
        is_full: bool,
        /// Why, for people.
        reason: Reason,
    },
    /// A face is over: what all of its time comes to, as `candor scan` would say it.
    Verdict {
        /// Its track.
        track_id: u32,
        /// The verdict.
        verdict: Verdict,
        /// Mean of `scores`.
        mean_score: Option<f64>,
        /// Length of `scores`.
        n_scores: usize,
        /// Oldest first, spread over the face's time.
        scores: Vec<Option<f64>>,
        /// First sighting, in seconds since watching began.
        start_s: f64,
        /// Last sighting.
        end_s: f64,
        /// x, y, width, height in the middle scored look.
        bbox: [f64; 4],
        /// Why, for people.
        reason: Reason,
    },
    /// Something happened to the models of the slots.
    Model {
        /// What.
        step: ModelStep,
        /// The model; its status is `unknown` where it could not be read.
        model: Model,
        /// Why, for people.
        reason: Option<String>,
    },
    /// The settings were read again.
    Reloaded {
        /// Whether they are in use now; all of them, or none.
        is_accepted: bool,
        /// What is wrong with them.
        reason: Option<String>,
    },
    /// The run before this one didn't come to its end.
    Restarted {
        /// Why, for people.
        reason: String,
        /// The file with its last events, where it could write one.
        report: Option<String>,
    },
    /// How the program is.
    Health(Box<Health>),
    /// Watching is over.
    Summary {
        /// Frames that were taken.
        n_frames: u64,
        /// Faces that were followed.
        n_faces: u64,
        /// That of the face with the highest mean score.
        verdict: Verdict,
        /// That face's.
        mean_score: Option<f64>,
        /// Why, for people.
        reason: Reason,
        /// Whether a signal ended it.
        interrupted: bool,
        /// The model.
        model: Model,
    },
}

/// What can happen to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelStep {
    /// It scores the same faces as the model in use, which goes on to judge.
    TrialStarted,
    /// It judges from here on.
    TookOver,
    /// It was found bad, or given up by hand.
    GivenUp,
}

/// What the last scores of a face come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Running {
    /// Their verdict.
    pub verdict: Verdict,
    /// Their mean.
    pub mean_score: Option<f64>,
    /// How many they are.
    pub n_scores: usize,
}

impl Running {
    /// A judgement of `n_scores`.
    pub(super) fn new(judgement: &Judgement, n_scores: usize) -> Self {
        Running { verdict: judgement.verdict, mean_score: score(judgement.mean_score), n_scores }
    }
}

/// The model in use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// `untrained`: all verdicts mean nothing.
    pub status: &'static str,
}

impl Model {
    /// The model that `manifest` describes.
    pub fn of(manifest: &Manifest) -> Self {
        Model { id: manifest.id.clone(), version: manifest.version.clone(), status: manifest.status.word() }
    }
}

/// Numbers of the program since it began, unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// What the source does.
    pub state: State,
    /// Frames of the source.
    #[serde(flatten)]
    pub counts: Counts,
    /// Frames that gave way to newer ones before they were looked at.
    pub n_skipped: u64,
    /// Frames that were searched for faces.
    pub n_searched: u64,
    /// Frames that could not be read.
    pub n_unreadable: u64,
    /// Faces in view or remembered.
    pub n_faces: usize,
    /// Frames a second since the line before.
    pub rate_hz: f64,
    /// Share of all cores that the process took since the line before, 0..=1.
    pub cpu_share: Option<f64>,
    /// Time between two searches now.
    pub interval_ms: f64,
    /// The hottest zone, degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Memory of the process, bytes.
    pub resident_bytes: Option<usize>,
    /// From a face's first frame to its first score: the longest since the line before.
    pub first_score_s: Option<f64>,
    /// To its first verdict.
    pub first_verdict_s: Option<f64>,
    /// To a verdict on all the scores that one can rest on.
    pub full_verdict_s: Option<f64>,
    /// CPU time of a run in ms, by stage.
    pub stage_ms: std::collections::BTreeMap<&'static str, f64>,
    /// Events that an outlet was too slow for.
    pub n_events_lost: u64,
    /// The model.
    pub model: Model,
}

/// A box as JSON has it.
pub(super) fn bbox(b: &Rect) -> [f64; 4] {
    [b.x, b.y, b.w, b.h].map(|v| rounded(v, 1).unwrap_or(0.0))
}

/// A score as JSON has it; `None` for what is no number.
pub(super) fn score(value: Option<f32>) -> Option<f64> {
    value.and_then(|v| rounded(v, 6))
}

/// Nanoseconds as seconds.
pub(super) fn in_s(ns: i64) -> f64 {
    seconds(ns)
}

/// Makes events of one source.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The source's name.
    pub file: Arc<str>,
    /// When watching began, on the source's clock.
    pub start_ns: i64,
}

impl Stamp {
    /// The event that `what` happened at `now_ns`.
    pub fn event(&self, now_ns: i64, what: What) -> Event {
        Event {
            schema: SCHEMA,
            id: Id::default(),
            file: Arc::clone(&self.file),
            at_s: seconds(now_ns.saturating_sub(self.start_ns)),
            unix_ms: machine::unix_ms(),
            what,
        }
    }
}
