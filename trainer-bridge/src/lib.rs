//! Labelled videos in, a classifier that candor runs and an honest report out.

pub mod augment;
pub mod landmarks;
pub mod manifest;
pub mod model;
pub mod train;
