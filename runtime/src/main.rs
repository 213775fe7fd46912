//! `candor`: arguments -> settings -> bundle -> scan -> exit code.

mod bench;
mod chosen;
mod cli;
mod dropping;
mod explain;
#[cfg(feature = "manual")]
mod manual;
mod models;
mod pulling;
mod receiving;
mod repeating;
mod scan;
mod verify_log;
mod watching;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let level = match cli.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Error)
        .filter_module("candor", level)
        .parse_default_env()
        .init();
    match cli.command {
        cli::Command::Scan(args) => scan::run(&args),
        cli::Command::Explain(args) => explain::run(&args),
        cli::Command::Watch(args) => watching::run(&args),
        cli::Command::VerifyLog(args) => verify_log::run(&args),
        cli::Command::Config(cli::ConfigCommand::Check { file }) => check(&file),
        cli::Command::Bench(args) => bench::run(&args),
        cli::Command::Bundle(command) => models::run_bundle(&command),
        cli::Command::Slot(args) => models::run_slot(&args),
        #[cfg(feature = "manual")]
        cli::Command::Manual { folder } => manual::run(&folder),
    }
}

/// Says whether a configuration file can be used.
fn check(file: &Path) -> ExitCode {
    match cli::read(file) {
        Ok(_) => {
            println!("{}: good", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("candor: {}: {error}", file.display());
            ExitCode::from(scan::exit::USAGE)
        }
    }
}
