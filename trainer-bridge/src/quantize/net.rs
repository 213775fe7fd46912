//! `trainer-bridge quantize-net`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use candor::bundle::to_hex;
use clap::Args as ClapArgs;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tch::{Kind as Type, Tensor};

use super::command::{Methods, quantized};
use super::folder::Folder;
use super::import::Imported;
use super::numbers::Step;
use super::page;
use super::recipe::{Crops, State};
use crate::files;

/// Pictures that are run at a time.
const BATCH: i64 = 32;
/// Output pixels that AdaRound samples of each layer.
const ADAROUND_PIXELS: usize = 8192;

/// Turn a float network in an ONNX file into 8-bit integers.
///
/// For networks that weren't trained here, such as the face detector's: see the head of `quantize/import.rs` for what such
/// a file may hold. The int8 file has the same input and outputs. Inputs are .npz files of arrays [N,C,H,W] as the network
/// takes them, u8 or f32; the sizes of the arrays may differ where the network takes any.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The float network.
    #[arg(value_name = "FLOAT.onnx")]
    network: PathBuf,
    /// Inputs that ranges and roundings come from.
    #[arg(long, value_name = "FILE.npz")]
    calibration: PathBuf,
    /// Inputs that the report is made on.
    #[arg(long, value_name = "FILE.npz")]
    checks: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "INT8.onnx")]
    out: PathBuf,
    /// A folder for sqnr.html and sqnr.json, what each layer keeps of its signal.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The least and the largest number of an input, which one step of bytes covers; those of the calibration without.
    #[arg(long, value_names = ["LEAST", "LARGEST"], num_args = 2, allow_negative_numbers = true)]
    input_range: Option<Vec<f64>>,
    #[command(flatten)]
    methods: Methods,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read or written, and a network that isn't taken.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut recipe = args.methods.recipe()?;
    recipe.adaround_pixels = ADAROUND_PIXELS;
    let bytes = fs::read(&args.network).with_context(|| format!("{}: reading", args.network.display()))?;
    let imported = Imported::new(&bytes).with_context(|| args.network.display().to_string())?;
    let calibration = inputs(&args.calibration)?;
    let checks = inputs(&args.checks)?;
    let input = match args.input_range.as_deref() {
        Some(&[least, largest]) => {
            ensure!(
                least < largest && least.is_finite() && largest.is_finite(),
                "--input-range: expected the less number first, found {least} {largest}"
            );
            Step::covering(least, largest)
        }
        _ => {
            let end =
                |of: fn(&Tensor) -> Tensor| calibration.iter().map(move |batch| of(batch).double_value(&[]));
            Step::covering(end(Tensor::min).fold(0.0, f64::min), end(Tensor::max).fold(0.0, f64::max))
        }
    };
    let most = i64::try_from(args.methods.refine_crops).unwrap_or(i64::MAX);
    let mut n_pictures = 0;
    let refining = calibration.iter().take_while(|batch| {
        let is_wanted = n_pictures < most;
        n_pictures += batch.size()[0];
        is_wanted
    });
    let n_refining = refining.count();
    let crops = Crops { calibration, n_refining, training: Vec::new(), checks };
    let state = State::start(imported.float.clone());
    let (state, rows) = quantized(&recipe, input, &crops, state, |_| Ok(()))?;
    let int8 = state.int8.as_ref().context("no integers")?;

    let made_of = to_hex(&Sha256::digest(&bytes));
    let metadata = [("float_sha256", made_of.clone()), ("recipe", serde_json::to_string(&recipe)?)];
    let onnx = imported.onnx(int8, &metadata);
    files::replace(&args.out, &onnx)?;
    if let Some(report) = &args.report {
        let folder = Folder::create(report)?;
        let name = args.out.display().to_string();
        folder.write_json("sqnr.json", &json!({"float_sha256": made_of, "recipe": recipe, "nodes": rows}))?;
        folder.write("sqnr.html", page::html(&name, "", &recipe, &rows).as_bytes())?;
    }
    for row in &rows {
        println!("{}: {} alone {:.1} dB, whole {:.1} dB", row.name, row.numbers, row.own_db, row.whole_db);
    }
    println!("{}: {} bytes", args.out.display(), onnx.len());
    Ok(())
}

/// The arrays of a .npz file, f32 [n,C,H,W] of at most [`BATCH`] pictures.
fn inputs(path: &Path) -> anyhow::Result<Vec<Tensor>> {
    let arrays = Tensor::read_npz(path).with_context(|| path.display().to_string())?;
    let mut batches = Vec::new();
    for (name, array) in arrays {
        let of = || format!("{}: {name}", path.display());
        ensure!(
            array.dim() == 4 && array.numel() > 0,
            "{}: expected [N,C,H,W], found {:?}",
            of(),
            array.size()
        );
        let array = array.to_kind(Type::Float);
        ensure!(array.isfinite().all().int64_value(&[]) != 0, "{}: expected finite numbers", of());
        batches.extend(array.split(BATCH, 0).iter().map(Tensor::contiguous));
    }
    ensure!(!batches.is_empty(), "{}: expected arrays, found none", path.display());
    Ok(batches)
}
