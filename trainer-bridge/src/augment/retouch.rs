//! Skin smoothed as the beauty modes of cameras and apps do it: what is smooth isn't fake for that.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::pseudo::{Face, Outline, mixed, soft_mask};
use super::to_byte;

/// Radius of the smoothing in parts of the face's width.
const RADIUS: f32 = 0.05;
/// What differs by less than this, in levels of a byte, is smoothed away at full strength.
const MOST_SIGMA: f32 = 22.0;
/// Levels by which skin gets lighter at full strength, at most.
const MOST_LIFT: f32 = 8.0;

/// `face` with its skin smoothed and a little lighter, by `strength`, 0..=1; outside of the face nothing changes.
pub fn retouched(face: Face<'_>, strength: f32, rng: &mut ChaCha8Rng) -> RgbImage {
    let [left, right] = [face.landmarks[0][0], face.landmarks[16][0]];
    let face_px = (right - left).abs().clamp(8.0, face.picture.width().max(8) as f32);
    let outline = Outline::Whole { forehead: rng.random_range(0.2..=0.6) };
    let mask = soft_mask(outline, face.landmarks, face.picture.dimensions(), rng);
    let lift = strength * rng.random_range(0.0..=MOST_LIFT);
    let mut skin = smoothed(face.picture, to_byte(RADIUS * face_px).max(1), strength * MOST_SIGMA);
    skin.as_mut().iter_mut().for_each(|byte| *byte = to_byte(f32::from(*byte) + lift));
    mixed(&skin, face.picture, &mask)
}

/// The guided filter of each channel with itself as guide: in a window of 2 `radius_px` + 1, variation well under `sigma`
/// levels goes and edges well over it stay. He, Sun and Tang, "Guided Image Filtering" (2013). Windows end at the picture's
/// edge.
pub fn smoothed(picture: &RgbImage, radius_px: u8, sigma: f32) -> RgbImage {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (radius, epsilon) = (usize::from(radius_px), f64::from(sigma).powi(2).max(1e-6));
    let mean = |values: &[f64]| box_mean(values, width, height, radius);
    let mut smooth = picture.clone();
    for channel in 0..3 {
        let values: Vec<f64> = picture.pixels().map(|pixel| f64::from(pixel.0[channel])).collect();
        let means = mean(&values);
        let squares = mean(&values.iter().map(|v| v * v).collect::<Vec<_>>());
        let slopes: Vec<f64> = means
            .iter()
            .zip(&squares)
            .map(|(mean, square)| {
                let variance = (square - mean * mean).max(0.0);
                variance / (variance + epsilon)
            })
            .collect();
        let offsets: Vec<f64> = slopes.iter().zip(&means).map(|(slope, mean)| mean * (1.0 - slope)).collect();
        let lines = mean(&slopes).into_iter().zip(mean(&offsets)).zip(&values);
        for (pixel, ((slope, offset), value)) in smooth.pixels_mut().zip(lines) {
            #[expect(clippy::cast_possible_truncation, reason = "a byte needs no more")]
            let smoothed = (slope * value + offset) as f32;
            pixel.0[channel] = to_byte(smoothed);
        }
    }
    smooth
}

/// The mean of the values in a square about each, as far as it lies in the picture.
fn box_mean(values: &[f64], width: usize, height: usize, radius: usize) -> Vec<f64> {
    let mut rows = vec![0.0; values.len()];
    for (to, from) in rows.chunks_exact_mut(width.max(1)).zip(values.chunks_exact(width.max(1))) {
        running_mean(radius, width, |x| from[x], |x, mean| to[x] = mean);
    }
    let mut means = vec![0.0; values.len()];
    for x in 0..width {
        running_mean(radius, height, |y| rows[y * width + x], |y, mean| means[y * width + x] = mean);
    }
    means
}

/// Means of the `n` values at and about each place, by a sum that moves along.
fn running_mean(radius: usize, n: usize, at: impl Fn(usize) -> f64, mut set: impl FnMut(usize, f64)) {
    let mut sum: f64 = (0..radius.min(n)).map(&at).sum();
    for i in 0..n {
        if i + radius < n {
            sum += at(i + radius);
        }
        if i > radius {
            sum -= at(i - radius - 1);
        }
        let n_within = (i + radius + 1).min(n) - i.saturating_sub(radius);
        set(i, sum / n_within as f64);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn noise(seed: u64) -> RgbImage {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        RgbImage::from_fn(23, 17, |x, _| {
            let base = if x < 11 { 60 } else { 170 };
            image::Rgb([0; 3].map(|_: u8| base + rng.random_range(0..9_u8)))
        })
    }

    /// The definition, window by window.
    fn by_definition(picture: &RgbImage, channel: usize, radius: i64, sigma: f64) -> Vec<f64> {
        let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
        let value = |x: i64, y: i64| {
            let (x, y) = (u32::try_from(x).unwrap(), u32::try_from(y).unwrap());
            f64::from(picture.get_pixel(x, y).0[channel])
        };
        let window = |x: i64, y: i64| {
            let columns = (x - radius).max(0)..=(x + radius).min(width - 1);
            columns
                .flat_map(move |u| ((y - radius).max(0)..=(y + radius).min(height - 1)).map(move |v| (u, v)))
        };
        let line = |x: i64, y: i64| {
            let n = window(x, y).count() as f64;
            let mean = window(x, y).map(|(u, v)| value(u, v)).sum::<f64>() / n;
            let variance = window(x, y).map(|(u, v)| (value(u, v) - mean).powi(2)).sum::<f64>() / n;
            let slope = variance / (variance + sigma * sigma);
            (slope, mean - slope * mean)
        };
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let smooth = places.map(|(x, y)| {
            let lines: Vec<(f64, f64)> = window(x, y).map(|(u, v)| line(u, v)).collect();
            let [slope, offset] = [0, 1].map(|k| {
                lines.iter().map(|line| if k == 0 { line.0 } else { line.1 }).sum::<f64>()
                    / lines.len() as f64
            });
            slope * value(x, y) + offset
        });
        smooth.collect()
    }

    #[test]
    fn smoothing_is_the_guided_filter() {
        for (seed, radius, sigma) in [(1, 1, 5.0), (2, 3, 12.0), (3, 30, 20.0)] {
            let picture = noise(seed);
            let smooth = smoothed(&picture, radius, sigma);
            for channel in 0..3 {
                let expected = by_definition(&picture, channel, radius.into(), sigma.into());
                for (pixel, expected) in smooth.pixels().zip(expected) {
                    let found = f64::from(pixel.0[channel]);
                    assert!((found - expected).abs() <= 0.501, "seed {seed}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn skin_gets_smooth_and_the_rest_stays() {
        let seed = 4;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let picture = RgbImage::from_fn(96, 96, |_, _| image::Rgb([120 + rng.random_range(0..9_u8); 3]));
        // A ring of landmarks about the middle.
        let landmarks = std::array::from_fn(|k| {
            let turn = k as f32 / 68.0 * std::f32::consts::TAU;
            [48.0 - 30.0 * turn.cos(), 48.0 - 30.0 * turn.sin()]
        });
        let found = retouched(Face { picture: &picture, landmarks: &landmarks }, 1.0, &mut rng);
        let spread = |picture: &RgbImage| {
            let values: Vec<f64> = (40..56)
                .flat_map(|y| (40..56).map(move |x| (x, y)))
                .map(|(x, y)| f64::from(picture.get_pixel(x, y).0[0]))
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
        };
        assert!(
            spread(&found) < spread(&picture) / 4.0,
            "seed {seed}: {} of {}",
            spread(&found),
            spread(&picture)
        );
        assert!((0..96).all(|x| found.get_pixel(x, 0) == picture.get_pixel(x, 0)), "seed {seed}");
    }
}
