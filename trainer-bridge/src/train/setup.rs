//! What a recipe's parts are: shared by training, the search for a learning rate and the measuring of speed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Device;

use super::checkpoint::Progress;
use super::config::Config;
use super::dataset::Dataset;
use super::learner::Learner;
use super::loader::{LoadError, Loader, Make};
use super::metrics::{Measures, Outcome};
use super::sampler::{PseudoShare, Sampler, SamplerError};
use super::training::TrainError;
use crate::model::weights::{self, Naming};

/// A recipe's network with its first weights on `device`.
///
/// # Errors
/// [`TrainError`] for weights that aren't the network's.
pub fn learner(config: &Config, device: Device) -> Result<Learner, TrainError> {
    let learner = Learner::new(config, device)?;
    let path = Path::new(&config.model.weights);
    if !config.model.weights.is_empty()
        && weights::load_imagenet(&learner.store, learner.spec(), path)? == Naming::Own
    {
        weights::load_own(&learner.store, learner.spec(), path)?;
    }
    Ok(learner)
}

/// Refuses data that aren't those of a saved state: a group could change the side of the split, and pairs are drawn by
/// number.
///
/// # Errors
/// [`TrainError::Data`].
pub fn check_data(
    run: &Path,
    config: &Config,
    progress: &Progress,
    dataset: &Dataset,
) -> Result<(), TrainError> {
    let (expected, found) = (&progress.manifests_sha256, dataset.manifests_sha256());
    let n_data = expected.len().max(found.len());
    let at = |digests: &[String], idx: usize| digests.get(idx).map_or("none", |digest| digest).to_owned();
    match (0..n_data).find(|&idx| expected.get(idx) != found.get(idx)) {
        None => Ok(()),
        Some(idx) => Err(TrainError::Data {
            run: run.to_owned(),
            data: config.data.get(idx).map_or("no dataset".into(), |data| data.folder.display().to_string()),
            expected: at(expected, idx),
            found: at(found, idx),
        }),
    }
}

/// A recipe's sampler over `dataset`.
///
/// # Errors
/// [`SamplerError`].
pub fn sampler(config: &Config, dataset: &Dataset) -> Result<Sampler, SamplerError> {
    let weights: Vec<f64> = config.data.iter().map(|data| data.weight).collect();
    let share = PseudoShare { of_fakes: config.sampler.pseudo_share, of_swaps: config.sampler.swap_share };
    Sampler::new(config.seed, &dataset.candidates(), &weights, share, config.sampler.pairs_per_epoch)
}

/// How many threads make batches.
pub fn n_loader_threads(config: &Config) -> usize {
    let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
    if config.loader.threads == 0 { n_processors } else { config.loader.threads }
}

/// Makes the batches of `epoch`, and says how many there are: a batch that would be short is left out, unless it is the
/// only one.
pub fn epoch_batches(
    config: &Config,
    dataset: &Arc<Dataset>,
    sampler: &Sampler,
    epoch: u64,
) -> (Arc<Make>, usize) {
    let (dataset, pairs) = (Arc::clone(dataset), sampler.epoch(epoch));
    let n_pairs = (config.optimizer.batch_size / 2).min(pairs.len());
    let n_batches = pairs.len() / n_pairs;
    let make = move |batch_idx: usize| {
        let first = batch_idx * n_pairs;
        dataset.training_batch(&pairs[first..first + n_pairs], epoch, first)
    };
    (Arc::new(make), n_batches)
}

/// Measures a network on all validation pictures; `None` where `stop` was set meanwhile.
///
/// # Errors
/// [`LoadError`].
pub fn validate(
    config: &Config,
    learner: &Learner,
    dataset: &Arc<Dataset>,
    stop: &AtomicBool,
) -> Result<Option<Measures>, LoadError> {
    let (dataset, batch_size) = (Arc::clone(dataset), config.optimizer.batch_size);
    let n_looks = dataset.n_validation();
    let make: Arc<Make> = Arc::new(move |batch_idx| {
        let first = batch_idx * batch_size;
        dataset.validation_batch(first..(first + batch_size).min(n_looks))
    });
    let (n_batches, queue) = (n_looks.div_ceil(batch_size), config.loader.queue_batches);
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(n_looks);
    for batch in Loader::start(0..n_batches, n_loader_threads(config), queue, &make) {
        outcomes.extend(learner.outcomes(&batch?));
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    Ok(Some(Measures::of(&outcomes)))
}

/// The first block that learns in the second phase.
pub fn first_block(config: &Config, learner: &Learner) -> usize {
    let n_blocks = learner.network.n_blocks();
    usize::try_from(config.finetune.first_block).map_or(n_blocks / 2, |block_idx| block_idx.min(n_blocks))
}
