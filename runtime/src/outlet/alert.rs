//! A program that runs when a face is judged fake: one at a time, for a bounded time, not too often.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::settings::Alert;

/// Events that wait for their turn; those beyond are counted and forgotten.
const QUEUE: usize = 8;
/// How often a running program is looked after.
const SLICE: Duration = Duration::from_millis(20);
/// The longest event that is handed over: what a pipe takes without waiting.
const MAX_EVENT_BYTES: usize = 60_000;

#[derive(Debug)]
struct Inner {
    settings: Alert,
    /// Events, each with the model that judged.
    queue: VecDeque<(Vec<u8>, String)>,
    /// When the program was started last.
    started: Option<Instant>,
    ends: Option<Instant>,
    n_run: u64,
    n_dropped: u64,
}

/// An event whose turn it is.
struct Turn {
    settings: Alert,
    event: Vec<u8>,
    model: String,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_late(&self) -> bool {
        self.lock().ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// The next event, when the program may run again; `None` when there will be none.
    fn next(&self) -> Option<Turn> {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            let interval = Duration::from_millis(u64::from(inner.settings.interval_ms));
            let earliest = inner.started.map(|started| started + interval);
            let is_never =
                |ends| now >= ends || inner.queue.is_empty() || earliest.is_some_and(|at| at > ends);
            if inner.ends.is_some_and(is_never) {
                return None;
            }
            let pause = earliest.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
            if pause.is_zero()
                && let Some((event, model)) = inner.queue.pop_front()
            {
                inner.n_run += 1;
                inner.started = Some(now);
                return Some(Turn { settings: inner.settings.clone(), event, model });
            }
            let until_end = inner.ends.map_or(Duration::MAX, |ends| ends - now);
            let pause = if inner.queue.is_empty() { Duration::from_secs(60) } else { pause };
            let waited = self.changed.wait_timeout(inner, pause.min(until_end));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs the program in a thread of its own.
#[derive(Debug)]
pub(super) struct Runner {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Runner {
    pub(super) fn new(settings: Alert) -> Self {
        let inner =
            Inner { settings, queue: VecDeque::new(), started: None, ends: None, n_run: 0, n_dropped: 0 };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while let Some(turn) = own.next() {
                if let Err(error) = run(&turn, &own) {
                    log::warn!(
                        "alert: {}: {error}",
                        turn.settings.command.first().map_or("", String::as_str)
                    );
                }
            }
        });
        Runner { shared, thread }
    }

    /// From the next event on with other settings. What waits stays, and a program that runs goes on.
    pub(super) fn change(&self, settings: Alert) {
        self.shared.lock().settings = settings;
        self.shared.changed.notify_all();
    }

    /// The program is to run with `event` on its standard input; `model`, which judged, is told to it as `CANDOR_MODEL`.
    pub(super) fn push(&self, event: &[u8], model: String) {
        let mut inner = self.shared.lock();
        if inner.queue.len() >= QUEUE {
            inner.n_dropped += 1;
            log::warn!("alert: too many at once; {} forgotten so far", inner.n_dropped);
            return;
        }
        inner.queue.push_back((event.to_owned(), model));
        self.shared.changed.notify_all();
    }

    /// What waits may still be done until `ends`; then a running program is killed.
    pub(super) fn close(&self, ends: Instant) {
        self.shared.lock().ends = Some(ends);
        self.shared.changed.notify_all();
    }

    /// Whether all is done.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// How often the program was started, and how many events were forgotten.
    pub(super) fn counts(&self) -> (u64, u64) {
        let inner = self.shared.lock();
        (inner.n_run, inner.n_dropped)
    }
}

/// Runs the program once.
fn run(turn: &Turn, shared: &Shared) -> Result<(), String> {
    let Turn { settings, event, model } = turn;
    let Some((program, arguments)) = settings.command.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("CANDOR_MODEL", model)
        .stdin(Stdio::piped())
        // Standard output is for events alone.
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    if let (Some(mut stdin), true) = (child.stdin.take(), event.len() <= MAX_EVENT_BYTES) {
        // One that doesn't read it is free not to.
        let _ = stdin.write_all(event).and_then(|()| stdin.write_all(b"\n"));
    }
    let timeout = Duration::from_millis(u64::from(settings.timeout_ms));
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        let is_late = began.elapsed() >= timeout;
        if is_late || shared.is_late() {
            kill(&mut child);
            let reason = if is_late { "its time is over" } else { "candor ends" };
            return Err(format!("killed, since {reason}"));
        }
        let waited = shared.changed.wait_timeout(shared.lock(), SLICE);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Kills a program with all that it has started in its group. It isn't reaped yet, so the number is still its own.
fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        log::warn!("alert: {error}");
    }
    let asked = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(SLICE);
    }
}
