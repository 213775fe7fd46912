//! Between the thread that takes events and one that sends them: a spool, the newest state, and when to end.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::spool::{Counts, Spool};
use crate::watch::lines::RotatingFile;

/// The file of events that a peer refused, in the spool's folder, and its size at which the one before it goes.
const ASIDE: &str = "refused.jsonl";
const ASIDE_BYTES: u64 = 1 << 20;

/// What there is for a sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The oldest record that hasn't arrived, and its number.
    Record(u64, Vec<u8>),
    /// A newer state than the one that the sender knows, and its version.
    State(u64, Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// The sender is to end.
    End,
}

/// What a sender of the line has done, since the program began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Events that arrived.
    pub n_sent: u64,
    /// Attempts that failed.
    pub n_failed: u64,
    /// Events that the peer will never take.
    pub n_refused: u64,
}

#[derive(Debug)]
struct Inner {
    spool: Spool,
    /// The state to show and its version, from 1.
    state: (u64, Vec<u8>),
    /// Which sender is the present one.
    generation: u64,
    /// When it has to end at the latest, once there will be no more.
    ends: Option<Instant>,
    sent: Sent,
    has_failed: bool,
}

/// One spool, whoever sends from it.
#[derive(Debug)]
pub(super) struct Line {
    aside: PathBuf,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Line {
    pub(super) fn new(spool: Spool) -> Self {
        let (state, sent, aside) = ((0, Vec::new()), Sent::default(), spool.folder().join(ASIDE));
        let inner = Inner { spool, state, generation: 0, ends: None, sent, has_failed: false };
        Line { aside, inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says the first of several failures of the disk.
    fn tell(inner: &mut Inner, done: Result<(), super::spool::SpoolError>) {
        match done {
            Ok(()) => inner.has_failed = false,
            Err(error) if !inner.has_failed => {
                log::error!("{error}");
                inner.has_failed = true;
            }
            Err(_) => {}
        }
    }

    /// Another record. One that can't be kept is lost, and counted as refused.
    pub(super) fn put(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let appended = inner.spool.append(bytes);
        inner.sent.n_refused += u64::from(appended.is_err());
        Self::tell(&mut inner, appended);
        self.changed.notify_all();
    }

    /// A newer state; what was shown before doesn't matter any more.
    pub(super) fn show(&self, state: Vec<u8>) {
        let mut inner = self.lock();
        if inner.state.1 != state {
            inner.state = (inner.state.0 + 1, state);
            self.changed.notify_all();
        }
    }

    /// Makes what was put safe from a power cut, if that is due.
    pub(super) fn tick(&self) {
        let mut inner = self.lock();
        let synced = inner.spool.sync_if_due(Instant::now());
        if synced.is_err() {
            Self::tell(&mut inner, synced);
        }
    }

    /// Makes all safe from a power cut.
    pub(super) fn sync(&self) {
        let mut inner = self.lock();
        let synced = inner.spool.sync(Instant::now());
        Self::tell(&mut inner, synced);
    }

    /// The sender so far has to end: the number of the one after it.
    pub(super) fn replace_sender(&self) -> u64 {
        let mut inner = self.lock();
        inner.generation += 1;
        self.changed.notify_all();
        inner.generation
    }

    /// There will be no more: the sender has to end when nothing is left, or at `ends`.
    pub(super) fn close(&self, ends: Instant) {
        self.lock().ends = Some(ends);
        self.changed.notify_all();
    }

    /// What there is for sender `generation`, which knows version `known` of the state; waits for it, `timeout` at most.
    pub(super) fn next(&self, generation: u64, known: Option<u64>, timeout: Duration) -> Next {
        let asked = Instant::now();
        let mut inner = self.lock();
        loop {
            let is_late = inner.ends.is_some_and(|ends| Instant::now() >= ends);
            if inner.generation != generation || is_late {
                return Next::End;
            }
            if known.is_some_and(|known| known < inner.state.0) {
                return Next::State(inner.state.0, inner.state.1.clone());
            }
            match inner.spool.first() {
                Ok(Some((number, bytes))) => return Next::Record(number, bytes),
                Ok(None) if inner.ends.is_some() => return Next::End,
                Ok(None) => {}
                Err(error) => Self::tell(&mut inner, Err(error)),
            }
            let Some(left) = timeout.checked_sub(asked.elapsed()) else { return Next::Nothing };
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The state, where it is newer than version `known`.
    pub(super) fn state_after(&self, known: u64) -> Option<Vec<u8>> {
        let inner = self.lock();
        (inner.state.0 > known).then(|| inner.state.1.clone())
    }

    /// Record `number` has arrived.
    pub(super) fn acknowledge(&self, number: u64) {
        self.settle(number, |sent| sent.n_sent += 1);
    }

    /// The peer will never take record `number`, which is `event`, by `reason`: it is set aside.
    pub(super) fn refuse(&self, number: u64, event: &[u8], reason: &str) {
        log::warn!("{reason}: event set aside in {}", self.aside.display());
        let file = RotatingFile::open(&self.aside, ASIDE_BYTES, 2);
        if let Err(error) = file.and_then(|mut file| file.write_all(&[event, b"\n"].concat())) {
            log::error!("{}: {error}", self.aside.display());
        }
        self.settle(number, |sent| sent.n_refused += 1);
    }

    fn settle(&self, number: u64, count: impl FnOnce(&mut Sent)) {
        let mut inner = self.lock();
        count(&mut inner.sent);
        let done = inner.spool.acknowledge(number);
        Self::tell(&mut inner, done);
    }

    /// An attempt failed: waits before the next one. False when there is to be none.
    pub(super) fn wait_after_failure(&self, generation: u64, pause: Duration) -> bool {
        let asked = Instant::now();
        let mut inner = self.lock();
        inner.sent.n_failed += 1;
        loop {
            let now = Instant::now();
            if inner.generation != generation || inner.ends.is_some_and(|ends| now >= ends) {
                return false;
            }
            let Some(left) = pause.checked_sub(asked.elapsed()).filter(|left| !left.is_zero()) else {
                return true;
            };
            let left = inner.ends.map_or(left, |ends| left.min(ends - now));
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts of the spool and of its senders.
    pub(super) fn counts(&self) -> (Counts, Sent) {
        let inner = self.lock();
        (inner.spool.counts(), inner.sent)
    }
}
