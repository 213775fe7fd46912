//! `candor bundle` and `candor slot`: what is installed, and what may be.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use candor::bundle::{BundleError, Roots, UnverifiedBundle, VerifiedBundle};
use candor::slot::{self, Boot, Folder, Held, Known, Name, Outcome, Settings, SlotError, Store, now_unix_s};

use crate::cli::Device;
use crate::scan::exit;
use crate::{dropping, pulling, receiving};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  2  the command line or the configuration is wrong
  3  `slot receive`: the sender went away; `slot pull`: a server can't be asked; what has come is kept
  4  a file of the slots could not be read or written
  5  the bundle, the key list or the step is refused; nothing was changed";

/// Commands on bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    /// Print what a signed bundle says of itself, once its signatures hold.
    #[command(after_help = EXIT_CODES)]
    Show(BundleFile),
    /// Check everything about a signed bundle that a device checks before it installs it.
    #[command(after_help = EXIT_CODES)]
    Verify(BundleFile),
}

/// Arguments of `candor bundle`.
#[derive(Debug, Args)]
pub(crate) struct BundleFile {
    /// The bundle, or - for standard input.
    file: PathBuf,
    /// Whom it may come from.
    #[command(flatten)]
    device: Device,
}

/// Arguments of `candor slot`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Slot {
    /// What to do.
    #[command(subcommand)]
    step: Step,
    /// The device.
    #[command(flatten)]
    device: Device,
}

/// What to do with the slots.
#[derive(Debug, Subcommand)]
enum Step {
    /// Check a signed bundle and stage it: the next scan tries it.
    Install {
        /// The bundle, or - for standard input.
        file: PathBuf,
    },
    /// Take a bundle from `trainer-bridge flash` on standard input and output (models/TRANSFER.md), and stage it.
    Receive,
    /// Look for bundles in the folders of slots.drop, and stage the first that is new and good.
    CheckDrop,
    /// Ask the channel and the hawkBit server of the configuration once, and stage what they want.
    Pull,
    /// Print what the slots hold and what happened.
    Status {
        /// As JSON (described in runtime/JSON.md).
        #[arg(long)]
        json: bool,
    },
    /// Keep the model in trial.
    Confirm,
    /// Give up the model that is staged or in trial; without one, go back to the one before.
    Rollback {
        /// Why, for the history.
        #[arg(long, value_name = "TEXT", default_value = "asked for")]
        reason: String,
    },
    /// Take over a newer key list.
    Keys {
        /// The key list, or - for standard input.
        file: PathBuf,
    },
}

/// A command that went wrong: its exit code and what to say.
pub(crate) struct Failure(pub(crate) u8, pub(crate) String);

impl From<SlotError> for Failure {
    fn from(error: SlotError) -> Self {
        Failure(if error.is_of_disk() { exit::NOT_WRITTEN } else { exit::REFUSED }, error.to_string())
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Failure(exit::REFUSED, error.to_string())
    }
}

pub(crate) fn usage(message: impl ToString) -> Failure {
    Failure(exit::USAGE, message.to_string())
}

fn ended(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("candor: {message}");
            ExitCode::from(code)
        }
    }
}

fn settings(device: &Device) -> Result<(Settings, Roots), Failure> {
    let config = device.settings().map_err(usage)?;
    config.check().map_err(usage)?;
    let roots = config.slots.roots().map_err(usage)?;
    Ok((config.slots, roots))
}

fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| usage(format!("{}: {error}", path.display())))?;
    Ok(Box::new(file))
}

fn shown(unix_s: u64) -> String {
    let second = i64::try_from(unix_s).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| format!("{unix_s} s"), |time| time.to_string())
}

/// Runs `candor bundle`.
pub(crate) fn run_bundle(command: &Bundle) -> ExitCode {
    ended(match command {
        Bundle::Show(args) => show(args),
        Bundle::Verify(args) => verify(args),
    })
}

fn show(args: &BundleFile) -> Result<(), Failure> {
    let (_, roots) = settings(&args.device)?;
    let bundle = UnverifiedBundle::read(open(&args.file)?)?.verify(&roots, None, Some(now_unix_s()))?;
    let signers: Vec<_> = bundle
        .signers()
        .iter()
        .map(|key| json!({ "name": key.name, "key_id": key.public.id(), "expires_unix_s": key.expires_unix_s }))
        .collect();
    let whole = json!({
        "schema": 1, "manifest": bundle.manifest(), "signers": signers, "key_list": bundle.key_list().0,
    });
    println!("{whole:#}");
    Ok(())
}

fn verify(args: &BundleFile) -> Result<(), Failure> {
    let (settings, roots) = settings(&args.device)?;
    let bundle = admitted(&args.file, &settings, &roots)?;
    let (manifest, release) = (bundle.manifest(), bundle.release());
    let (id, version) = (manifest.id.clone(), manifest.version.clone());
    let signers: Vec<String> =
        bundle.signers().iter().map(|key| Held::signer(&key.name, key.public.id())).collect();
    let (epoch, expires) = (release.security_epoch, shown(release.expires_unix_s));
    let digest = bundle.copy(&mut io::sink())?;
    println!("{id} {version}: whole, signed by {}", signers.join(", "));
    println!("security epoch {epoch}, to be installed before {expires}, SHA-256 {digest}");
    Ok(())
}

/// A bundle that the device would install, by what its slots have seen.
pub(crate) fn admitted(
    file: &Path,
    settings: &Settings,
    roots: &Roots,
) -> Result<VerifiedBundle<Box<dyn Read>>, Failure> {
    let known = match &settings.folder {
        Some(folder) if folder.is_dir() => Store::readable(folder)?.known(roots)?,
        _ => Known::default(),
    };
    Ok(known.verify(open(file)?, roots, settings, now_unix_s())?)
}

/// Runs `candor slot`.
pub(crate) fn run_slot(args: &Slot) -> ExitCode {
    ended(slot_step(args))
}

fn slot_step(args: &Slot) -> Result<(), Failure> {
    let (settings, roots) = settings(&args.device)?;
    let missing = || usage("slots: expected a folder, --slots DIR or slots.folder, found none");
    let folder = settings.folder.as_deref().ok_or_else(missing)?;
    match args.step {
        Step::Receive => {
            return receiving::receive(folder, &settings, &roots).map_err(|(code, why)| Failure(code, why));
        }
        Step::CheckDrop if settings.drop.is_empty() => {
            return Err(usage("slots: expected folders in slots.drop, found none"));
        }
        Step::CheckDrop => {
            let is_refused = dropping::check(folder, &settings, &roots)?;
            let why = || Failure(exit::REFUSED, "a bundle is refused".to_owned());
            return if is_refused { Err(why()) } else { Ok(()) };
        }
        Step::Pull if settings.channel.is_none() && settings.hawkbit.is_none() => {
            return Err(usage("slots: expected slots.channel or slots.hawkbit, found none"));
        }
        Step::Pull => return pull(folder, &settings, &roots),
        _ => {}
    }
    // Where nothing is written, nothing has to be writable, and no scan is waited for.
    let mut store = match args.step {
        Step::Status { .. } if folder.is_dir() => Store::readable(folder)?,
        _ => Store::locked(folder)?,
    };
    let (now, name) = (now_unix_s(), |held: &Held| format!("{} {}", held.id, held.version));
    match &args.step {
        Step::Install { file } => {
            let held = store.install(open(file)?, &roots, &settings, now)?;
            slot::forget_part(folder)?;
            println!("{} is installed; the next scan tries it. SHA-256 {}", name(&held), held.digest);
        }
        // Lock the store for as short a time as they can.
        Step::Receive | Step::CheckDrop | Step::Pull => {}
        Step::Status { json: false } => print_status(&store, &roots)?,
        Step::Status { json: true } => {
            let whole = store.status(&roots)?;
            println!("{whole:#}");
        }
        Step::Confirm => println!("{} is confirmed", name(&store.confirm(&roots, now)?)),
        Step::Rollback { reason } => {
            let given_up = store.roll_back(reason, now)?;
            let next = match store.record().slots.next_boot() {
                Boot::Floor => "the built-in model".to_owned(),
                Boot::Confirmed(held) | Boot::Trial(held) => name(&held),
            };
            println!("{} is given up; the next scan runs {next}", name(&given_up));
        }
        Step::Keys { file } => {
            let list = store.rotate_keys(open(file)?, &roots)?;
            println!("key list with serial {}, {} keys", list.serial, list.keys.len());
        }
    }
    Ok(())
}

fn pull(folder: &Path, settings: &Settings, roots: &Roots) -> Result<(), Failure> {
    let outcomes = pulling::once(folder, settings, roots).map_err(usage)?;
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))) {
        return Err(Failure(exit::REFUSED, "a bundle is refused, or who speaks for it".to_owned()));
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed(_))) {
        return Err(Failure(exit::NOT_SCANNED, "a server, or the disk, failed".to_owned()));
    }
    Ok(())
}

fn print_status(store: &Store<Folder>, roots: &Roots) -> Result<(), Failure> {
    let slots = &store.record().slots;
    for name in Name::ALL {
        let (state, held) = match slots.slot(name) {
            slot::Slot::Empty => ("empty".to_owned(), None),
            slot::Slot::Staged(held) => ("staged, the next scan tries it".to_owned(), Some(held)),
            slot::Slot::Trial { held, left, .. } => (format!("in trial, {left} starts left"), Some(held)),
            slot::Slot::Confirmed(held) if slots.current() == Some(name) => {
                ("confirmed, runs".to_owned(), Some(held))
            }
            slot::Slot::Confirmed(held) => ("confirmed, the one before".to_owned(), Some(held)),
            slot::Slot::Bad { held, reason } => (format!("bad: {reason}"), Some(held)),
        };
        match held {
            None => println!("slot {name:?}  {state}"),
            Some(held) => println!("slot {name:?}  {}  {state}", of(held)),
        }
    }
    if slots.current().is_none() {
        println!("built-in  runs");
    }
    let serial = store.key_list(roots)?.map_or("none".to_owned(), |list| list.serial.to_string());
    println!("security epoch {}, key list {serial}", slots.security_epoch());
    for event in &store.record().history {
        let what = serde_json::to_value(event.what).unwrap_or_default();
        let reason = event.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let what = what.as_str().unwrap_or_default();
        println!("{}  {what:<13}  {}{reason}", shown(event.at_unix_s), of(&event.bundle));
    }
    Ok(())
}

fn of(held: &Held) -> String {
    let (id, version, epoch) = (&held.id, &held.version, held.security_epoch);
    format!("{id} {version}, epoch {epoch}, signed by {}", held.signers.join(", "))
}
