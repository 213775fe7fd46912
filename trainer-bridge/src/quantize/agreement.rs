//! `trainer-bridge quantize-check`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use candor::geom::Rect;
use candor::preprocess::color::to_rgb;
use candor::resample::Resampler;
use clap::Args as ClapArgs;
use image::RgbImage;
use image::imageops::flip_horizontal_in_place;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Tensor, no_grad};

use super::command::{Options, quantized};
use super::float::{Float, Parameters};
use super::int8::Int8;
use super::qdq;
use super::ranges::input_step;
use super::recipe::{Crops, State};
use crate::model::{Backbone, Network, Spec, input, weights};

/// Pictures that are run at a time.
const BATCH: usize = 4;
/// Cuts that decide over layers in float and over training.
const N_CHECKS: usize = 16;
/// A video gives every so many-th frame, and at most so many of them.
const FRAME_STRIDE: usize = 30;
const MOST_FRAMES: usize = 20;
/// Least side of a cut, as a share of the frame's shorter side.
const LEAST_CUT: f32 = 0.3;
/// What checkpoints call the classifier of ImageNet's 1000 classes.
const CLASSIFIERS: [&str; 4] = ["_fc", "classifier", "classifier.1", "fc"];

/// Quantize a pretrained ImageNet classifier and see how often int8 and float choose the same class.
///
/// This measures the methods where no labels are needed. Ranges come from cuts of one set of pictures and videos, the
/// comparison from cuts of another: squares of 30 to 100 % of the shorter side at random places, half of them flipped,
/// as many from each file; of a video, from every 30th of its first 600 frames. The int8 network runs in candor's engine.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The checkpoint, .pth or .safetensors, with its ImageNet classifier.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// The network: lite0, b0, resnet18, ...
    #[arg(long, value_name = "NAME")]
    backbone: Backbone,
    /// Pictures and videos that ranges are measured on.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    calibrate: Vec<PathBuf>,
    /// Pictures and videos that classes are compared on.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    check: Vec<PathBuf>,
    /// Cuts that classes are compared on.
    #[arg(long, value_name = "N", default_value_t = 600)]
    pictures: usize,
    /// Cuts that ranges are measured on.
    #[arg(long, value_name = "N", default_value_t = 128)]
    calibration_crops: usize,
    /// Fail where the classes agree on a smaller share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.97)]
    least: f64,
    /// Write the int8 network there.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read, and less agreement than is asked for.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!((0.0..=1.0).contains(&args.least), "--least: expected 0..=1, found {}", args.least);
    ensure!(args.pictures > 0 && args.calibration_crops > 0, "expected at least one picture, found 0");
    if let Some(both) = args.check.iter().find(|file| args.calibrate.contains(file)) {
        bail!("{}: expected either in --calibrate or in --check, found in both", both.display());
    }
    let recipe = args.options.recipe()?;
    ensure!(
        recipe.qat_labels == 0.0,
        "--qat-labels: expected 0, as the cuts have no labels, found {}",
        recipe.qat_labels
    );
    let spec = Spec::of(args.backbone, args.backbone.native_size_px())?;
    let float = pretrained(&spec, &args.checkpoint)?;
    let seed = recipe.seed;
    let calibration = cuts(&args.calibrate, args.calibration_crops, spec.size_px(), seed)?;
    let pictures = cuts(&args.check, args.pictures, spec.size_px(), seed + 1)?;
    let tensors = |pictures: &[RgbImage]| -> Vec<Tensor> {
        let chunks = pictures.chunks(BATCH);
        chunks
            .map(|chunk| input(&chunk.iter().collect::<Vec<_>>(), &spec, Device::Cpu).contiguous())
            .collect()
    };
    // Nothing of the comparison is shown to any method: what decides over them are cuts of the calibration's own files.
    let checks = tensors(&cuts(&args.calibrate, N_CHECKS, spec.size_px(), seed + 2)?);
    let calibration = tensors(&calibration);
    let training = if recipe.qat_steps > 0 { &calibration[..] } else { &[] };
    let crops = Crops {
        training: training.iter().map(|batch| (batch.shallow_clone(), Tensor::new())).collect(),
        calibration,
        n_refining: args.options.n_refining(),
        checks,
    };
    let (state, _rows) =
        quantized(&recipe, input_step(&spec), &crops, State::start(float.clone()), |_| Ok(()))?;
    let int8 = state.int8.as_ref().context("no integers")?;
    let agreed = agreement(&float, int8, &spec, &tensors(&pictures), args.out.as_deref())?;
    println!(
        "{}: top-1 of int8 and float agree on {} of {} cuts, {:.2} %; logits {:.1} dB",
        args.backbone,
        agreed.n_alike,
        agreed.n_pictures,
        100.0 * agreed.share(),
        agreed.logits_db,
    );
    ensure!(
        agreed.share() >= args.least,
        "expected agreement of at least {}, found {}",
        args.least,
        agreed.share()
    );
    Ok(())
}

/// The float network of a checkpoint with its own classifier.
fn pretrained(spec: &Spec, path: &Path) -> anyhow::Result<Float> {
    let mut variables = VarStore::new(Device::Cpu);
    let network = Network::new(&variables.root(), spec);
    weights::load_imagenet(&variables, spec, path)?;
    variables.freeze();
    let tensors = weights::read(path)?;
    let classifier = CLASSIFIERS.iter().find_map(|name| {
        let of = |what: &str| tensors.get(&format!("{name}.{what}"));
        let (weight, bias) = (of("weight")?, of("bias")?);
        let fits = weight.dim() == 2 && weight.size()[1] == network.n_features();
        fits.then(|| Parameters { weight: weight.copy(), bias: bias.copy() })
    });
    let classifier = classifier.with_context(|| {
        format!("{}: expected a classifier called one of {}", path.display(), CLASSIFIERS.join(", "))
    })?;
    Ok(Float::with_classifier(&network, "imagenet", classifier))
}

struct Agreement {
    n_alike: usize,
    n_pictures: usize,
    logits_db: f64,
}

impl Agreement {
    fn share(&self) -> f64 {
        self.n_alike as f64 / self.n_pictures as f64
    }
}

/// How often both choose the same class, int8 in candor's engine.
fn agreement(
    float: &Float,
    int8: &Int8,
    spec: &Spec,
    batches: &[Tensor],
    out: Option<&Path>,
) -> anyhow::Result<Agreement> {
    let onnx = qdq::onnx(int8, spec);
    if let Some(out) = out {
        std::fs::write(out, &onnx).with_context(|| format!("{}: writing", out.display()))?;
    }
    let side = spec.size_px() as usize;
    let mut model = candor::engine::Engine::default().load("int8", &onnx[..], &[1, 3, side, side])?;
    let (mut n_alike, mut n_pictures, mut signal, mut error) = (0, 0, 0.0, 0.0);
    for batch in batches {
        let logits = no_grad(|| float.logits(batch));
        for at in 0..batch.size()[0] {
            let picture = super::ranges::floats(&batch.get(at));
            let found = model.run(&picture)?[0].clone();
            let exact = super::ranges::floats(&logits.get(at));
            n_alike += usize::from(top(&exact) == top(&found));
            n_pictures += 1;
            signal += exact.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            error += exact.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        }
    }
    Ok(Agreement { n_alike, n_pictures, logits_db: 10.0 * (signal / error).log10() })
}

fn top(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

/// `n_cuts` squares of `size_px`, as many from each file.
fn cuts(files: &[PathBuf], n_cuts: usize, size_px: u32, seed: u64) -> anyhow::Result<Vec<RgbImage>> {
    let sources = files.iter().map(|file| frames(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut resampler = Resampler::default();
    let cut = |at: usize| {
        let frames = &sources[at % sources.len()];
        let frame = &frames[at / sources.len() % frames.len()];
        let (w, h) = (frame.width() as f32, frame.height() as f32);
        let side = w.min(h) * rng.random_range(LEAST_CUT..=1.0);
        let area = Rect {
            x: rng.random_range(0.0..=w - side),
            y: rng.random_range(0.0..=h - side),
            w: side,
            h: side,
        };
        let mut square = resampler.area(frame, &area, size_px);
        if rng.random_bool(0.5) {
            flip_horizontal_in_place(&mut square);
        }
        square
    };
    Ok((0..n_cuts).map(cut).collect())
}

/// A picture, or every so many-th frame of a video.
fn frames(file: &Path) -> anyhow::Result<Vec<RgbImage>> {
    let at = || file.display().to_string();
    let mut source = candor::source::open(file)?;
    let mut frames = Vec::new();
    let mut frame_idx = 0;
    while frames.len() < MOST_FRAMES
        && let Some(frame) = source.next_frame().with_context(at)?
    {
        if frame_idx % FRAME_STRIDE == 0 {
            frames.push(to_rgb(&frame).with_context(at)?);
        }
        frame_idx += 1;
    }
    ensure!(!frames.is_empty(), "{}: expected a frame, found none", file.display());
    Ok(frames)
}
