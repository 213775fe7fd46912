//! `trainer-bridge`: what turns labelled videos into a bundle that candor runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainer_bridge::evaluate;

/// Trains, measures, quantizes, packs and flashes the classifiers that candor runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Evaluate(evaluate::command::Args),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let done = match Cli::parse().command {
        Command::Evaluate(args) => evaluate::command::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
