//! Labelled videos in, a classifier that candor runs and an honest report out.

pub mod environment;
pub mod export;
pub mod evaluate;
pub mod augment;
pub mod landmarks;
pub mod manifest;
pub mod model;
pub mod plot;
pub mod train;
