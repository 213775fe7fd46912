//! CPU time per stage.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The steps of the data flow that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading and decoding.
    Source,
    /// Y'CbCr to upright RGB.
    Convert,
    /// Finding faces.
    Detect,
    /// Cut detection, looks and identity.
    Track,
    /// Cutting out crops.
    Crop,
    /// Scoring crops.
    Classify,
    /// Drawing and writing.
    Report,
}

impl Stage {
    /// All, in the order of the data flow.
    pub const ALL: [Stage; 7] = [
        Stage::Source,
        Stage::Convert,
        Stage::Detect,
        Stage::Track,
        Stage::Crop,
        Stage::Classify,
        Stage::Report,
    ];

    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Source => "source",
            Stage::Convert => "convert",
            Stage::Detect => "detect",
            Stage::Track => "track",
            Stage::Crop => "crop",
            Stage::Classify => "classify",
            Stage::Report => "report",
        }
    }
}

/// CPU time of this thread, by stage.
#[derive(Clone, Debug, Default)]
pub struct Stopwatch {
    spent: [Duration; Stage::ALL.len()],
    n_runs: [u64; Stage::ALL.len()],
}

impl Stopwatch {
    /// Runs `work` and counts its CPU time to `stage`.
    pub fn time<T>(&mut self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let start = thread_cpu_time();
        let done = work();
        self.spent[stage as usize] += thread_cpu_time().saturating_sub(start);
        self.n_runs[stage as usize] += 1;
        done
    }

    /// Counts what `other` counts as well.
    pub fn add(&mut self, other: &Stopwatch) {
        for stage in Stage::ALL {
            self.spent[stage as usize] += other.spent[stage as usize];
            self.n_runs[stage as usize] += other.n_runs[stage as usize];
        }
    }

    /// What `stage` took, and in how many runs.
    pub fn spent(&self, stage: Stage) -> (Duration, u64) {
        (self.spent[stage as usize], self.n_runs[stage as usize])
    }
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
