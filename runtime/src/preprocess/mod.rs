//! From a captured frame to what the models see. The same code trains and serves.

pub mod appearance;
pub mod scene;
