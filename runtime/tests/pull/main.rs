//! Bundles that a device fetches itself: from a channel and from a hawkBit server, with servers that break off, lie
//! and replay.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/authority.rs"]
mod authority;
mod belief;
mod channel;
mod hawkbit;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/release.rs"]
mod release;
mod server;
mod site;

use std::path::{Path, PathBuf};

use candor::bundle::Digest;
use candor::config::Config;
use candor::slot::{Folder, Outcome, Place, Puller, Record, Settings, Store};

use crate::release::{NOW_S, roots};

/// A device with one source.
pub(crate) struct Device {
    scratch: tempfile::TempDir,
    settings: Settings,
    puller: Puller,
    pub(crate) now_unix_s: fn() -> u64,
}

impl Device {
    /// `source` is the TOML of it, below `[slots]`.
    pub(crate) fn new(source: &str) -> Self {
        let settings = settings(source);
        let puller = Puller::of(&settings).unwrap().pop().unwrap();
        Device { scratch: tempfile::tempdir().unwrap(), settings, puller, now_unix_s: || NOW_S }
    }

    /// The program starts again, perhaps with other settings.
    pub(crate) fn restart(&mut self, source: &str) {
        self.settings = settings(source);
        self.puller = Puller::of(&self.settings).unwrap().pop().unwrap();
    }

    pub(crate) fn slots(&self) -> PathBuf {
        self.scratch.path().join("slots")
    }

    pub(crate) fn look(&mut self) -> Outcome {
        let (folder, roots) = (self.slots(), roots());
        let place =
            Place { folder: &folder, roots: &roots, limits: &self.settings, now_unix_s: self.now_unix_s };
        self.puller.look(&place)
    }

    /// Looks, and what came of it must say this.
    pub(crate) fn expect(&mut self, text: &str) {
        let found = self.look().text();
        assert!(found.contains(text), "expected {text}, found {found}");
    }

    pub(crate) fn store(&self) -> Store<Folder> {
        Store::open(Folder::lock(&self.slots()).unwrap()).unwrap()
    }

    pub(crate) fn record(&self) -> Record {
        self.store().record().clone()
    }

    /// The bundle that a start would run.
    pub(crate) fn next(&self) -> Option<Digest> {
        self.record().slots.next_boot().held().map(|held| held.digest)
    }

    /// A trial that goes well.
    pub(crate) fn confirm(&self) {
        let mut store = self.store();
        store.boot(3, NOW_S).unwrap();
        let digest = store.record().slots.next_boot().held().unwrap().digest;
        store.ran_well(digest, NOW_S).unwrap();
        store.confirm(&roots(), NOW_S).unwrap();
    }

    /// What of a transfer has come, in bytes.
    pub(crate) fn part_bytes(&self) -> Option<u64> {
        let entries = std::fs::read_dir(self.slots()).unwrap().flatten();
        let part =
            entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "part"));
        part.map(|path| path.metadata().unwrap().len())
    }

    pub(crate) fn memo(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.slots().join(name)).unwrap()).unwrap()
    }
}

fn settings(source: &str) -> Settings {
    let text = format!("[slots]\nmax_bundle_bytes = 2000000\n{source}");
    Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).slots
}

/// As TOML has it.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{path:?}")
}
