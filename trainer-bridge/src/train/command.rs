//! `train`, `lr-find` and `train-speed` on the command line.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Args;

use super::config::{Config, DEFAULT, Data};
use super::console::Console;
use super::training::{Training, recipe_of};
use super::{device, lr_find, speed};

/// The exit code of a training that was interrupted and can be resumed.
pub const INTERRUPTED: u8 = 130;

/// Which recipe, on what.
#[derive(Debug, Args)]
pub struct Recipe {
    /// Recipe, TOML; holds what differs from the default (see `train --print-config`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a value of the recipe and wins over the file: `--set optimizer.head_lr=3e-4`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Dataset's folder, instead of the recipe's; may be repeated.
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// cpu, cuda, cuda:N, or auto, instead of the recipe's.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
}

impl Recipe {
    /// The recipe with the options put over it.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), &self.set)?;
        if !self.data.is_empty() {
            let data = |folder: &PathBuf| Data { folder: folder.clone(), weight: 1.0, pseudo: true };
            config.data = self.data.iter().map(data).collect();
        }
        if let Some(device) = &self.device {
            config.device.clone_from(device);
        }
        Ok(config)
    }
}

/// Trains a classifier; everything about the run goes into one folder.
///
/// A run is repeated by its recipe and seed, and can be killed at any time: `--resume` goes on at its last checkpoint and
/// ends, on a CPU with OMP_NUM_THREADS=1, with the very weights of an uninterrupted run. Ctrl-C saves first and exits
/// with code 130.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// Folder of the new run.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["resume", "print_config"])]
    run: Option<PathBuf>,
    /// Goes on with the run in this folder, by its own recipe; only --device may differ.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "config", "set", "data"])]
    resume: Option<PathBuf>,
    /// Prints the default recipe, which explains every key, and exits.
    #[arg(long)]
    print_config: bool,
    /// Steps between two lines where standard error is no terminal.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    report_steps: u64,
}

/// Runs `train`.
///
/// # Errors
/// [`super::training::TrainError`] and what is wrong with the options; an interrupted run is one too.
pub fn train(args: &TrainArgs) -> anyhow::Result<()> {
    if args.print_config {
        print!("{DEFAULT}");
        return Ok(());
    }
    let mut config = match &args.resume {
        Some(folder) => recipe_of(folder)?,
        None => args.recipe.load()?,
    };
    if let Some(device) = &args.recipe.device {
        config.device.clone_from(device);
    }
    let (device, line) = device::choose(&config.device)?;
    let console = Console::new(args.report_steps);
    let stop = Arc::new(AtomicBool::new(false));
    // A second Ctrl-C ends the program at once; the last checkpoint is whole whenever that is.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("listening for signals")?;
    }
    let training = match (&args.resume, &args.run) {
        (Some(folder), _) => Training::resume(folder, config, (device, &line), console, stop)?,
        (None, Some(folder)) => Training::start(folder, config, (device, &line), console, stop)?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    Ok(training.run()?)
}

/// Looks for a learning rate: the loss while the rate grows step by step, as a plot, a table and a suggestion.
///
/// The suggestion is the middle, on the logarithmic scale, of the interval of the highest rates at which the smoothed loss
/// still falls at least half as steeply as at its steepest; none is made where it never clearly falls. It is the head's; the backbone's keeps the recipe's ratio to
/// it. No weight is kept.
#[derive(Debug, Args)]
pub struct LrFindArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// Folder for lr-find.svg and lr-find.csv.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// First rate of the head.
    #[arg(long, value_name = "LR", default_value_t = 1e-7)]
    from: f64,
    /// Last rate of the head.
    #[arg(long, value_name = "LR", default_value_t = 10.0)]
    to: f64,
    /// Steps between them.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
}

/// Runs `lr-find`.
///
/// # Errors
/// [`super::training::TrainError`], and options that are no rates.
pub fn find(args: &LrFindArgs) -> anyhow::Result<()> {
    let sweep = lr_find::Sweep { first: args.from, last: args.to, n_steps: args.steps };
    anyhow::ensure!(
        sweep.first > 0.0 && sweep.last > sweep.first && sweep.last.is_finite(),
        "--from {} --to {}: expected 0 < from < to",
        sweep.first,
        sweep.last
    );
    let config = args.recipe.load()?;
    let (device, line) = device::choose(&config.device)?;
    eprintln!("{line}");
    lr_find::run(&config, device, &sweep, &args.out)
}

/// Measures how fast a recipe trains, and what bounds it: the loader, or the network.
#[derive(Debug, Args)]
pub struct SpeedArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// Steps that are timed, after three that aren't.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

/// Runs `train-speed`.
///
/// # Errors
/// [`super::training::TrainError`].
pub fn measure(args: &SpeedArgs) -> anyhow::Result<()> {
    let config = args.recipe.load()?;
    let (device, line) = device::choose(&config.device)?;
    println!("{line}");
    speed::run(&config, device, args.steps as usize)
}
