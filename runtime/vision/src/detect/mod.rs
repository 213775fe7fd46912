//! Faces in one picture: MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multitask
//! Cascaded Convolutional Networks", 2016), a cascade of three networks over a pyramid.
//!
//! P-Net looks at every 12 px window of every pyramid level, R-Net and O-Net look again at what is
//! left at 24 and 48 px and move the boxes; O-Net also gives five landmarks.

mod cascade;
mod cells;
mod mosaic;
mod suppress;

pub use cascade::Mtcnn;

use serde::{Deserialize, Serialize};

/// Most faces that one picture gives; the most confident ones are kept.
pub const MAX_FACES: usize = 32;

/// How to look for faces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Smallest face that is looked for, the side of its box; at least [`Settings::LEAST_FACE_PX`].
    pub min_face_px: f32,
    /// Size of a pyramid level over the one before; 0.5..=0.9. Nearer to 1 finds more and costs more.
    pub pyramid_factor: f32,
    /// Least P(face) that P-Net, R-Net and O-Net let through; each 0..1.
    pub thresholds: [f32; 3],
    /// A face is reported when O-Net's P(face) is above this; 0..1.
    pub keep_above: f32,
}

impl Settings {
    /// P-Net's window: smaller faces can't be seen.
    pub const LEAST_FACE_PX: f32 = 12.0;
}

impl Default for Settings {
    fn default() -> Self {
        Settings { min_face_px: 40.0, pyramid_factor: 0.709, thresholds: [0.6, 0.7, 0.7], keep_above: 0.90 }
    }
}
