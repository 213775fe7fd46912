//! Predictions in, an honest report out: figures with intervals, a calibration, baselines, one HTML page.

pub mod baseline;
mod beside;
pub mod bootstrap;
pub mod breakdown;
pub mod calibrate;
pub mod calibration_file;
pub mod command;
pub mod comparison;
pub mod evaluation;
pub mod facts;
pub mod figure;
pub mod level;
pub mod linear;
pub mod metrics;
pub mod network;
pub mod prediction;
pub mod report;
pub mod roc;
pub mod selection;
