//! Time as a thing that tests can turn.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock that never goes back, and that can be waited on.
pub trait Clock: Send {
    /// Nanoseconds since some fixed time.
    fn now_ns(&self) -> i64;

    /// Returns after `ns`.
    fn sleep_ns(&self, ns: i64);
}

/// `CLOCK_MONOTONIC`, by which cameras stamp their frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now_ns(&self) -> i64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }

    fn sleep_ns(&self, ns: i64) {
        std::thread::sleep(Duration::from_nanos(ns.max(0).unsigned_abs()));
    }
}

/// A clock that stands still at 0, where frames bring their own time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing;

impl Clock for Standing {
    fn now_ns(&self) -> i64 {
        0
    }

    /// Returns at once.
    fn sleep_ns(&self, _: i64) {}
}
