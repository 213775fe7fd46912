//! What can be set about watching a live source.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::camera::Encoding;
use crate::dashboard;

/// The section `[watch]` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The camera; without one the first that captures.
    pub device: Option<PathBuf>,
    /// Width to ask for.
    pub width_px: u32,
    /// Height to ask for.
    pub height_px: u32,
    /// Frames a second to ask for.
    pub rate_hz: u32,
    /// Only this encoding; without one the cheapest that is fast enough.
    pub encoding: Option<Encoding>,
    /// Time without a frame after which the driver counts as stalled.
    pub stall_ms: u32,
    /// Time for which all frames are the same after which the picture counts as frozen.
    pub frozen_ms: u32,
    /// Time between two searches for faces while there is enough of the processor.
    pub interval_ms: u32,
    /// The same at most, however little there is.
    pub max_interval_ms: u32,
    /// Time between two scores of a face that has its [`WINDOW`](crate::verdict::WINDOW) of them.
    pub score_interval_ms: u32,
    /// Time without a frame after which all faces are over.
    pub away_ms: u32,
    /// Share of all cores that may be used; 0..=1.
    pub cpu_share: f32,
    /// Temperature of the hottest zone above which less is done, degrees Celsius.
    pub max_temperature_c: f32,
    /// Time between two lines about the program's health.
    pub health_s: u32,
    /// A file that gets the events too.
    pub log: Option<PathBuf>,
    /// Its size at which another is begun.
    pub log_max_bytes: u64,
    /// How many of them are kept.
    pub log_files: u32,
    /// Where a run that ends in a fault leaves why, and its last events.
    pub faults: Option<PathBuf>,
    /// Controls of the camera to set, by name: `brightness = 128`.
    pub controls: BTreeMap<String, i32>,
    /// The page that shows it.
    pub dashboard: dashboard::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            device: None,
            width_px: 1280,
            height_px: 720,
            rate_hz: 30,
            encoding: None,
            stall_ms: 1500,
            frozen_ms: 1500,
            interval_ms: 200,
            max_interval_ms: 2000,
            score_interval_ms: 1000,
            away_ms: 5000,
            cpu_share: 0.5,
            max_temperature_c: 80.0,
            health_s: 30,
            log: None,
            log_max_bytes: 16 << 20,
            log_files: 4,
            faults: None,
            controls: BTreeMap::new(),
            dashboard: dashboard::Settings::default(),
        }
    }
}
