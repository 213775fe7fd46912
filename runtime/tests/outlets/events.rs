//! Events, outlets and certificates for the tests.

use std::path::Path;
use std::time::{Duration, Instant};

use candor::camera::State;
use candor::outlet::{OutletError, Outlets, Settings};
use candor::verdict::{Reason, Verdict};
use candor::watch::event::{Model, Running, Stamp, What};
use candor::watch::hub::Hub;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long outlets may take for what is left.
pub(crate) const GOODBYE: Duration = Duration::from_secs(20);

/// Waits until `is_so`; where that never comes, the test fails with `what`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

/// A running hub with outlets.
pub(crate) struct Station {
    pub(crate) hub: Hub,
    pub(crate) outlets: Outlets,
    stamp: Stamp,
}

impl Station {
    pub(crate) fn start(settings: &Settings, leds: &Path) -> Result<Self, OutletError> {
        // Waits rather than loses: what is lost here would be the test's fault.
        let mut hub = Hub::new(true);
        let model = Model { id: "m".into(), version: "1".into(), status: "trained" };
        let outlets = Outlets::start(hub.subscribe(), settings, model, leds)?;
        Ok(Station { hub, outlets, stamp: Stamp { file: "cam".into(), start_ns: 0 } })
    }

    pub(crate) fn new(settings: &Settings) -> Self {
        Station::start(settings, Path::new("/sys/class/leds")).unwrap()
    }

    pub(crate) fn publish(&self, what: What) {
        self.hub.publish(self.stamp.event(0, what));
    }

    /// Publishes events that say `numbers`, as faces that appear.
    pub(crate) fn appear(&self, numbers: std::ops::Range<u32>) {
        numbers.for_each(|track_id| self.publish(appeared(track_id)));
    }

    /// Ends in good order.
    pub(crate) fn end(self, time: Duration) {
        drop(self.hub);
        self.outlets.end(time);
    }
}

pub(crate) fn appeared(track_id: u32) -> What {
    What::FaceAppeared { track_id, bbox: [0.0; 4] }
}

pub(crate) fn running(track_id: u32, before: Option<Verdict>, verdict: Verdict) -> What {
    What::RunningVerdict {
        track_id,
        before,
        running: Running { verdict, mean_score: Some(0.9), n_scores: 5 },
        since_appeared_s: 1.0,
        is_full: false,
        reason: Reason::NoNumber,
    }
}

pub(crate) fn over(track_id: u32, verdict: Verdict) -> What {
    What::Verdict {
        track_id,
        verdict,
        mean_score: Some(0.9),
        n_scores: 1,
        scores: vec![Some(0.9)],
        start_s: 0.0,
        end_s: 1.0,
        bbox: [0.0; 4],
        reason: Reason::NoNumber,
    }
}

pub(crate) fn state(state: State) -> What {
    What::State { state, reason: "so".into() }
}

/// Settings from TOML, checked, with a spool in `folder`.
pub(crate) fn settings(folder: &Path, text: &str) -> Settings {
    let text = format!("[outlets]\nspool = {:?}\ndevice_id = \"door\"\n{text}", folder.join("spool"));
    candor::config::Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).outlets
}
