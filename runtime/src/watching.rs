//! `candor watch`: a camera, a pipe or a clip in, events out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candor::bundle::{Bundle, Status};
use candor::camera::clock::Monotonic;
use candor::camera::{self, Feed, Layout, Linux, Player, RawPipe, Supervisor, Wanted};
use candor::config::Config;
use candor::engine::Engine;
use candor::report::table;
use candor::source;
use candor::watch::event::Event;
use candor::watch::hub::Hub;
use candor::watch::lines::{RotatingFile, write_all};
use candor::watch::live::{self, MakeFeed, Parts, Surroundings};
use candor::watch::notify::Notifier;
use candor::watch::{self, Watcher};

use crate::cli::Watch;
use crate::dropping::Looking;
use crate::models::{self, Outcome};
use crate::scan::{self, exit};

/// How long an outlet may take for what is left when all is over.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the command.
pub(crate) fn run(args: &Watch) -> ExitCode {
    if args.list {
        for (path, card) in camera::devices() {
            println!("{}  {card}", path.display());
        }
        return ExitCode::SUCCESS;
    }
    match watch(args) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("candor: {message}");
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Watches; the exit code.
///
/// # Errors
/// What is wrong with the request.
fn watch(args: &Watch) -> Result<u8, String> {
    let config = args.settings().map_err(|error| error.to_string())?;
    let engine = Engine::new(&config.engine).map_err(|error| error.to_string())?;
    let log = config.watch.log.as_ref().map(|path| {
        RotatingFile::open(path, config.watch.log_max_bytes, config.watch.log_files)
            .map_err(|error| format!("{}: {error}", path.display()))
    });
    let log = log.transpose()?;
    let load = |bundle: &Bundle| Watcher::new(&engine, config.detect, &config.watch, bundle);
    let (watcher, bundle, trial) =
        models::load(args.networks.bundle.as_deref(), &config.slots, &engine, load)?;
    let _looking = Looking::start(&config.slots);
    let stop = scan::stop_flag();
    let reload = Arc::new(AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload)) {
        log::warn!("SIGHUP: {error}");
    }
    if bundle.manifest().status == Status::Untrained {
        eprintln!("candor: {}", table::UNTRAINED);
    }

    let mut hub = Hub::new(args.unpaced);
    let printing = outlet(hub.subscribe(), Box::new(io::stdout()), "standard output");
    let logging = log.map(|file| outlet(hub.subscribe(), Box::new(file), "the log"));
    let mut trial = trial;
    let mut used = config.clone();
    let mut remake = || {
        let new = args.settings().map_err(|error| error.to_string())?;
        if new.slots != used.slots || new.watch.log != used.watch.log {
            return Err("[slots] and watch.log are read at a start only".to_owned());
        }
        let engine = Engine::new(&new.engine).map_err(|error| error.to_string())?;
        let watcher = Watcher::new(&engine, new.detect, &new.watch, &bundle);
        let made = parts(args, &new, watcher.map_err(|error| error.to_string())?);
        used = new;
        Ok(made)
    };
    let mut settled = || {
        if let Some(trial) = trial.take() {
            trial.end(&Outcome::RanWell);
        }
    };
    let mut around = Surroundings {
        hub: &hub,
        stop: &stop,
        reload: &reload,
        notifier: &Notifier::from_environment(),
        max_frames: args.frames,
        remake: &mut remake,
        settled: &mut settled,
    };
    let ended = live::run(parts(args, &config, watcher), &mut around);
    around.notifier.say("STOPPING=1");
    drop(hub);
    let mut code = 0;
    if !wait(printing) {
        code = exit::NOT_WRITTEN;
    }
    if let Some(logging) = logging
        && !wait(logging)
    {
        code = exit::NOT_WRITTEN;
    }
    let tried = match &ended {
        Err(error) if models::is_of(error, bundle.manifest()) => Outcome::Failed(error.to_string()),
        Ok(outcome) if outcome.n_scored > 0 => Outcome::RanWell,
        _ => Outcome::NothingToScore,
    };
    if let Some(trial) = trial {
        trial.end(&tried);
    }
    Ok(match ended {
        Err(error) => {
            eprintln!("candor: {error}");
            code.max(exit::NOT_SCANNED)
        }
        Ok(outcome) if outcome.is_interrupted => exit::INTERRUPTED,
        Ok(outcome) => {
            if let Some(reason) = &outcome.failure {
                eprintln!("candor: {reason}");
                code = code.max(exit::NOT_SCANNED);
            }
            let fails = args.fail_on.is_some_and(|fails| fails.names(outcome.judgement.verdict));
            code.max(if fails { exit::FAIL_ON } else { 0 })
        }
    })
}

/// What a run with these settings watches.
fn parts(args: &Watch, config: &Config, watcher: Watcher) -> Parts {
    let (feed, file) = feed(args, &config.watch);
    Parts { watcher, feed, settings: config.watch.clone(), file, is_paced: !args.unpaced }
}

fn feed(args: &Watch, settings: &watch::Settings) -> (MakeFeed, String) {
    if let Some((encoding, width_px, height_px)) = args.raw {
        let stall_ms = settings.stall_ms;
        let make = move || -> Result<Box<dyn Feed>, String> {
            let layout = Layout::packed(encoding, width_px, height_px).map_err(|error| error.to_string())?;
            Ok(Box::new(RawPipe::new(io::stdin(), Monotonic, layout, stall_ms)))
        };
        return (Box::new(make), "-".to_owned());
    }
    if let Some(path) = args.play.clone() {
        let file = path.display().to_string();
        let (is_paced, n_rounds) = (!args.unpaced, args.repeat);
        let make = move || -> Result<Box<dyn Feed>, String> {
            let opening = Box::new(move || source::open(&path));
            let player = if is_paced {
                Player::new(opening, Monotonic, is_paced, n_rounds).map(|p| Box::new(p) as Box<dyn Feed>)
            } else {
                Player::new(opening, camera::clock::Standing, is_paced, n_rounds)
                    .map(|p| Box::new(p) as Box<dyn Feed>)
            };
            player.map_err(|error| error.to_string())
        };
        return (Box::new(make), file);
    }
    let first = || camera::devices().into_iter().next().map(|(path, _)| path);
    let path = settings.device.clone().or_else(first).unwrap_or_else(|| PathBuf::from("/dev/video0"));
    let file = path.display().to_string();
    let device = camera::Settings {
        path,
        wanted: Wanted {
            width_px: settings.width_px,
            height_px: settings.height_px,
            rate_hz: settings.rate_hz,
            encoding: settings.encoding,
        },
        controls: settings.controls.clone(),
        stall_ms: settings.stall_ms,
        frozen_ms: settings.frozen_ms,
    };
    let make =
        move || -> Result<Box<dyn Feed>, String> { Ok(Box::new(Supervisor::new(Linux, Monotonic, device))) };
    (Box::new(make), file)
}

/// A thread that writes events. True when all were written.
fn outlet(
    events: Receiver<Arc<Event>>,
    mut out: Box<dyn Write + Send>,
    name: &'static str,
) -> JoinHandle<bool> {
    std::thread::spawn(move || {
        let written = write_all(&events, &mut out);
        if let Err(error) = &written {
            eprintln!("candor: {name}: {error}");
        }
        written.is_ok()
    })
}

/// Waits for an outlet to write what is left; one that nobody reads from is left behind.
fn wait(outlet: JoinHandle<bool>) -> bool {
    let asked = Instant::now();
    while !outlet.is_finished() && asked.elapsed() < GOODBYE {
        std::thread::sleep(Duration::from_millis(2));
    }
    outlet.is_finished() && outlet.join().unwrap_or(false)
}
