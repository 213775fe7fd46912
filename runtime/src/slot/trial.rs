//! What a bundle must show before it runs: its golden outputs to the bit, within the device's memory and time.

use std::time::{Duration, Instant};

use image::RgbImage;

use super::Settings;
use crate::bundle::Bundle;
use crate::classify::Classifier;
use crate::engine::{Engine, EngineError};
use crate::memory;

/// Runs of each network that are timed; the shortest counts, which other programs disturb least.
const N_TIMED: usize = 5;

/// Why a bundle must not run.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The network can't be loaded or run.
    #[error("self-test: {0}")]
    Engine(#[from] EngineError),
    /// There is nothing to test it by.
    #[error("self-test: expected golden inputs, found none")]
    NoGoldens,
    /// A golden output isn't met.
    #[error("self-test: golden input {golden_idx}: logits: expected {expected:?}, found {found:?}")]
    Golden {
        /// Which, from 0.
        golden_idx: usize,
        /// By the manifest.
        expected: [f32; 2],
        /// Here.
        found: [f32; 2],
    },
    /// An output is no number.
    #[error("self-test: golden input {golden_idx}: expected numbers, found logits {found:?}")]
    NotFinite {
        /// Which, from 0.
        golden_idx: usize,
        /// Here.
        found: [f32; 2],
    },
    /// The network doesn't look at its input.
    #[error("self-test: expected outputs that differ, found the same for all {n_goldens} golden inputs")]
    Constant {
        /// How many.
        n_goldens: usize,
    },
    /// It takes too much memory.
    #[error("self-test: memory: expected at most {limit_bytes} bytes, found {found_bytes}")]
    Memory {
        /// The device's limit.
        limit_bytes: u64,
        /// Weights and activations; for a network that isn't of bytes throughout, what the process grew by.
        found_bytes: u64,
    },
    /// It is too slow.
    #[error(
        "self-test: time: expected at most {limit} times the built-in classifier's, found {found:.2} times"
    )]
    Slow {
        /// The device's limit.
        limit: f32,
        /// Measured.
        found: f32,
    },
}

/// What was measured of a bundle that may run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Time of an inference, as a multiple of the built-in classifier's.
    pub time_ratio: f32,
    /// Weights and activations, where the engine knows.
    pub memory_bytes: Option<u64>,
}

/// Loads the bundle's network and compares it with its goldens and with the device's limits; `floor` is what time is
/// compared with.
///
/// # Errors
/// [`Unfit`] for the first thing that is wrong.
pub fn try_out(engine: &Engine, bundle: &Bundle, floor: &Bundle, limits: &Settings) -> Result<Fit, Unfit> {
    let before_bytes = memory::peak_bytes();
    let mut tried = Classifier::new(engine, bundle.manifest(), bundle.model())?;
    let known = tried.memory_bytes().map(|n| n as u64);
    let limit_bytes = limits.max_memory_bytes;
    let within = |found_bytes: u64| {
        if found_bytes > limit_bytes { Err(Unfit::Memory { limit_bytes, found_bytes }) } else { Ok(()) }
    };
    known.map_or(Ok(()), within)?;

    let side = bundle.manifest().input.size_px;
    let crops: Vec<(RgbImage, [u32; 2])> = bundle
        .goldens()
        .filter_map(|(pixels, bits)| RgbImage::from_raw(side, side, pixels.to_vec()).map(|crop| (crop, bits)))
        .collect();
    let mut outputs = Vec::new();
    for (golden_idx, (crop, bits)) in crops.iter().enumerate() {
        let found = tried.logits(&[crop])?.pop().unwrap_or([f32::NAN; 2]);
        if !found.iter().all(|v| v.is_finite()) {
            return Err(Unfit::NotFinite { golden_idx, found });
        }
        if found.map(f32::to_bits) != *bits {
            return Err(Unfit::Golden { golden_idx, expected: bits.map(f32::from_bits), found });
        }
        outputs.push(*bits);
    }
    let Some((crop, first)) = crops.first() else { return Err(Unfit::NoGoldens) };
    if outputs.len() > 1 && outputs.iter().all(|bits| bits == first) {
        return Err(Unfit::Constant { n_goldens: outputs.len() });
    }
    if known.is_none()
        && let (Some(before), Some(after)) = (before_bytes, memory::peak_bytes())
    {
        within(after.saturating_sub(before) as u64)?;
    }
    let time_ratio = ratio(engine, &mut tried, crop, floor)?;
    if time_ratio > limits.max_time_ratio {
        return Err(Unfit::Slow { limit: limits.max_time_ratio, found: time_ratio });
    }
    Ok(Fit { time_ratio, memory_bytes: known })
}

/// Time of an inference as a multiple of the built-in classifier's, both in turn.
fn ratio(
    engine: &Engine,
    tried: &mut Classifier,
    crop: &RgbImage,
    floor: &Bundle,
) -> Result<f32, EngineError> {
    let mut usual = Classifier::new(engine, floor.manifest(), floor.model())?;
    let side = floor.manifest().input.size_px;
    let blank = RgbImage::new(side, side);
    let (mut tried_time, mut usual_time) = (Duration::MAX, Duration::MAX);
    usual.logits(&[&blank])?;
    for _ in 0..N_TIMED {
        let start = Instant::now();
        tried.logits(&[crop])?;
        let between = Instant::now();
        usual.logits(&[&blank])?;
        tried_time = tried_time.min(between - start);
        usual_time = usual_time.min(between.elapsed());
    }
    Ok(tried_time.as_secs_f32() / usual_time.as_secs_f32().max(1e-9))
}
