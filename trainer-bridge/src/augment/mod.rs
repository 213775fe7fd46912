//! Pictures made different at random: the source paper's nine augmentations, what a video call does, and fakes made of
//! real faces ([`pseudo`]). All that is random comes from the generator that is passed in.

pub mod call;
pub mod command;
pub mod geometry;
pub mod mask;
pub mod pseudo;
pub mod region;
mod settings;
mod sheet;
pub mod tone;

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub use self::settings::{CallSettings, Chance, REFERENCE_PX, Settings, SettingsError};

use self::call::Call;
use self::geometry::Geometry;
use self::mask::Shown;
use crate::landmarks::Landmarks;

/// What one picture will go through; [`Augmenter::draw`] chooses it, so that two pictures can go through the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Crop, flip, rotation and scale.
    pub geometry: Geometry,
    /// Added in logit space is the logit of this; .5 changes nothing.
    pub brightness: f32,
    /// The factor in logit space.
    pub contrast: f32,
    /// Standard deviation of the blur, px of a picture of [`REFERENCE_PX`]; 0 for none.
    pub blur_px: f32,
    /// What a video call does.
    pub call: Call,
    /// JPEG's quality.
    pub jpeg_quality: Option<u8>,
    /// What the mask shows, radius (px of a picture of [`REFERENCE_PX`]) and number of its dilations.
    pub mask: Option<(Shown, f32, u8)>,
}

/// Applies augmentations.
#[derive(Clone, Debug)]
pub struct Augmenter {
    settings: Settings,
}

impl Augmenter {
    /// With these settings.
    ///
    /// # Errors
    /// [`SettingsError`] for a number out of its range.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Augmenter { settings: settings.clone() })
    }

    /// `picture` augmented, at `size_px` x `size_px`. Without landmarks there is no Face Feature Mask. The same state of
    /// `rng` gives the same bytes.
    pub fn apply(
        &self,
        picture: &RgbImage,
        landmarks: Option<&Landmarks>,
        size_px: u32,
        rng: &mut ChaCha8Rng,
    ) -> RgbImage {
        self.draw(rng).apply(picture, landmarks, size_px)
    }

    /// Chooses what a picture goes through.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Plan {
        let settings = &self.settings;
        let mut geometry = Geometry::NONE;
        if rng.random_bool(settings.crop.p) {
            geometry.place = [0, 1].map(|_| between(&settings.crop, rng));
        }
        geometry.flip = rng.random_bool(settings.flip_p);
        geometry.turn_degrees = drawn(&settings.rotate_degrees, rng).unwrap_or(0.0);
        if rng.random_bool(settings.scale.p) {
            geometry.scale = [0, 1].map(|_| between(&settings.scale, rng));
        }
        let logarithms =
            |chance: &Chance| Chance { least: chance.least.ln(), most: chance.most.ln(), ..*chance };
        Plan {
            geometry,
            brightness: drawn(&settings.brightness, rng).unwrap_or(0.5),
            contrast: drawn(&logarithms(&settings.contrast), rng).map_or(1.0, f32::exp),
            blur_px: drawn(&settings.blur_px, rng).unwrap_or(0.0),
            call: Call::draw(&settings.call, rng),
            jpeg_quality: drawn(&settings.jpeg_quality, rng).map(to_byte),
            mask: drawn(&settings.mask_radius_px, rng).map(|radius_px| {
                (Shown::draw(rng), radius_px, rng.random_range(1..=settings.mask_most_dilations))
            }),
        }
    }
}

impl Plan {
    /// `picture` after all of this, in the order of the fields.
    pub fn apply(&self, picture: &RgbImage, landmarks: Option<&Landmarks>, size_px: u32) -> RgbImage {
        let unit = size_px as f32 / REFERENCE_PX;
        let mut landmarks = landmarks.copied();
        let points = landmarks.as_mut().map_or(&mut [][..], |l| &mut l[..]);
        let mut picture = self.geometry.apply(picture, points, size_px);
        if (self.brightness, self.contrast) != (0.5, 1.0) {
            tone::light(&mut picture, self.brightness, self.contrast);
        }
        tone::blur(&mut picture, self.blur_px * unit);
        self.call.apply(&mut picture);
        if let Some(quality) = self.jpeg_quality {
            tone::jpeg(&mut picture, quality);
        }
        if let (Some((shown, radius_px, n_dilations)), Some(landmarks)) = (self.mask, &landmarks) {
            mask::blacken(&mut picture, &shown.plane(landmarks, size_px, radius_px * unit, n_dilations));
        }
        picture
    }
}

fn drawn(chance: &Chance, rng: &mut ChaCha8Rng) -> Option<f32> {
    rng.random_bool(chance.p).then(|| between(chance, rng))
}

fn between(chance: &Chance, rng: &mut ChaCha8Rng) -> f32 {
    rng.random_range(chance.least..=chance.most)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast to a byte saturates"
)]
fn to_byte(value: f32) -> u8 {
    value.round() as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast to an integer saturates"
)]
fn to_side(value: f32) -> u32 {
    value.round().max(1.0) as u32
}
