//! `candor scan`: files in, verdicts out.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use candor::bundle::{Bundle, Manifest, Status};
use candor::classify::Explainer;
use candor::engine::Engine;
use candor::frame::Frame;
use candor::memory;
use candor::pipeline::{Face, Observer, ScanError, Scanner, Sighting, Summary};
use candor::report::live::LiveAnnotation;
use candor::report::{faces, heat, json, table};
use candor::source::{self, FrameSource, SourceError};
use candor::stopwatch::{Stage, Stopwatch};

use crate::chosen::{self, Outcome};
use crate::cli::Scan;

/// Exit codes; documented in `candor scan --help`, never renumbered.
pub(crate) mod exit {
    pub(crate) const FAIL_ON: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const NOT_SCANNED: u8 = 3;
    pub(crate) const NOT_WRITTEN: u8 = 4;
    /// Of `candor bundle` and `candor slot` only.
    pub(crate) const REFUSED: u8 = 5;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// One thing to scan.
#[derive(Clone, Debug)]
enum Input {
    File(PathBuf),
    Sequence(PathBuf),
}

/// What all workers share.
struct Job<'a> {
    args: &'a Scan,
    stop: &'a AtomicBool,
    /// Held while a whole table or line is written, so that parallel files don't mix.
    out: Mutex<()>,
    worst: Mutex<u8>,
    stopwatches: Mutex<Vec<Stopwatch>>,
    /// Whether the classifier has scored a crop.
    has_scored: AtomicBool,
    /// How the classifier failed.
    failure: Mutex<Option<String>>,
}

/// Runs the command.
pub(crate) fn run(args: &Scan) -> ExitCode {
    let usage = |message: String| {
        eprintln!("candor: {message}");
        ExitCode::from(exit::USAGE)
    };
    let config = match args.settings() {
        Ok(config) => config,
        Err(error) => return usage(error.to_string()),
    };
    let mut settings = config.engine;
    if settings.threads == 0 && args.jobs > 1 {
        // Files side by side fill the cores by themselves.
        settings.threads = 1;
    }
    let engine = match Engine::new(&settings) {
        Ok(engine) => engine,
        Err(error) => return usage(error.to_string()),
    };
    // What is wrong with the request costs a trial no start.
    let (inputs, missing) = expand(args);
    if args.annotate.is_some() && inputs.len() != 1 {
        return usage(format!("--annotate: expected one input, found {}", inputs.len()));
    }
    if let (Some(out), [Input::File(path)]) = (&args.annotate, inputs.as_slice())
        && is_same_file(out, path)
    {
        return usage(format!("--annotate: {} is the input itself", out.display()));
    }
    let load = |bundle: &Bundle| {
        let scanner = Scanner::new(&engine, config.detect, config.scan, bundle)?;
        let explainer = || Explainer::of(&engine, bundle);
        Ok((scanner, args.heat_maps.then(explainer).transpose()?))
    };
    let loaded = chosen::load(args.networks.bundle.as_deref(), &config.slots, &engine, load);
    let (scanner, explainer, trial) = match loaded {
        Ok(((scanner, explainer), _, trial)) => (scanner, explainer, trial),
        Err(message) => return usage(message),
    };
    let stop = stop_flag();
    if scanner.manifest().status == Status::Untrained {
        eprintln!("candor: {}", table::UNTRAINED);
    }

    let started = Instant::now();
    let job = Job {
        args,
        stop: &stop,
        out: Mutex::new(()),
        worst: Mutex::new(0),
        stopwatches: Mutex::default(),
        has_scored: AtomicBool::new(false),
        failure: Mutex::default(),
    };
    for (path, message) in &missing {
        job.failed(path, message);
    }
    let next = AtomicUsize::new(0);
    let work = |mut scanner: Scanner, mut explainer: Option<Explainer>| {
        while let Some(input) = inputs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if job.stop.load(Ordering::Relaxed) {
                break;
            }
            job.scan(input, &mut scanner, explainer.as_mut());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..usize::from(args.jobs).min(inputs.len()) {
            let (scanner, explainer) = (scanner.clone(), explainer.clone());
            scope.spawn(|| work(scanner, explainer));
        }
        // This thread works as well: it gets the memory that loading the networks has freed, which allocators
        // keep for the thread that freed it.
        work(scanner, explainer);
    });
    if let Some(trial) = trial {
        let failure = job.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        trial.end(&match failure {
            Some(reason) => Outcome::Failed(reason),
            None if job.has_scored.load(Ordering::Relaxed) => Outcome::RanWell,
            None => Outcome::NothingToScore,
        });
    }
    if args.stats {
        let watches = job.stopwatches.into_inner().unwrap_or_else(PoisonError::into_inner);
        print_stats(&watches, started.elapsed().as_secs_f64());
    }
    if stop.load(Ordering::Relaxed) {
        return ExitCode::from(exit::INTERRUPTED);
    }
    ExitCode::from(job.worst.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Set by Ctrl-C and SIGTERM. The first signal ends a run in good order, the second one at once.
pub(crate) fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let registered = signal_hook::flag::register_conditional_shutdown(
            signal,
            exit::INTERRUPTED.into(),
            Arc::clone(&stop),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = registered {
            log::warn!("signal {signal}: {error}");
        }
    }
    stop
}

impl Job<'_> {
    fn worsen(&self, code: u8) {
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        *worst = (*worst).max(code);
    }

    /// Writes one piece of output whole and at once.
    fn print(&self, text: &str) -> io::Result<()> {
        let _one_at_a_time = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn failed(&self, file: &str, message: &str) {
        self.worsen(exit::NOT_SCANNED);
        eprintln!("candor: {message}");
        if self.args.json && self.print(&format!("{}\n", json::error(file, message))).is_err() {
            self.worsen(exit::NOT_WRITTEN);
        }
    }

    fn scan(&self, input: &Input, scanner: &mut Scanner, explainer: Option<&mut Explainer>) {
        let path = match input {
            Input::File(path) | Input::Sequence(path) => path,
        };
        let file = path.display().to_string();
        match open(input, self.args) {
            Ok(mut source) => self.scan_source(&file, source.as_mut(), scanner, explainer),
            Err(error) => self.failed(&file, &error.to_string()),
        }
    }

    fn scan_source(
        &self,
        file: &str,
        source: &mut dyn FrameSource,
        scanner: &mut Scanner,
        explainer: Option<&mut Explainer>,
    ) {
        let manifest = scanner.manifest().clone();
        let is_untrained = manifest.status == Status::Untrained;
        let annotation = self.args.annotate.as_deref().map(|out| {
            let banner = is_untrained.then_some(table::UNTRAINED);
            LiveAnnotation::new(out, banner, manifest.rules(), source.info().is_still)
        });
        let progress = self.progress(file, source);
        let mut watcher = Watcher { job: self, file, annotation, explainer, rows: Vec::new(), progress };
        let scanned = scanner.scan(source, &mut watcher, self.stop);
        watcher.progress.finish_and_clear();
        if let Some(annotation) = watcher.annotation
            && let Err(error) = annotation.finish()
        {
            eprintln!("candor: {error}");
            self.worsen(exit::NOT_WRITTEN);
        }
        match scanned {
            Ok(summary) => self.conclude(file, watcher.rows, &summary, &manifest),
            Err(ScanError::Observer(message)) => {
                eprintln!("candor: {file}: {message}");
                self.worsen(exit::NOT_WRITTEN);
            }
            Err(error) => {
                if let ScanError::Engine(cause) = &error
                    && chosen::is_of(cause, &manifest)
                {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause.to_string());
                }
                self.failed(file, &error.to_string());
            }
        }
    }

    fn conclude(&self, file: &str, mut rows: Vec<table::Row>, summary: &Summary, manifest: &Manifest) {
        let text = if self.args.json {
            format!("{}\n", json::summary(file, summary, manifest))
        } else {
            rows.sort_by_key(|r| r.face.track_id);
            table::table(file, &rows, summary, manifest)
        };
        if let Err(error) = self.print(&text) {
            eprintln!("candor: standard output: {error}");
            self.worsen(exit::NOT_WRITTEN);
        }
        let found = summary.judgement.verdict;
        let is_failure = self.args.fail_on.is_some_and(|fails| fails.names(found));
        if is_failure {
            self.worsen(exit::FAIL_ON);
        }
        self.stopwatches.lock().unwrap_or_else(PoisonError::into_inner).push(summary.stopwatch.clone());
    }

    fn progress(&self, file: &str, source: &dyn FrameSource) -> ProgressBar {
        let is_wanted = !self.args.no_progress && self.args.jobs == 1 && io::stderr().is_terminal();
        if !is_wanted || source.info().is_still {
            return ProgressBar::hidden();
        }
        let (bar, template) = match source.info().n_frames {
            Some(n) => (ProgressBar::new(n), "{msg} [{wide_bar}] {percent}% {per_sec} left {eta}"),
            None => (ProgressBar::new_spinner(), "{msg} {spinner} {pos} frames, {per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.with_message(file.to_owned())
    }
}

/// Passes on what happens during the scan of one file.
struct Watcher<'a> {
    job: &'a Job<'a>,
    file: &'a str,
    annotation: Option<LiveAnnotation>,
    explainer: Option<&'a mut Explainer>,
    rows: Vec<table::Row>,
    progress: ProgressBar,
}

impl Observer for Watcher<'_> {
    fn wants_running_scores(&self) -> bool {
        self.annotation.is_some()
    }

    fn frame(&mut self, frame: &Frame, sightings: Option<&[Sighting]>) -> Result<(), ScanError> {
        self.progress.inc(1);
        match &mut self.annotation {
            Some(annotation) => {
                annotation.frame(frame, sightings).map_err(|e| ScanError::Observer(e.to_string()))
            }
            None => Ok(()),
        }
    }

    fn face(&mut self, face: &Face) -> Result<(), ScanError> {
        if face.samples.iter().any(|sample| sample.score.is_some()) {
            self.job.has_scored.store(true, Ordering::Relaxed);
        }
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| ScanError::Observer(format!("{what}: {error}"))
        };
        let thumbnail = match &self.job.args.faces {
            Some(folder) => faces::write(folder, self.file, face)
                .map_err(failed(&format!("--faces {}", folder.display())))?,
            None => None,
        };
        if let (Some(explainer), Some(folder)) = (&mut self.explainer, &self.job.args.faces)
            && let Some(sample) = heat::typical(&face.samples)
        {
            let map = explainer.heat_map(&sample.crop)?;
            heat::write(folder, self.file, face, sample, &map)
                .map_err(failed(&format!("--faces {}", folder.display())))?;
        }
        if self.job.args.json {
            let line = format!("{}\n", json::verdict(self.file, face));
            return self.job.print(&line).map_err(failed("standard output"));
        }
        // The table needs no pixels.
        let mut face = face.clone();
        for sample in &mut face.samples {
            sample.crop = image::RgbImage::default();
        }
        self.rows.push(table::Row { face, thumbnail: thumbnail.map(|p| p.display().to_string()) });
        Ok(())
    }
}

fn open(input: &Input, args: &Scan) -> Result<Box<dyn FrameSource>, SourceError> {
    match (input, args.sequence) {
        (Input::Sequence(folder), Some(rate)) => source::open_sequence(folder, rate),
        (Input::File(path) | Input::Sequence(path), _) => source::open(path),
    }
}

/// The inputs with folders replaced by what is in them, in name order; and what is not there.
fn expand(args: &Scan) -> (Vec<Input>, Vec<(String, String)>) {
    let (mut inputs, mut missing) = (Vec::new(), Vec::new());
    for path in &args.inputs {
        if !path.is_dir() {
            inputs.push(Input::File(path.clone()));
        } else if args.sequence.is_some() {
            inputs.push(Input::Sequence(path.clone()));
        } else {
            let n_before = inputs.len();
            if let Err(error) = walk(path, &mut inputs) {
                missing.push((path.display().to_string(), format!("{}: {error}", path.display())));
            } else if inputs.len() == n_before {
                let message = format!("{}: no video and no picture in this folder", path.display());
                missing.push((path.display().to_string(), message));
            }
        }
    }
    (inputs, missing)
}

/// Endings of files that are taken from a folder; a file that is named is judged by its content.
const ENDINGS: [&str; 9] = ["mp4", "m4v", "mov", "avi", "y4m", "jpg", "jpeg", "png", "qt"];

fn walk(folder: &Path, inputs: &mut Vec<Input>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        // A link to a folder could lead round in circles.
        if path.is_dir() && !path.is_symlink() {
            walk(&path, inputs)?;
        } else if path.is_file() {
            let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
            if ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) {
                inputs.push(Input::File(path));
            }
        }
    }
    Ok(())
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn print_stats(watches: &[Stopwatch], wall_s: f64) {
    eprintln!("{:<10} {:>10} {:>8} {:>10}", "stage", "CPU s", "runs", "ms a run");
    let mut total_s = 0.0;
    for stage in Stage::ALL {
        let (mut spent_s, mut n_runs) = (0.0, 0);
        for watch in watches {
            let (spent, runs) = watch.spent(stage);
            spent_s += spent.as_secs_f64();
            n_runs += runs;
        }
        total_s += spent_s;
        #[expect(clippy::cast_precision_loss, reason = "a count of frames")]
        let ms = if n_runs > 0 { 1e3 * spent_s / n_runs as f64 } else { 0.0 };
        eprintln!("{:<10} {spent_s:>10.3} {n_runs:>8} {ms:>10.3}", stage.word());
    }
    eprintln!("{:<10} {total_s:>10.3}", "all");
    eprintln!(
        "wall time {wall_s:.3} s, peak memory {}",
        memory::peak_bytes().map_or("unknown".into(), memory::mebibytes)
    );
}
