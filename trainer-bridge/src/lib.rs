//! Labelled videos in, a classifier that candor runs and an honest report out.

pub mod export;
pub mod manifest;
pub mod model;
pub mod quantize;
