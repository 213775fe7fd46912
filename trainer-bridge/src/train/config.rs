//! A recipe: every number of a training, read from TOML over the documented default.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::optimizer::Adam;
use super::schedule::Cycle;
use crate::augment;
use crate::model::{NormMode, Spec, SpecError};

/// The default recipe, which explains every key.
pub const DEFAULT: &str = include_str!("default.toml");

/// Why a recipe can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {cause}")]
    Io {
        /// The recipe.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Not TOML, an unknown key or a value of the wrong type.
    #[error("{origin}: {cause}")]
    Toml {
        /// The file, or the option.
        origin: String,
        /// What was found where.
        cause: toml::de::Error,
    },
    /// An option that isn't KEY=VALUE.
    #[error("--set {0}: expected KEY=VALUE, such as optimizer.head_lr=3e-4")]
    Set(String),
    /// A number that no training can have.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A network that can't be.
    #[error("model: {0}")]
    Spec(#[from] SpecError),
    /// An augmentation that can't be.
    #[error(transparent)]
    Augment(#[from] augment::SettingsError),
}

/// A recipe. `default.toml` says what each key means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys, and is printed by --print-config")]
pub struct Config {
    pub seed: u64,
    pub device: String,
    pub model: Model,
    #[serde(default)]
    pub data: Vec<Data>,
    pub sampler: Sampler,
    pub augment: augment::Settings,
    pub loader: Loader,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub finetune: Finetune,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Model {
    pub backbone: String,
    pub size_px: u32,
    pub hidden: u32,
    pub weights: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_connect: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm_momentum: Option<f64>,
}

/// One dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Data {
    pub folder: PathBuf,
    #[serde(default = "one")]
    pub weight: f64,
    #[serde(default = "yes")]
    pub pseudo: bool,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Sampler {
    pub pairs_per_epoch: usize,
    pub pseudo_share: f64,
    pub swap_share: f64,
    pub pseudo_validation: bool,
}

/// What happens ahead of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Loader {
    pub threads: usize,
    pub queue_batches: usize,
    pub cache_mib: usize,
}

/// How weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Optimizer {
    pub batch_size: usize,
    pub accumulate: usize,
    pub head_lr: f64,
    pub base_lr: f64,
    pub clip_norm: f64,
    pub label_smoothing: f64,
    pub ema_decay: f64,
    pub mixed_precision: bool,
    pub norms: NormMode,
    pub adam: Adam,
}

/// The first phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Schedule {
    pub epochs: u64,
    pub patience: u64,
    pub checkpoint_steps: u64,
    pub cycle: Cycle,
}

/// The second phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "default.toml documents the keys")]
pub struct Finetune {
    pub epochs: u64,
    pub lr: f64,
    pub first_block: i64,
}

impl Default for Config {
    fn default() -> Self {
        Config::from_layers(&[]).unwrap_or_else(|error| unreachable!("default.toml is tested: {error}"))
    }
}

impl Config {
    /// The default recipe, then the file's, then `settings` (KEY=VALUE with a dotted key; a value that isn't TOML is
    /// taken as a string).
    ///
    /// # Errors
    /// [`ConfigError`] for what can't be read, an unknown key and a value out of its range.
    pub fn load(file: Option<&Path>, settings: &[String]) -> Result<Self, ConfigError> {
        let mut layers = Vec::new();
        if let Some(path) = file {
            let text =
                fs::read_to_string(path).map_err(|cause| ConfigError::Io { path: path.into(), cause })?;
            layers.push((path.display().to_string(), text));
        }
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| ConfigError::Set(setting.clone()))?;
            let plain = format!("{key} = {value}");
            let text = if plain.parse::<Table>().is_ok() { plain } else { format!("{key} = {value:?}") };
            layers.push((format!("--set {setting}"), text));
        }
        let config = Config::from_layers(&layers)?;
        config.check()?;
        Ok(config)
    }

    /// Each layer (where it is from, TOML) over the ones before it; after each one it must still be a recipe, so that
    /// an error names the layer that made it.
    fn from_layers(layers: &[(String, String)]) -> Result<Self, ConfigError> {
        let fails = |origin: &str| {
            let origin = origin.to_owned();
            move |cause| ConfigError::Toml { origin, cause }
        };
        let mut table: Table = DEFAULT.parse().map_err(fails("default.toml"))?;
        for (origin, text) in layers {
            // A typed parse of the layer alone would miss keys; a parse of its text says line and column.
            overlay(&mut table, text.parse().map_err(fails(origin))?);
            Config::deserialize(table.clone()).map_err(fails(origin))?;
        }
        Config::deserialize(table).map_err(fails("default.toml"))
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a recipe has TOML's types: {error}"))
    }

    /// The network that the recipe names.
    ///
    /// # Errors
    /// [`ConfigError::Spec`].
    pub fn spec(&self) -> Result<Spec, ConfigError> {
        let mut spec = Spec::named(&self.model.backbone, self.model.size_px)?;
        spec.hidden = self.model.hidden;
        spec.dropout = self.model.dropout.unwrap_or(spec.dropout);
        spec.drop_connect = self.model.drop_connect.unwrap_or(spec.drop_connect);
        spec.batch_norm_momentum = self.model.batch_norm_momentum.unwrap_or(spec.batch_norm_momentum);
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = |holds: bool, key, expected, found: &dyn ToString| {
            if holds { Ok(()) } else { Err(ConfigError::Value { key, expected, found: found.to_string() }) }
        };
        let (sampler, optimizer, cycle) = (&self.sampler, &self.optimizer, &self.schedule.cycle);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let below_one = |value: f64| (0.0..1.0).contains(&value);
        let is_rate = |value: f64| value > 0.0 && value <= 100.0;
        self.spec()?;
        self.augment.check()?;
        for data in &self.data {
            let is_weight = data.weight.is_finite() && data.weight >= 0.0;
            check(is_weight, "data.weight", "a number >= 0", &data.weight)?;
        }
        check(share(sampler.pseudo_share), "sampler.pseudo_share", "0..=1", &sampler.pseudo_share)?;
        check(share(sampler.swap_share), "sampler.swap_share", "0..=1", &sampler.swap_share)?;
        let batch_size = optimizer.batch_size;
        let is_even = batch_size >= 2 && batch_size.is_multiple_of(2);
        check(is_even, "optimizer.batch_size", "an even number >= 2", &batch_size)?;
        check(optimizer.accumulate >= 1, "optimizer.accumulate", ">= 1", &optimizer.accumulate)?;
        check(is_rate(optimizer.head_lr), "optimizer.head_lr", "> 0, <= 100", &optimizer.head_lr)?;
        check(is_rate(optimizer.base_lr), "optimizer.base_lr", "> 0, <= 100", &optimizer.base_lr)?;
        check(optimizer.clip_norm >= 0.0, "optimizer.clip_norm", ">= 0", &optimizer.clip_norm)?;
        let smoothing = optimizer.label_smoothing;
        check(below_one(smoothing), "optimizer.label_smoothing", "0..1", &smoothing)?;
        check(below_one(optimizer.ema_decay), "optimizer.ema_decay", "0..1", &optimizer.ema_decay)?;
        let Adam { beta2, epsilon, weight_decay } = optimizer.adam;
        check(below_one(beta2), "optimizer.adam.beta2", "0..1", &beta2)?;
        check(epsilon > 0.0, "optimizer.adam.epsilon", "> 0", &epsilon)?;
        check(
            (0.0..=100.0).contains(&weight_decay),
            "optimizer.adam.weight_decay",
            "0..=100",
            &weight_decay,
        )?;
        check(self.schedule.epochs >= 1, "schedule.epochs", ">= 1", &self.schedule.epochs)?;
        let every = self.schedule.checkpoint_steps;
        check(every >= 1, "schedule.checkpoint_steps", ">= 1", &every)?;
        check(below_one(cycle.peak_at), "schedule.cycle.peak_at", "0..1", &cycle.peak_at)?;
        check(cycle.start_divisor >= 1.0, "schedule.cycle.start_divisor", ">= 1", &cycle.start_divisor)?;
        check(cycle.end_divisor >= 1.0, "schedule.cycle.end_divisor", ">= 1", &cycle.end_divisor)?;
        check(below_one(cycle.momentum), "schedule.cycle.momentum", "0..1", &cycle.momentum)?;
        let at_peak = cycle.momentum_at_peak;
        check(below_one(at_peak), "schedule.cycle.momentum_at_peak", "0..1", &at_peak)?;
        check(is_rate(self.finetune.lr), "finetune.lr", "> 0, <= 100", &self.finetune.lr)?;
        check(self.finetune.first_block >= -1, "finetune.first_block", ">= -1", &self.finetune.first_block)
    }
}

/// Tables are merged, everything else is replaced.
fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => overlay(base, over),
            // 1 is a float where one is expected.
            (Some(slot @ Value::Float(_)), Value::Integer(whole)) => *slot = Value::Float(whole as f64),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[&str]) -> Result<Config, ConfigError> {
        Config::load(None, &settings.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_default_is_the_papers() {
        let config = with(&[]).unwrap();
        assert_eq!((config.schedule.epochs, config.schedule.patience), (20, 5));
        assert_eq!((config.optimizer.head_lr, config.optimizer.base_lr), (1e-3, 1e-4));
        assert_eq!((config.finetune.epochs, config.finetune.lr), (5, 5e-4));
        assert_eq!(config.schedule.cycle.peak_at, 0.2);
        assert_eq!(config.augment, augment::Settings::paper());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let mut config =
            with(&["model.dropout=0.5", "optimizer.base_lr=0.1", "optimizer.norms=running"]).unwrap();
        config.data.push(Data { folder: "a b/c".into(), weight: 0.1 + 0.2, pseudo: false });
        fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(Config::load(Some(&path), &[]).unwrap(), config);
    }

    #[test]
    fn options_win_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        fs::write(&path, "seed = 7\n[optimizer]\nhead_lr = 1\nbase_lr = 0.5\n").unwrap();
        let config = Config::load(Some(&path), &["optimizer.base_lr=0.25".into()]).unwrap();
        assert_eq!((config.seed, config.optimizer.head_lr, config.optimizer.base_lr), (7, 1.0, 0.25));
        assert_eq!(config.optimizer.batch_size, Config::default().optimizer.batch_size);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let error = |settings: &[&str]| with(settings).unwrap_err().to_string();
        assert!(error(&["optimizer.learning_rate=1"]).contains("learning_rate"));
        assert!(error(&["optimizer.batch_size=7"]).contains("optimizer.batch_size: expected an even number"));
        assert!(error(&["optimizer.batch_size=big"]).contains("--set optimizer.batch_size=big"));
        assert!(error(&["model.backbone=vgg"]).contains("vgg"));
        assert!(error(&["seed"]).contains("KEY=VALUE"));
        assert!(error(&["optimizer.ema_decay=nan"]).contains("optimizer.ema_decay"));
    }

    #[test]
    fn every_key_has_a_comment_in_the_default() {
        let mut config = Config::default();
        config.model.dropout = Some(0.0);
        config.model.drop_connect = Some(0.0);
        config.model.batch_norm_momentum = Some(0.0);
        config.data.push(Data { folder: "x".into(), weight: 1.0, pseudo: true });
        let is_there = |text: &str| DEFAULT.lines().any(|line| line.contains(text));
        for line in config.to_toml().lines().filter(|line| !line.is_empty()) {
            let name = match line.split_once(" = ") {
                Some((key, _)) => key,
                None => line.trim_matches(['[', ']']).rsplit('.').next().unwrap(),
            };
            assert!(is_there(&format!("{name} = ")) || is_there(line), "{line} isn't in default.toml");
        }
    }
}
