//! The classifiers: one description for each network, which training runs through libtorch and `export` writes as ONNX.

pub mod checkpoint;
pub mod command;
pub mod description;
mod input;
mod network;
mod spec;
pub mod weights;

pub use input::{fitted, input};
pub use network::{Network, NormMode};
pub use spec::{Backbone, Padding, Spec, SpecError};
