//! From a dataset and a recipe to weights, by the source paper's recipe: every run can be repeated and resumed.

pub mod checkpoint;
pub mod command;
pub mod config;
pub mod console;
pub mod dataset;
pub mod device;
pub mod ema;
pub mod events;
pub mod folder;
pub mod learner;
pub mod loader;
pub mod lr_find;
pub mod metrics;
pub mod optimizer;
pub mod plot;
pub mod sampler;
pub mod schedule;
pub mod setup;
mod speed;
pub mod training;
