//! `candor watch`: a camera, a pipe or a clip in, events out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candor::bundle::{Bundle, PublicKey, Status};
use candor::camera::clock::Monotonic;
use candor::camera::{self, Feed, Layout, Linux, Player, RawPipe, Supervisor, Wanted};
use candor::config::Config;
use candor::dashboard::{Dashboard, Limits, Slots, Subject};
use candor::engine::Engine;
use candor::evidence::entry;
use candor::evidence::{About, Log, device_key, record};
use candor::outlet::{self, Outlets};
use candor::report::table;
use candor::source;
use candor::watch::event::{Event, Model};
use candor::watch::faults::Faults;
use candor::watch::hub::Hub;
use candor::watch::lines::{RotatingFile, write_all};
use candor::watch::live::{self, MakeFeed, Parts, Surroundings};
use candor::watch::models::{Fixed, Models, Succession};
use candor::watch::notify::Notifier;
use candor::watch::{self, Watcher};

use crate::chosen;
use crate::cli::Watch;
use crate::dropping;
use crate::pulling;
use crate::scan::{self, exit};

/// How long an outlet may take for what is left when all is over.
const GOODBYE: Duration = Duration::from_secs(2);
/// The evidence log may have crops of every face to write then.
const LAST_ENTRIES: Duration = Duration::from_secs(20);

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
    let named = args.networks.bundle.as_deref();
    let (watcher, bundle, running) = chosen::load_beside(named, &config.slots, load)?;
    let pullers = pulling::prepare(&config.slots)?;
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
    let model = Model::of(bundle.manifest());
    let telling = Outlets::start(hub.subscribe(), &config.outlets, model, Path::new(outlet::led::LEDS))
        .map_err(|error| error.to_string())?;
    let logging = log.map(|file| outlet(hub.subscribe(), Box::new(file), "the log"));
    let recording = evidence(&config, &bundle)?.map(|(log, about)| {
        let (recorder, thread) = record(log, about, args.unpaced);
        hub.attend(Box::new(recorder));
        thread
    });
    let bundle = Arc::new(Mutex::new(bundle));
    let dashboard = dashboard(args, &config, &bundle, &mut hub)?;
    let mut succession = match config.slots.trusted_folder() {
        Some(folder) if named.is_none() => {
            let roots = config.slots.roots().map_err(|error| error.to_string())?;
            Some(Succession::new(folder, &config.slots, roots, &engine, Arc::clone(&bundle), running))
        }
        _ => None,
    };
    // Last: a configuration that is refused must not have installed anything, nor begun a run.
    let mut faults = config.watch.faults.as_deref().and_then(|folder| {
        // Watching matters more than what is known of its end.
        let unkept = |error| log::warn!("watch.faults: {}: {error}", folder.display());
        Faults::begin(folder, hub.keep_last()).map_err(unkept).ok()
    });
    let _looking = dropping::start(&config.slots);
    let _pulling = pulling::start(pullers, &config.slots);
    let mut used = config.clone();
    let mut remake = || {
        let new = args.settings().map_err(|error| error.to_string())?;
        let log = |c: &Config| (c.watch.log.clone(), c.watch.log_max_bytes, c.watch.log_files);
        let is_same = new.slots == used.slots
            && new.evidence == used.evidence
            && new.watch.dashboard == used.watch.dashboard
            && new.watch.faults == used.watch.faults
            && log(&new) == log(&used);
        if !is_same {
            let fixed = "[slots], [evidence], [watch.dashboard], watch.faults and the keys of watch.log are read at a start only";
            return Err(fixed.to_owned());
        }
        let engine = Engine::new(&new.engine).map_err(|error| error.to_string())?;
        let bundle = bundle.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = Watcher::new(&engine, new.detect, &new.watch, &bundle);
        let made = parts(args, &new, watcher.map_err(|error| error.to_string())?);
        // Last: what is refused changes nothing.
        telling.change(&new.outlets).map_err(|error| error.to_string())?;
        used = new;
        Ok(made)
    };
    let fixed: &mut dyn Models = &mut Fixed;
    let mut around = Surroundings {
        hub: &hub,
        stop: &stop,
        reload: &reload,
        notifier: &Notifier::from_environment(),
        max_frames: args.frames,
        remake: &mut remake,
        first: faults.as_mut().and_then(Faults::take_before),
        models: succession.as_mut().map_or(fixed, |succession| succession as &mut dyn Models),
    };
    let run = || live::run(parts(args, &config, watcher), &mut around);
    let ended = match faults {
        Some(faults) => faults.see_through(run),
        None => run(),
    };
    around.notifier.say("STOPPING=1");
    if let Some(succession) = &mut succession {
        succession.end();
    }
    drop(hub);
    drop(dashboard);
    let recording = recording.map(|thread| (thread, LAST_ENTRIES));
    let mut code = 0;
    let outlets = [Some((printing, GOODBYE)), logging.map(|thread| (thread, GOODBYE)), recording];
    telling.end(GOODBYE);
    for (outlet, patience) in outlets.into_iter().flatten() {
        if !wait(outlet, patience) {
            code = exit::NOT_WRITTEN;
        }
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

/// The page, where it is wanted.
fn dashboard(
    args: &Watch,
    config: &Config,
    bundle: &Arc<Mutex<Bundle>>,
    hub: &mut Hub,
) -> Result<Option<Dashboard>, String> {
    let settings = &config.watch.dashboard;
    let Some(address) = settings.listen else { return Ok(None) };
    let (kernels, file) = (config.engine.kernels, source_name(args, &config.watch));
    let slots = Slots::of(&config.slots).filter(|_| args.networks.bundle.is_none());
    let subject = Subject { file: &file, bundle, kernels, slots };
    let dashboard = Dashboard::start(settings, address, Limits::default(), subject, hub);
    let dashboard = dashboard.map_err(|error| error.to_string())?;
    eprintln!("candor: http://{}/", dashboard.address());
    Ok(Some(dashboard))
}

/// What a run with these settings watches.
fn parts(args: &Watch, config: &Config, watcher: Watcher) -> Parts {
    let (feed, file) = feed(args, &config.watch);
    Parts {
        watcher,
        feed,
        settings: config.watch.clone(),
        text: as_text(config),
        file,
        is_paced: !args.unpaced,
    }
}

/// The camera that is watched.
fn device(settings: &watch::Settings) -> PathBuf {
    let first = || camera::devices().into_iter().next().map(|(path, _)| path);
    settings.device.clone().or_else(first).unwrap_or_else(|| PathBuf::from("/dev/video0"))
}

/// The source, as events name it.
fn source_name(args: &Watch, settings: &watch::Settings) -> String {
    match &args.play {
        _ if args.raw.is_some() => "-".to_owned(),
        Some(path) => path.display().to_string(),
        None => device(settings).display().to_string(),
    }
}

fn feed(args: &Watch, settings: &watch::Settings) -> (MakeFeed, String) {
    let file = source_name(args, settings);
    if let Some((encoding, width_px, height_px)) = args.raw {
        let stall_ms = settings.stall_ms;
        let make = move || -> Result<Box<dyn Feed>, String> {
            let layout = Layout::packed(encoding, width_px, height_px).map_err(|error| error.to_string())?;
            Ok(Box::new(RawPipe::new(io::stdin(), Monotonic, layout, stall_ms)))
        };
        return (Box::new(make), file);
    }
    if let Some(path) = args.play.clone() {
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
    let device = camera::Settings {
        path: device(settings),
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

/// The evidence log that is asked for.
///
/// # Errors
/// Why it can't be kept.
fn evidence(config: &Config, bundle: &Bundle) -> Result<Option<(Log, About)>, String> {
    let settings = &config.evidence;
    let Some(folder) = &settings.folder else { return Ok(None) };
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let key = settings.key.clone().unwrap_or_else(|| folder.join("device.key"));
    let key = device_key(&key).map_err(|error| error.to_string())?;
    log::info!("evidence log: signed by {}", PublicKey::of(&key));
    let about = About { model: entry::Model::of(bundle.manifest()), settings: as_text(config) };
    let log = Log::open(folder, key, &about, settings.max_bytes).map_err(|error| error.to_string())?;
    Ok(Some((log, about)))
}

/// The settings as they stand in the evidence log.
fn as_text(config: &Config) -> String {
    toml::to_string(config).unwrap_or_else(|error| format!("# {error}"))
}

/// Waits for an outlet to write what is left; one that nobody reads from is left behind.
fn wait(outlet: JoinHandle<bool>, patience: Duration) -> bool {
    let asked = Instant::now();
    while !outlet.is_finished() && asked.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    outlet.is_finished() && outlet.join().unwrap_or(false)
}
