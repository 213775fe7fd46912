//! What changes a picture's values and not its geometry: brightness, contrast, blur, JPEG.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are rounded and clamped to a byte first"
)]

use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::geometry::mirrored;

/// Values this near to black and white have no logit (fast.ai's constant).
const LEAST: f64 = 1e-7;

/// Adds `logit(brightness)` to the logit of every value and multiplies by `contrast`, as fast.ai v1 does; .5 and 1
/// change nothing.
pub fn light(picture: &mut RgbImage, brightness: f32, contrast: f32) {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let lift = logit(f64::from(brightness).clamp(LEAST, 1.0 - LEAST));
    let table: [u8; 256] = std::array::from_fn(|byte| {
        let value = (byte as f64 / 255.0).clamp(LEAST, 1.0 - LEAST);
        let lit = 1.0 / (1.0 + (-(logit(value) + lift) * f64::from(contrast)).exp());
        (lit * 255.0).round() as u8
    });
    picture.as_mut().iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

/// A Gaussian blur of standard deviation `sigma_px`, cut off at three of them, mirrored at the edge.
pub fn blur(picture: &mut RgbImage, sigma_px: f32) {
    let reach = (3.0 * sigma_px).round() as i32;
    if reach == 0 {
        return;
    }
    let kernel = gaussian(sigma_px, reach);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let row_len = width * 3;
    let raw: &mut [u8] = picture.as_mut();
    // Vertically into rows of f32, then each row horizontally.
    let floats: Vec<f32> = raw.iter().map(|&byte| f32::from(byte)).collect();
    let mut padded = vec![0.0; row_len + 6 * reach as usize];
    let mut column = vec![0.0_f32; row_len];
    for y in 0..height {
        column.fill(0.0);
        for (dy, &weight) in (-reach..).zip(&kernel) {
            let from = mirrored(y as i32 + dy, height as i32) as usize;
            for (sum, value) in column.iter_mut().zip(&floats[from * row_len..][..row_len]) {
                *sum += weight * value;
            }
        }
        for x in -reach..width as i32 + reach {
            let from = mirrored(x, width as i32) as usize * 3;
            let to = (x + reach) as usize * 3;
            padded[to..to + 3].copy_from_slice(&column[from..from + 3]);
        }
        column.fill(0.0);
        for (k, &weight) in kernel.iter().enumerate() {
            for (sum, value) in column.iter_mut().zip(&padded[k * 3..]) {
                *sum += weight * value;
            }
        }
        for (byte, value) in raw[y * row_len..][..row_len].iter_mut().zip(&column) {
            *byte = (value + 0.5) as u8;
        }
    }
}

/// Weights of a Gaussian at -reach..=reach; they add up to 1.
pub fn gaussian(sigma_px: f32, reach: i32) -> Vec<f32> {
    let weight = |i: i32| (-0.5 * (i as f32 / sigma_px).powi(2)).exp();
    let total: f32 = (-reach..=reach).map(weight).sum();
    (-reach..=reach).map(|i| weight(i) / total).collect()
}

/// `picture` after JPEG at `quality`, 1..=100: 4:2:0, as nearly all encoders write it. A picture that JPEG can't hold
/// (a side of 0 or over 65,535 px) stays as it is.
pub fn jpeg(picture: &mut RgbImage, quality: u8) {
    let (Ok(width), Ok(height)) = (u16::try_from(picture.width()), u16::try_from(picture.height())) else {
        return;
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    if encoder.encode(picture.as_raw(), width, height, ColorType::Rgb).is_err() {
        return;
    }
    if let Ok(decoded) = image::load_from_memory_with_format(&bytes, image::ImageFormat::Jpeg) {
        *picture = decoded.into_rgb8();
    }
}
