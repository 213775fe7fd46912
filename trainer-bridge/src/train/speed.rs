//! How fast a recipe trains: loader alone, network alone, both together.

use std::sync::Arc;
use std::time::Instant;

use tch::Device;

use super::config::Config;
use super::dataset::Dataset;
use super::loader::{Batch, LoadError, Loader, Make};
use super::setup;

/// Steps before the clock starts.
const N_WARM: usize = 3;
/// Batches that each of the loader's threads makes, at least.
const N_ROUNDS: usize = 3;
/// Two rates that differ by less than this share bound a training alike.
const ALIKE: f64 = 0.1;

/// Times `n_steps` of the network, as many of the loader or [`N_ROUNDS`] a thread, and both together; prints pictures a
/// second.
pub(super) fn run(config: &Config, device: Device, n_steps: usize) -> anyhow::Result<()> {
    let dataset = Arc::new(Dataset::open(config)?);
    let sampler = setup::sampler(config, &dataset)?;
    let mut learner = setup::learner(config, device)?;
    let (make, n_batches) = setup::epoch_batches(config, &dataset, &sampler, 0);
    // Epoch 0 over and over: the second round finds its crops in memory, as all but a training's first epoch do.
    let make: Arc<Make> = Arc::new(move |batch_idx| make(batch_idx % n_batches));
    let n_threads = setup::n_loader_threads(config);
    // Each thread makes its share of several rounds: the first batches of all of them come at the same moment.
    let n_rounds = n_steps.div_ceil(n_threads).max(N_ROUNDS);
    let queue = config.loader.queue_batches;
    let start = |n_batches, n_threads| Loader::start(0..n_batches, n_threads, queue, &make);
    // What waits when the network first asks must be used up before its clock starts.
    let n_waiting = queue.max(n_threads) + n_threads;
    let n_all = n_waiting + n_rounds * n_threads;
    for batch in start(n_batches.min(n_all), n_threads) {
        batch?;
    }
    // A loader is warm as soon as it starts; its clock must see every batch that it makes.
    let one_thread = rate(0, || start(n_rounds, 1), |_| Ok(()))?;
    let loader = rate(0, || start(n_rounds * n_threads, n_threads), |_| Ok(()))?;
    let mut step_idx = 0;
    let mut step = |batch: Batch| {
        step_idx += 1;
        learner.step(&[batch], [1e-6, 1e-6], 0.9, step_idx).map(|_| ())
    };
    let fixed = make(0)?;
    let copies = || (0..N_WARM + n_steps).map(|_| Ok(fixed.clone()));
    let network = rate(N_WARM, copies, |batch| Ok(step(batch)?))?;
    let together = rate(n_waiting, || start(n_all, n_threads), |batch| Ok(step(batch)?))?;
    let bound = if loader < network * (1.0 - ALIKE) {
        "the loader"
    } else if loader > network * (1.0 + ALIKE) {
        "the network"
    } else {
        "both alike"
    };
    let (backbone, size_px) = (&config.model.backbone, config.model.size_px);
    println!("{backbone} at {size_px} px, {} pictures a batch; pictures/s:", config.optimizer.batch_size);
    println!("  loader, 1 thread     {one_thread:8.1}");
    println!("  loader, {n_threads} thread(s)  {loader:8.1}");
    println!("  network alone        {network:8.1}");
    println!("  training             {together:8.1}\nbound by {bound}");
    Ok(())
}

/// Pictures a second of a source of batches through `work`, the first `n_warm` batches left out.
fn rate<I: Iterator<Item = Result<Batch, LoadError>>>(
    n_warm: usize,
    batches: impl FnOnce() -> I,
    mut work: impl FnMut(Batch) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let (mut started, mut n_pictures) = (Instant::now(), 0);
    for (batch_idx, batch) in batches().enumerate() {
        let batch = batch?;
        n_pictures += batch.classes.len();
        work(batch)?;
        if batch_idx + 1 == n_warm {
            (started, n_pictures) = (Instant::now(), 0);
        }
    }
    Ok(n_pictures as f64 / started.elapsed().as_secs_f64())
}
