//! Candor watches a video, follows every face and says for each whether it looks synthetic.

pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod geom;
pub mod preprocess;
pub mod source;
