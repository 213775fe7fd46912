//! The loop: what the capturing thread leaves -> a look when one is due -> events, health, the service manager.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::event::{Health, Model, Stamp, What, in_s};
use super::hub::Hub;
use super::mailbox::{Mailbox, Post};
use super::models::Models;
use super::notify::Notifier;
use super::pace::{Limits, Pace};
use super::{Settings, Shadow, Watcher, machine};
use crate::camera::clock::{Clock as _, Monotonic};
use crate::camera::{Feed, Shot, State, Step};
use crate::engine::EngineError;
use crate::frame::Frame;
use crate::memory;
use crate::stopwatch::Stage;
use crate::verdict::Judgement;

const MS_NS: i64 = 1_000_000;
/// The longest wait of the loop: signals are noticed within it.
const SLICE: Duration = Duration::from_millis(250);
/// How often the pace is adapted.
const MEASURE_NS: i64 = 1_000 * MS_NS;
/// Age above which a frame says nothing about the present.
const MAX_AGE_NS: i64 = 1_000 * MS_NS;
/// Time without a step of the feed after which the driver holds it up, and after which the program is better started
/// anew.
const HUNG_NS: (i64, i64) = (1_750 * MS_NS, 30_000 * MS_NS);
/// How long the capturing thread may take to end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Makes the source of frames, in the thread that captures.
pub type MakeFeed = Box<dyn FnOnce() -> Result<Box<dyn Feed>, String> + Send>;

/// What a run watches, and with what.
pub struct Parts {
    /// The networks.
    pub watcher: Watcher,
    /// The source.
    pub feed: MakeFeed,
    /// The settings.
    pub settings: Settings,
    /// The source's name.
    pub file: String,
    /// All settings, TOML.
    pub text: String,
    /// Frames come at their own pace; else each is looked at, and time is what they say.
    pub is_paced: bool,
}

/// What a run has to do with the rest of the program.
pub struct Surroundings<'a> {
    /// Where events go.
    pub hub: &'a Hub,
    /// Set to end the run.
    pub stop: &'a AtomicBool,
    /// Set to read the settings again.
    pub reload: &'a AtomicBool,
    /// The service manager.
    pub notifier: &'a Notifier,
    /// Ends the run after so many frames.
    pub max_frames: Option<u64>,
    /// Reads the settings again: new parts, or what is wrong.
    pub remake: &'a mut dyn FnMut() -> Result<Parts, String>,
    /// What is said first, once.
    pub first: Option<What>,
    /// Who says which model judges.
    pub models: &'a mut dyn Models,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict of the face with the highest mean score.
    pub judgement: Judgement,
    /// Crops that were scored.
    pub n_scored: u64,
    /// Ended by [`Surroundings::stop`].
    pub is_interrupted: bool,
    /// Why there was nothing to watch.
    pub failure: Option<String>,
}

/// Watches until the source ends, or until it is told to stop.
///
/// # Errors
/// [`EngineError`] when a network fails; what was published before stays valid.
pub fn run(parts: Parts, around: &mut Surroundings) -> Result<Outcome, EngineError> {
    let (mut parts, mut is_first) = (parts, true);
    let mut before: Option<Outcome> = None;
    loop {
        let mut run = Run::new(parts);
        let end = run.watch(around, std::mem::take(&mut is_first));
        let is_interrupted = matches!(end, Ok(End::Over { is_interrupted: true, .. }));
        let (mut outcome, shadow) = run.end(around, is_interrupted)?;
        if let Some(before) = before.take() {
            let both = [before.judgement, outcome.judgement];
            outcome.judgement = crate::verdict::judge_file(&both);
            outcome.n_scored += before.n_scored;
        }
        match end? {
            End::Over { is_interrupted, failure } => {
                return Ok(Outcome { is_interrupted, failure, ..outcome });
            }
            End::Remade(new) => {
                before = Some(outcome);
                parts = *new;
                parts.watcher.shadow = shadow;
                around.hub.change_settings(&parts.text);
            }
        }
    }
}

enum End {
    Over { is_interrupted: bool, failure: Option<String> },
    Remade(Box<Parts>),
}

/// What is measured between two lines about health.
#[derive(Clone, Copy, Default)]
struct Since {
    at_ns: i64,
    cpu_ns: i64,
    n_frames: u64,
}

struct Run {
    watcher: Watcher,
    settings: Settings,
    is_paced: bool,
    stamp: Stamp,
    mailbox: Arc<Mailbox>,
    feed: Option<MakeFeed>,
    capture: Option<(std::thread::JoinHandle<()>, Arc<AtomicBool>)>,
    frame: Frame,
    pace: Pace,
    /// The newest time that frames have shown, where they make it.
    shown_ns: i64,
    state: State,
    /// What the feed said last; `state` differs while the feed hangs.
    told: (State, String),
    step: (u64, i64),
    looked_ns: Option<i64>,
    fresh_ns: i64,
    n_taken: u64,
    n_unreadable: u64,
    n_late: u64,
    looks: (u64, i64),
    measured: (i64, i64),
    /// Since the last line about health, and since witnesses were last told.
    since: Since,
    pulse: Since,
    latest: Post,
}

impl Run {
    fn new(parts: Parts) -> Self {
        let Parts { watcher, feed, settings, file, is_paced, .. } = parts;
        let now_ns = if is_paced { Monotonic.now_ns() } else { 0 };
        let ms = |ms: u32| i64::from(ms) * MS_NS;
        let since = Since { at_ns: now_ns, cpu_ns: machine::cpu_ns(), n_frames: 0 };
        let limits = Limits {
            interval_ns: (ms(settings.interval_ms), ms(settings.max_interval_ms)),
            n_cores: machine::n_cores() * f64::from(settings.cpu_share),
            max_temperature_c: settings.max_temperature_c,
        };
        Run {
            watcher,
            is_paced,
            stamp: Stamp { file: file.into(), start_ns: now_ns },
            mailbox: Arc::new(Mailbox::new(!is_paced)),
            feed: Some(feed),
            capture: None,
            frame: Frame::default(),
            pace: Pace::new(limits),
            shown_ns: now_ns,
            state: State::Opening,
            told: (State::Opening, String::new()),
            step: (0, Monotonic.now_ns()),
            looked_ns: None,
            fresh_ns: now_ns,
            n_taken: 0,
            n_unreadable: 0,
            n_late: 0,
            looks: (0, 0),
            measured: (Monotonic.now_ns(), machine::cpu_ns()),
            since,
            pulse: since,
            settings,
            latest: Post::default(),
        }
    }

    fn now_ns(&self) -> i64 {
        if self.is_paced { Monotonic.now_ns() } else { self.shown_ns }
    }

    fn publish(&self, hub: &Hub, what: What) {
        hub.publish(self.stamp.event(self.now_ns(), what));
    }

    fn watch(&mut self, around: &mut Surroundings, is_first: bool) -> Result<End, EngineError> {
        self.begin();
        if let Some(what) = around.first.take() {
            self.publish(around.hub, what);
        }
        around.notifier.say(if is_first { "READY=1\nSTATUS=opening" } else { "READY=1" });
        let mut is_said = Instant::now();
        loop {
            if around.stop.load(Ordering::Relaxed) {
                return Ok(End::Over { is_interrupted: true, failure: None });
            }
            if around.reload.swap(false, Ordering::Relaxed)
                && let Some(new) = self.remake(around)
            {
                return Ok(End::Remade(Box::new(new)));
            }
            let mut post = self.mailbox.take(SLICE);
            let shot = post.shot.take();
            for (state, reason) in std::mem::take(&mut post.changes) {
                self.told = (state, reason);
                self.show_latest(around);
            }
            self.latest = post;
            self.look_for_a_hang(around);
            if let Some(shot) = shot {
                self.n_taken += 1;
                self.consider(&shot, around.hub)?;
            }
            self.look_for_an_absence(around.hub)?;
            self.adapt(around)?;
            if let Some(every) = around.notifier.watchdog
                && is_said.elapsed() >= every / 3
                && Monotonic.now_ns() - self.step.1 < HUNG_NS.1
            {
                is_said = Instant::now();
                around.notifier.say("WATCHDOG=1");
            }
            if self.told.0 == State::Ended {
                let failure = (self.latest.counts.n_frames == 0).then(|| self.told.1.clone());
                return Ok(End::Over { is_interrupted: false, failure });
            }
            if around.max_frames.is_some_and(|most| self.n_taken >= most) {
                return Ok(End::Over { is_interrupted: false, failure: None });
            }
        }
    }

    /// Starts the thread that captures.
    fn begin(&mut self) {
        let Some(feed) = self.feed.take() else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let (mailbox, ends) = (Arc::clone(&self.mailbox), Arc::clone(&stop));
        let thread = std::thread::spawn(move || capture(feed, &mailbox, &ends));
        self.capture = Some((thread, stop));
    }

    /// Reads the settings again: new parts, or none and an event that says why.
    fn remake(&self, around: &mut Surroundings) -> Option<Parts> {
        around.notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", Monotonic.now_ns() / 1000));
        let made = (around.remake)();
        let reason = made.as_ref().err().cloned();
        if let Some(reason) = &reason {
            log::error!("{reason}; the settings stay as they are");
            around.notifier.say("READY=1");
        }
        self.publish(around.hub, What::Reloaded { is_accepted: made.is_ok(), reason });
        made.ok()
    }

    /// Shows what the feed said last.
    fn show_latest(&mut self, around: &Surroundings) {
        if self.state != self.told.0 {
            let (state, reason) = self.told.clone();
            self.show(state, reason, around);
        }
    }

    /// Makes `state` the one that is shown.
    fn show(&mut self, state: State, reason: String, around: &Surroundings) {
        if self.state == state {
            return;
        }
        self.state = state;
        log::info!("{}: {reason}", state.word());
        around.notifier.say(&format!("STATUS={}", state.word()));
        self.publish(around.hub, What::State { state, reason });
    }

    /// A driver that doesn't return from a call holds up the thread that captures, and can't be interrupted.
    fn look_for_a_hang(&mut self, around: &Surroundings) {
        let now_ns = Monotonic.now_ns();
        if self.latest.n_steps != self.step.0 {
            self.step = (self.latest.n_steps, now_ns);
            self.show_latest(around);
        } else if self.is_paced && now_ns - self.step.1 >= HUNG_NS.0 {
            self.show(State::Stalled, "the driver doesn't return from a call".into(), around);
        }
    }

    /// Looks at a frame if one is due.
    fn consider(&mut self, shot: &Shot, hub: &Hub) -> Result<(), EngineError> {
        let taken_ns = shot.taken_ns();
        self.shown_ns = taken_ns;
        if self.state != State::Streaming || self.now_ns() - taken_ns > MAX_AGE_NS {
            self.n_late += 1;
            return Ok(());
        }
        self.fresh_ns = taken_ns;
        // Half a millisecond of grace, or unsteady times would skip a frame now and then.
        let is_due =
            self.looked_ns.is_none_or(|last_ns| taken_ns - last_ns >= self.pace.interval_ns() - MS_NS / 2);
        if !is_due {
            return Ok(());
        }
        self.looked_ns = Some(taken_ns);
        let cpu_ns = machine::cpu_ns();
        let Run { watcher, frame, stamp, is_paced, .. } = self;
        if let Err(error) = watcher.stopwatch.time(Stage::Source, || shot.read(frame)) {
            self.n_unreadable += 1;
            log::debug!("{error}");
            return Ok(());
        }
        let now_ns = || if *is_paced { Monotonic.now_ns() } else { taken_ns };
        let is_picture = watcher.look(frame, &now_ns, stamp, hub)?;
        self.n_unreadable += u64::from(!is_picture);
        self.looks.0 += 1;
        self.looks.1 += machine::cpu_ns() - cpu_ns;
        Ok(())
    }

    /// Without frames for a while nobody is known to be there.
    fn look_for_an_absence(&mut self, hub: &Hub) -> Result<(), EngineError> {
        let now_ns = self.now_ns();
        if self.watcher.n_people() > 0 && now_ns - self.fresh_ns >= i64::from(self.settings.away_ms) * MS_NS {
            self.watcher.leave(&self.stamp, now_ns, hub)?;
        }
        Ok(())
    }

    /// Adapts the pace, and tells of the program's health when that is due.
    fn adapt(&mut self, around: &mut Surroundings) -> Result<(), EngineError> {
        let now_ns = Monotonic.now_ns();
        if now_ns - self.measured.0 >= MEASURE_NS {
            let cpu_ns = machine::cpu_ns();
            let stretch = (now_ns - self.measured.0, cpu_ns - self.measured.1);
            if self.is_paced {
                let temperature_c = machine::temperature_c(Path::new(machine::ZONES));
                self.pace.measure(stretch, self.looks, temperature_c);
            }
            self.measured = (now_ns, cpu_ns);
            self.looks = (0, 0);
            around.hub.pulse(|| {
                let (health, now) = self.health(&self.pulse, self.watcher.latencies, around.hub);
                self.pulse = now;
                health
            });
            self.tend(around)?;
        }
        if self.now_ns() - self.since.at_ns >= i64::from(self.settings.health_s) * 1_000 * MS_NS {
            self.tell_health(around.hub);
        }
        Ok(())
    }

    /// Lets models begin a trial, take over, or be given up.
    fn tend(&mut self, around: &mut Surroundings) -> Result<(), EngineError> {
        let Some(turn) = around.models.tend(&mut self.watcher.shadow) else { return Ok(()) };
        if let Some(successor) = turn.successor {
            self.watcher.take_over(successor, &self.stamp, self.now_ns(), around.hub)?;
            around.hub.change_model(self.watcher.manifest());
        }
        self.publish(around.hub, turn.what);
        Ok(())
    }

    /// Publishes how the program is.
    fn tell_health(&mut self, hub: &Hub) {
        let latencies = std::mem::take(&mut self.watcher.latencies);
        let (health, now) = self.health(&self.since, latencies, hub);
        self.since = now;
        self.publish(hub, What::Health(Box::new(health)));
    }

    /// How the program is, with rates since `since`; and from what the next ones count.
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn health(&self, since: &Since, latencies: super::Latencies, hub: &Hub) -> (Health, Since) {
        let (now_ns, cpu_ns) = (self.now_ns(), machine::cpu_ns());
        let counts = self.latest.counts;
        let passed_ns = (now_ns - since.at_ns).max(1) as f64;
        let to_3 = |value: f64| (value * 1e3).round() / 1e3;
        let rate_hz = (counts.n_frames - since.n_frames) as f64 / (passed_ns / 1e9);
        let share = (cpu_ns - since.cpu_ns) as f64 / passed_ns / machine::n_cores();
        let stage_ms = Stage::ALL.into_iter().filter_map(|stage| {
            let (spent, runs) = self.watcher.stopwatch.spent(stage);
            (runs > 0).then(|| (stage.word(), to_3(1e3 * spent.as_secs_f64() / runs as f64)))
        });
        let health = Health {
            state: self.state,
            counts,
            n_skipped: self.latest.n_skipped + self.n_late,
            n_searched: self.watcher.n_searched,
            n_unreadable: self.n_unreadable,
            n_faces: self.watcher.n_people(),
            rate_hz: to_3(rate_hz),
            cpu_share: self.is_paced.then(|| to_3(share)),
            interval_ms: to_3(self.pace.interval_ns() as f64 / 1e6),
            temperature_c: machine::temperature_c(Path::new(machine::ZONES)).map(f64::from),
            resident_bytes: memory::resident_bytes(),
            first_score_s: latencies.first_score_ns.map(in_s),
            first_verdict_s: latencies.first_verdict_ns.map(in_s),
            full_verdict_s: latencies.full_verdict_ns.map(in_s),
            stage_ms: stage_ms.collect(),
            n_events_lost: hub.n_lost(),
            model: Model::of(self.watcher.manifest()),
        };
        (health, Since { at_ns: now_ns, cpu_ns, n_frames: counts.n_frames })
    }

    /// Ends the capturing, and says what all came to. A candidate, which knows nobody any more, may go on in another run.
    fn end(
        mut self,
        around: &mut Surroundings,
        is_interrupted: bool,
    ) -> Result<(Outcome, Option<Shadow>), EngineError> {
        if let Some((thread, stop)) = self.capture.take() {
            stop.store(true, Ordering::Relaxed);
            let asked = Instant::now();
            while !thread.is_finished() && asked.elapsed() < GOODBYE {
                // A frame that waits for room would keep it.
                self.mailbox.take(Duration::from_millis(10));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        let (now_ns, hub) = (self.now_ns(), around.hub);
        self.watcher.leave(&self.stamp, now_ns, hub)?;
        self.tell_health(hub);
        let judgement = self.watcher.judgement();
        self.publish(
            hub,
            What::Summary {
                n_frames: self.latest.counts.n_frames,
                n_faces: self.watcher.n_faces,
                verdict: judgement.verdict,
                mean_score: super::event::score(judgement.mean_score),
                reason: judgement.reason,
                interrupted: is_interrupted,
                model: Model::of(self.watcher.manifest()),
            },
        );
        let outcome = Outcome { judgement, n_scored: self.watcher.n_scored, is_interrupted, failure: None };
        Ok((outcome, self.watcher.shadow))
    }
}

/// Captures until it is told to stop. A feed that panics has ended.
fn capture(make: MakeFeed, mailbox: &Mailbox, stop: &AtomicBool) {
    let run = std::panic::AssertUnwindSafe(|| {
        let mut feed = match make() {
            Ok(feed) => feed,
            Err(reason) => return leave(mailbox, (State::Ended, reason), stop),
        };
        while !stop.load(Ordering::Relaxed) {
            let step = feed.step();
            mailbox.beat(feed.counts());
            match step {
                Step::Shot(shot) => {
                    let mut waiting = mailbox.put(shot, SLICE);
                    while let Err(shot) = waiting
                        && !stop.load(Ordering::Relaxed)
                    {
                        waiting = mailbox.put(shot, SLICE);
                    }
                }
                Step::Changed(state, reason) => leave(mailbox, (state, reason), stop),
                Step::Nothing => {}
            }
        }
    });
    if std::panic::catch_unwind(run).is_err() {
        leave(mailbox, (State::Ended, "capturing failed inside".into()), stop);
    }
}

fn leave(mailbox: &Mailbox, change: (State, String), stop: &AtomicBool) {
    let mut waiting = mailbox.change(change, SLICE);
    while let Err(change) = waiting
        && !stop.load(Ordering::Relaxed)
    {
        waiting = mailbox.change(change, SLICE);
    }
}
