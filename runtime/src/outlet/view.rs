//! What events come to: what the source does, who is in view, the latest verdict.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::settings::Alarm;
use crate::camera::State;
use crate::track::MAX_TRACKS;
use crate::verdict::Verdict;
use crate::watch::Event;
use crate::watch::event::{Model, ModelStep, What};

/// What is known from the events so far.
#[derive(Debug)]
pub(super) struct View {
    model: Model,
    file: Arc<str>,
    state: Option<State>,
    /// Faces that aren't over, and what is said of each.
    faces: BTreeMap<u32, Option<Verdict>>,
    latest: Option<(Verdict, Option<f64>, u32)>,
    temperature_c: Option<f64>,
    unix_ms: u64,
}

impl View {
    pub(super) fn new(model: Model) -> Self {
        View {
            model,
            file: "".into(),
            state: None,
            faces: BTreeMap::new(),
            latest: None,
            temperature_c: None,
            unix_ms: 0,
        }
    }

    /// The model that judges.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Takes in an event.
    pub(super) fn take(&mut self, event: &Event) {
        match &event.what {
            What::State { state, .. } => self.state = Some(*state),
            What::FaceAppeared { track_id, .. } => self.enter(*track_id, None),
            What::RunningVerdict { track_id, running, .. } => {
                self.enter(*track_id, Some(running.verdict));
                self.latest = Some((running.verdict, running.mean_score, *track_id));
            }
            What::Verdict { track_id, verdict, mean_score, .. } => {
                self.faces.remove(track_id);
                self.latest = Some((*verdict, *mean_score, *track_id));
            }
            What::Health(health) => {
                self.state = Some(health.state);
                self.temperature_c = health.temperature_c;
                // Where an event was lost on the way, a face would stay for ever.
                if health.n_faces == 0 {
                    self.faces.clear();
                }
            }
            What::Model { step: ModelStep::TookOver, model, .. } => self.model = model.clone(),
            // Another run begins with other numbers, or none does.
            What::Summary { .. } => self.faces.clear(),
            What::Score { .. } | What::Reloaded { .. } | What::Restarted { .. } | What::Model { .. } => {
                return;
            }
        }
        self.unix_ms = event.unix_ms;
        self.file.clone_from(&event.file);
    }

    fn enter(&mut self, track_id: u32, verdict: Option<Verdict>) {
        if self.faces.len() >= MAX_TRACKS && !self.faces.contains_key(&track_id) {
            self.faces.pop_first();
        }
        self.faces.insert(track_id, verdict);
    }

    /// Whether a face in view has a verdict that `on` names.
    pub(super) fn is_alarming(&self, on: Alarm) -> bool {
        self.faces.values().flatten().any(|verdict| on.names(*verdict))
    }

    /// Whether `event` brings a verdict that `on` names, of a face that had none such before it.
    pub(super) fn is_news(&self, event: &Event, on: Alarm) -> bool {
        let (track_id, verdict) = match &event.what {
            What::RunningVerdict { track_id, running, .. } => (track_id, running.verdict),
            What::Verdict { track_id, verdict, .. } => (track_id, *verdict),
            _ => return false,
        };
        let before = self.faces.get(track_id).copied().flatten();
        on.names(verdict) && !before.is_some_and(|before| on.names(before))
    }

    /// All of it.
    pub(super) fn json(&self) -> Value {
        let (verdict, mean_score, track_id) = match self.latest {
            Some((verdict, mean_score, track_id)) => (Some(verdict.word()), mean_score, Some(track_id)),
            None => (None, None, None),
        };
        json!({
            "schema": crate::report::json::SCHEMA,
            "file": &*self.file,
            "unix_ms": self.unix_ms,
            "state": self.state.map(State::word),
            "verdict": verdict,
            "mean_score": mean_score,
            "track_id": track_id,
            "n_faces": self.faces.len(),
            "fake_in_view": self.is_alarming(Alarm::Fake),
            "temperature_c": self.temperature_c,
            "model": self.model,
        })
    }
}
