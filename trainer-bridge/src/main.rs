//! `trainer-bridge`: what turns labelled videos into a bundle that candor runs.

use clap::{Parser, Subcommand};
use trainer_bridge::pack::command as pack;

/// Packs and signs the classifiers that candor runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    Keygen(pack::Keygen),
    KeyList(pack::MakeKeyList),
    Pack(pack::Pack),
    Sign(pack::Sign),
}

fn main() -> anyhow::Result<()> {
    env_logger::init();
    match Cli::parse().command {
        Command::Keygen(args) => pack::keygen(&args),
        Command::KeyList(args) => pack::key_list(&args),
        Command::Pack(args) => pack::make(&args),
        Command::Sign(args) => pack::add_signature(&args),
    }
}
