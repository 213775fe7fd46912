//! A whole training: phases, epochs, validation, what is kept, and how it stops and goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Device;

use super::checkpoint::{self, CheckpointError, Phase, Progress};
use super::config::{Config, ConfigError};
use super::console::{Console, Position};
use super::dataset::{Dataset, DatasetError};
use super::ema::{self, Ema};
use super::folder::{self, CONFIG_FILE, EMA_FILE, EpochRow, Folder, FolderError, StepRow};
use super::learner::{Learner, LossScale, StepError};
use super::loader::{Batch, LoadError, Loader};
use super::metrics::Measures;
use super::sampler::{Sampler, SamplerError};
use super::setup;
use crate::model::checkpoint::{BEST_FILE, CheckpointError as SaveError, save_tensors};
use crate::model::weights::{self, WeightsError};

/// Names of tensors in a state start with one of these.
const WEIGHTS: &str = "weights.";
const MEAN: &str = "adam_mean.";
const SQUARE: &str = "adam_square.";
const EMA: &str = "ema.";

/// Why a training ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Somebody asked it to; its state is saved.
    #[error("interrupted at step {step}; to go on: train --resume {folder}")]
    Interrupted {
        /// Optimizer steps done.
        step: u64,
        /// The run.
        folder: PathBuf,
    },
    /// The recipe.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The datasets.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Nothing to draw.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The first weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A crop.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A number.
    #[error("{problem}; the last checkpoint, of step {checkpoint}, is kept in {folder}/last")]
    Step {
        /// What isn't a number.
        problem: StepError,
        /// The step of the last checkpoint.
        checkpoint: u64,
        /// The run.
        folder: PathBuf,
    },
    /// Validation's loss is no number.
    #[error("epoch {0}: the validation loss is no number, so that no weights can be chosen by it")]
    Validation(u64),
    /// The run's folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Other data than the run's.
    #[error("{run}: {data}: expected the run's data, a manifest of SHA-256 {expected}, found {found}")]
    Data {
        /// The run.
        run: PathBuf,
        /// The dataset.
        data: String,
        /// Its manifest's digest when the run began.
        expected: String,
        /// The digest now.
        found: String,
    },
    /// A state that isn't this recipe's.
    #[error("{folder}: the saved state has no {name} of the recipe's network")]
    State {
        /// The run.
        folder: PathBuf,
        /// The variable.
        name: String,
    },
}

impl From<CheckpointError> for TrainError {
    fn from(error: CheckpointError) -> Self {
        TrainError::Folder(error.into())
    }
}

impl From<SaveError> for TrainError {
    fn from(error: SaveError) -> Self {
        TrainError::Folder(error.into())
    }
}

/// A training that runs.
pub struct Training {
    config: Config,
    learner: Learner,
    dataset: Arc<Dataset>,
    sampler: Sampler,
    ema: Option<Ema>,
    progress: Progress,
    checkpoint_step: u64,
    steps_per_epoch: u64,
    folder: Folder,
    console: Console,
    stop: Arc<AtomicBool>,
}

impl Training {
    /// Starts a run in `path`. `device_line` describes `device`; the run ends soon after `stop` is set.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn start(
        path: &Path,
        config: Config,
        (device, device_line): (Device, &str),
        console: Console,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainError> {
        let dataset = Dataset::open(&config)?;
        let learner = setup::learner(&config, device)?;
        let manifests = dataset.manifests_sha256();
        let folder = Folder::create(path, &config, learner.spec(), device_line, manifests)?;
        let progress = Progress {
            phase: Phase::Main,
            epoch: 0,
            phase_epoch: 0,
            step_in_epoch: 0,
            step: 0,
            optimizer_steps: 0,
            ema_steps: 0,
            loss_sum: 0.0,
            best_loss: f64::INFINITY,
            best_ema_loss: f64::INFINITY,
            epochs_without_better: 0,
            loss_scale: learner.loss_scale.scale,
            steps_at_scale: 0,
            manifests_sha256: dataset.manifests_sha256().to_vec(),
        };
        let decay = config.optimizer.ema_decay;
        let ema = (decay > 0.0).then(|| Ema::new(&learner.store, decay));
        let mut training = Training::new(config, learner, dataset, ema, progress, folder, console, stop)?;
        training.describe(device_line)?;
        training.checkpoint()?;
        Ok(training)
    }

    /// Goes on with the run in `path`, by its own recipe.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn resume(
        path: &Path,
        config: Config,
        (device, device_line): (Device, &str),
        console: Console,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainError> {
        let dataset = Dataset::open(&config)?;
        let (mut tensors, mut progress) = folder::load_state(path)?;
        setup::check_data(path, &config, &progress, &dataset)?;
        // Weights may have been saved after the state. What they reached stays to be beaten, or to be reached again where
        // the epoch is done over with the same result.
        for (best, file) in [(&mut progress.best_loss, BEST_FILE), (&mut progress.best_ema_loss, EMA_FILE)] {
            if let Some(loss) = checkpoint::loss_of(&path.join(file))?.filter(|loss| loss < best) {
                *best = loss.next_up();
            }
        }
        let mut learner = Learner::new(&config, device)?;
        let missing = |name| TrainError::State { folder: path.to_owned(), name };
        ema::put_back(&learner.store, &ema::taken(&mut tensors, WEIGHTS)).map_err(missing)?;
        if progress.phase != Phase::Main && config.finetune.epochs > 0 {
            learner.freeze_below(setup::first_block(&config, &learner));
        }
        let (means, squares) = (ema::taken(&mut tensors, MEAN), ema::taken(&mut tensors, SQUARE));
        let moments =
            |name: &str| Some([means.get(name)?.shallow_clone(), squares.get(name)?.shallow_clone()]);
        learner.optimizer.restore(progress.optimizer_steps, moments).map_err(missing)?;
        learner.loss_scale = LossScale { scale: progress.loss_scale, n_steps: progress.steps_at_scale };
        let decay = config.optimizer.ema_decay;
        let mean =
            ema::taken(&mut tensors, EMA).into_iter().map(|(name, mean)| (name, mean.to_device(device)));
        let ema = (decay > 0.0).then(|| Ema::resume(decay, progress.ema_steps, mean.collect()));
        let folder = Folder::resume(path, &progress, device_line)?;
        let mut training = Training::new(config, learner, dataset, ema, progress, folder, console, stop)?;
        training.describe(device_line)?;
        let Progress { step, epoch, .. } = training.progress;
        training.say(format!("resumed at step {step}, after epoch {epoch}"))?;
        Ok(training)
    }

    #[allow(clippy::too_many_arguments, reason = "its two callers make all of them in different ways")]
    fn new(
        config: Config,
        learner: Learner,
        dataset: Dataset,
        ema: Option<Ema>,
        progress: Progress,
        folder: Folder,
        console: Console,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainError> {
        let sampler = setup::sampler(&config, &dataset)?;
        let dataset = Arc::new(dataset);
        let (_, n_batches) = setup::epoch_batches(&config, &dataset, &sampler, 0);
        let steps_per_epoch = (n_batches / config.optimizer.accumulate).max(1) as u64;
        let checkpoint_step = progress.step;
        Ok(Training {
            config,
            learner,
            dataset,
            sampler,
            ema,
            progress,
            checkpoint_step,
            steps_per_epoch,
            folder,
            console,
            stop,
        })
    }

    fn describe(&mut self, device_line: &str) -> Result<(), TrainError> {
        let (n_reals, n_fakes) = self.dataset.n_training();
        let (n_validation, n_pairs) = (self.dataset.n_validation(), self.sampler.n_pairs());
        let model = &self.config.model;
        let network = format!("network: {} at {} px", model.backbone, model.size_px);
        self.say(device_line.to_owned())?;
        if self.config.optimizer.mixed_precision && !self.learner.store.device().is_cuda() {
            self.say("mixed_precision: nothing to gain on a CPU, so that all is computed in f32".to_owned())?;
        }
        self.say(format!(
            "{network}, {} variables that learn; crops: {n_reals} real and {n_fakes} fake to train with, {n_validation} \
             to validate with; an epoch: {n_pairs} pairs, {} steps",
            self.learner.optimizer.n_variables(),
            self.steps_per_epoch
        ))
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// [`TrainError`]; what was saved last is kept.
    pub fn run(mut self) -> Result<(), TrainError> {
        while self.progress.phase != Phase::Done {
            self.train_epoch()?;
            self.end_epoch()?;
        }
        let best = self.folder.epochs().iter().rev().find(|row| row.is_best);
        let line = best.map_or_else(
            || "done".to_owned(),
            |row| {
                let EpochRow { epoch, loss, accuracy, auc, .. } = row;
                format!("done; best: epoch {epoch}, validation loss {loss:.4}, accuracy {accuracy:.4}, AUC {auc:.4}")
            },
        );
        self.say(line)
    }

    fn train_epoch(&mut self) -> Result<(), TrainError> {
        let epoch = self.progress.epoch;
        let n_accumulated = self.config.optimizer.accumulate;
        let (make, n_batches) = setup::epoch_batches(&self.config, &self.dataset, &self.sampler, epoch);
        let done = usize::try_from(self.progress.step_in_epoch).unwrap_or(usize::MAX);
        let first = done.saturating_mul(n_accumulated).min(n_batches);
        let queue = self.config.loader.queue_batches;
        let mut loader = Loader::start(first..n_batches, setup::n_loader_threads(&self.config), queue, &make);
        self.console.start_epoch();
        while self.progress.step_in_epoch < self.steps_per_epoch {
            self.check_stop()?;
            let batches: Vec<Batch> = loader.by_ref().take(n_accumulated).collect::<Result<_, _>>()?;
            self.step(&batches)?;
            let is_last = self.progress.step_in_epoch == self.steps_per_epoch;
            if !is_last && self.progress.step.is_multiple_of(self.config.schedule.checkpoint_steps) {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn step(&mut self, batches: &[Batch]) -> Result<(), TrainError> {
        let n_epochs = self.n_epochs();
        let phase_step = self.progress.phase_epoch * self.steps_per_epoch + self.progress.step_in_epoch;
        let point = self.config.schedule.cycle.at(phase_step, n_epochs * self.steps_per_epoch);
        let peaks = match self.progress.phase {
            Phase::Main => [self.config.optimizer.base_lr, self.config.optimizer.head_lr],
            Phase::Finetune | Phase::Done => [self.config.finetune.lr; 2],
        };
        let rates = peaks.map(|peak| peak * point.lr_factor);
        let step = self.learner.step(batches, rates, point.momentum, self.progress.step);
        let step = step.map_err(|problem| TrainError::Step {
            problem,
            checkpoint: self.checkpoint_step,
            folder: self.folder.path().to_owned(),
        })?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.learner.store);
        }
        self.progress.step += 1;
        self.progress.step_in_epoch += 1;
        self.progress.loss_sum += step.loss;
        self.folder.add_step(StepRow {
            step: self.progress.step,
            epoch: self.progress.epoch + 1,
            loss: step.loss,
            head_lr: rates[1],
            base_lr: rates[0],
            momentum: point.momentum,
            gradient_norm: step.gradient_norm,
        })?;
        let position = Position {
            epoch: self.progress.phase_epoch + 1,
            n_epochs,
            step: self.progress.step_in_epoch,
            n_steps: self.steps_per_epoch,
            n_left: self.n_steps_left(),
            loss: self.progress.loss_sum / self.progress.step_in_epoch as f64,
        };
        self.console.step(position, batches.iter().map(|batch| batch.classes.len()).sum());
        Ok(())
    }

    fn end_epoch(&mut self) -> Result<(), TrainError> {
        let speed = self.console.pictures_per_s();
        let (measures, ema_measures) = self.validate()?;
        let is_best = measures.loss < self.progress.best_loss;
        if is_best {
            let loss = Some(checkpoint::loss_metadata(measures.loss));
            save_tensors(&ema::snapshot(&self.learner.store), loss, &self.folder.best())?;
            self.progress.best_loss = measures.loss;
            self.progress.epochs_without_better = 0;
        } else {
            self.progress.epochs_without_better += 1;
        }
        if let (Some(ema), Some(Measures { loss, .. })) = (&self.ema, ema_measures)
            && loss < self.progress.best_ema_loss
        {
            let metadata = Some(checkpoint::loss_metadata(loss));
            save_tensors(ema.mean(), metadata, &self.folder.path().join(EMA_FILE))?;
            self.progress.best_ema_loss = loss;
        }
        let row = EpochRow {
            epoch: self.progress.epoch + 1,
            phase: self.progress.phase,
            step: self.progress.step,
            train_loss: self.progress.loss_sum / self.progress.step_in_epoch as f64,
            loss: measures.loss,
            accuracy: measures.accuracy,
            auc: measures.auc,
            ema_loss: ema_measures.map_or(f64::NAN, |measures| measures.loss),
            ema_accuracy: ema_measures.map_or(f64::NAN, |measures| measures.accuracy),
            ema_auc: ema_measures.map_or(f64::NAN, |measures| measures.auc),
            is_best,
        };
        let mut line = format!(
            "epoch {}: train loss {:.4}; validation loss {:.4}, accuracy {:.4}, AUC {:.4}",
            row.epoch, row.train_loss, row.loss, row.accuracy, row.auc
        );
        if let Some(Measures { loss, auc, .. }) = ema_measures {
            line += &format!("; mean of weights: loss {loss:.4}, AUC {auc:.4}");
        }
        line += &format!("; {speed:.1} pictures/s{}", if is_best { "; best so far" } else { "" });
        self.folder.add_epoch(row)?;
        self.say(line)?;
        self.progress.epoch += 1;
        self.progress.phase_epoch += 1;
        self.progress.step_in_epoch = 0;
        self.progress.loss_sum = 0.0;
        self.end_phase()?;
        self.checkpoint()?;
        Ok(self.folder.draw()?)
    }

    /// Goes to the next phase where this one is over.
    fn end_phase(&mut self) -> Result<(), TrainError> {
        let Progress { phase, phase_epoch, epochs_without_better, .. } = self.progress;
        let patience = self.config.schedule.patience;
        let is_stuck = phase == Phase::Main && patience > 0 && epochs_without_better >= patience;
        if is_stuck {
            self.say(format!("stopped early: {patience} epochs without a better validation loss"))?;
        }
        if !is_stuck && phase_epoch < self.n_epochs() {
            return Ok(());
        }
        if phase == Phase::Finetune || self.config.finetune.epochs == 0 {
            self.progress.phase = Phase::Done;
            return Ok(());
        }
        let best = weights::read(&self.folder.best())?;
        let missing = |name| TrainError::State { folder: self.folder.path().to_owned(), name };
        ema::put_back(&self.learner.store, &best).map_err(missing)?;
        let block_idx = setup::first_block(&self.config, &self.learner);
        self.learner.freeze_below(block_idx);
        self.ema = self.ema.take().map(|_| Ema::new(&self.learner.store, self.config.optimizer.ema_decay));
        self.progress.phase = Phase::Finetune;
        self.progress.phase_epoch = 0;
        self.progress.epochs_without_better = 0;
        let (n_blocks, n_variables) = (self.learner.network.n_blocks(), self.learner.optimizer.n_variables());
        self.say(format!(
            "from the best weights: blocks before {block_idx} of {n_blocks} frozen, {n_variables} variables learn"
        ))
    }

    /// Measures the weights and the mean of weights, where one is kept; the network's weights are put back.
    fn validate(&mut self) -> Result<(Measures, Option<Measures>), TrainError> {
        let measure = || setup::validate(&self.config, &self.learner, &self.dataset, &self.stop);
        let mut measures = measure()?;
        let mut ema_measures = None;
        if let Some(ema) = &self.ema {
            let missing = |name| TrainError::State { folder: self.folder.path().to_owned(), name };
            let weights = ema::snapshot(&self.learner.store);
            ema::put_back(&self.learner.store, ema.mean()).map_err(missing)?;
            let outcome = measure();
            ema::put_back(&self.learner.store, &weights).map_err(missing)?;
            ema_measures = outcome?;
            measures = measures.filter(|_| ema_measures.is_some());
        }
        // Cut short: all of it is done again after a resume, which begins with this epoch's validation.
        self.check_stop()?;
        let measures = measures.filter(|measures| measures.loss.is_finite());
        let measures = measures.ok_or(TrainError::Validation(self.progress.epoch + 1))?;
        Ok((measures, ema_measures))
    }

    fn check_stop(&mut self) -> Result<(), TrainError> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.checkpoint()?;
        self.folder.draw()?;
        let interrupted =
            TrainError::Interrupted { step: self.progress.step, folder: self.folder.path().to_owned() };
        self.folder.note(&interrupted)?;
        Err(interrupted)
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        self.progress.optimizer_steps = self.learner.optimizer.n_steps();
        self.progress.ema_steps = self.ema.as_ref().map_or(0, Ema::n_steps);
        let LossScale { scale, n_steps } = self.learner.loss_scale;
        (self.progress.loss_scale, self.progress.steps_at_scale) = (scale, n_steps);
        let mut tensors = ema::named(WEIGHTS, ema::variables(&self.learner.store));
        for (name, [mean, square]) in self.learner.optimizer.moments() {
            tensors.insert(format!("{MEAN}{name}"), mean.shallow_clone());
            tensors.insert(format!("{SQUARE}{name}"), square.shallow_clone());
        }
        if let Some(ema) = &self.ema {
            let mean = ema.mean().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
            tensors.append(&mut ema::named(EMA, mean.collect()));
        }
        self.folder.checkpoint(&tensors, &self.progress)?;
        self.checkpoint_step = self.progress.step;
        Ok(())
    }

    fn n_epochs(&self) -> u64 {
        match self.progress.phase {
            Phase::Main => self.config.schedule.epochs,
            Phase::Finetune | Phase::Done => self.config.finetune.epochs,
        }
    }

    fn n_steps_left(&self) -> u64 {
        let further = if self.progress.phase == Phase::Main { self.config.finetune.epochs } else { 0 };
        let n_epochs = self.n_epochs() - self.progress.phase_epoch + further;
        n_epochs * self.steps_per_epoch - self.progress.step_in_epoch
    }

    fn say(&mut self, line: String) -> Result<(), TrainError> {
        self.console.line(&line);
        Ok(self.folder.note(line)?)
    }
}

/// The recipe that the run in `path` was started with.
///
/// # Errors
/// [`ConfigError`].
pub fn recipe_of(path: &Path) -> Result<Config, ConfigError> {
    Config::load(Some(&path.join(CONFIG_FILE)), &[])
}
