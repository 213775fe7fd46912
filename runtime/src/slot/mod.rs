//! Models on a device: two slots, of which one runs and one may be tried, and the files that keep them.
//!
//! `state` is the machine, `record` what is kept of it, `store` puts it on the disk so that a power cut leaves the
//! old or the new, `folder` is the disk, `admission` says what may be installed, `trial` what may run, `receive` takes
//! a bundle over a connection that may break, `dropped` from a folder or a stick, `pull` from a server.

mod admission;
mod dropped;
mod error;
mod folder;
mod part;
mod pull;
mod receive;
mod record;
mod shadow;
mod start;
mod state;
mod status;
mod store;
mod trial;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize};

pub use self::admission::{Inadmissible, Known};
pub use self::dropped::{Found, Looker, Outcome};
pub use self::error::SlotError;
pub use self::folder::{Folder, TrialLock};
pub use self::pull::{ChannelSettings, HawkbitSettings, Puller};
pub use self::receive::{Ending, GREETING, PROTOCOL, Place, forget_part, receive};
pub use self::record::{Event, MAX_EVENTS, Record, What};
pub use self::shadow::{Alike, Comparison, Pair, Unlike};
pub use self::start::{Started, start, start_without_trial};
pub use self::state::{Boot, Held, Name, Refusal, Slot, Slots};
pub use self::store::{Files, Store};
pub use self::trial::{Fit, Unfit, try_out};

use crate::bundle::{PublicKey, Roots, TrustError};
use crate::config::Wrong;

/// Where slots are and what a device asks of a bundle; `[slots]` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The slots' folder; without one only the built-in bundle runs.
    pub folder: Option<PathBuf>,
    /// Ed25519 public keys that sign key lists.
    pub root_keys: Vec<PublicKey>,
    /// How many of them must sign a list.
    pub root_threshold: usize,
    /// Starts of a trial that may fail.
    pub trial_boots: u8,
    /// Largest bundle.
    pub max_bundle_bytes: u64,
    /// Most memory of a bundle's network: weights and activations.
    pub max_memory_bytes: u64,
    /// Most time of an inference, as a multiple of the built-in classifier's on the same device.
    pub max_time_ratio: f32,
    /// Looks at live faces that a candidate scores beside the model in use before it may take over.
    pub shadow_looks: u32,
    /// Most of these looks, as a share, at which one says Real and the other Fake.
    pub max_contrary: f32,
    /// Most that the candidate's mean score may be higher or lower.
    pub max_shift: f32,
    /// Folders from which `candor watch` takes bundles: one, or a list.
    #[serde(deserialize_with = "one_or_more")]
    pub drop: Vec<PathBuf>,
    /// Time between two looks into them, s.
    pub drop_interval_s: u32,
    /// A channel to follow.
    pub channel: Option<ChannelSettings>,
    /// A hawkBit server to ask.
    pub hawkbit: Option<HawkbitSettings>,
}

fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a folder or a list of folders")]
    enum Folders {
        One(PathBuf),
        More(Vec<PathBuf>),
    }
    Ok(match Folders::deserialize(from)? {
        Folders::One(folder) => vec![folder],
        Folders::More(folders) => folders,
    })
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            folder: None,
            root_keys: Vec::new(),
            root_threshold: 1,
            trial_boots: 3,
            max_bundle_bytes: 128 << 20,
            max_memory_bytes: 256 << 20,
            max_time_ratio: 25.0,
            shadow_looks: 300,
            max_contrary: 0.05,
            max_shift: 0.3,
            drop: Vec::new(),
            drop_interval_s: 30,
            channel: None,
            hawkbit: None,
        }
    }
}

impl Settings {
    /// The folder whose models may run: none where no key says whom they may come from.
    pub fn trusted_folder(&self) -> Option<&Path> {
        let folder = self.folder.as_deref()?;
        if self.root_keys.is_empty() {
            log::info!("slots: no root key is configured; the built-in model runs");
            return None;
        }
        Some(folder)
    }

    /// Checks where bundles are fetched from.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub(crate) fn check_sources(&self) -> Result<(), Wrong> {
        self.channel.as_ref().map_or(Ok(()), ChannelSettings::check)?;
        self.hawkbit.as_ref().map_or(Ok(()), HawkbitSettings::check)
    }

    /// The keys that are trusted from the start.
    ///
    /// # Errors
    /// [`TrustError::Roots`] where none is configured or the threshold can't be met.
    pub fn roots(&self) -> Result<Roots, TrustError> {
        Roots::new(self.root_keys.clone(), self.root_threshold)
    }
}

/// Seconds since 1970 by the system's clock; 0 for one that is before that.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
