//! Candor watches a video, follows every face and says for each whether it looks synthetic.

pub mod bundle;
pub mod camera;
pub mod classify;
pub mod config;
pub mod dashboard;
pub mod evidence;
mod files;
pub mod follow;
#[doc(hidden)]
pub mod fuzzing;
pub mod gallery;
pub mod memory;
pub mod outlet;
pub mod pipeline;
pub mod report;
pub mod secret;
pub mod slot;
pub mod source;
pub mod stopwatch;
pub mod track;
pub mod verdict;
pub mod watch;

pub use candor_engine as engine;
pub use candor_vision::{appearance, detect, frame, geom, preprocess, resample};
