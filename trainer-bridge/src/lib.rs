//! Labelled videos in, a classifier that candor runs and an honest report out.

pub mod augment;
pub mod environment;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod files;
pub mod flash;
pub mod ingest;
pub mod landmarks;
pub mod manifest;
pub mod model;
pub mod pack;
pub mod parity;
pub mod plot;
pub mod probe;
pub mod quantize;
pub mod review;
pub mod table;
pub mod train;
