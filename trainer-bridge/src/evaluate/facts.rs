//! Facts of a crop's file and pixels that say nothing of fakes, for breakdowns and for probes of shortcuts.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{ImageError, ImageFormat, RgbImage};

/// Why a crop can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CropError {
    /// The file can't be read.
    #[error("{path}: reading: {cause}")]
    Io {
        /// The crop.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// It isn't a PNG.
    #[error("{path}: expected a PNG: {cause}")]
    Decode {
        /// The crop.
        path: PathBuf,
        /// What is wrong with it.
        cause: ImageError,
    },
}

/// What a crop's file and pixels give away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Variance of the 4-neighbour Laplacian of the luma over the crop's inner pixels, luma as of Rec. 601 in 0..=255.
    /// A small face is enlarged to the crop's size and so less sharp (Pech-Pacheco et al., 2000).
    pub sharpness: f32,
    /// Mean luma, 0..=255.
    pub brightness: f32,
    /// Length of the PNG, which grows with detail and noise.
    pub png_bytes: u64,
}

/// Reads a crop and its facts.
///
/// # Errors
/// [`CropError`] when there is no readable PNG.
pub fn read_crop(path: &Path) -> Result<(RgbImage, Facts), CropError> {
    let bytes = fs::read(path).map_err(|cause| CropError::Io { path: path.to_owned(), cause })?;
    let crop = image::load(Cursor::new(&bytes), ImageFormat::Png)
        .map_err(|cause| CropError::Decode { path: path.to_owned(), cause })?
        .into_rgb8();
    let facts =
        Facts { sharpness: sharpness(&crop), brightness: brightness(&crop), png_bytes: bytes.len() as u64 };
    Ok((crop, facts))
}

fn luma(crop: &RgbImage) -> Vec<f64> {
    let weigh = |[r, g, b]: [u8; 3]| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    crop.pixels().map(|pixel| weigh(pixel.0)).collect()
}

/// [`Facts::brightness`]; 0 for a crop without pixels.
#[expect(clippy::cast_possible_truncation, reason = "0..=255")]
pub fn brightness(crop: &RgbImage) -> f32 {
    let luma = luma(crop);
    (luma.iter().sum::<f64>() / luma.len().max(1) as f64) as f32
}

/// [`Facts::sharpness`]; 0 for a crop without inner pixels.
#[expect(clippy::cast_possible_truncation, reason = "at most (8 * 255)^2")]
pub fn sharpness(crop: &RgbImage) -> f32 {
    let (width, height) = (crop.width() as usize, crop.height() as usize);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let luma = luma(crop);
    let (mut sum, mut squares) = (0.0, 0.0);
    for y in 1..height - 1 {
        for at in y * width + 1..(y + 1) * width - 1 {
            let edge = luma[at - 1] + luma[at + 1] + luma[at - width] + luma[at + width] - 4.0 * luma[at];
            sum += edge;
            squares += edge * edge;
        }
    }
    let n = ((width - 2) * (height - 2)) as f64;
    ((squares - sum * sum / n) / n).max(0.0) as f32
}
