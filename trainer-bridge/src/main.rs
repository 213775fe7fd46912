//! `trainer-bridge`: what turns labelled videos into a bundle that candor runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainer_bridge::augment;
use trainer_bridge::train::command as train;
use trainer_bridge::train::training::TrainError;

/// Trains, measures, quantizes, packs and flashes the classifiers that candor runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Preview(augment::command::Args),
    AugmentBench(augment::command::BenchArgs),
    LrFind(train::LrFindArgs),
    Train(Box<train::TrainArgs>),
    TrainSpeed(train::SpeedArgs),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let done = match Cli::parse().command {
        Command::Preview(args) => augment::command::run(&args),
        Command::AugmentBench(args) => augment::command::run_bench(&args),
        Command::LrFind(args) => train::find(&args),
        Command::Train(args) => train::train(&args),
        Command::TrainSpeed(args) => train::measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer-bridge: {error:#}");
            match error.downcast_ref() {
                Some(TrainError::Interrupted { .. }) => ExitCode::from(train::INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
