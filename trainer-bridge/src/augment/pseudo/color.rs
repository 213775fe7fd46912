//! Colours and sharpness: matched to another picture, or changed at random.

use fast_image_resize::FilterType;
use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::call::{filters, resized};
use super::super::region::Plane;
use super::super::tone;

/// CIE L*a*b*, D65.
pub type Lab = [f32; 3];

const WHITE: [f32; 3] = [0.950_47, 1.0, 1.088_83];
const TO_XYZ: [[f32; 3]; 3] =
    [[0.412_456, 0.357_576, 0.180_437], [0.212_673, 0.715_152, 0.072_175], [0.019_334, 0.119_192, 0.950_304]];
const TO_RGB: [[f32; 3]; 3] = [
    [3.240_454, -1.537_139, -0.498_531],
    [-0.969_266, 1.876_011, 0.041_556],
    [0.055_643, -0.204_026, 1.057_225],
];

/// sRGB bytes as L*a*b*.
pub fn to_lab(rgb: [u8; 3]) -> Lab {
    let linear = rgb.map(|byte| {
        let v = f32::from(byte) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let [x, y, z] = [0, 1, 2].map(|k| {
        let t = dot(TO_XYZ[k], linear) / WHITE[k];
        if t > 216.0 / 24_389.0 { t.cbrt() } else { (24_389.0 / 27.0 * t + 16.0) / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn to_rgb([l, a, b]: Lab) -> [u8; 3] {
    let y = (l + 16.0) / 116.0;
    let xyz = [y + a / 500.0, y, y - b / 200.0];
    let xyz: [f32; 3] = std::array::from_fn(|k| {
        let t = xyz[k];
        let cube = t * t * t;
        WHITE[k] * if cube > 216.0 / 24_389.0 { cube } else { (116.0 * t - 16.0) * 27.0 / 24_389.0 }
    });
    [0, 1, 2].map(|k| {
        let v = dot(TO_RGB[k], xyz).clamp(0.0, 1.0);
        let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        to_byte(v * 255.0)
    })
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast to a byte saturates"
)]
pub(super) fn to_byte(value: f32) -> u8 {
    value.round() as u8
}

/// Gives `picture`, where `mask` isn't 0, the mean and spread of L*, a* and b* that `like` has there, by `strength`,
/// 0..=1. Reinhard et al., "Color Transfer between Images" (2001), in CIE's L*a*b*.
pub fn match_colors(picture: &mut RgbImage, like: &RgbImage, mask: &Plane, strength: f32) {
    let statistics = |picture: &RgbImage| {
        let (mut total, mut sums, mut squares) = (0.0_f64, [0.0_f64; 3], [0.0_f64; 3]);
        for (pixel, weight) in picture.pixels().zip(&mask.values).filter(|(_, weight)| **weight > 0.5) {
            let weight = f64::from(*weight);
            total += weight;
            for (k, v) in to_lab(pixel.0).into_iter().enumerate() {
                sums[k] += weight * f64::from(v);
                squares[k] += weight * f64::from(v).powi(2);
            }
        }
        [0, 1, 2].map(|k| {
            let mean = sums[k] / total;
            (mean, (squares[k] / total - mean * mean).max(0.0).sqrt())
        })
    };
    if !mask.values.iter().any(|weight| *weight > 0.5) {
        return;
    }
    let (own, other) = (statistics(picture), statistics(like));
    // A spread that is next to nothing would turn noise into blotches.
    let line: [(f32, f32); 3] = std::array::from_fn(|k| {
        let ((mean, spread), (aim, aim_spread)) = (own[k], other[k]);
        let factor = if spread > 0.0 { (aim_spread / spread).clamp(0.7, 1.35) } else { 1.0 };
        (narrow(factor), narrow(aim - factor * mean))
    });
    for (pixel, _) in picture.pixels_mut().zip(&mask.values).filter(|(_, weight)| **weight > 0.0) {
        let lab = to_lab(pixel.0);
        pixel.0 = to_rgb([0, 1, 2].map(|k| {
            let matched = line[k].0 * lab[k] + line[k].1;
            lab[k] + strength * (matched - lab[k])
        }));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "colours need no more")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// How sharpness is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sharpness {
    Same,
    /// Gaussian, standard deviation in px of a picture of 224.
    Blurred(f32),
    /// Part of the side that is kept between two filters.
    Resampled(f32, FilterType, FilterType),
    /// How much of what a blur takes away is added.
    Sharpened(f32),
}

/// A random change of colours and sharpness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    shift: [f32; 3],
    contrast: f32,
    saturation: f32,
    hue_degrees: f32,
    sharpness: Sharpness,
}

impl Jitter {
    /// For a blend of a face with itself: something always changes, as without it there would be no fake.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut jitter = Jitter::colors(1.0, rng);
        jitter.sharpness = match rng.random_range(0..4) {
            0 => Sharpness::Same,
            1 => Sharpness::Blurred(rng.random_range(0.5..=1.5)),
            2 => resample(0.35, rng),
            _ => Sharpness::Sharpened(rng.random_range(0.4..=1.5)),
        };
        jitter
    }

    /// For a swapped face: a generator's output is softer than a photo more often than not, and its colours are about
    /// right.
    pub fn draw_for_swap(rng: &mut ChaCha8Rng) -> Self {
        let mut jitter = Jitter::colors(0.4, rng);
        jitter.sharpness = match rng.random_range(0..10) {
            0..=1 => Sharpness::Same,
            2..=3 => Sharpness::Blurred(rng.random_range(0.4..=1.4)),
            4..=8 => resample(0.3, rng),
            _ => Sharpness::Sharpened(rng.random_range(0.3..=1.0)),
        };
        jitter
    }

    fn colors(amount: f32, rng: &mut ChaCha8Rng) -> Self {
        let mut within = |most: f32| rng.random_range(-most..=most) * amount;
        let lift = within(10.0);
        Jitter {
            shift: [0, 1, 2].map(|_| lift + within(6.0)),
            contrast: 1.0 + within(0.12),
            saturation: 1.0 + within(0.2),
            hue_degrees: within(4.0),
            sharpness: Sharpness::Same,
        }
    }

    /// A changed copy.
    pub fn apply(&self, picture: &RgbImage) -> RgbImage {
        let mut changed = picture.clone();
        self.apply_to(&mut changed);
        changed
    }

    /// Changes `picture`.
    pub fn apply_to(&self, picture: &mut RgbImage) {
        let unit = picture.width().max(picture.height()) as f32 / 224.0;
        match self.sharpness {
            Sharpness::Same => {}
            Sharpness::Blurred(sigma_px) => tone::blur(picture, sigma_px * unit),
            Sharpness::Resampled(part, shrink, grow) => {
                let size_px = picture.dimensions();
                let side = |px: u32| super::super::to_side(px as f32 * part);
                *picture = resized(picture, (side(size_px.0), side(size_px.1)), shrink);
                *picture = resized(picture, size_px, grow);
            }
            Sharpness::Sharpened(amount) => {
                let mut soft = picture.clone();
                tone::blur(&mut soft, 1.2 * unit);
                for (byte, soft) in picture.as_mut().iter_mut().zip(soft.as_raw()) {
                    let value = f32::from(*byte);
                    *byte = to_byte(value + amount * (value - f32::from(*soft)));
                }
            }
        }
        let means = mean(picture);
        let (sin, cos) = self.hue_degrees.to_radians().sin_cos();
        for pixel in picture.pixels_mut() {
            let rgb: [f32; 3] = std::array::from_fn(|k| {
                let value = f32::from(pixel.0[k]);
                means[k] + self.contrast * (value - means[k]) + self.shift[k]
            });
            // Hue turns and saturation stretches what differs from luma (BT.601's colour differences).
            let luma = dot([0.299, 0.587, 0.114], rgb);
            let (u, v) = ((rgb[2] - luma) * 0.564, (rgb[0] - luma) * 0.713);
            let (u, v) = (self.saturation * (cos * u - sin * v), self.saturation * (sin * u + cos * v));
            pixel.0 = [luma + 1.403 * v, luma - 0.344 * u - 0.714 * v, luma + 1.773 * u].map(to_byte);
        }
    }
}

fn resample(least: f32, rng: &mut ChaCha8Rng) -> Sharpness {
    let (shrink, grow) = filters(rng);
    Sharpness::Resampled(rng.random_range(least..=0.9), shrink, grow)
}

fn mean(picture: &RgbImage) -> [f32; 3] {
    let mut sums = [0_u64; 3];
    for pixel in picture.pixels() {
        sums.iter_mut().zip(pixel.0).for_each(|(sum, byte)| *sum += u64::from(byte));
    }
    let n_pixels = u64::from(picture.width()) * u64::from(picture.height());
    sums.map(|sum| sum as f32 / n_pixels.max(1) as f32)
}
