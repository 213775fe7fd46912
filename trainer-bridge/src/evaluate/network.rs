//! Crops through a network: decoded on other threads, batch by batch, in order.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::Context as _;
use candor::engine::{Engine, EngineError, Model};
use candor::resample::Resampler;
use image::RgbImage;
use tch::{Device, Kind, TchError, Tensor, no_grad};

use super::facts::{CropError, Facts, read_crop};
use crate::manifest::Row;
use crate::model::{Network, Spec, checkpoint, fitted, input};
use crate::quantize::folder::MODEL;
use crate::quantize::ranges::floats;

/// Why crops can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A crop can't be read.
    #[error(transparent)]
    Crop(#[from] CropError),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// candor's engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A network that gives two logits for a crop.
pub enum Classifier {
    /// A checkpoint, folded, in libtorch.
    Float(Box<Network>, Device),
    /// What `quantize` made of one, in candor's engine: what a device runs.
    Int8(Box<Model>, Spec),
}

impl Classifier {
    /// The file that `path` names: a checkpoint, the best one of a run's folder, or the int8 network in a folder that
    /// `quantize` has made.
    pub fn file(path: &Path) -> PathBuf {
        let [best, int8] = [checkpoint::BEST_FILE, MODEL].map(|name| path.join(name));
        match path.is_dir() {
            false => path.to_owned(),
            true if int8.exists() && !best.exists() => int8,
            true => best,
        }
    }

    /// Loads the network of [`Classifier::file`].
    ///
    /// # Errors
    /// A file that can't be read or is no such network.
    pub fn load(path: &Path, device: Device) -> anyhow::Result<Self> {
        let file = Classifier::file(path);
        if file.file_name().is_none_or(|name| name != MODEL) {
            let (_variables, network) = checkpoint::load(path, device)?;
            return Ok(Classifier::Float(Box::new(network.folded()), device));
        }
        let spec = checkpoint::load_spec(file.parent().unwrap_or(Path::new(".")))?;
        let onnx = std::fs::read(&file).with_context(|| format!("{}: reading", file.display()))?;
        let side = spec.size_px() as usize;
        let model = Engine::default().load(&file.display().to_string(), &onnx[..], &[1, 3, side, side])?;
        Ok(Classifier::Int8(Box::new(model), spec))
    }

    /// The network's shape and input.
    pub fn spec(&self) -> &Spec {
        match self {
            Classifier::Float(network, _) => network.spec(),
            Classifier::Int8(_, spec) => spec,
        }
    }

    /// In words: architecture, size, numbers.
    pub fn words(&self) -> String {
        let spec = self.spec();
        let numbers = if matches!(self, Classifier::Int8(..)) { ", int8 in candor's engine" } else { "" };
        format!("{} at {} px{numbers}", spec.backbone.name(), spec.size_px())
    }

    /// Logits (real, fake) of each picture, f32 [N, 2].
    ///
    /// # Errors
    /// Whatever runs it refuses.
    pub fn logits(&mut self, pictures: &[&RgbImage]) -> Result<Tensor, RunError> {
        match self {
            Classifier::Float(network, device) => {
                Ok(network.forward_t(&input(pictures, network.spec(), *device), false))
            }
            Classifier::Int8(model, spec) => {
                let mut logits = Vec::with_capacity(2 * pictures.len());
                for picture in pictures {
                    let tensor = input(&[picture], spec, Device::Cpu).contiguous();
                    logits.extend_from_slice(&model.run(&floats(&tensor))?[0]);
                }
                Ok(Tensor::f_from_slice(&logits)?.f_reshape([-1, 2])?)
            }
        }
    }
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
/// [`RunError`] for the first crop that can't be read, and whatever `network` refuses.
pub fn run(
    crops: &[Crop],
    batches: Batches,
    mut network: impl FnMut(&[&RgbImage]) -> Result<Tensor, RunError>,
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
