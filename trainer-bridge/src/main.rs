//! `trainer-bridge`: what turns labelled videos into a classifier that candor runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainer_bridge::{export, model, quantize};

/// Trains the classifiers that candor runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Weights(model::command::Args),
    Export(export::command::Args),
    Quantize(quantize::command::Args),
    QuantizeCheck(quantize::agreement::Args),
}

fn main() -> ExitCode {
    let ran = match Cli::parse().command {
        Command::Weights(args) => model::command::run(&args),
        Command::Export(args) => export::command::run(&args),
        Command::Quantize(args) => quantize::command::run(&args),
        Command::QuantizeCheck(args) => quantize::agreement::run(&args),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
