//! What is known of the present and of the recent past, and the news that pages are told, all bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::evidence::{Archive, Exhibit};
use super::metrics::Counters;
use crate::bundle::{Bundle, Manifest};
use crate::camera::State;
use crate::track::MAX_TRACKS;
use crate::verdict::{Reason, WINDOW};
use crate::watch::Event;
use crate::watch::event::{Health, Model, ModelStep, Running, What};
use crate::watch::machine::unix_ms;

/// News that a page which was away can catch up on.
const MAX_NEWS: usize = 512;
/// Scores of a face that are shown.
const MAX_SCORES: usize = 8 * WINDOW;
/// Events of the past that are shown.
const MAX_PAST: usize = 128;
/// Version of the JSON; grows when a field changes its meaning or goes.
const SCHEMA: u32 = 2;

/// A face that isn't over.
#[derive(Clone, Debug, Serialize)]
struct Face {
    track_id: u32,
    appeared_unix_ms: u64,
    bbox: [f64; 4],
    /// The newest scores with their times, oldest first.
    scores: VecDeque<(u64, Option<f64>)>,
    /// What the last scores come to; null before the first.
    #[serde(flatten)]
    running: Option<Running>,
    /// Why, once there are enough scores.
    reason: Option<Reason>,
    /// Since when the verdict is this one.
    verdict_unix_ms: Option<u64>,
    is_full: bool,
}

/// Something that pages are told.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// From 1, without gaps.
    pub(super) n: u64,
    /// JSON in one line.
    pub(super) data: Arc<str>,
}

/// What happens next to one who reads news.
pub(super) enum Next {
    /// This.
    News(Vec<News>),
    /// What came between is forgotten, or was never known: read the whole state.
    Reset,
    /// Nothing for as long as it may take.
    Nothing,
    /// Watching is over.
    Over,
}

/// Everything that changes.
pub(super) struct Present {
    file: Arc<str>,
    /// The model that judged the newest event.
    model: Model,
    state: (State, String, u64),
    faces: BTreeMap<u32, Face>,
    past: VecDeque<Value>,
    news: VecDeque<News>,
    n_news: u64,
    health: Option<Health>,
    heard: Instant,
    /// Time after that for which the watching thread counts as going on.
    still: Duration,
    is_over: bool,
    pub(super) counters: Counters,
    pub(super) archive: Archive,
}

/// The present, for many threads.
pub(super) struct Board {
    /// Tells one run of the program from another.
    pub(super) run: u64,
    /// The model that judges now; the board hears of it later, with the events before.
    bundle: Arc<Mutex<Bundle>>,
    present: Mutex<Present>,
    has_news: Condvar,
}

impl Board {
    /// Before anything has happened. `file` is what is watched; without a pulse for `still` it isn't any more.
    pub(super) fn new(file: &str, bundle: Arc<Mutex<Bundle>>, still: Duration) -> Self {
        let now = unix_ms();
        let model = Model::of(&manifest(&bundle));
        Board {
            run: now,
            bundle,
            present: Mutex::new(Present {
                file: file.into(),
                model,
                state: (State::Opening, "starting".to_owned(), now),
                faces: BTreeMap::new(),
                past: VecDeque::new(),
                news: VecDeque::new(),
                n_news: 0,
                health: None,
                heard: Instant::now(),
                still,
                is_over: false,
                counters: Counters::new(now),
                archive: Archive::default(),
            }),
            has_news: Condvar::new(),
        }
    }

    pub(super) fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an event with what it rests on, and tells of it.
    pub(super) fn note(&self, event: &Event, exhibit: Option<Exhibit>) {
        let Ok(mut value) = serde_json::to_value(event) else { return };
        let mut present = self.present();
        present.counters.count(event);
        // Settings that are read again may name another source.
        present.file.clone_from(&event.file);
        if let Some(exhibit) = exhibit {
            value["evidence"] = json!({ "crops": exhibit.about() });
            present.archive.keep(exhibit);
        }
        if matches!(event.what, What::RunningVerdict { .. } | What::Verdict { .. } | What::Summary { .. }) {
            value["model_status"] = present.model.status.into();
        }
        if let What::Verdict { track_id, .. } = &event.what
            && let Some(face) = present.faces.get(track_id)
        {
            value["appeared_unix_ms"] = face.appeared_unix_ms.into();
        }
        present.apply(event);
        if !matches!(event.what, What::FaceAppeared { .. } | What::Score { .. } | What::Health(_)) {
            present.past.push_front(value.clone());
            present.past.truncate(MAX_PAST);
        }
        present.tell(&value);
        drop(present);
        self.has_news.notify_all();
    }

    /// Takes note of how the program was at `heard`, by a sign of the watching thread.
    pub(super) fn pulse(&self, health: Health, heard: Instant) {
        let now = unix_ms();
        let value = json!({ "event": "pulse", "unix_ms": now, "health": health });
        let mut present = self.present();
        // Where an event was lost on the way, a face or a state would stay for ever.
        if health.n_faces == 0 {
            present.faces.clear();
        }
        if health.state != present.state.0 {
            present.state = (health.state, String::new(), now);
        }
        present.health = Some(health);
        present.heard = heard;
        present.tell(&value);
        drop(present);
        self.has_news.notify_all();
    }

    /// Watching is over.
    pub(super) fn end(&self) {
        self.present().is_over = true;
        self.has_news.notify_all();
    }

    /// News after number `after`, waited for until `timeout`.
    pub(super) fn next(&self, after: u64, timeout: Duration) -> Next {
        let is_silent = |present: &mut Present| present.n_news == after && !present.is_over;
        let present = self
            .has_news
            .wait_timeout_while(self.present(), timeout, is_silent)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let first = present.news.front().map_or(present.n_news + 1, |news| news.n);
        if after > present.n_news || after + 1 < first {
            return Next::Reset;
        }
        if after == present.n_news {
            return if present.is_over { Next::Over } else { Next::Nothing };
        }
        let skip = usize::try_from(after + 1 - first).unwrap_or(usize::MAX);
        Next::News(present.news.iter().skip(skip).cloned().collect())
    }

    /// The number of the newest news.
    pub(super) fn newest(&self) -> u64 {
        self.present().n_news
    }

    /// All that is known.
    pub(super) fn state(&self) -> Value {
        let rules = manifest(&self.bundle).rules();
        let present = self.present();
        let (state, reason, since) = &present.state;
        let past = present.past.iter().map(|value| {
            let mut value = value.clone();
            let is_kept = value["id"].as_str().is_some_and(|id| present.archive.has(id));
            if let (false, Some(fields)) = (is_kept, value.as_object_mut()) {
                fields.remove("evidence");
            }
            value
        });
        json!({
            "schema": SCHEMA,
            "program": {
                "version": env!("CARGO_PKG_VERSION"),
                "started_unix_ms": self.run,
                "real_below": rules.real_below,
                "fake_above": rules.fake_above,
                "min_scores": rules.min_scores,
                "window": WINDOW,
            },
            "unix_ms": unix_ms(),
            "file": &*present.file,
            "state": { "state": state, "reason": reason, "unix_ms": since },
            "is_watching": present.is_watching(),
            "model": present.model,
            "health": present.health,
            "faces": present.faces.values().collect::<Vec<_>>(),
            "past": past.collect::<Vec<_>>(),
            "news": format!("{}-{}", self.run, present.n_news),
        })
    }

    /// What the source does, and whether the watching thread goes on.
    pub(super) fn source(&self) -> (State, bool) {
        let present = self.present();
        (present.state.0, present.is_watching())
    }

    /// The metrics in Prometheus' text format.
    pub(super) fn metrics(&self, n_connections: usize) -> String {
        let present = self.present();
        let health = present.health.clone();
        let (counters, state, model) = (present.counters.clone(), present.state.0, present.model.clone());
        let (n_present, is_watching) = (present.faces.len(), present.is_watching());
        drop(present);
        counters.text(&model, health.as_ref(), state, n_present, n_connections, is_watching)
    }
}

impl Present {
    fn is_watching(&self) -> bool {
        !self.is_over && self.heard.elapsed() < self.still
    }

    fn tell(&mut self, value: &Value) {
        self.n_news += 1;
        self.news.push_back(News { n: self.n_news, data: value.to_string().into() });
        if self.news.len() > MAX_NEWS {
            self.news.pop_front();
        }
    }

    fn face(&mut self, track_id: u32, unix_ms: u64) -> &mut Face {
        if !self.faces.contains_key(&track_id) && self.faces.len() >= MAX_TRACKS {
            // Ids grow, so the first has been there the longest.
            self.faces.pop_first();
        }
        self.faces.entry(track_id).or_insert_with(|| Face {
            track_id,
            appeared_unix_ms: unix_ms,
            bbox: [0.0; 4],
            scores: VecDeque::new(),
            running: None,
            reason: None,
            verdict_unix_ms: None,
            is_full: false,
        })
    }

    fn apply(&mut self, event: &Event) {
        let at = event.unix_ms;
        match &event.what {
            What::State { state, reason } => self.state = (*state, reason.clone(), at),
            What::FaceAppeared { track_id, bbox } => self.face(*track_id, at).bbox = *bbox,
            What::Score { track_id, bbox, score, running } => {
                let face = self.face(*track_id, at);
                face.bbox = *bbox;
                face.running = Some(running.clone());
                face.scores.push_back((at, *score));
                if face.scores.len() > MAX_SCORES {
                    face.scores.pop_front();
                }
            }
            What::RunningVerdict { track_id, before, running, is_full, reason, .. } => {
                let face = self.face(*track_id, at);
                if *before != Some(running.verdict) || face.verdict_unix_ms.is_none() {
                    face.verdict_unix_ms = Some(at);
                }
                face.running = Some(running.clone());
                face.reason = Some(*reason);
                face.is_full |= *is_full;
            }
            What::Verdict { track_id, .. } => {
                self.faces.remove(track_id);
            }
            What::Summary { .. } => self.faces.clear(),
            What::Model { step: ModelStep::TookOver, model, .. } => self.model = model.clone(),
            // A pulse says the same each second.
            What::Health(_) | What::Model { .. } | What::Reloaded { .. } | What::Restarted { .. } => {}
        }
    }
}

fn manifest(bundle: &Mutex<Bundle>) -> Manifest {
    bundle.lock().unwrap_or_else(PoisonError::into_inner).manifest().clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::Counts;
    use crate::verdict::Verdict;
    use crate::watch::event::Stamp;

    const NOW: Duration = Duration::ZERO;

    fn health(state: State, n_faces: usize) -> Health {
        Health {
            state,
            counts: Counts::default(),
            n_skipped: 0,
            n_searched: 0,
            n_unreadable: 0,
            n_faces,
            rate_hz: 0.0,
            cpu_share: None,
            interval_ms: 200.0,
            temperature_c: None,
            resident_bytes: None,
            first_score_s: None,
            first_verdict_s: None,
            full_verdict_s: None,
            stage_ms: BTreeMap::new(),
            n_events_lost: 0,
            model: model("trained"),
        }
    }

    fn model(status: &'static str) -> Model {
        Model { id: "m".into(), version: "1".into(), status }
    }

    fn board() -> Board {
        let bundle = Arc::new(Mutex::new(Bundle::embedded().unwrap()));
        Board::new("clip", bundle, Duration::from_secs(30))
    }

    fn note(board: &Board, what: What) {
        board.note(&Stamp { file: "clip".into(), start_ns: 0 }.event(0, what), None);
    }

    fn score(track_id: u32) -> What {
        let running = Running { verdict: Verdict::Uncertain, mean_score: Some(0.5), n_scores: 1 };
        What::Score { track_id, bbox: [0.0; 4], score: Some(0.5), running }
    }

    #[test]
    fn news_come_once_and_in_order_and_who_was_away_too_long_is_told() {
        let board = board();
        assert!(matches!(board.next(0, NOW), Next::Nothing));
        for n in 0..3 {
            note(&board, score(n));
        }
        let Next::News(news) = board.next(1, NOW) else { panic!("no news") };
        assert_eq!(news.iter().map(|news| news.n).collect::<Vec<_>>(), [2, 3]);
        assert!(matches!(board.next(3, NOW), Next::Nothing));
        assert!(matches!(board.next(4, NOW), Next::Reset), "a number from another run");
        for n in 0..MAX_NEWS {
            note(&board, score(u32::try_from(n).unwrap()));
        }
        assert!(matches!(board.next(2, NOW), Next::Reset));
        assert!(matches!(board.next(3, NOW), Next::News(news) if news.len() == MAX_NEWS));
        board.end();
        let newest = board.present().n_news;
        assert!(matches!(board.next(newest, Duration::from_secs(60)), Next::Over));
    }

    #[test]
    fn everything_is_bounded() {
        let board = board();
        for n in 0..2_000u32 {
            note(&board, What::FaceAppeared { track_id: n, bbox: [0.0; 4] });
            note(&board, score(n));
            note(&board, score(1_999));
            note(&board, What::State { state: State::Busy, reason: "x".into() });
        }
        let state = board.state();
        let count = |of: &Value| of.as_array().unwrap().len();
        assert_eq!((count(&state["faces"]), count(&state["past"])), (MAX_TRACKS, MAX_PAST));
        let last = state["faces"].as_array().unwrap().last().unwrap();
        assert_eq!(count(&last["scores"]), MAX_SCORES);
        assert_eq!(board.present().news.len(), MAX_NEWS);
        assert!(state.to_string().len() < 1 << 20);
    }

    #[test]
    fn a_pulse_mends_what_lost_events_leave() {
        let board = board();
        note(&board, What::State { state: State::NoSignal, reason: "why".into() });
        note(&board, score(1));
        board.pulse(health(State::NoSignal, 1), Instant::now());
        let state = board.state();
        assert_eq!((&state["state"]["reason"], &state["faces"][0]["track_id"]), (&"why".into(), &1.into()));
        board.pulse(health(State::Streaming, 0), Instant::now());
        let state = board.state();
        assert_eq!((&state["state"]["state"], &state["faces"]), (&"streaming".into(), &json!([])));
    }

    #[test]
    fn the_source_is_that_of_the_newest_event() {
        let board = board();
        let stamp = Stamp { file: "/dev/video2".into(), start_ns: 0 };
        board.note(&stamp.event(0, What::Reloaded { is_accepted: true, reason: None }), None);
        assert_eq!(board.state()["file"], "/dev/video2");
    }

    #[test]
    fn a_verdict_stands_since_it_last_changed() {
        let board = board();
        let running = |before, verdict, is_full| What::RunningVerdict {
            track_id: 1,
            before,
            running: Running { verdict, mean_score: Some(0.1), n_scores: 5 },
            since_appeared_s: 1.0,
            is_full,
            reason: Reason::NoNumber,
        };
        note(&board, score(1));
        assert_eq!(board.state()["faces"][0]["reason"], Value::Null);
        note(&board, running(None, Verdict::Real, false));
        let since = board.state()["faces"][0]["verdict_unix_ms"].clone();
        note(&board, running(Some(Verdict::Real), Verdict::Real, true));
        let face = board.state()["faces"][0].clone();
        assert_eq!((&face["verdict_unix_ms"], &face["is_full"]), (&since, &Value::from(true)));
        let summary = What::Summary {
            n_frames: 1,
            n_faces: 1,
            verdict: Verdict::Real,
            mean_score: None,
            reason: Reason::NoNumber,
            interrupted: false,
            model: model("trained"),
        };
        note(&board, summary);
        assert_eq!(board.state()["faces"], json!([]));
    }

    #[test]
    fn a_past_verdict_keeps_the_status_of_the_model_that_gave_it() {
        let board = board();
        let over = |track_id| What::Verdict {
            track_id,
            verdict: Verdict::Real,
            mean_score: Some(0.1),
            n_scores: 1,
            scores: vec![Some(0.1)],
            start_s: 0.0,
            end_s: 1.0,
            bbox: [0.0; 4],
            reason: Reason::NoNumber,
        };
        let took_over =
            |status| What::Model { step: ModelStep::TookOver, model: model(status), reason: None };
        note(&board, took_over("untrained"));
        note(&board, over(1));
        let tried = What::Model { step: ModelStep::TrialStarted, model: model("trained"), reason: None };
        note(&board, tried);
        note(&board, over(2));
        note(&board, took_over("trained"));
        note(&board, over(3));
        let state = board.state();
        let past = state["past"].as_array().unwrap().iter().filter(|event| event["event"] == "verdict");
        let told: Vec<&str> = past.map(|event| event["model_status"].as_str().unwrap()).collect();
        assert_eq!(told, ["trained", "untrained", "untrained"]);
        assert_eq!(state["model"]["status"], "trained");
    }
}
