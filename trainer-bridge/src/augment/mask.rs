//! Face Feature Mask: shows a part of the face and blackens the rest, so that no single feature decides.

use std::ops::Range;

use image::RgbImage;
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use super::region::{Plane, dilate, fill, hull};
use crate::landmarks::{Landmarks, N_LANDMARKS};

/// The landmarks of jaw, brows, nose, eyes and mouth.
pub const FEATURES: [Range<usize>; 7] = [0..17, 17..22, 22..27, 27..36, 36..42, 42..48, 48..68];

/// Which part of the face is shown, before dilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The convex hull of all landmarks.
    Whole,
    /// The convex hulls of three of [`FEATURES`].
    Features([usize; 3]),
    /// The convex hull of the landmarks from the first to the one before the last.
    Interval(usize, usize),
}

impl Shown {
    /// One of the three kinds with equal chance; an interval starts in the first half and ends in the second.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..3) {
            0 => Shown::Whole,
            1 => {
                let all: [usize; FEATURES.len()] = std::array::from_fn(|k| k);
                let mut chosen = all.choose_multiple(rng, 3).copied();
                Shown::Features(std::array::from_fn(|k| chosen.next().unwrap_or(k)))
            }
            _ => Shown::Interval(
                rng.random_range(0..N_LANDMARKS / 2),
                rng.random_range(N_LANDMARKS / 2..N_LANDMARKS),
            ),
        }
    }

    /// 1 where the face is shown, 0 elsewhere: the hulls, then `n_dilations` by a disc of `radius_px`.
    pub fn plane(self, landmarks: &Landmarks, size_px: u32, radius_px: f32, n_dilations: u8) -> Plane {
        let side = size_px as usize;
        let mut plane = Plane::filled(side, side, 0.0);
        match self {
            Shown::Whole => fill(&mut plane, &hull(landmarks), 1.0),
            Shown::Features(chosen) => {
                for feature in chosen {
                    fill(&mut plane, &hull(&landmarks[FEATURES[feature].clone()]), 1.0);
                }
            }
            Shown::Interval(first, last) => fill(&mut plane, &hull(&landmarks[first..last]), 1.0),
        }
        for _ in 0..n_dilations {
            dilate(&mut plane, radius_px);
        }
        plane
    }
}

/// Blackens the pixels of `picture` where `plane`, of the same size, is 0.
pub fn blacken(picture: &mut RgbImage, plane: &Plane) {
    for (pixel, _) in picture.pixels_mut().zip(&plane.values).filter(|(_, shown)| **shown == 0.0) {
        pixel.0 = [0; 3];
    }
}
