//! How much of each augmentation.

use serde::{Deserialize, Serialize};

/// An augmentation that is applied with a probability, its strength drawn from a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// Probability, 0..=1.
    pub p: f64,
    /// Least strength.
    pub least: f32,
    /// Most strength.
    pub most: f32,
}

/// The augmentations of a training. The default is the source paper's set; see the README for what the paper leaves open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the window lies in the scaled picture, for width and height on their own: 0 at one edge, 1 at the other.
    pub crop: Chance,
    /// Probability of a flip left-right.
    pub flip_p: f64,
    /// Turn, degrees.
    pub rotate_degrees: Chance,
    /// Width and height of the picture in windows, each on its own.
    pub scale: Chance,
    /// What is added in logit space is the logit of this; .5 changes nothing.
    pub brightness: Chance,
    /// The factor in logit space, even in its logarithm; 1 changes nothing.
    pub contrast: Chance,
    /// Standard deviation of a Gaussian, px of a picture of [`REFERENCE_PX`].
    pub blur_px: Chance,
    /// JPEG's quality, 1..=100.
    pub jpeg_quality: Chance,
    /// The radius of a dilation of the Face Feature Mask, px of a picture of [`REFERENCE_PX`].
    pub mask_radius_px: Chance,
    /// Most dilations of the mask, at least 1.
    pub mask_most_dilations: u8,
    /// What a video call does to a face; not the paper's, and off by default.
    pub call: CallSettings,
}

/// The side of a picture that distances in px are for, the paper's; they grow and shrink with the picture.
pub const REFERENCE_PX: f32 = 300.0;

/// What a video call does to a face: shrinking, H.264 over a few moving frames, growing again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallSettings {
    /// The side that the face is sent at, in parts of its own.
    pub rescale: Chance,
    /// The constant rate factor of x264 that the loss is like.
    pub crf: Chance,
    /// Most frames of the clip whose last one is kept; 1 is an intra picture alone.
    pub most_frames: u8,
    /// Most motion from frame to frame, px of the picture sent.
    pub most_motion_px: f32,
}

impl Default for CallSettings {
    fn default() -> Self {
        CallSettings {
            rescale: Chance { p: 0.0, least: 0.4, most: 1.0 },
            crf: Chance { p: 0.0, least: 23.0, most: 40.0 },
            most_frames: 4,
            most_motion_px: 1.5,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings::paper()
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("augment.{name}: expected {expected}, found {found}")]
pub struct SettingsError {
    /// Which.
    pub name: &'static str,
    /// What it should be.
    pub expected: &'static str,
    /// What it is.
    pub found: String,
}

impl Settings {
    /// The source paper's nine, and nothing else.
    pub fn paper() -> Self {
        let chance = |p, least, most| Chance { p, least, most };
        Settings {
            crop: chance(1.0, 0.0, 1.0),
            flip_p: 0.5,
            rotate_degrees: chance(0.75, -10.0, 10.0),
            scale: chance(1.0, 0.8, 1.2),
            brightness: chance(0.75, 0.4, 0.6),
            contrast: chance(0.75, 0.8, 1.25),
            blur_px: chance(0.5, 0.0, 3.0),
            jpeg_quality: chance(0.35, 65.0, 100.0),
            mask_radius_px: chance(0.33, 10.0, 60.0),
            mask_most_dilations: 3,
            call: CallSettings::default(),
        }
    }

    /// The paper's with what a video call does, for half of all pictures.
    pub fn call() -> Self {
        let mut settings = Settings::paper();
        settings.blur_px = Chance { p: 0.25, ..settings.blur_px };
        settings.jpeg_quality = Chance { least: 40.0, ..settings.jpeg_quality };
        settings.call.rescale.p = 0.5;
        settings.call.crf.p = 0.5;
        settings
    }

    /// Nothing but resizing.
    pub fn none() -> Self {
        let mut settings = Settings { flip_p: 0.0, ..Settings::paper() };
        for chance in [
            &mut settings.crop,
            &mut settings.rotate_degrees,
            &mut settings.scale,
            &mut settings.brightness,
            &mut settings.contrast,
            &mut settings.blur_px,
            &mut settings.jpeg_quality,
            &mut settings.mask_radius_px,
        ] {
            chance.p = 0.0;
        }
        settings
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`SettingsError`] for the first that is out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fault = |name, expected, found: String| Err(SettingsError { name, expected, found });
        let ranges = [
            ("crop", &self.crop, 0.0, 1.0, "least and most within 0..=1"),
            ("rotate_degrees", &self.rotate_degrees, -180.0, 180.0, "least and most within -180..=180"),
            ("scale", &self.scale, 0.25, 4.0, "least and most within .25..=4"),
            ("brightness", &self.brightness, 0.01, 0.99, "least and most within .01..=.99"),
            ("contrast", &self.contrast, 0.1, 10.0, "least and most within .1..=10"),
            ("blur_px", &self.blur_px, 0.0, 30.0, "least and most within 0..=30"),
            ("jpeg_quality", &self.jpeg_quality, 1.0, 100.0, "least and most within 1..=100"),
            ("mask_radius_px", &self.mask_radius_px, 0.0, 300.0, "least and most within 0..=300"),
            ("call.rescale", &self.call.rescale, 0.1, 1.0, "least and most within .1..=1"),
            ("call.crf", &self.call.crf, 10.0, 51.0, "least and most within 10..=51"),
        ];
        for (name, chance, least, most, expected) in ranges {
            if !(0.0..=1.0).contains(&chance.p) {
                return fault(name, "p within 0..=1", chance.p.to_string());
            }
            let is_within = |v: f32| (least..=most).contains(&v);
            if !is_within(chance.least) || !is_within(chance.most) || chance.least > chance.most {
                return fault(name, expected, format!("{}..={}", chance.least, chance.most));
            }
        }
        if !(0.0..=1.0).contains(&self.flip_p) {
            return fault("flip_p", "0..=1", self.flip_p.to_string());
        }
        for (name, n) in
            [("mask_most_dilations", self.mask_most_dilations), ("call.most_frames", self.call.most_frames)]
        {
            if !(1..=16).contains(&n) {
                return fault(name, "1..=16", n.to_string());
            }
        }
        if !(0.0..=16.0).contains(&self.call.most_motion_px) {
            return fault("call.most_motion_px", "0..=16", self.call.most_motion_px.to_string());
        }
        Ok(())
    }
}
