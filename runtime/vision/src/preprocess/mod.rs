//! Pixels between the source and the networks: colour, crops. Training and serving share it.

pub mod appearance;
pub mod color;
pub mod crop;
pub mod scene;
mod ycbcr;
