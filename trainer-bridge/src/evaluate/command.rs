//! `trainer-bridge evaluate`.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use candor::engine::{self, Engine};
use clap::Args as ClapArgs;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::baseline;
use super::beside::{Beside, data_in_words};
use super::bootstrap::N_RESAMPLES;
use super::calibrate::Aim;
use super::calibration_file::{CALIBRATION_FILE, CalibrationFile};
use super::comparison::Run;
use super::evaluation::{Calibrated, Evaluation, Settings, evaluate};
use super::network::{Batches, Classifier, Crop, run as run_crops};
use super::prediction::{self, Prediction};
use super::report::{self, About, Maps, Mistakes};
use super::selection::{Part, Selection};
use crate::explain::Subject;
use crate::files;
use crate::manifest;
use crate::model::{Network, Spec, input, weights};
use crate::train::device;
use crate::train::folder::sha256;

/// Runs a trained network over the crops of datasets and reports how well it does.
///
/// Writes predictions.csv (a row a crop), metrics.json, calibration.json (temperature, bias and the two thresholds, for a
/// bundle's manifest) and report.html (one page, with all plots) into --out.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The run's folder (best.safetensors and model.json), a .safetensors file beside its model.json, or the folder that
    /// `quantize` has made, whose int8 network runs in candor's engine
    #[arg(required_unless_present = "predictions")]
    run: Option<PathBuf>,
    /// Folder of a dataset; with --predictions only to show pictures
    #[arg(long, value_name = "DATASET", num_args = 1.., required_unless_present = "predictions")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Measure these predictions instead of running a network
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "baselines", "imagenet"])]
    predictions: Option<PathBuf>,
    /// What the report calls the run; by default its folder's name
    #[arg(long)]
    name: Option<String>,
    /// Predictions of a network of the same recipe that learnt from what this one is measured on, and is measured on what
    /// this one learnt from (`ingest --swap-sides`): figures and thresholds then rest on all groups; predictions.csv, the
    /// worst mistakes and heat maps stay this network's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["baselines", "compare"])]
    beside: Option<PathBuf>,
    /// Predictions of another run, a row of the report's comparison
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    compare: Vec<(String, PathBuf)>,
    /// Also fit probes of shortcuts on the train split, and with --imagenet a linear SVM on that network's features
    #[arg(long)]
    baselines: bool,
    /// ImageNet weights of the run's backbone, for the SVM
    #[arg(long, value_name = "FILE", requires = "baselines")]
    imagenet: Option<PathBuf>,
    /// A calibration.json chosen on other data; without it, calibration and thresholds are cross-fitted by group
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// The share of groups of which a real face may be called Fake, and of those of which a fake one may be called Real
    #[arg(long, default_value_t = 0.05, value_parser = rate)]
    false_alarms: f64,
    /// Fewest scores of a verdict on a video
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=15))]
    min_scores: u8,
    /// Narrowest face that is scored, px
    #[arg(long, default_value_t = 50.0, value_parser = face_px)]
    min_face_px: f32,
    /// Draw heat maps of right and wrong decisions by this network: an ONNX file of `export` or `quantize`, or a bundle's folder
    #[arg(long, value_name = "FILE|DIR", requires = "data")]
    explain: Option<PathBuf>,
    /// What the data's terms are, for the report
    #[arg(long, value_name = "TEXT", default_value = "not stated")]
    terms: String,
    /// Resamples of an interval
    #[arg(long, default_value_t = N_RESAMPLES, value_parser = n_resamples)]
    resamples: usize,
    /// Of folds and resamples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Crops of a batch
    #[arg(long, default_value = "32")]
    batch: NonZeroUsize,
    /// Threads that decode, and threads of the network on a CPU; as many as there are cores by default
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Folder for the report, made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Name of all figures in a report's folder.
pub const METRICS_FILE: &str = "metrics.json";

/// [`METRICS_FILE`].
#[derive(Serialize)]
struct MetricsFile<'a> {
    about: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("expected NAME=FILE".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (1e-6..=0.5).contains(&rate) { Ok(rate) } else { Err("expected 0.000001 to 0.5".to_owned()) }
}

fn face_px(text: &str) -> Result<f32, String> {
    let face_px: f32 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (1.0..=4096.0).contains(&face_px) { Ok(face_px) } else { Err("expected 1 to 4096".to_owned()) }
}

fn n_resamples(text: &str) -> Result<usize, String> {
    let n: usize = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (100..=100_000).contains(&n) { Ok(n) } else { Err("expected 100 to 100000".to_owned()) }
}

/// Runs the command.
///
/// # Errors
/// Whatever can't be read, run or written, by name.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let given = args.calibration.as_deref().map(CalibrationFile::read).transpose()?;
    let given = given.map(|file| (file.score, file.thresholds));
    let others = args
        .compare
        .iter()
        .map(|(name, file)| Ok(Run { name: name.clone(), predictions: args.selection.read(file)? }));
    let others = others.collect::<anyhow::Result<Vec<Run>>>()?;
    fs::create_dir_all(&args.out).with_context(|| format!("{}: creating", args.out.display()))?;
    let folders = folders(&args.data)?;
    let beside = match &args.beside {
        Some(file) => Some(Beside { file, predictions: args.selection.read(file)? }),
        None => None,
    };
    let (mut runs, mut about) = match (&args.run, &args.predictions) {
        (Some(folder), None) => measured_by_network(args, folder, &folders)?,
        (None, Some(file)) => measured_before(args, file)?,
        _ => bail!("expected a run's folder or --predictions, found both or none"),
    };
    let n_own = runs[0].predictions.len();
    if let Some(beside) = beside {
        beside.join(&mut runs[0].predictions, &mut about)?;
    }
    about.push((report::DATA.to_owned(), data_in_words(&runs[0].predictions)));
    runs.extend(others);
    let aim = Aim {
        false_alarms: args.false_alarms,
        min_scores: usize::from(args.min_scores),
        min_face_px: args.min_face_px,
    };
    let settings = Settings { aim, n_resamples: args.resamples, seed: args.seed, given };
    let evaluation = evaluate(&runs, &settings);
    let own = &runs[0].predictions[..n_own];
    let mistakes = Mistakes::find(own, &folders, &aim.as_trained())?;
    let maps = maps(args, own, &folders, &aim)?;
    let page = report::page(&evaluation, &about, &mistakes, &maps);
    write(args, (&runs, own), &evaluation, &about, &page)?;
    print(&evaluation, &args.out);
    Ok(())
}

/// The heat maps, where a network is named.
fn maps(
    args: &Args,
    predictions: &[Prediction],
    folders: &BTreeMap<String, PathBuf>,
    aim: &Aim,
) -> anyhow::Result<Maps> {
    let Some(path) = &args.explain else { return Ok(Maps::default()) };
    let threads = args.threads.and_then(|n| u8::try_from(n.get()).ok()).unwrap_or(0);
    let engine = Engine::new(&engine::Settings { threads, ..engine::Settings::default() })?;
    let mut subject = Subject::open(path, &engine)?;
    Maps::draw(predictions, folders, &aim.as_trained(), &mut subject, args.seed)
}

/// Datasets by their folders' names, which predictions use.
fn folders(data: &[PathBuf]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut folders = BTreeMap::new();
    for folder in data {
        let name = folder_name(folder)?;
        if let Some(other) = folders.insert(name.clone(), folder.clone()) {
            let (other, folder) = (other.display(), folder.display());
            bail!("{folder}: expected datasets with different names, found {name} here and at {other}");
        }
    }
    Ok(folders)
}

fn folder_name(folder: &Path) -> anyhow::Result<String> {
    // `.` and `..` have no name of their own.
    let whole = fs::canonicalize(folder).with_context(|| format!("{}: opening", folder.display()))?;
    let name = whole.file_name().with_context(|| format!("{}: has no name", folder.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn measured_before(args: &Args, file: &Path) -> anyhow::Result<(Vec<Run>, About)> {
    let predictions = args.selection.read(file)?;
    let name = args.name.clone().unwrap_or_else(|| file.display().to_string());
    let about = vec![
        ("Predictions".to_owned(), file.display().to_string()),
        ("Split".to_owned(), args.selection.words()),
        ("Terms".to_owned(), args.terms.clone()),
    ];
    Ok((vec![Run { name, predictions }], about))
}

fn measured_by_network(
    args: &Args,
    folder: &Path,
    folders: &BTreeMap<String, PathBuf>,
) -> anyhow::Result<(Vec<Run>, About)> {
    let n_threads = match args.threads {
        Some(n) => n,
        None => std::thread::available_parallelism().context("asking for the number of cores")?,
    };
    if let Ok(n) = i32::try_from(n_threads.get()) {
        tch::set_num_threads(n);
    }
    let (device, line) = device::choose(&args.device)?;
    eprintln!("{line}");
    let mut classifier = Classifier::load(folder, device)?;
    let (measured, train) = crops(args, folders)?;
    let reader = Reader { args, spec: classifier.spec().clone(), device, n_threads };
    let start = Instant::now();
    let predictions = reader.predict(&mut classifier, &measured, "evaluating")?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{} crops in {seconds:.1} s: {:.1} crops/s, decoding included",
        measured.len(),
        measured.len() as f64 / seconds
    );
    let mut about = vec![
        ("Run".to_owned(), folder.display().to_string()),
        ("Network".to_owned(), classifier.words()),
        (report::WEIGHTS.to_owned(), sha256(&Classifier::file(folder))?),
        ("Split".to_owned(), args.selection.words()),
        ("Terms".to_owned(), args.terms.clone()),
    ];
    let name = match &args.name {
        Some(name) => name.clone(),
        None => folder_name(folder)?,
    };
    let mut runs = vec![Run { name, predictions }];
    if args.baselines {
        runs.extend(reader.baselines(&train, &measured, &runs[0].predictions, &mut about)?);
    }
    Ok((runs, about))
}

/// The crops to measure, and those that baselines learn from.
fn crops(args: &Args, folders: &BTreeMap<String, PathBuf>) -> anyhow::Result<(Vec<Crop>, Vec<Crop>)> {
    let is_possible = !args.baselines || args.selection.split == Part::Validation;
    ensure!(is_possible, "--baselines learn from the train split: expected --split validation with them");
    let (mut measured, mut train) = (Vec::new(), Vec::new());
    for (name, folder) in folders {
        for row in manifest::read(folder)? {
            let path = folder.join(&row.crop);
            let is_measured = args.selection.holds(row.split, row.label, &row.condition, &row.method);
            if is_measured || !args.selection.split.holds(row.split) {
                let part = if is_measured { &mut measured } else { &mut train };
                part.push(Crop { dataset: name.clone(), path, row });
            }
        }
    }
    ensure!(!measured.is_empty(), "--data: expected crops of {}, found none", args.selection.words());
    ensure!(!args.baselines || !train.is_empty(), "--data: expected crops of the train split, found none");
    Ok((measured, train))
}

/// Reads crops through networks.
struct Reader<'a> {
    args: &'a Args,
    spec: Spec,
    device: Device,
    n_threads: NonZeroUsize,
}

impl Reader<'_> {
    fn batches(&self) -> Batches {
        Batches {
            size_px: self.spec.size_px(),
            n_crops: self.args.batch.get(),
            n_threads: self.n_threads.get(),
        }
    }

    fn predict(
        &self,
        classifier: &mut Classifier,
        crops: &[Crop],
        doing: &'static str,
    ) -> anyhow::Result<Vec<Prediction>> {
        let bar = bar(crops.len(), doing);
        let logits = |pictures: &[&RgbImage]| classifier.logits(pictures);
        let (facts, outputs) = run_crops(crops, self.batches(), logits, |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        let logits = baseline::logits(&outputs)?;
        let rows = crops.iter().zip(facts).zip(logits);
        Ok(rows
            .map(|((crop, facts), logits)| Prediction::new(&crop.dataset, &crop.row, facts, logits))
            .collect())
    }

    fn features(&self, network: &Network, crops: &[Crop], doing: &'static str) -> anyhow::Result<Tensor> {
        let forward = |pictures: &[&RgbImage]| {
            Ok(network.features_t(&input(pictures, network.spec(), self.device), false))
        };
        let bar = bar(crops.len(), doing);
        let (_, features) = run_crops(crops, self.batches(), forward, |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        Ok(features)
    }

    fn baselines(
        &self,
        train: &[Crop],
        measured: &[Crop],
        predictions: &[Prediction],
        about: &mut About,
    ) -> anyhow::Result<Vec<Run>> {
        // Probes need only the facts; a network that gives nothing costs nothing.
        let nothing = |pictures: &[&RgbImage]| {
            let n_pictures = i64::try_from(pictures.len()).unwrap_or(i64::MAX);
            Ok(Tensor::f_zeros([n_pictures, 2], (tch::Kind::Float, Device::Cpu))?)
        };
        let bar = bar(train.len(), "facts of the train split");
        let (facts, outputs) = run_crops(train, self.batches(), nothing, |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        let logits = baseline::logits(&outputs)?;
        let rows = train.iter().zip(facts).zip(logits);
        let of_train: Vec<Prediction> = rows
            .map(|((crop, facts), logits)| Prediction::new(&crop.dataset, &crop.row, facts, logits))
            .collect();
        let mut runs = Vec::new();
        match &self.args.imagenet {
            None => {
                about.push(("SVM baseline".to_owned(), "not run: --imagenet names no weights".to_owned()))
            }
            Some(file) => {
                let variables = VarStore::new(self.device);
                let network = Network::new(&variables.root(), &self.spec);
                weights::load_imagenet(&variables, network.spec(), file)?;
                let network = network.folded();
                let of_train = self.features(&network, train, "ImageNet features, train")?;
                let of_measured = self.features(&network, measured, "ImageNet features, measured")?;
                let (predictions, c) =
                    baseline::support_vector_machine((train, &of_train), (predictions, &of_measured))?;
                about.push((
                    "SVM baseline".to_owned(),
                    format!(
                        "{} features of ImageNet weights, C {c:e} by folds of the train split",
                        network.n_features()
                    ),
                ));
                runs.push(Run { name: "ImageNet embedding + linear SVM".to_owned(), predictions });
            }
        }
        let probes = baseline::probes(&of_train, predictions)?;
        runs.extend(probes.into_iter().map(|(name, predictions)| Run { name, predictions }));
        Ok(runs)
    }
}

fn bar(n: usize, doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(n as u64).with_message(doing);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write(
    args: &Args,
    (runs, own): (&[Run], &[Prediction]),
    evaluation: &Evaluation,
    about: &About,
    page: &str,
) -> anyhow::Result<()> {
    // Predictions that were given, or named with --compare, are there already.
    if args.run.is_some() {
        prediction::write(&args.out.join(prediction::FILE), own)?;
        for run in &runs[1..runs.len() - args.compare.len()] {
            let name = run.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase();
            prediction::write(&args.out.join(format!("predictions-{name}.csv")), &run.predictions)?;
        }
    }
    let save = |file: &str, text: &str| {
        let path = args.out.join(file);
        files::replace(&path, text.as_bytes())
    };
    let about_by_name = about.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let metrics = MetricsFile { about: about_by_name, evaluation };
    save(METRICS_FILE, &(serde_json::to_string_pretty(&metrics)? + "\n"))?;
    if let Calibrated::CrossFitted { chosen, .. } = &evaluation.calibration {
        let chosen = serde_json::to_string_pretty(&CalibrationFile::new(&evaluation.aim, chosen))?;
        save(CALIBRATION_FILE, &(chosen + "\n"))?;
    } else {
        // One of an earlier report would pass for this one's.
        let path = args.out.join(CALIBRATION_FILE);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("{}: removing", path.display()))?;
        }
    }
    Ok(save(report::FILE, page)?)
}

fn print(evaluation: &Evaluation, out: &Path) {
    for warning in &evaluation.warnings {
        eprintln!("warning: {warning}");
    }
    for figures in &evaluation.levels {
        let measures = &figures.as_trained;
        println!(
            "{:5}  {} real, {} fake  AUC {:.3}  accuracy {:.3}  log loss {:.3}  equal error rate {:.3}",
            figures.level.word(),
            measures.n_real,
            measures.n_fake,
            measures.auc,
            measures.accuracy,
            measures.log_loss,
            measures.eer,
        );
    }
    println!("{}", out.join(report::FILE).display());
}
