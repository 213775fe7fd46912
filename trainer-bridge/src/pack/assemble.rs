//! `trainer-bridge bundle`: a bundle's folder out of what `quantize` and `evaluate` have made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use candor::bundle::{Blob, Bundle, Digest, FORMAT, Manifest, Status};
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::evaluate::calibration_file::{CALIBRATION_FILE, CalibrationFile};
use crate::evaluate::command::METRICS_FILE;
use crate::evaluate::report;
use crate::files::{self, FileError};
use crate::model::checkpoint;
use crate::quantize::folder::MODEL;

/// The manifest's name in a bundle's folder.
const MANIFEST_FILE: &str = "manifest.json";
/// The network's name there.
const MODEL_FILE: &str = "model.onnx";

/// Make a bundle's folder: the int8 network, the score and thresholds that `evaluate` chose on it, card and licence.
///
/// candor takes the folder as it is (`scan --bundle DIR`); `pack` makes one file of it, to be signed.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The folder that `trainer-bridge quantize` has made.
    #[arg(value_name = "DIR")]
    quantized: PathBuf,
    /// The folder of `trainer-bridge evaluate` on that folder: calibration.json and metrics.json.
    #[arg(long, value_name = "DIR")]
    evaluated: PathBuf,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model's name.
    #[arg(long)]
    id: String,
    /// The model's version.
    #[arg(long, value_name = "VERSION")]
    model_version: String,
    /// What the data that it learnt from allows, for instance research-only.
    #[arg(long, value_name = "TEXT")]
    data_terms: String,
    /// SPDX expression of the weights' licence.
    #[arg(long, value_name = "SPDX")]
    licence: String,
    /// That licence's text.
    #[arg(long, value_name = "FILE")]
    licence_text: PathBuf,
    /// The card: what the model is, what it learnt from, what it can and can't do.
    #[arg(long, value_name = "FILE")]
    card: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read or written, and a report that is of another network.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let model = read(&args.quantized.join(MODEL))?;
    let spec = checkpoint::load_spec(&args.quantized)?;
    let digest = Digest::of(&model).to_string();
    let metrics_path = args.evaluated.join(METRICS_FILE);
    let metrics: Value =
        serde_json::from_slice(&read(&metrics_path)?).with_context(|| metrics_path.display().to_string())?;
    let measured = metrics["about"][report::WEIGHTS].as_str().unwrap_or("none");
    ensure!(
        measured == digest,
        "{}: expected a report on {} (SHA-256 {digest}), found one on {measured}",
        metrics_path.display(),
        args.quantized.join(MODEL).display(),
    );
    let chosen = CalibrationFile::read(&args.evaluated.join(CALIBRATION_FILE))?;
    let manifest = Manifest {
        format: FORMAT,
        id: args.id.clone(),
        version: args.model_version.clone(),
        status: Status::Trained,
        architecture: spec.backbone.name().to_owned(),
        input: spec.input.clone(),
        score: chosen.score,
        thresholds: chosen.thresholds,
        min_scores: chosen.min_scores,
        min_face_px: chosen.min_face_px,
        model: Blob { file: MODEL_FILE.to_owned(), sha256: digest, size_bytes: model.len() as u64 },
        licence: args.licence.clone(),
        data_terms: args.data_terms.clone(),
        quality: Some(quality(&metrics, chosen.chosen_on)),
        release: None,
    };
    let card = read(&args.card)?;
    let licence = read(&args.licence_text)?;
    fs::create_dir_all(&args.out).map_err(FileError::of(&args.out, "creating"))?;
    let json = serde_json::to_string_pretty(&manifest)? + "\n";
    let documents = [(MODEL_FILE, &model[..]), ("CARD.md", &card), ("LICENSE", &licence)];
    for (name, bytes) in documents.into_iter().chain([(MANIFEST_FILE, json.as_bytes())]) {
        files::replace(&args.out.join(name), bytes)?;
    }
    // What candor refuses is no bundle.
    Bundle::open(&args.out)?;
    println!("{}: {} {}, {} bytes of model", args.out.display(), args.id, args.model_version, model.len());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::of(path, "reading"))
}

/// The figures of a report that a manifest holds.
fn quality(metrics: &Value, chosen_on: Value) -> Value {
    let level = |level: &Value| {
        let (raw, read) = (&level["as_trained"], &level["calibrated"]);
        let measures = json!({
            "n_real": raw["n_real"], "n_fake": raw["n_fake"], "n_groups": raw["n_groups"],
            "auc": raw["auc"], "ece": read["calibration"]["ece"], "log_loss": read["log_loss"],
        });
        (level["level"].as_str().unwrap_or("unknown").to_owned(), measures)
    };
    let levels = metrics["levels"].as_array().map_or(&[][..], Vec::as_slice);
    json!({
        "data": metrics["about"][report::DATA],
        // Null where the figures are this network's alone.
        "predictions_of_the_other_half": metrics["about"][report::OTHER_HALF],
        "split": metrics["about"]["Split"],
        "levels": levels.iter().map(level).collect::<serde_json::Map<String, Value>>(),
        "thresholds_chosen_on": chosen_on,
    })
}
