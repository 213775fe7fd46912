//! `trainer-bridge quantize`.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use candor::bundle::to_hex;
use clap::{ArgAction, Args as ClapArgs};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tch::{Device, Tensor};

use super::crops::{batches, choose, rows_of};
use super::float::{Float, Parameters};
use super::folder::{Folder, MODEL, Source};
use super::numbers::{Step, WeightRange};
use super::ranges::{Method, floats, input_step};
use super::recipe::{Crops, Event, Recipe, Stage, State};
use super::{qat, recipe};
use crate::manifest::{Row, Split};
use crate::model::checkpoint;

/// Crops that are run at a time.
const BATCH: usize = 4;

/// Turn a trained network into 8-bit integers.
///
/// The folder gets int8.onnx, which candor and ONNX Runtime run alike, sqnr.html and sqnr.json with what each layer
/// keeps of its signal, and the state to go on from when the command is started again with the same options. Ranges and
/// roundings come from training crops of the dataset, the report from validation crops.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A run's folder, whose best weights are taken, or a .safetensors file with model.json beside it.
    #[arg(value_name = "RUN|CHECKPOINT")]
    network: PathBuf,
    /// Datasets: folders with a manifest.csv.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Crops that ranges are measured on.
    #[arg(long, value_name = "N", default_value_t = 128)]
    calibration_crops: usize,
    /// Crops that the report is made on.
    #[arg(long, value_name = "N", default_value_t = 64)]
    check_crops: usize,
    /// Crops that are trained on, with --qat-steps.
    #[arg(long, value_name = "N", default_value_t = 512)]
    training_crops: usize,
}

/// The methods' options.
#[derive(Clone, Debug, ClapArgs)]
pub struct Options {
    #[command(flatten)]
    methods: Methods,
    /// Batches of quantization-aware training; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    qat_steps: usize,
    /// Learning rate of the training.
    #[arg(long, value_name = "LR", default_value_t = 1e-5)]
    qat_learning_rate: f64,
    /// Share of the labels in the training's loss, 0 to 1; the rest is the float network's.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    qat_labels: f64,
}

/// Options of the methods that train nothing.
#[derive(Clone, Debug, ClapArgs)]
pub struct Methods {
    /// How tensors' ranges are chosen.
    #[arg(long, value_enum, default_value = "mse")]
    ranges: Method,
    /// How weights' scales are chosen, one an output channel.
    #[arg(long, value_enum, default_value = "mse")]
    weights: WeightRange,
    /// Bring the channels of a tensor to like ranges first.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", default_value_t = false)]
    equalize: bool,
    /// Bring each channel's mean back to the float network's.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", default_value_t = true)]
    bias_correction: bool,
    /// Steps of AdaRound a layer; 0 rounds to the nearest.
    #[arg(long, value_name = "N", default_value_t = 500)]
    adaround_steps: u32,
    /// Crops that layers are refined on, by AdaRound and bias correction; they and all they become are held in memory.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(super) refine_crops: usize,
    /// Leave a layer in float whose own signal-to-noise ratio in int8 is below this, dB.
    #[arg(long, value_name = "DB", default_value_t = 8.0)]
    float_below_db: f64,
    /// At most so many layers.
    #[arg(long, value_name = "N", default_value_t = 4)]
    most_float_layers: usize,
    /// Of the crops that are drawn, and of all that is random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Options {
    /// The recipe that the options say.
    ///
    /// # Errors
    /// An option out of its range.
    pub fn recipe(&self) -> anyhow::Result<Recipe> {
        ensure!(
            (0.0..=1.0).contains(&self.qat_labels),
            "--qat-labels: expected 0..=1, found {}",
            self.qat_labels
        );
        let rate = self.qat_learning_rate;
        ensure!(rate.is_finite() && rate > 0.0, "--qat-learning-rate: expected a number > 0, found {rate}");
        Ok(Recipe {
            qat_steps: self.qat_steps,
            qat_learning_rate: rate,
            qat_labels: self.qat_labels,
            ..self.methods.recipe()?
        })
    }

    /// Batches of refining.
    pub(super) fn n_refining(&self) -> usize {
        self.methods.refine_crops.div_ceil(BATCH)
    }
}

impl Methods {
    /// The recipe that the options say, without training.
    ///
    /// # Errors
    /// An option out of its range.
    pub(super) fn recipe(&self) -> anyhow::Result<Recipe> {
        ensure!(self.refine_crops > 0, "--refine-crops: expected at least 1, found 0");
        Ok(Recipe {
            ranges: self.ranges,
            weights: self.weights,
            equalize: self.equalize,
            bias_correction: self.bias_correction,
            adaround_steps: self.adaround_steps,
            qat_steps: 0,
            float_below_db: self.float_below_db,
            most_float_layers: self.most_float_layers,
            seed: self.seed,
            ..Recipe::default()
        })
    }
}

/// Runs the command.
///
/// # Errors
/// A network or a dataset that can't be read, and a folder that can't be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let recipe = args.options.recipe()?;
    let (_variables, network) = checkpoint::load(&args.network, Device::Cpu)?;
    let (spec, float) = (network.spec().clone(), Float::new(&network));
    let rows = rows_of(&args.data)?;
    let chosen = |split, n_crops| choose(&rows, split, n_crops, recipe.seed);
    let calibration = chosen(Split::Train, args.calibration_crops);
    let training = if recipe.qat_steps > 0 { chosen(Split::Train, args.training_crops) } else { Vec::new() };
    let checks = chosen(Split::Validation, args.check_crops);
    for (split, chosen) in [("train", &calibration), ("validation", &checks)] {
        ensure!(!chosen.is_empty(), "--data: expected crops of the split {split}, found none");
    }
    let paths = |rows: &[&Row]| rows.iter().map(|row| PathBuf::from(&row.crop)).collect::<Vec<_>>();
    let classes = training.chunks(BATCH).map(|rows| {
        let classes: Vec<i64> =
            rows.iter().map(|row| i64::try_from(row.label.class()).unwrap_or(0)).collect();
        Tensor::from_slice(&classes)
    });
    let crops = Crops {
        calibration: batches(&paths(&calibration), &spec, BATCH)?,
        n_refining: args.options.n_refining(),
        training: batches(&paths(&training), &spec, BATCH)?.into_iter().zip(classes).collect(),
        checks: batches(&paths(&checks), &spec, BATCH)?,
    };
    let source = Source { recipe, spec, network: network_digest(&float), crops: crops_digest(&crops) };

    let folder = Folder::create(&args.out)?;
    let state = match folder.state(&source, &float)? {
        Some(state) => {
            println!("{}: going on after stage {:?}", args.out.display(), state.stage);
            state
        }
        None => State::start(float),
    };
    let (state, rows) = quantized(&source.recipe, input_step(&source.spec), &crops, state, |state| {
        folder.keep(&source, state).with_context(|| format!("after stage {:?}", state.stage))
    })?;
    let int8 = state.int8.as_ref().context("no integers")?;
    let divergence = qat::divergence(&state.float, int8, &crops.checks);
    folder.write_report(&source, &rows, divergence)?;
    checkpoint::save_spec(&source.spec, &args.out)?;
    let n_bytes = folder.write_model(&state, &source.spec)?;
    for row in rows.iter().filter(|row| row.numbers == "float") {
        println!("{} stays in float: {:.1} dB", row.name, row.own_db);
    }
    if let Some(logits) = rows.last() {
        println!("logits: {:.1} dB; divergence of the probabilities {divergence:.6}", logits.whole_db);
    }
    println!("{}: {n_bytes} bytes", folder.file(MODEL).display());
    Ok(())
}

/// Runs the recipe with a bar for each stage; `keep` gets the state after each.
pub(super) fn quantized(
    recipe: &Recipe,
    input: Step,
    crops: &Crops,
    state: State,
    mut keep: impl FnMut(&State) -> anyhow::Result<()>,
) -> anyhow::Result<(State, Vec<super::sqnr::Row>)> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len} {elapsed}")?;
    bar.set_style(style);
    let told = recipe::run(recipe, input, crops, state, |event| {
        match event {
            Event::Begins(stage, n_parts) => {
                bar.reset();
                bar.set_length(n_parts as u64);
                bar.set_message(word(stage));
            }
            Event::Part => bar.inc(1),
            Event::Loss(loss) => {
                bar.inc(1);
                bar.set_message(format!("loss {loss:.5}"));
            }
            Event::Equalized(done) => bar.suspend(|| {
                println!("equalized: {} channels of {} sets of tensors", done.n_channels, done.n_classes);
            }),
            Event::Trained(trained) => bar.suspend(|| {
                let outcome = if trained.after < trained.before { "kept" } else { "dropped" };
                println!("trained: divergence {:.6} -> {:.6}, {outcome}", trained.before, trained.after);
            }),
            Event::Ended(state) => keep(state)?,
        }
        Ok(())
    });
    bar.finish_and_clear();
    told
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Start => "start",
        Stage::Equalized => "equalize",
        Stage::Rounded => "ranges",
        Stage::Refined => "refine",
        Stage::Trained => "train",
        Stage::Widened => "measure",
    }
}

/// SHA-256 of every weight and bias.
pub fn network_digest(float: &Float) -> String {
    let parameters = float.parameters.iter().flatten();
    digest(parameters.flat_map(|Parameters { weight, bias }| [weight, bias]))
}

/// SHA-256 of all that a state depends on of its crops.
fn crops_digest(crops: &Crops) -> String {
    let n_refining = i64::try_from(crops.n_refining).unwrap_or(i64::MAX);
    let counts = [crops.calibration.len(), crops.training.len(), crops.checks.len()];
    let counts = counts.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let head = Tensor::from_slice(&[&[n_refining][..], &counts].concat());
    let training = crops.training.iter().flat_map(|(pictures, classes)| [pictures, classes]);
    digest([&head].into_iter().chain(&crops.calibration).chain(training).chain(&crops.checks))
}

fn digest<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> String {
    let mut digest = Sha256::new();
    for tensor in tensors {
        floats(tensor).iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    to_hex(&digest.finalize())
}
