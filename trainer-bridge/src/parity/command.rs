//! `trainer-bridge parity`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use candor::bundle::Digest;
use candor::engine::Engine;
use clap::Args as ClapArgs;
use serde_json::json;
use tch::{Device, Tensor, no_grad};

use super::{Bounds, Line, Stage, compare};
use crate::manifest::{Row, Split};
use crate::model::{checkpoint, input};
use crate::quantize::crops::{choose, read, rows_of};
use crate::quantize::float::Float;
use crate::quantize::folder::{Folder, MODEL};
use crate::{export, quantize};

/// How far float logits may be from libtorch's.
const MOST_FLOAT: f64 = 1e-4;
/// How far int8 logits of candor may be from libtorch's: layers in float sum in another order.
const MOST_INT8: f64 = 1e-5;
/// The script that runs ONNX Runtime.
const SCRIPT: &str = include_str!("onnxruntime.py");

/// Run the same crops through every form of a network and fail where they differ too much.
///
/// libtorch, float ONNX in candor and ONNX Runtime, int8 in libtorch, int8 ONNX in candor and ONNX Runtime: a table, and
/// in the folder parity.json, float.onnx, and golden.json with crops and the logits expected of them.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The folder that `trainer-bridge quantize` has made.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The network that was quantized: a run's folder or a .safetensors file.
    #[arg(long, value_name = "RUN|CHECKPOINT")]
    network: PathBuf,
    /// Datasets, whose validation crops are compared.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// A Python with the packages onnxruntime and numpy; without one, ONNX Runtime isn't run.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// At most so many crops, labels and groups in turn.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    crops: usize,
    /// Of them, so many become golden vectors.
    #[arg(long, value_name = "N", default_value_t = 8)]
    golden: usize,
    /// Of the crops that are drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most change of the area under the ROC by int8.
    #[arg(long, value_name = "X", default_value_t = 0.002)]
    most_auc: f64,
    /// Most crops that int8 decides otherwise, as a share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.005)]
    most_crop_flips: f64,
    /// Most videos that int8 decides otherwise, as a share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.002)]
    most_video_flips: f64,
    /// Most change of the expected calibration error by int8.
    #[arg(long, value_name = "X", default_value_t = 0.005)]
    most_ece: f64,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read or written, and every bound that is broken.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (_variables, network) = checkpoint::load(&args.network, Device::Cpu)?;
    let (spec, float) = (network.spec(), Float::new(&network));
    let folder = Folder::open(&args.folder);
    let (source, state) = folder.finished(&float)?;
    ensure!(
        source.network == quantize::command::network_digest(&float),
        "{}: expected the network that was quantized, found other weights",
        args.network.display()
    );
    let int8 = state.int8.as_ref().context("no integers")?;
    let onnx = export::onnx(&network);
    folder.write("float.onnx", &onnx)?;
    let int8_onnx = fs::read(folder.file(MODEL)).with_context(|| folder.file(MODEL).display().to_string())?;
    let all = rows_of(&args.data)?;
    let rows = choose(&all, Split::Validation, args.crops, args.seed);
    ensure!(!rows.is_empty(), "--data: expected validation crops, found none");

    let side = spec.size_px() as usize;
    let shape = [1, 3, side, side];
    let mut engines = [("float", &onnx[..]), ("int8", &int8_onnx[..])]
        .map(|(name, bytes)| Engine::default().load(name, bytes, &shape));
    let mut floats = Vec::new();
    let mut stages: [Vec<[f32; 2]>; 4] = Default::default();
    for row in &rows {
        let picture = read(Path::new(&row.crop), spec.size_px())?;
        let tensor = input(&[&picture], spec, Device::Cpu).contiguous();
        let values = quantize::ranges::floats(&tensor);
        stages[0].push(pair(&no_grad(|| network.forward_t(&tensor, false)))?);
        stages[2].push(pair(&no_grad(|| int8.logits(&tensor)))?);
        for (at, engine) in [(1, 0), (3, 1)] {
            let model = match &mut engines[engine] {
                Ok(model) => model,
                Err(error) => bail!("{error}"),
            };
            stages[at].push(two(&model.run(&values)?[0])?);
        }
        if args.python.is_some() {
            floats.extend(values.into_iter().flat_map(f32::to_le_bytes));
        }
    }
    let [torch, float_candor, int8_torch, int8_candor] = stages;
    let golden = goldens(&rows, &int8_candor, args.golden)?;
    let stage = |name, like, most, logits| Stage { name, like, most, logits };
    let mut stages = vec![
        stage("libtorch", 0, Some(0.0), torch),
        stage("float, candor", 0, Some(MOST_FLOAT), float_candor),
        stage("int8, libtorch", 0, None, int8_torch),
        stage("int8, candor", 2, Some(MOST_INT8), int8_candor),
    ];
    match &args.python {
        None => println!("ONNX Runtime isn't run: name a Python that has it by --python"),
        Some(python) => {
            let files = [folder.file("float.onnx"), folder.file(MODEL)];
            let [float, int8] =
                in_onnx_runtime(python, &folder.file("scratch"), &floats, (rows.len(), side), &files)?;
            stages.push(stage("float, ONNX Runtime", 0, Some(MOST_FLOAT), float));
            // A few bytes of its sums may differ by one: held, like int8 itself, to what that changes.
            stages.push(stage("int8, ONNX Runtime", 3, None, int8));
        }
    }
    let bounds = Bounds {
        auc: args.most_auc,
        crop_flips: args.most_crop_flips,
        video_flips: args.most_video_flips,
        ece: args.most_ece,
    };
    let lines = compare(&rows, &stages, bounds);
    print(&lines, rows.len());
    folder.write_json("parity.json", &json!({"n_crops": rows.len(), "bounds": bounds, "stages": lines}))?;
    folder.write_json("golden.json", &golden)?;
    let broken: Vec<String> = lines
        .iter()
        .flat_map(|line| line.broken.iter().map(|why| format!("{}: {why}", line.stage)))
        .collect();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

fn print(lines: &[Line], n_crops: usize) {
    println!("{n_crops} crops");
    println!(
        "{:20} {:>10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}  compared with",
        "stage", "largest", "mean", "crops", "videos", "AUC", "loss", "ECE"
    );
    let figure = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    for line in lines {
        println!(
            "{:20} {:>10.2e} {:>10.2e} {:>7.2}% {:>7.2}% {:>8} {:>8} {:>8}  {}",
            line.stage,
            line.largest,
            line.mean,
            100.0 * line.crop_flips,
            100.0 * line.video_flips,
            figure(line.auc),
            figure(line.log_loss),
            figure(line.ece),
            line.like,
        );
    }
}

/// The first crops with their pixels' SHA-256 and the logits that candor's int8 network gives.
fn goldens(rows: &[&Row], logits: &[[f32; 2]], n_golden: usize) -> anyhow::Result<serde_json::Value> {
    let mut golden = Vec::new();
    for (row, logits) in rows.iter().zip(logits).take(n_golden) {
        let path = Path::new(&row.crop);
        let picture = image::open(path).with_context(|| path.display().to_string())?.to_rgb8();
        let digest = Digest::of(picture.as_raw()).to_string();
        let size_px = [picture.width(), picture.height()];
        golden.push(json!({"crop": row.crop, "size_px": size_px, "rgb_sha256": digest, "logits": logits}));
    }
    Ok(json!({"model": MODEL, "vectors": golden}))
}

fn in_onnx_runtime(
    python: &Path,
    scratch: &Path,
    floats: &[u8],
    (n_crops, side): (usize, usize),
    files: &[PathBuf; 2],
) -> anyhow::Result<[Vec<[f32; 2]>; 2]> {
    let at = || scratch.display().to_string();
    fs::create_dir_all(scratch).with_context(at)?;
    fs::write(scratch.join("input.f32"), floats).with_context(at)?;
    let script = scratch.join("run.py");
    fs::write(&script, SCRIPT).with_context(at)?;
    let status = Command::new(python)
        .arg(&script)
        .arg(scratch)
        .args([n_crops.to_string(), side.to_string()])
        .args(files)
        .status()
        .with_context(|| format!("{}: starting", python.display()))?;
    ensure!(status.success(), "{}: ONNX Runtime ended with {status}", python.display());
    let logits = |idx: usize| -> anyhow::Result<Vec<[f32; 2]>> {
        let bytes = fs::read(scratch.join(format!("{idx}.f32"))).with_context(at)?;
        ensure!(
            bytes.len() == 8 * n_crops,
            "ONNX Runtime: expected {n_crops} x 2 logits, found {} bytes",
            bytes.len()
        );
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        values.chunks_exact(2).map(two).collect()
    };
    let both = [logits(0)?, logits(1)?];
    fs::remove_dir_all(scratch).with_context(at)?;
    Ok(both)
}

fn pair(logits: &Tensor) -> anyhow::Result<[f32; 2]> {
    two(&quantize::ranges::floats(logits))
}

fn two(logits: &[f32]) -> anyhow::Result<[f32; 2]> {
    logits.try_into().with_context(|| format!("expected 2 logits, found {}", logits.len()))
}
