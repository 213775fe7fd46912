//! `trainer-bridge flash`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Arguments;
use indicatif::{ProgressBar, ProgressStyle};

use super::send::{Delivered, Parcel, Watcher, send};
use super::ssh::Target;
use super::wait::wait;

const AFTER_HELP: &str = "\
The device runs `candor slot receive`, which keeps what has come when a connection breaks, so that the next one goes on
there. It checks the bundle as `candor slot install` does, and its answer is this command's.

Exit codes:
  0  the device has the bundle: installed, or held already; with --wait: confirmed
  1  the bundle can't be read, or is none
  2  the command line is wrong
  3  no connection: host, key or network; or it broke and nothing arrived for --patience
  4  the device can't take a bundle: no candor there, a wrong configuration, no room, another protocol, or it was busy with
     another transfer for --patience
  5  the device refuses the bundle; its slots are as they were
  6  --wait: the device gave the bundle up
  7  --wait: not confirmed in time; the bundle stays where it is";

/// Send a signed bundle to a device over ssh, and stage it there.
#[derive(Debug, Arguments)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The device, as for ssh: a name, an address, or a host of the ssh configuration.
    #[arg(value_name = "[USER@]HOST")]
    device: String,
    /// The signed bundle.
    bundle: PathBuf,
    /// Wait until the device has confirmed the bundle or given it up, at most so many seconds.
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "600")]
    wait: Option<u64>,
    /// Seconds between two questions of --wait.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    poll: u64,
    /// Seconds without anything that arrives, after which a broken connection isn't made again.
    #[arg(long, value_name = "S", default_value_t = 60)]
    patience: u64,
    /// candor on the device: a name that its shell finds, or a path.
    #[arg(long, value_name = "PATH", default_value = "candor")]
    candor: String,
    /// candor's configuration on the device, with [slots].
    #[arg(long, value_name = "PATH", default_value = "/etc/candor/candor.toml")]
    config: String,
    /// Run candor there through `sudo -n`, as this user; the Debian package's service runs as candor [without USER: root].
    #[arg(long, value_name = "USER", num_args = 0..=1, require_equals = true, default_missing_value = "root")]
    sudo: Option<String>,
    /// The port of ssh.
    #[arg(long, short, value_name = "PORT")]
    port: Option<u16>,
    /// A private key for ssh; may be given several times.
    #[arg(long, short, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// A configuration file for ssh, in the place of the user's.
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// An option as for `ssh -o`; may be given several times.
    #[arg(long, short = 'o', value_name = "NAME=VALUE")]
    ssh_option: Vec<String>,
    /// The ssh client.
    #[arg(long, value_name = "PROGRAM", default_value = "ssh")]
    ssh: PathBuf,
}

/// What a person sees meanwhile.
struct Bar(ProgressBar);

impl Watcher for Bar {
    fn arrived(&self, n_bytes: u64) {
        self.0.set_position(n_bytes);
    }

    fn broke(&self, why: &str, pause: Duration) {
        self.0.suspend(|| eprintln!("{why}; trying again in {:.2} s", pause.as_secs_f32()));
    }
}

/// Runs the command.
///
/// # Errors
/// `FlashError`.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let target = Target {
        name: args.device.clone(),
        ssh: args.ssh.clone(),
        port: args.port,
        identities: args.identity.clone(),
        ssh_config: args.ssh_config.clone(),
        options: args.ssh_option.clone(),
        candor: args.candor.clone(),
        config: args.config.clone(),
        sudo: args.sudo.clone(),
    };
    target.check()?;
    let parcel = Parcel::open(&args.bundle)?;
    let bar = ProgressBar::new(parcel.size_bytes);
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = Bar(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    let delivered = send(&target, &parcel, Duration::from_secs(args.patience), &bar);
    bar.0.finish_and_clear();
    let device = &args.device;
    match delivered? {
        Delivered::Installed(name) => {
            println!(
                "{device}: {name} is installed; it is tried now, or at the next start. SHA-256 {}",
                parcel.digest
            );
        }
        Delivered::Held(name) => println!("{device} has it already, {name}. SHA-256 {}", parcel.digest),
    }
    if let Some(limit_s) = args.wait {
        let (limit, pause) = (Duration::from_secs(limit_s), Duration::from_secs(args.poll));
        wait(&target, parcel.digest, limit, pause, |state| println!("{device}: {state}"))?;
        println!("{device}: confirmed");
    }
    Ok(())
}
