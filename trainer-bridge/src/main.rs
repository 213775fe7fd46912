//! `trainer-bridge`: what turns labelled videos into a classifier that candor runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainer_bridge::evaluate::command as evaluate;
use trainer_bridge::pack::{assemble, channel, command as pack};
use trainer_bridge::train::command as train;
use trainer_bridge::train::training::TrainError;
use trainer_bridge::{
    augment, environment, explain, export, flash, ingest, model, parity, probe, quantize, review,
};

/// Trains, measures, exports and packs the classifiers that candor runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ingest(Box<ingest::command::Args>),
    Review(review::command::Args),
    Weights(model::command::Args),
    Preview(augment::command::Args),
    AugmentBench(augment::command::BenchArgs),
    Probe(probe::command::Args),
    Train(Box<train::TrainArgs>),
    LrFind(train::LrFindArgs),
    TrainSpeed(train::SpeedArgs),
    Evaluate(Box<evaluate::Args>),
    Export(export::command::Args),
    ExplainCheck(explain::command::Args),
    Quantize(quantize::command::Args),
    QuantizeCheck(quantize::agreement::Args),
    QuantizeNet(quantize::net::Args),
    Prune(quantize::prune::Args),
    Parity(parity::command::Args),
    Bundle(assemble::Args),
    Keygen(pack::Keygen),
    KeyList(pack::MakeKeyList),
    Pack(pack::Pack),
    Sign(pack::Sign),
    Channel(channel::MakeChannel),
    Flash(Box<flash::command::Args>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    environment::settle();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let outcome = match cli.command {
        Command::Ingest(args) => ingest::command::run(&args),
        Command::Review(args) => review::command::run(&args),
        Command::Weights(args) => model::command::run(&args),
        Command::Preview(args) => augment::command::run(&args),
        Command::AugmentBench(args) => augment::command::run_bench(&args),
        Command::Probe(args) => probe::command::run(&args),
        Command::Train(args) => train::train(&args),
        Command::LrFind(args) => train::find(&args),
        Command::TrainSpeed(args) => train::measure(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::ExplainCheck(args) => explain::command::run(&args),
        Command::Export(args) => export::command::run(&args),
        Command::Quantize(args) => quantize::command::run(&args),
        Command::QuantizeCheck(args) => quantize::agreement::run(&args),
        Command::QuantizeNet(args) => quantize::net::run(&args),
        Command::Prune(args) => quantize::prune::run(&args),
        Command::Parity(args) => parity::command::run(&args),
        Command::Bundle(args) => assemble::run(&args),
        Command::Keygen(args) => pack::keygen(&args),
        Command::KeyList(args) => pack::key_list(&args),
        Command::Pack(args) => pack::make(&args),
        Command::Sign(args) => pack::add_signature(&args),
        Command::Channel(args) => channel::make_channel(&args),
        Command::Flash(args) => flash::command::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainer-bridge: {error:#}");
            if let Some(error) = error.downcast_ref::<flash::FlashError>() {
                return ExitCode::from(error.exit_code());
            }
            match error.downcast_ref() {
                Some(TrainError::Interrupted { .. }) => ExitCode::from(train::INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
