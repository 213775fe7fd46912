//! Candor watches a video, follows every face and says for each whether it looks synthetic.

pub mod appearance;
pub mod bundle;
pub mod camera;
pub mod classify;
pub mod config;
pub mod dashboard;
pub mod detect;
pub mod evidence;
mod files;
pub mod follow;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod gallery;
pub mod geom;
pub mod memory;
pub mod outlet;
pub mod pipeline;
pub mod preprocess;
pub mod report;
pub mod resample;
pub mod secret;
pub mod slot;
pub mod source;
pub mod stopwatch;
pub mod track;
pub mod verdict;
pub mod watch;

pub use candor_engine as engine;
