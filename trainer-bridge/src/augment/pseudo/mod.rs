//! Fakes made of real faces: a face blended with a changed copy of itself (Shiohara and Yamasaki, "Detecting Deepfakes
//! with Self-Blended Images", 2022), and the face of one person put over another's by landmarks.
//!
//! A fake and its real are one picture outside of the mask, byte for byte, so that neither can be told by what a camera
//! or a codec did before; whatever comes later (a [`super::Plan`]) is to be drawn from the same distribution for both.

mod blend;
mod color;
mod region;
mod shape;

use image::RgbImage;
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

pub use self::blend::{membrane, mixed, seamless};
pub use self::color::{Jitter, Lab, match_colors, to_lab};
pub use self::region::{Outline, soft_mask};
pub use self::shape::{Similarity, Spline, unlikeness};

use super::geometry::{Affine, warp};
use super::region::Plane;
use crate::landmarks::Landmarks;

/// A real face.
#[derive(Clone, Copy, Debug)]
pub struct Face<'a> {
    /// A crop with margin.
    pub picture: &'a RgbImage,
    /// In px of it.
    pub landmarks: &'a Landmarks,
}

/// A real face and a fake made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pseudo {
    /// What the fake is where the mask is 0.
    pub real: RgbImage,
    /// The fake.
    pub fake: RgbImage,
    /// How much of each pixel is the fake's, 0..=1.
    pub mask: Plane,
}

/// How far the blended-in copy may be from the original.
const MOST_SHIFT: f32 = 0.025;
const MOST_GROWTH: f32 = 0.05;
const MOST_TURN_DEGREES: f32 = 1.5;
/// A fake that differs by this much of 255 in this part of its pixels can be told from its real.
const LEAST_CHANGE: u8 = 8;
const LEAST_CHANGED: f32 = 0.01;
const MOST_TRIES: usize = 8;
/// How much of the blended-in face shows; whole faces most of the time (the paper's ratios).
const RATIOS: [f32; 6] = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0];

/// `face` with a changed copy of itself blended in. Either the copy or what it is blended into has its colours and
/// sharpness changed; the copy is moved and resized a little; the mask is a bent part of the face with soft edges.
pub fn self_blended(face: Face<'_>, rng: &mut ChaCha8Rng) -> Pseudo {
    until_seen(rng, |rng| blended(face, rng))
}

/// Tries again where nothing would be seen: a fake that is its real would teach that nothing means anything.
fn until_seen(rng: &mut ChaCha8Rng, mut make: impl FnMut(&mut ChaCha8Rng) -> Pseudo) -> Pseudo {
    let mut pseudo = make(rng);
    for _ in 1..MOST_TRIES {
        let pairs = pseudo.real.pixels().zip(pseudo.fake.pixels());
        let is_changed = |(a, b): &(&image::Rgb<u8>, &image::Rgb<u8>)| {
            a.0.iter().zip(b.0).any(|(a, b)| a.abs_diff(b) >= LEAST_CHANGE)
        };
        let n_changed = pairs.filter(is_changed).count();
        if n_changed as f32 >= LEAST_CHANGED * pseudo.mask.values.len() as f32 {
            break;
        }
        pseudo = make(rng);
    }
    pseudo
}

fn blended(face: Face<'_>, rng: &mut ChaCha8Rng) -> Pseudo {
    let jitter = Jitter::draw(rng);
    let changed = jitter.apply(face.picture);
    let (source, target) =
        if rng.random_bool(0.5) { (changed, face.picture.clone()) } else { (face.picture.clone(), changed) };
    let moved = nudge(face.landmarks, target.width().max(target.height()) as f32, rng);
    let source = warp(&source, target.dimensions(), |x, y| moved.at([x, y]));
    let mut mask = soft_mask(Outline::draw(rng), face.landmarks, target.dimensions(), rng);
    let ratio = *RATIOS.choose(rng).unwrap_or(&1.0);
    mask.values.iter_mut().for_each(|value| *value *= ratio);
    let fake = mixed(&source, &target, &mask);
    Pseudo { real: target, fake, mask }
}

/// From a point of the picture to the point of the copy that lands there.
fn nudge(landmarks: &Landmarks, side: f32, rng: &mut ChaCha8Rng) -> Affine {
    let centre = shape::centre(landmarks);
    let most = MOST_SHIFT * side;
    let shift = [0, 1].map(|_| rng.random_range(-most..=most));
    let scale = [0, 1].map(|_| rng.random_range(1.0 - MOST_GROWTH..=1.0 + MOST_GROWTH));
    let turn = rng.random_range(-MOST_TURN_DEGREES..=MOST_TURN_DEGREES).to_radians();
    let (sin, cos) = turn.sin_cos();
    let rows = [[cos * scale[0], -sin * scale[1]], [sin * scale[0], cos * scale[1]]];
    Affine([0, 1].map(|k| {
        let [a, b] = rows[k];
        [a, b, centre[k] + shift[k] - a * centre[0] - b * centre[1]]
    }))
}

/// The donor's face over the target's. It is bent onto the target's landmarks, made as soft or as coarse as a generator's
/// output, given the target's colours and blended in, by its soft mask or by its gradients.
pub fn swapped(target: Face<'_>, donor: Face<'_>, rng: &mut ChaCha8Rng) -> Pseudo {
    until_seen(rng, |rng| swap(target, donor, rng))
}

fn swap(target: Face<'_>, donor: Face<'_>, rng: &mut ChaCha8Rng) -> Pseudo {
    let size_px = target.picture.dimensions();
    let to_donor = Similarity::fit(target.landmarks, donor.landmarks);
    // How much of the donor's own shape goes: a swap of identity leaves a little of it.
    let bend = rng.random_range(0.6..=1.0_f32);
    let mut aims = *donor.landmarks;
    for (aim, from) in aims.iter_mut().zip(target.landmarks) {
        let rigid = to_donor.at(*from);
        *aim = [0, 1].map(|k| rigid[k] + bend * (aim[k] - rigid[k]));
    }
    let spline = Spline::fit(target.landmarks, &aims, &to_donor, size_px);
    let mut face = warp(donor.picture, size_px, |x, y| spline.at([x, y]));

    let outline = Outline::draw_for_swap(rng);
    let mut mask = soft_mask(outline, target.landmarks, size_px, rng);
    let is_seamless = rng.random_bool(0.4);
    let strength = if is_seamless { rng.random_range(0.6..=1.0) } else { rng.random_range(0.75..=1.0) };
    match_colors(&mut face, target.picture, &mask, strength);
    Jitter::draw_for_swap(rng).apply_to(&mut face);
    if is_seamless {
        face = seamless(&face, target.picture, &mask);
    }
    let ratio = if rng.random_bool(0.8) { 1.0 } else { rng.random_range(0.6..1.0) };
    mask.values.iter_mut().for_each(|value| *value *= ratio);
    Pseudo { fake: mixed(&face, target.picture, &mask), real: target.picture.clone(), mask }
}
