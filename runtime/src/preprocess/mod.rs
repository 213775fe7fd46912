//! Pixels between the source and the networks: colour, crops. Training and serving share it.

pub mod color;
pub mod crop;
