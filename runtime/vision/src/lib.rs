//! From a frame as it was decoded to the upright picture of it, the faces in that, their crops and looks.

pub mod appearance;
pub mod detect;
pub mod frame;
pub mod geom;
pub mod preprocess;
pub mod resample;
