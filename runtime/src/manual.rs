//! `candor manual`: the command line as manual pages and shell completions. Only built for packages.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::scan::exit;

/// Runs the command.
pub(crate) fn run(folder: &Path) -> ExitCode {
    match write(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("candor: {}: {error}", folder.display());
            ExitCode::from(exit::NOT_WRITTEN)
        }
    }
}

/// A page per command below `folder`/man, a file per shell below `folder`/complete.
fn write(folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("complete"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command().name("candor"), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "candor", &completions)?;
    }
    Ok(())
}
