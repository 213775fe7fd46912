//! Frames to events: who is in view, and what the last scores of each come to. Time is an argument.

use std::time::Instant;

use super::Settings;
use super::event::{Running, Stamp, What, bbox, in_s, score};
use super::hub::Hub;
use super::shadow::{Ours, Shadow};
use super::witness::Looked;
use crate::bundle::{Bundle, Manifest};
use crate::classify::Classifier;
use crate::detect;
use crate::engine::{Engine, EngineError};
use crate::follow::{self, Follower, Found, Look, Pursuit};
use crate::frame::Frame;
use crate::gallery::{Album, Sample};
use crate::geom::Rect;
use crate::pipeline::score_samples;
use crate::stopwatch::Stopwatch;
use crate::track::{MAX_FACES, MAX_TRACKS};
use crate::verdict::{Judgement, Rules, Verdict, WINDOW, judge_face, judge_file};

/// One face that isn't over.
#[derive(Clone, Debug)]
struct Person {
    track_id: u32,
    appeared_ns: i64,
    scored_ns: Option<i64>,
    /// The last scores, oldest first.
    scores: heapless::Deque<f32, WINDOW>,
    verdict: Option<Verdict>,
    was_full: bool,
}

impl Person {
    fn new(track_id: u32, appeared_ns: i64) -> Self {
        let scores = heapless::Deque::new();
        Person { track_id, appeared_ns, scored_ns: None, scores, verdict: None, was_full: false }
    }

    fn judge(&self, rules: &Rules) -> Judgement {
        let scores: heapless::Vec<f32, WINDOW> = self.scores.iter().copied().collect();
        judge_face(&scores, false, rules)
    }

    /// Enters a scored look into the window, and says what that comes to; `at` is now.
    fn enter(
        &mut self,
        sample: &Sample,
        rules: &Rules,
        latencies: &mut Latencies,
        at: (&Stamp, i64),
        hub: &Hub,
    ) {
        let Some(value) = sample.score else { return };
        let ((stamp, now_ns), track_id) = (at, self.track_id);
        let since_ns = now_ns.saturating_sub(self.appeared_ns);
        if self.scored_ns.is_none() {
            longest(&mut latencies.first_score_ns, since_ns);
        }
        self.scored_ns = Some(sample.pts_ns);
        if self.scores.is_full() {
            self.scores.pop_front();
        }
        // There is room now.
        let _ = self.scores.push_back(value);
        let judgement = self.judge(rules);
        let running = Running::new(&judgement, self.scores.len());
        let (bbox, score) = (bbox(&sample.bbox), score(Some(value)));
        hub.publish(stamp.event(now_ns, What::Score { track_id, bbox, score, running: running.clone() }));
        let is_first = self.verdict.is_none() && self.scores.len() >= rules.min_scores;
        let is_full = self.scores.is_full();
        let is_first_full = is_full && !self.was_full;
        let is_other = self.verdict.is_some_and(|before| before != judgement.verdict);
        if !is_first && !is_first_full && !is_other {
            return;
        }
        if is_first {
            longest(&mut latencies.first_verdict_ns, since_ns);
        }
        if is_first_full {
            longest(&mut latencies.full_verdict_ns, since_ns);
        }
        self.was_full |= is_full;
        let before = self.verdict.replace(judgement.verdict);
        let (since_appeared_s, reason) = (in_s(since_ns), judgement.reason);
        let what = What::RunningVerdict { track_id, before, running, since_appeared_s, is_full, reason };
        let scores: heapless::Vec<f32, WINDOW> = self.scores.iter().copied().collect();
        hub.judge(stamp.event(now_ns, what), &scores, std::slice::from_ref(sample));
    }
}

/// The longest times since the last report from a face's first frame to what is said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// To its first score.
    pub first_score_ns: Option<i64>,
    /// To its first verdict.
    pub first_verdict_ns: Option<i64>,
    /// To the first verdict on [`WINDOW`] scores.
    pub full_verdict_ns: Option<i64>,
}

/// Finds, follows and judges faces in frames that it is given.
pub struct Watcher {
    follower: Follower,
    classifier: Classifier,
    manifest: Manifest,
    pursuit: Pursuit,
    people: Vec<Person>,
    score_interval_ns: i64,
    highest: Option<Judgement>,
    /// Faces that were followed.
    pub n_faces: u64,
    /// Crops that were scored.
    pub n_scored: u64,
    /// Frames that were searched.
    pub n_searched: u64,
    /// CPU time of the thread that watches, by stage.
    pub stopwatch: Stopwatch,
    /// Since they were last taken.
    pub latencies: Latencies,
    /// A candidate that scores the same faces.
    pub shadow: Option<Shadow>,
}

impl Watcher {
    /// Loads all networks.
    ///
    /// # Errors
    /// [`EngineError`] when one can't be loaded.
    pub fn new(
        engine: &Engine,
        detect: detect::Settings,
        settings: &Settings,
        bundle: &Bundle,
    ) -> Result<Self, EngineError> {
        let manifest = bundle.manifest().clone();
        Ok(Watcher {
            follower: Follower::new(engine, detect, follow::Settings::default(), look(&manifest))?,
            classifier: Classifier::new(engine, &manifest, bundle.model())?,
            manifest,
            pursuit: Pursuit::default(),
            people: Vec::with_capacity(MAX_TRACKS),
            score_interval_ns: i64::from(settings.score_interval_ms) * 1_000_000,
            highest: None,
            n_faces: 0,
            n_scored: 0,
            n_searched: 0,
            stopwatch: Stopwatch::default(),
            latencies: Latencies::default(),
            shadow: None,
        })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Lets another model take over between two frames. All faces are over with the one before, and appear anew: no verdict
    /// rests on scores of two models.
    ///
    /// # Errors
    /// [`EngineError`] when the network before fails.
    pub fn take_over(
        &mut self,
        successor: Shadow,
        stamp: &Stamp,
        now_ns: i64,
        hub: &Hub,
    ) -> Result<(), EngineError> {
        self.leave(stamp, now_ns, hub)?;
        let (classifier, manifest) = successor.into_parts();
        self.follower.set_look(look(&manifest));
        self.pursuit.drop_spare();
        (self.classifier, self.manifest) = (classifier, manifest);
        Ok(())
    }

    /// Faces in view or remembered.
    pub fn n_people(&self) -> usize {
        self.people.len()
    }

    /// The verdict of the face with the highest mean score among those that are over.
    pub fn judgement(&self) -> Judgement {
        self.highest.unwrap_or_else(|| judge_file(&[]))
    }

    /// Searches `frame`, whose time is that of its capture, and says what is in it. `now_ns` gives the time on the
    /// same clock. False for a frame without a picture.
    ///
    /// # Errors
    /// [`EngineError`] when a network fails.
    pub fn look(
        &mut self,
        frame: &Frame,
        now_ns: &dyn Fn() -> i64,
        stamp: &Stamp,
        hub: &Hub,
    ) -> Result<bool, EngineError> {
        let Watcher { follower, pursuit, people, stopwatch, score_interval_ns, .. } = self;
        pursuit.note(frame, stopwatch);
        if let Err(error) = pursuit.convert(frame, stopwatch) {
            log::warn!("{error}");
            return Ok(false);
        }
        self.n_searched += 1;
        let pts_ns = frame.pts_ns;
        // A face without a window is scored at each look, then at a steady pace.
        let wants = |track_id| {
            people.iter().find(|person| person.track_id == track_id).is_none_or(|person| {
                !person.scores.is_full()
                    || person.scored_ns.is_none_or(|last_ns| pts_ns - last_ns >= *score_interval_ns)
            })
        };
        let Found { sightings, ended, mut extras } = pursuit.search(follower, frame, wants, stopwatch)?;
        for album in ended {
            self.bury(album, stamp, now_ns(), hub)?;
        }
        for sighting in &sightings {
            let track_id = sighting.track_id;
            if !self.people.iter().any(|person| person.track_id == track_id) {
                self.people.push(Person::new(track_id, pts_ns));
                let what = What::FaceAppeared { track_id, bbox: bbox(&sighting.bbox) };
                hub.publish(stamp.event(now_ns(), what));
            }
        }
        // The crops of this frame: those in the gallery, and those only for the window.
        let rules = self.manifest.rules();
        let mut shadowed: heapless::Vec<(u32, Rect, Ours), MAX_FACES> = heapless::Vec::new();
        for sighting in &sightings {
            let track_id = sighting.track_id;
            let start = Instant::now();
            let extra = extras.iter_mut().find(|(id, _)| *id == track_id);
            let looks = match extra {
                Some((_, sample)) => std::slice::from_mut(sample),
                None => self.pursuit.album_mut(track_id).map_or(&mut [][..], |album| album.samples_mut()),
            };
            if !score_samples(&mut self.classifier, looks, &mut self.stopwatch)? {
                continue;
            }
            let Some(sample) = looks.last() else { continue };
            self.n_scored += 1;
            if let Some(person) = self.people.iter_mut().find(|person| person.track_id == track_id) {
                let time_s = start.elapsed().as_secs_f32();
                person.enter(sample, &rules, &mut self.latencies, (stamp, now_ns()), hub);
                let compared = sample.score.filter(|_| self.shadow.is_some());
                // There is room for each face.
                shadowed.extend(compared.map(|score| {
                    let verdict = person.judge(&rules).verdict;
                    (track_id, sample.bbox, Ours { score, verdict, time_s })
                }));
            }
        }
        if let Some(shadow) = &mut self.shadow {
            for (track_id, bbox, ours) in shadowed {
                shadow.look(self.pursuit.picture(), track_id, &bbox, ours);
            }
        }
        hub.look(|| Looked { picture: self.pursuit.picture(), faces: &sightings });
        self.pursuit.recycle(extras.into_iter().map(|(_, sample)| sample));
        Ok(true)
    }

    /// All faces are over: the source has gone, or watching ends.
    ///
    /// # Errors
    /// [`EngineError`] when a network fails.
    pub fn leave(&mut self, stamp: &Stamp, now_ns: i64, hub: &Hub) -> Result<(), EngineError> {
        for album in self.pursuit.finish() {
            self.bury(album, stamp, now_ns, hub)?;
        }
        self.people.clear();
        Ok(())
    }

    /// The verdict of a face that is over, as a scan gives it: of looks spread over all of its time.
    fn bury(&mut self, album: Album, stamp: &Stamp, now_ns: i64, hub: &Hub) -> Result<(), EngineError> {
        let (track_id, start_ns, end_ns, last_bbox) =
            (album.track_id, album.start_ns, album.end_ns, album.bbox);
        self.people.retain(|person| person.track_id != track_id);
        if let Some(shadow) = &mut self.shadow {
            shadow.forget(track_id);
        }
        let mut samples = album.into_window();
        score_samples(&mut self.classifier, &mut samples, &mut self.stopwatch)?;
        let scores: Vec<f32> = samples.iter().filter_map(|sample| sample.score).collect();
        let judgement = judge_face(&scores, false, &self.manifest.rules());
        self.n_faces += 1;
        self.highest = Some(self.highest.map_or(judgement, |before| judge_file(&[before, judgement])));
        let at = samples.get(samples.len() / 2).map_or(last_bbox, |sample| sample.bbox);
        let what = What::Verdict {
            track_id,
            verdict: judgement.verdict,
            mean_score: score(judgement.mean_score),
            n_scores: scores.len(),
            scores: scores.iter().map(|value| score(Some(*value))).collect(),
            start_s: in_s(start_ns.saturating_sub(stamp.start_ns)),
            end_s: in_s(end_ns.saturating_sub(stamp.start_ns)),
            bbox: bbox(&at),
            reason: judgement.reason,
        };
        samples.retain(|sample| sample.score.is_some());
        hub.judge(stamp.event(now_ns, what), &scores, &samples);
        self.pursuit.recycle(samples);
        Ok(())
    }
}

/// What a model wants to see of a face.
fn look(manifest: &Manifest) -> Look {
    let input = &manifest.input;
    Look { size_px: input.size_px, margin: input.margin, min_face_px: manifest.min_face_px }
}

fn longest(of: &mut Option<i64>, ns: i64) {
    *of = Some(of.map_or(ns, |before| before.max(ns)));
}
