//! A run's folder: what was asked for, what it ran on, every step and epoch, curves and weights.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use candor::bundle::to_hex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tch::Tensor;

use super::checkpoint::{self, CheckpointError, Phase, Progress};
use super::config::Config;
use super::device;
use super::events::Events;
use super::plot::{self, Chart, Line, Mark};
use crate::files::{self, FileError};
use crate::model::Spec;
use crate::model::checkpoint::{BEST_FILE, CheckpointError as ModelError, save_spec};

/// The recipe as used.
pub const CONFIG_FILE: &str = "config.toml";
/// The mean of weights at its best, where one is kept.
pub const EMA_FILE: &str = "ema.safetensors";
const FACTS_FILE: &str = "run.toml";
const STATE_FILE: &str = "last/state.safetensors";
const STEPS_FILE: &str = "steps.csv";
const EPOCHS_FILE: &str = "epochs.csv";
const CURVES_FILE: &str = "curves.svg";
const LOG_FILE: &str = "train.log";

/// Why a run's folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A new run may not mix with an old one.
    #[error("{0}: expected an empty folder or none; to go on with the run in it, --resume it")]
    NotEmpty(PathBuf),
    /// A table that isn't one.
    #[error("{path}: {cause}")]
    Table {
        /// The file.
        path: PathBuf,
        /// Which line, what was found.
        cause: csv::Error,
    },
    /// A checkpoint can't be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The network's description can't be written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Curves can't be drawn.
    #[error(transparent)]
    Plot(#[from] plot::PlotError),
}

/// One step, a row of `steps.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// From 1.
    pub step: u64,
    /// From 1.
    pub epoch: u64,
    /// Mean loss of its pictures.
    pub loss: f64,
    /// The head's learning rate.
    pub head_lr: f64,
    /// The backbone's.
    pub base_lr: f64,
    /// Adam's first beta.
    pub momentum: f64,
    /// Before it was clipped.
    pub gradient_norm: f64,
}

/// One epoch, a row of `epochs.csv`. What doesn't exist is NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// From 1.
    pub epoch: u64,
    /// `main` or `finetune`.
    pub phase: Phase,
    /// Its last step.
    pub step: u64,
    /// Mean of its steps' losses.
    pub train_loss: f64,
    /// Validation loss: the mean of both classes' means.
    pub loss: f64,
    /// Share of validation pictures that are judged right.
    pub accuracy: f64,
    /// Area under the ROC.
    pub auc: f64,
    /// As `loss`, of the mean of weights.
    pub ema_loss: f64,
    /// As `accuracy`, of the mean of weights.
    pub ema_accuracy: f64,
    /// As `auc`, of the mean of weights.
    pub ema_auc: f64,
    /// Whether these weights are the best so far.
    pub is_best: bool,
}

/// An open run.
pub struct Folder {
    path: PathBuf,
    steps: Vec<StepRow>,
    n_steps_written: usize,
    epochs: Vec<EpochRow>,
    events: Events,
    log: File,
}

impl Folder {
    /// Starts a run in `path`, which is made, with the recipe, the network, and the facts of this machine and of the data.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn create(
        path: &Path,
        config: &Config,
        spec: &Spec,
        device: &str,
        manifests_sha256: &[String],
    ) -> Result<Self, FolderError> {
        fs::create_dir_all(path.join("last")).map_err(FileError::of(path, "creating"))?;
        let entries = fs::read_dir(path).map_err(FileError::of(path, "reading"))?;
        let others = entries.flatten().filter(|entry| entry.file_name() != "last");
        if others.count() > 0 || path.join(STATE_FILE).exists() {
            return Err(FolderError::NotEmpty(path.to_owned()));
        }
        files::replace(&path.join(CONFIG_FILE), config.to_toml().as_bytes())?;
        save_spec(spec, path)?;
        let weights = &config.model.weights;
        let start = Start {
            seed: config.seed,
            weights_sha256: if weights.is_empty() { None } else { Some(sha256(Path::new(weights))?) },
            manifests_sha256,
            process: Process::facts(device),
        };
        files::replace(&path.join(FACTS_FILE), toml_of(&start).as_bytes())?;
        Folder::open(path, 0)
    }

    /// Goes on with the run in `path` at its last checkpoint: rows of later steps are dropped. `device`
    /// describes what it goes on with.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn resume(path: &Path, progress: &Progress, device: &str) -> Result<Self, FolderError> {
        let mut folder = Folder::open(path, progress.step)?;
        folder.steps = read_rows(&path.join(STEPS_FILE), |row: &StepRow| row.step <= progress.step)?;
        folder.epochs = read_rows(&path.join(EPOCHS_FILE), |row: &EpochRow| row.epoch <= progress.epoch)?;
        files::replace(&path.join(STEPS_FILE), &table(&folder.steps, true))?;
        folder.n_steps_written = folder.steps.len();
        folder.write_epochs()?;
        let facts_path = path.join(FACTS_FILE);
        let facts = fs::read_to_string(&facts_path).map_err(FileError::of(&facts_path, "reading"))?;
        let resumed = format!("{facts}\n[[resumed]]\n{}", toml_of(&Process::facts(device)));
        files::replace(&facts_path, resumed.as_bytes())?;
        Ok(folder)
    }

    fn open(path: &Path, step: u64) -> Result<Self, FolderError> {
        let log_path = path.join(LOG_FILE);
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log_path)
            .map_err(FileError::of(&log_path, "opening"))?;
        let events = Events::create(path, step).map_err(FileError::of(path, "writing events into"))?;
        let path = path.to_owned();
        Ok(Folder { path, steps: Vec::new(), n_steps_written: 0, epochs: Vec::new(), events, log })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Best weights so far.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST_FILE)
    }

    /// Epochs so far.
    pub fn epochs(&self) -> &[EpochRow] {
        &self.epochs
    }

    /// Adds a line to the log, with the time.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn note(&mut self, line: impl Display) -> Result<(), FolderError> {
        Ok(writeln!(self.log, "{} {line}", now()).map_err(FileError::of(&self.path, "writing into"))?)
    }

    /// Notes a step.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn add_step(&mut self, row: StepRow) -> Result<(), FolderError> {
        let scalars = [
            ("loss/train", row.loss),
            ("learning_rate/head", row.head_lr),
            ("learning_rate/base", row.base_lr),
            ("momentum", row.momentum),
            ("gradient_norm", row.gradient_norm),
        ];
        self.events.scalars(row.step, &scalars).map_err(FileError::of(&self.path, "writing into"))?;
        self.steps.push(row);
        Ok(())
    }

    /// Notes an epoch.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub fn add_epoch(&mut self, row: EpochRow) -> Result<(), FolderError> {
        let scalars = [
            ("loss/train_epoch", row.train_loss),
            ("loss/valid", row.loss),
            ("accuracy/valid", row.accuracy),
            ("auc/valid", row.auc),
            ("loss/valid_ema", row.ema_loss),
            ("accuracy/valid_ema", row.ema_accuracy),
            ("auc/valid_ema", row.ema_auc),
        ];
        let numbers: Vec<_> = scalars.into_iter().filter(|(_, value)| value.is_finite()).collect();
        self.events.scalars(row.step, &numbers).map_err(FileError::of(&self.path, "writing into"))?;
        self.epochs.push(row);
        Ok(())
    }

    /// Draws the curves of what was noted.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn draw(&self) -> Result<(), FolderError> {
        let curves = plot::svg(&self.charts())?;
        Ok(files::replace(&self.path.join(CURVES_FILE), curves.as_bytes())?)
    }

    /// Writes tables, then the state: what the state rests on is on the disk before it.
    ///
    /// # Errors
    /// [`FolderError`]; the last checkpoint stays whole.
    pub fn checkpoint(
        &mut self,
        tensors: &BTreeMap<String, Tensor>,
        progress: &Progress,
    ) -> Result<(), FolderError> {
        let steps_path = self.path.join(STEPS_FILE);
        let fails = || FileError::of(&steps_path, "writing");
        let mut steps = OpenOptions::new().append(true).create(true).open(&steps_path).map_err(fails())?;
        let rows = table(&self.steps[self.n_steps_written..], self.n_steps_written == 0);
        steps.write_all(&rows).and_then(|()| steps.sync_all()).map_err(fails())?;
        self.n_steps_written = self.steps.len();
        self.write_epochs()?;
        Ok(checkpoint::save(&self.path.join(STATE_FILE), tensors, progress)?)
    }

    fn write_epochs(&self) -> Result<(), FolderError> {
        Ok(files::replace(&self.path.join(EPOCHS_FILE), &table(&self.epochs, true))?)
    }

    fn charts(&self) -> Vec<Chart<'_>> {
        let steps =
            |value: fn(&StepRow) -> f64| self.steps.iter().map(|r| (r.step as f64, value(r))).collect();
        let epochs = |value: fn(&EpochRow) -> f64| {
            self.epochs.iter().map(|row| (row.step as f64, value(row))).collect::<Vec<_>>()
        };
        let line = |name, points: Vec<(f64, f64)>| Line { name, points, is_faint: false };
        let raw: Vec<(f64, f64)> = steps(|row| row.loss);
        let mut losses = vec![
            line("train, smoothed", smoothed(&raw)),
            line("validation", epochs(|row| row.loss)),
            Line { name: "train, each step", points: raw, is_faint: true },
        ];
        let mut shares = vec![
            line("validation AUC", epochs(|row| row.auc)),
            line("validation accuracy", epochs(|row| row.accuracy)),
        ];
        if self.epochs.iter().any(|row| row.ema_loss.is_finite()) {
            losses.push(line("validation, mean of weights", epochs(|row| row.ema_loss)));
            shares.push(line("AUC, mean of weights", epochs(|row| row.ema_auc)));
        }
        let rates = vec![line("head", steps(|row| row.head_lr)), line("backbone", steps(|row| row.base_lr))];
        let chart = |title, lines, is_share| {
            let marks = self.marks();
            Chart { title, x_name: "step", lines, marks, is_share, ..Chart::default() }
        };
        vec![
            chart("Loss", losses, false),
            chart("Validation", shares, true),
            chart("Learning rate", rates, false),
            chart(
                "Norm of the gradient",
                vec![line("before clipping", steps(|row| row.gradient_norm))],
                false,
            ),
        ]
    }

    fn marks(&self) -> Vec<Mark> {
        let best = self.epochs.iter().rev().find(|row| row.is_best);
        let last_main = self.epochs.iter().rev().find(|row| row.phase == Phase::Main);
        let is_over = self.epochs.last().is_some_and(|row| row.phase == Phase::Finetune);
        let mark = |row: &EpochRow, name| Mark { x: row.step as f64, name };
        let best = best.map(|row| mark(row, format!("best, epoch {}", row.epoch)));
        let boundary = last_main.filter(|_| is_over).map(|row| mark(row, "early blocks frozen".to_owned()));
        best.into_iter().chain(boundary).collect()
    }
}

/// The state that the run in `path` goes on with, by tensors' names.
///
/// # Errors
/// [`CheckpointError`].
pub fn load_state(path: &Path) -> Result<(BTreeMap<String, Tensor>, Progress), CheckpointError> {
    checkpoint::load(&path.join(STATE_FILE))
}

/// Exponential mean of y over a twentieth of the points, corrected for its start.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let share = 1.0 / (points.len() as f64 / 20.0).clamp(2.0, 50.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        mean += share * (y - mean);
        weight += share * (1.0 - weight);
        (x, mean / weight)
    };
    points.iter().map(next).collect()
}

/// What a run can be repeated and compared by.
#[derive(Serialize)]
struct Start<'a> {
    seed: u64,
    /// Of the file that the recipe starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    /// Of each dataset's manifest, in the recipe's order.
    manifests_sha256: &'a [String],
    #[serde(flatten)]
    process: Process<'a>,
}

/// What runs, and on what: a run may go on with another program, on another machine.
#[derive(Serialize)]
struct Process<'a> {
    started: String,
    command: Vec<String>,
    device: &'a str,
    program: &'static str,
    program_sha256: String,
    /// Of the sources' checkout when the run starts: the program may have been built from another one.
    checkout_git_revision: String,
    checkout_git_dirty: Option<bool>,
    libtorch: String,
    tch: &'static str,
    processor: String,
    n_threads: i32,
}

impl<'a> Process<'a> {
    fn facts(device: &'a str) -> Self {
        let (checkout_git_revision, checkout_git_dirty) = checkout();
        let program = std::env::current_exe().ok().and_then(|path| sha256(&path).ok());
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Process {
            started: now(),
            command: std::env::args().collect(),
            device,
            program: concat!("trainer-bridge ", env!("CARGO_PKG_VERSION")),
            program_sha256: program.unwrap_or_else(|| "unknown".to_owned()),
            checkout_git_revision,
            checkout_git_dirty,
            libtorch: device::libtorch_version(),
            tch: "0.24.0",
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            n_threads: tch::get_num_threads(),
        }
    }
}

fn toml_of(facts: &impl Serialize) -> String {
    toml::to_string(facts).unwrap_or_else(|error| unreachable!("facts have TOML's types: {error}"))
}

/// Revision of the checkout that the program was built in, and whether files differ from it now.
fn checkout() -> (String, Option<bool>) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        // CUDA's library, which may be preloaded, has no business in git.
        command.args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).env_remove("LD_PRELOAD");
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let revision = git(&["rev-parse", "HEAD"]).map(|text| text.trim().to_owned());
    let is_dirty = git(&["status", "--porcelain"]).map(|text| !text.is_empty());
    (revision.unwrap_or_else(|| "unknown".to_owned()), is_dirty)
}

/// SHA-256 of a file, lower-case hexadecimal digits.
///
/// # Errors
/// [`FileError`] where it can't be read.
pub fn sha256(path: &Path) -> Result<String, FileError> {
    let bytes = fs::read(path).map_err(FileError::of(path, "reading"))?;
    Ok(to_hex(&Sha256::digest(bytes)))
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn table<T: Serialize>(rows: &[T], has_head: bool) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().has_headers(has_head).from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).unwrap_or_else(|error| unreachable!("rows are flat: {error}"));
    }
    writer.into_inner().unwrap_or_else(|error| unreachable!("memory takes all: {error}"))
}

/// Rows up to the first one that isn't `wanted`: what comes behind may be torn.
fn read_rows<T: DeserializeOwned>(path: &Path, wanted: impl Fn(&T) -> bool) -> Result<Vec<T>, FolderError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let fails = |cause| FolderError::Table { path: path.to_owned(), cause };
    let reader = csv::Reader::from_path(path).map_err(fails)?;
    let mut rows = Vec::new();
    for row in reader.into_deserialize() {
        match row {
            Ok(row) if wanted(&row) => rows.push(row),
            _ => break,
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_starts_without_a_bias() {
        let constant: Vec<_> = (0..50).map(|x| (f64::from(x), 3.0)).collect();
        for (found, expected) in smoothed(&constant).iter().zip(&constant) {
            assert!((found.1 - expected.1).abs() < 1e-12);
        }
    }
}
