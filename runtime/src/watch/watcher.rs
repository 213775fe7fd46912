//! Frames to events: who is in view, and what the last scores of each come to. Time is an argument.

use image::RgbImage;

use super::event::{Running, Stamp, What, bbox, in_s, score};
use super::{Event, Settings};
use crate::bundle::{Bundle, Manifest};
use crate::classify::Classifier;
use crate::detect;
use crate::engine::{Engine, EngineError};
use crate::follow::{self, Follower, Found, Look, Pursuit};
use crate::frame::Frame;
use crate::gallery::{Album, Sample};
use crate::stopwatch::{Stage, Stopwatch};
use crate::track::MAX_TRACKS;
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
        let input = &manifest.input;
        let look = Look { size_px: input.size_px, margin: input.margin, min_face_px: manifest.min_face_px };
        Ok(Watcher {
            follower: Follower::new(engine, detect, follow::Settings::default(), look)?,
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
        })
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Faces in view or remembered.
    pub fn n_people(&self) -> usize {
        self.people.len()
    }

    /// The verdict of the face with the highest mean score among those that are over.
    pub fn judgement(&self) -> Judgement {
        self.highest.clone().unwrap_or_else(|| judge_file(&[]))
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
        out: &mut dyn FnMut(Event),
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
            self.bury(album, stamp, now_ns(), out)?;
        }
        for sighting in &sightings {
            let track_id = sighting.track_id;
            if !self.people.iter().any(|person| person.track_id == track_id) {
                self.people.push(Person::new(track_id, pts_ns));
                out(stamp.event(now_ns(), What::FaceAppeared { track_id, bbox: bbox(&sighting.bbox) }));
            }
        }
        // The crops of this frame: those in the gallery, and those only for the window.
        for sighting in &sightings {
            let track_id = sighting.track_id;
            let scored = match self.pursuit.album_mut(track_id) {
                Some(album) => {
                    let unscored = album.samples_mut().iter_mut().filter(|sample| sample.score.is_none());
                    score_each(&mut self.classifier, unscored, &mut self.stopwatch)?
                }
                None => None,
            };
            let extra = extras.iter_mut().filter(|(id, _)| *id == track_id).map(|(_, sample)| sample);
            let found = scored.or(score_each(&mut self.classifier, extra, &mut self.stopwatch)?);
            let Some((value, at)) = found else { continue };
            self.n_scored += 1;
            self.tell(track_id, value, &at, pts_ns, stamp, now_ns(), out);
        }
        Ok(true)
    }

    /// Enters a score into a face's window, and says what that comes to.
    #[expect(clippy::too_many_arguments, reason = "what happened, when, and whom to tell")]
    fn tell(
        &mut self,
        track_id: u32,
        value: f32,
        at: &crate::geom::Rect,
        pts_ns: i64,
        stamp: &Stamp,
        now_ns: i64,
        out: &mut dyn FnMut(Event),
    ) {
        let rules = self.manifest.rules();
        let Some(person) = self.people.iter_mut().find(|person| person.track_id == track_id) else { return };
        let since_ns = now_ns.saturating_sub(person.appeared_ns);
        if person.scored_ns.is_none() {
            longest(&mut self.latencies.first_score_ns, since_ns);
        }
        person.scored_ns = Some(pts_ns);
        if person.scores.is_full() {
            person.scores.pop_front();
        }
        // There is room now.
        let _ = person.scores.push_back(value);
        let judgement = person.judge(&rules);
        let running = Running::new(&judgement, person.scores.len());
        let what =
            What::Score { track_id, bbox: bbox(at), score: score(Some(value)), running: running.clone() };
        out(stamp.event(now_ns, what));
        let is_first = person.verdict.is_none() && person.scores.len() >= rules.min_scores;
        let is_full = person.scores.is_full();
        let is_first_full = is_full && !person.was_full;
        let is_other = person.verdict.is_some_and(|before| before != judgement.verdict);
        if !is_first && !is_first_full && !is_other {
            return;
        }
        if is_first {
            longest(&mut self.latencies.first_verdict_ns, since_ns);
        }
        if is_first_full {
            longest(&mut self.latencies.full_verdict_ns, since_ns);
        }
        person.was_full |= is_full;
        let before = person.verdict.replace(judgement.verdict);
        out(stamp.event(
            now_ns,
            What::RunningVerdict {
                track_id,
                before,
                running,
                since_appeared_s: in_s(since_ns),
                is_full,
                reason: judgement.reason,
            },
        ));
    }

    /// All faces are over: the source has gone, or watching ends.
    ///
    /// # Errors
    /// [`EngineError`] when a network fails.
    pub fn leave(
        &mut self,
        stamp: &Stamp,
        now_ns: i64,
        out: &mut dyn FnMut(Event),
    ) -> Result<(), EngineError> {
        for album in self.pursuit.finish() {
            self.bury(album, stamp, now_ns, out)?;
        }
        self.people.clear();
        Ok(())
    }

    /// The verdict of a face that is over, as a scan gives it: of looks spread over all of its time.
    fn bury(
        &mut self,
        album: Album,
        stamp: &Stamp,
        now_ns: i64,
        out: &mut dyn FnMut(Event),
    ) -> Result<(), EngineError> {
        let (track_id, start_ns, end_ns, last_bbox) =
            (album.track_id, album.start_ns, album.end_ns, album.bbox);
        self.people.retain(|person| person.track_id != track_id);
        let mut samples = album.into_window();
        score_each(
            &mut self.classifier,
            samples.iter_mut().filter(|s| s.score.is_none()),
            &mut self.stopwatch,
        )?;
        let scores: Vec<f32> = samples.iter().filter_map(|sample| sample.score).collect();
        let judgement = judge_face(&scores, false, &self.manifest.rules());
        self.n_faces += 1;
        let both: Vec<Judgement> = self.highest.take().into_iter().chain([judgement.clone()]).collect();
        self.highest = Some(judge_file(&both));
        let at = samples.get(samples.len() / 2).map_or(last_bbox, |sample| sample.bbox);
        out(stamp.event(
            now_ns,
            What::Verdict {
                track_id,
                verdict: judgement.verdict,
                mean_score: score(judgement.mean_score),
                n_scores: scores.len(),
                scores: scores.into_iter().map(|value| score(Some(value))).collect(),
                start_s: in_s(start_ns.saturating_sub(stamp.start_ns)),
                end_s: in_s(end_ns.saturating_sub(stamp.start_ns)),
                bbox: bbox(&at),
                reason: judgement.reason,
            },
        ));
        Ok(())
    }
}

/// Scores `samples`, and gives the last one's score and box.
fn score_each<'a>(
    classifier: &mut Classifier,
    samples: impl Iterator<Item = &'a mut Sample>,
    stopwatch: &mut Stopwatch,
) -> Result<Option<(f32, crate::geom::Rect)>, EngineError> {
    let mut unscored: Vec<&mut Sample> = samples.collect();
    if unscored.is_empty() {
        return Ok(None);
    }
    let crops: Vec<&RgbImage> = unscored.iter().map(|sample| &sample.crop).collect();
    let scores = stopwatch.time(Stage::Classify, || classifier.scores(&crops))?;
    for (sample, value) in unscored.iter_mut().zip(&scores) {
        sample.score = Some(*value);
    }
    Ok(scores.last().copied().zip(unscored.last().map(|sample| sample.bbox)))
}

fn longest(of: &mut Option<i64>, ns: i64) {
    *of = Some(of.map_or(ns, |before| before.max(ns)));
}
