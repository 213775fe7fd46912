//! Keeps a device going: opens it, watches over what comes, and starts again after any fault.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::clock::Clock;
use super::kernel::Kernel;
use super::negotiate::Wanted;
use super::picture::{Layout, Raw};
use super::session::{Got, Session};
use super::state::{Fault, State};
use super::{Counts, Feed, Shot, Step};

const MS_NS: i64 = 1_000_000;
/// The longest wait within a step.
const SLICE_MS: u32 = 250;
/// First and longest time between two tries to open the device; the longest is half of what a recovery may take.
const BACKOFF_NS: (i64, i64) = (50 * MS_NS, 500 * MS_NS);
/// Time after which a device that was opened counts as one that goes well.
const STEADY_NS: i64 = 1_000 * MS_NS;
/// How often the input is asked for its signal.
const SIGNAL_EVERY_NS: i64 = 500 * MS_NS;
/// Least time of a step that brings no frame.
const PAUSE_NS: i64 = 5 * MS_NS;
/// Age above which a frame says nothing about the present.
const MAX_AGE_NS: i64 = 1_000 * MS_NS;
/// Raw frames in use at once: the newest, the one before, one that is read, one that is written.
const MAX_RAW: usize = 4;

/// Which device, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The device.
    pub path: PathBuf,
    /// What to ask it for.
    pub wanted: Wanted,
    /// Controls to set, by name.
    pub controls: BTreeMap<String, i32>,
    /// Time without a frame after which the driver counts as stalled.
    pub stall_ms: u32,
    /// Time for which all frames are the same after which the picture counts as frozen.
    pub frozen_ms: u32,
}

/// A device that is kept going.
pub struct Supervisor<K: Kernel, C: Clock> {
    kernel: K,
    clock: C,
    settings: Settings,
    state: State,
    session: Option<(Session<K>, Arc<Layout>)>,
    card: String,
    retry_ns: i64,
    backoff_ns: i64,
    opened_ns: i64,
    /// When a whole frame of the present last came.
    fresh_ns: i64,
    /// When a frame last differed from the one before.
    changed_ns: i64,
    signal_ns: i64,
    sequence: Option<u32>,
    pool: Vec<Arc<Raw>>,
    last: Option<Arc<Raw>>,
    counts: Counts,
}

impl<K: Kernel, C: Clock> Supervisor<K, C> {
    /// A device that isn't open yet.
    pub fn new(kernel: K, clock: C, settings: Settings) -> Self {
        let now_ns = clock.now_ns();
        Supervisor {
            kernel,
            clock,
            settings,
            state: State::Opening,
            session: None,
            card: String::new(),
            retry_ns: now_ns,
            backoff_ns: BACKOFF_NS.0,
            opened_ns: now_ns,
            fresh_ns: now_ns,
            changed_ns: now_ns,
            signal_ns: now_ns,
            sequence: None,
            pool: Vec::new(),
            last: None,
            counts: Counts::default(),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.state
    }

    fn change(&mut self, state: State, reason: impl Into<String>) -> Step {
        if self.state == state {
            return Step::Nothing;
        }
        self.state = state;
        Step::Changed(state, reason.into())
    }

    fn open(&mut self) -> Step {
        let now_ns = self.clock.now_ns();
        if now_ns < self.retry_ns {
            let slice_ns = i64::from(SLICE_MS) * MS_NS;
            self.clock.sleep_ns((self.retry_ns - now_ns).min(slice_ns));
            return Step::Nothing;
        }
        self.counts.n_opened += 1;
        let Settings { path, wanted, controls, .. } = &self.settings;
        match Session::open(&mut self.kernel, path, wanted, controls) {
            Ok(session) => {
                self.card.clone_from(&session.card);
                let layout = Arc::new(session.layout().clone());
                log::info!(
                    "{}: {} {}x{}",
                    self.card,
                    layout.encoding.word(),
                    layout.width_px,
                    layout.height_px
                );
                self.session = Some((session, layout));
                self.sequence = None;
                // What was before the pause is no measure for what comes.
                self.last = None;
                let now_ns = self.clock.now_ns();
                self.opened_ns = now_ns;
                (self.fresh_ns, self.changed_ns, self.signal_ns) = (now_ns, now_ns, now_ns);
                Step::Nothing
            }
            Err(fault) => self.fail(fault),
        }
    }

    /// Ends the session; the next try comes after a pause that grows until frames come for a while.
    fn fail(&mut self, fault: Fault) -> Step {
        if let Some((session, _)) = self.session.take() {
            session.close(&mut self.kernel);
        }
        self.retry_ns = self.clock.now_ns() + self.backoff_ns;
        self.backoff_ns = (2 * self.backoff_ns).min(BACKOFF_NS.1);
        self.change(fault.state, fault.reason)
    }

    /// A raw frame that nobody reads any more.
    fn take_raw(&mut self) -> Arc<Raw> {
        let free = self.pool.iter().position(|raw| Arc::strong_count(raw) == 1);
        match free {
            Some(idx) => self.pool.swap_remove(idx),
            None => Arc::default(),
        }
    }

    fn give_back(&mut self, raw: Arc<Raw>) {
        if self.pool.len() < MAX_RAW {
            self.pool.push(raw);
        }
    }

    fn read(&mut self, mut session: Session<K>, layout: Arc<Layout>) -> Step {
        let mut shared = self.take_raw();
        // Nobody else has it, so nothing is cloned.
        let raw = Arc::make_mut(&mut shared);
        let begun_ns = self.clock.now_ns();
        let got = session.next(&mut self.kernel, SLICE_MS, raw);
        if !matches!(got, Ok(Got::Frame { .. })) && self.clock.now_ns() - begun_ns < PAUSE_NS {
            // A driver that returns at once and with nothing must not take the processor.
            self.clock.sleep_ns(PAUSE_NS);
        }
        let now_ns = self.clock.now_ns();
        let signal = if now_ns - self.signal_ns >= SIGNAL_EVERY_NS {
            self.signal_ns = now_ns;
            session.lacks_signal(&mut self.kernel)
        } else {
            Ok(false)
        };
        self.session = Some((session, Arc::clone(&layout)));
        let fault = match (&got, &signal) {
            (Err(fault), _) | (_, Err(fault)) => Some(fault.clone()),
            (_, Ok(true)) => Some(Fault::new(State::NoSignal, "the input says so")),
            _ => None,
        };
        if let Some(fault) = fault {
            self.give_back(shared);
            return self.fail(fault);
        }
        match got {
            Ok(Got::Frame { sequence, taken_ns }) => {
                self.count(sequence);
                let age_ns = taken_ns.map_or(0, |taken_ns| now_ns.saturating_sub(taken_ns));
                if age_ns > MAX_AGE_NS {
                    self.counts.n_stale += 1;
                    self.give_back(shared);
                    return self.look_for_stall(now_ns, "frames are older than a second");
                }
                raw.taken_ns = now_ns.saturating_sub(age_ns.max(0));
                raw.frame_idx = self.counts.n_frames - 1;
                self.judge(shared, layout, now_ns)
            }
            Ok(Got::BadFrame(why)) => {
                self.counts.n_bad += 1;
                self.give_back(shared);
                self.look_for_stall(now_ns, why)
            }
            _ => {
                self.give_back(shared);
                self.look_for_stall(now_ns, "no frame")
            }
        }
    }

    fn count(&mut self, sequence: u32) {
        self.counts.n_frames += 1;
        let gap = self.sequence.map_or(0, |last| sequence.wrapping_sub(last).wrapping_sub(1));
        // A count that starts again, or stands still, is none.
        if gap < 1 << 16 {
            self.counts.n_dropped += u64::from(gap);
        }
        self.sequence = Some(sequence);
    }

    /// A frame that says something new is passed on.
    fn judge(&mut self, raw: Arc<Raw>, layout: Arc<Layout>, now_ns: i64) -> Step {
        self.fresh_ns = now_ns;
        let is_same = self.last.as_ref().is_some_and(|last| last.bytes == raw.bytes);
        if is_same {
            self.counts.n_repeated += 1;
            self.give_back(raw);
            let still_ns = now_ns - self.changed_ns;
            if still_ns >= i64::from(self.settings.frozen_ms) * MS_NS {
                return self.change(State::Frozen, format!("the same picture for {} ms", still_ns / MS_NS));
            }
            return Step::Nothing;
        }
        self.changed_ns = now_ns;
        if now_ns - self.opened_ns >= STEADY_NS {
            self.backoff_ns = BACKOFF_NS.0;
        }
        if let Some(last) = self.last.replace(Arc::clone(&raw)) {
            self.give_back(last);
        }
        if self.state == State::Streaming {
            return Step::Shot(Shot::Raw(raw, layout));
        }
        // The frame is the proof; the next one is looked at.
        let about = format!("{} {}x{}", layout.encoding.word(), layout.width_px, layout.height_px);
        self.change(State::Streaming, about)
    }

    fn look_for_stall(&mut self, now_ns: i64, why: &str) -> Step {
        let waited_ns = now_ns - self.fresh_ns;
        if waited_ns < i64::from(self.settings.stall_ms) * MS_NS {
            return Step::Nothing;
        }
        let lacks_signal = match &self.session {
            Some((session, _)) => session.lacks_signal(&mut self.kernel),
            None => Ok(false),
        };
        self.fail(match lacks_signal {
            Ok(true) => Fault::new(State::NoSignal, "the input says so"),
            Ok(false) => Fault::new(State::Stalled, format!("{why} for {} ms", waited_ns / MS_NS)),
            Err(fault) => fault,
        })
    }
}

impl<K, C> Feed for Supervisor<K, C>
where
    K: Kernel + Send,
    K::Device: Send,
    K::Memory: Send,
    C: Clock,
{
    fn step(&mut self) -> Step {
        match self.session.take() {
            None => self.open(),
            Some((session, layout)) => self.read(session, layout),
        }
    }

    fn description(&self) -> String {
        format!("{} ({})", self.settings.path.display(), self.card)
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
