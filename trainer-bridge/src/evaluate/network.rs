//! Crops through a network: decoded on other threads, batch by batch, in order.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;

use candor::resample::Resampler;
use image::RgbImage;
use tch::{Device, Kind, TchError, Tensor, no_grad};

use super::facts::{CropError, Facts, read_crop};
use crate::manifest::Row;
use crate::model::fitted;

/// Why crops can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A crop can't be read.
    #[error(transparent)]
    Crop(#[from] CropError),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// A crop of a dataset.
#[derive(Clone, Debug)]
pub struct Crop {
    /// The dataset's name.
    pub dataset: String,
    /// Its file.
    pub path: PathBuf,
    /// Its row of the manifest.
    pub row: Row,
}

/// How crops are run.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// The side that crops are brought to.
    pub size_px: u32,
    /// Crops of a batch, at least one.
    pub n_crops: usize,
    /// Threads that decode, at least one.
    pub n_threads: usize,
}

/// Gives every batch of crops to `network`, which gives [N, K]; returns the crops' facts and all outputs together, f32
/// [N, K] on the CPU. `progress` hears of the number of crops of each batch.
///
/// # Errors
/// [`RunError`] for the first crop that can't be read, and whatever libtorch refuses.
pub fn run(
    crops: &[Crop],
    batches: Batches,
    mut network: impl FnMut(&[&RgbImage]) -> Result<Tensor, TchError>,
    progress: impl Fn(usize),
) -> Result<(Vec<Facts>, Tensor), RunError> {
    let (mut facts, mut outputs) = (Vec::with_capacity(crops.len()), Vec::new());
    thread::scope(|scope| {
        // One batch is run, one waits, one is made.
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            for batch in crops.chunks(batches.n_crops) {
                // Nobody listens any more after an error.
                if sender.send(read(batch, batches)).is_err() {
                    break;
                }
            }
        });
        for batch in receiver {
            let batch = batch?;
            let pictures: Vec<&RgbImage> = batch.iter().map(|(picture, _)| picture).collect();
            let output = no_grad(|| network(&pictures))?;
            outputs.push(output.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?);
            facts.extend(batch.iter().map(|(_, facts)| *facts));
            progress(batch.len());
        }
        Ok::<(), RunError>(())
    })?;
    Ok((facts, Tensor::f_cat(&outputs, 0)?))
}

fn read(batch: &[Crop], batches: Batches) -> Result<Vec<(RgbImage, Facts)>, CropError> {
    let read_part = |part: &[Crop]| -> Result<Vec<(RgbImage, Facts)>, CropError> {
        let mut resampler = Resampler::default();
        let read_one = |crop: &Crop| {
            let (picture, facts) = read_crop(&crop.path)?;
            Ok((fitted(&picture, batches.size_px, &mut resampler), facts))
        };
        part.iter().map(read_one).collect()
    };
    let n_each = batch.len().div_ceil(batches.n_threads).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = batch.chunks(n_each).map(|part| scope.spawn(move || read_part(part))).collect();
        let mut all = Vec::with_capacity(batch.len());
        for thread in threads {
            match thread.join() {
                Ok(part) => all.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}
