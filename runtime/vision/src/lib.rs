//! What sees every pixel: a frame as it was decoded, the upright picture of it, the faces in that, their crops
//! and looks.

pub mod appearance;
pub mod detect;
pub mod frame;
pub mod geom;
pub mod preprocess;
pub mod resample;
