//! Pictures of training that look like pictures of validation.
//!
//! A perceptual hash (64 bits: the signs of the lowest frequencies of a discrete cosine transform about their
//! median) finds candidates, and their pixels decide.

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::PI;
use std::fs;
use std::path::Path;

use candor::geom::Rect;
use candor::resample::Resampler;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::{IngestError, io_error, unexpected};
use crate::manifest::{Row, Split};

/// The report's name in a dataset's folder.
pub const FILE: &str = "duplicates.csv";
/// Side of the grey picture that is transformed.
const SIDE_PX: u32 = 32;
const SIDE: usize = SIDE_PX as usize;
/// Frequencies across and down that make the hash.
const N_FREQUENCIES: usize = 8;
/// Most differing bits of two hashes whose pictures are compared.
pub const MAX_BITS: u32 = 6;
/// Most mean difference of two 32 x 32 grey pictures that count as alike, 0..=255.
pub const MAX_DIFFERENCE: f64 = 8.0;

/// The nearest two crops of two videos on different sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The crop that is learnt from.
    pub train_crop: String,
    /// The crop that is measured.
    pub validation_crop: String,
    /// Bits in which their hashes differ.
    pub n_bits: u32,
    /// Mean difference of their 32 x 32 grey pictures, 0..=255.
    pub difference: f64,
}

/// A crop's hash: bit 8 v + u is set where the coefficient of frequency (u, v) is above the median of the 64.
pub fn hash(crop: &RgbImage) -> u64 {
    let pixels = gray(crop);
    let basis: Vec<f64> = (0..N_FREQUENCIES * SIDE)
        .map(|i| (PI * (2 * (i % SIDE) + 1) as f64 * (i / SIDE) as f64 / (2 * SIDE) as f64).cos())
        .collect();
    let wave = |frequency: usize| &basis[frequency * SIDE..(frequency + 1) * SIDE];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut coefficients = [0.0; N_FREQUENCIES * N_FREQUENCIES];
    for u in 0..N_FREQUENCIES {
        let column: Vec<f64> = pixels.chunks_exact(SIDE).map(|row| dot(row, wave(u))).collect();
        for v in 0..N_FREQUENCIES {
            coefficients[v * N_FREQUENCIES + u] = dot(&column, wave(v));
        }
    }
    let mut sorted = coefficients;
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(sorted[31], sorted[32]);
    coefficients.iter().rev().fold(0, |bits, c| bits << 1 | u64::from(*c > median))
}

/// 32 x 32 luma, 0..=255, row-major.
fn gray(crop: &RgbImage) -> Vec<f64> {
    let whole = Rect { x: 0.0, y: 0.0, w: crop.width() as f32, h: crop.height() as f32 };
    let small = Resampler::default().area(crop, &whole, SIDE_PX);
    let luma = |p: &image::Rgb<u8>| {
        let [r, g, b] = p.0.map(f64::from);
        0.299 * r + 0.587 * g + 0.114 * b
    };
    small.pixels().map(luma).collect()
}

/// The nearest pair of each two videos of different sides whose crops look alike, nearest first. `hashes` are the
/// rows' [`hash`]es. Only uncompressed pictures are compared.
///
/// # Errors
/// [`IngestError`] where a crop can't be read.
pub fn find(folder: &Path, rows: &[Row], hashes: &[u64]) -> Result<Vec<Pair>, IngestError> {
    let of = |split: Split| {
        let is_of = move |(row, _): &(&Row, &u64)| row.split == split && row.condition == "clean";
        rows.iter().zip(hashes).filter(is_of).map(|(row, hash)| (row, *hash)).collect::<Vec<_>>()
    };
    let (train, validation) = (of(Split::Train), of(Split::Validation));
    // Hashes that differ in at most MAX_BITS bits are equal in one of MAX_BITS + 1 parts.
    let mut index: HashMap<(u32, u64), Vec<usize>> = HashMap::new();
    for (idx, (_, hash)) in train.iter().enumerate() {
        for part in parts(*hash) {
            index.entry(part).or_default().push(idx);
        }
    }
    let mut nearest: BTreeMap<(&str, &str), (u32, usize, usize)> = BTreeMap::new();
    for (v, (row, hash)) in validation.iter().enumerate() {
        for t in parts(*hash).flat_map(|part| index.get(&part).into_iter().flatten()) {
            let n_bits = (train[*t].1 ^ hash).count_ones();
            if n_bits <= MAX_BITS {
                let found = (n_bits, *t, v);
                let pair = nearest.entry((&train[*t].0.video, &row.video)).or_insert(found);
                *pair = (*pair).min(found);
            }
        }
    }
    let mut pairs = Vec::new();
    for (n_bits, t, v) in nearest.into_values() {
        let (train_crop, validation_crop) = (&train[t].0.crop, &validation[v].0.crop);
        let (a, b) = (read_gray(folder, train_crop)?, read_gray(folder, validation_crop)?);
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64;
        if difference <= MAX_DIFFERENCE {
            let (train_crop, validation_crop) = (train_crop.clone(), validation_crop.clone());
            pairs.push(Pair { train_crop, validation_crop, n_bits, difference });
        }
    }
    pairs.sort_by(|a, b| a.difference.total_cmp(&b.difference).then_with(|| a.train_crop.cmp(&b.train_crop)));
    Ok(pairs)
}

/// The pieces of a hash with their numbers.
fn parts(hash: u64) -> impl Iterator<Item = (u32, u64)> {
    let n_parts = MAX_BITS + 1;
    let width = u64::BITS.div_ceil(n_parts);
    (0..n_parts).map(move |part| (part, hash >> (part * width) & ((1 << width) - 1)))
}

fn read_gray(folder: &Path, crop: &str) -> Result<Vec<f64>, IngestError> {
    let path = folder.join(crop);
    let bytes = fs::read(&path).map_err(io_error(&path, "read"))?;
    let picture = image::load_from_memory(&bytes)
        .map_err(|error| unexpected(path.display().to_string(), "a PNG", error.to_string()))?;
    Ok(gray(&picture.to_rgb8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(seed: u32, size: u32) -> RgbImage {
        let unit = |n: u32| f64::from(n) / f64::from(size) * PI;
        RgbImage::from_fn(size, size, |x, y| {
            let wave = |k: u32| (unit(x) * f64::from(k + seed % 5) + unit(y) * f64::from(seed % 7)).sin();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
            image::Rgb([1, 2, 3].map(|k| (127.5 + 127.5 * wave(k)) as u8))
        })
    }

    /// The hash by the transform's definition, term by term.
    fn by_definition(crop: &RgbImage) -> u64 {
        let pixels = gray(crop);
        let coefficient = |u: usize, v: usize| -> f64 {
            let term = |x: usize, y: usize| {
                let wave = |n: usize, k: usize| ((2 * n + 1) as f64 * k as f64 * PI / 64.0).cos();
                pixels[y * 32 + x] * wave(x, u) * wave(y, v)
            };
            (0..32).flat_map(|y| (0..32).map(move |x| (x, y))).map(|(x, y)| term(x, y)).sum()
        };
        let all: Vec<f64> = (0..64).map(|i| coefficient(i % 8, i / 8)).collect();
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let median = f64::midpoint(sorted[31], sorted[32]);
        (0..64).filter(|i| all[*i] > median).map(|i| 1 << i).sum()
    }

    #[test]
    fn the_hash_is_the_transforms() {
        for seed in 0..12 {
            let crop = picture(seed, 64);
            assert!((hash(&crop) ^ by_definition(&crop)).count_ones() <= 1, "seed {seed}");
        }
    }

    #[test]
    fn hashes_of_near_pictures_are_near() {
        let mut seen = Vec::new();
        for seed in 0..12 {
            assert!((hash(&picture(seed, 64)) ^ hash(&picture(seed, 200))).count_ones() <= MAX_BITS);
            seen.push(hash(&picture(seed, 64)));
        }
        assert!((seen[0] ^ seen[3]).count_ones() > MAX_BITS);
    }

    #[test]
    fn near_hashes_share_a_part() {
        let hash = 0x0123_4567_89ab_cdef_u64;
        for first in 0..64_u32 {
            // MAX_BITS bits, one in each of as many parts.
            let near = (0..MAX_BITS).fold(hash, |h, k| h ^ 1 << ((first + k * 10) % 64));
            assert!(parts(hash).zip(parts(near)).any(|(a, b)| a == b), "{first}");
        }
    }
}
