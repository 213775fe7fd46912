//! `candor bench`: times networks and stages on this machine.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use image::RgbImage;
use serde_json::json;

use candor::bundle::Bundle;
use candor::detect::{self, Mtcnn};
use candor::engine::{self, Engine, EngineError, Model, Pieces};
use candor::frame::Frame;
use candor::memory;
use candor::pipeline::{self, Face, Observer, ScanError, Scanner, Sighting};
use candor::source;
use candor::stopwatch::{Stage, Stopwatch};

use crate::cli::Bench;
use crate::scan::exit;

/// Largest file of a network.
const MAX_NETWORK_BYTES: usize = 1 << 28;

/// Something that can be run again and again.
enum Subject {
    Network(Box<Model>, Vec<f32>),
    /// The detector's first network over the pyramid of a picture.
    Pyramid(Box<Mtcnn>, RgbImage),
}

impl Subject {
    fn run(&mut self) -> Result<(), EngineError> {
        match self {
            Subject::Network(model, input) => model.run(input).map(|_| ()),
            Subject::Pyramid(detector, picture) => detector.propose(picture).map(|_| ()),
        }
    }
}

/// A subject with its name and how long it took to load.
struct Loaded {
    name: String,
    subject: Subject,
    load_ms: f64,
}

/// What was measured of a subject.
struct Measured {
    sorted_ms: Vec<f64>,
    /// Median of each op, in the order in which they run.
    ops_us: Vec<f64>,
}

impl Measured {
    fn at(&self, part: f64) -> f64 {
        quantile(&self.sorted_ms, part)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Bench) -> ExitCode {
    match bench(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("candor: {message}");
            ExitCode::from(exit::USAGE)
        }
    }
}

fn bench(args: &Bench) -> Result<(), String> {
    let text = |error: EngineError| error.to_string();
    let empty = memory::peak_bytes();
    let settings = engine::Settings { threads: args.threads, kernels: args.kernels };
    let engine = Engine::new(&settings).map_err(text)?;
    let mut subjects = load(args, &engine)?;
    if args.serve {
        let [Loaded { subject, .. }] = &mut subjects[..] else {
            return Err(format!("--serve: expected one network, found {}", subjects.len()));
        };
        return serve(subject);
    }
    let mut reports = Vec::new();
    for Loaded { name, subject, load_ms } in &mut subjects {
        let measured = measure(subject, usize::from(args.rounds)).map_err(text)?;
        reports.push(report(name, subject, *load_ms, &measured, args, &engine));
    }
    let stages = match &args.clip {
        Some(path) => Some(stages_of(path, &engine).map_err(|why| format!("{}: {why}", path.display()))?),
        None => None,
    };
    let stages: Vec<(&str, f64, u64)> = stages.as_ref().map(in_order).unwrap_or_default();
    let peak = memory::peak_bytes();
    if args.json {
        let stages: Vec<_> = stages
            .iter()
            .map(|(stage, ms, n_runs)| json!({ "stage": stage, "cpu_ms": ms, "runs": n_runs }))
            .collect();
        let whole = json!({
            "schema": 1, "kernels": engine.kernels(), "threads": engine.n_threads(),
            "networks": reports, "stages": stages,
            "empty_memory_bytes": empty, "peak_memory_bytes": peak,
        });
        println!("{whole}");
    } else {
        for (stage, ms, n_runs) in stages {
            println!("{stage:<10} {ms:>10.1} ms of CPU time in {n_runs} runs");
        }
        let shown = |bytes: Option<usize>| bytes.map_or("unknown".to_owned(), memory::mebibytes);
        println!(
            "{} kernels, {} threads, peak memory {}, {} of it before anything was loaded",
            engine.kernels(),
            engine.n_threads(),
            shown(peak),
            shown(empty)
        );
    }
    Ok(())
}

/// Lets a scan go by.
struct Nobody;

impl Observer for Nobody {
    fn frame(&mut self, _: &Frame, _: Option<&[Sighting]>) -> Result<(), ScanError> {
        Ok(())
    }

    fn face(&mut self, _: &Face) -> Result<(), ScanError> {
        Ok(())
    }
}

/// Scans a video with the built-in networks and the settings that are usual.
fn stages_of(path: &Path, engine: &Engine) -> Result<Stopwatch, String> {
    let bundle = Bundle::embedded().map_err(|error| error.to_string())?;
    let (faces, scans) = (detect::Settings::default(), pipeline::Settings::default());
    let mut scanner = Scanner::new(engine, faces, scans, &bundle).map_err(|error| error.to_string())?;
    let mut source = source::open(path).map_err(|error| error.to_string())?;
    let scanned = scanner.scan(source.as_mut(), &mut Nobody, &AtomicBool::new(false));
    scanned.map(|summary| summary.stopwatch).map_err(|error| error.to_string())
}

/// Each stage's CPU time in ms, and its runs.
fn in_order(watch: &Stopwatch) -> Vec<(&'static str, f64, u64)> {
    let spent = |stage: Stage| {
        let (spent, n_runs) = watch.spent(stage);
        (stage.word(), spent.as_secs_f64() * 1e3, n_runs)
    };
    Stage::ALL.map(spent).to_vec()
}

/// What is to be timed: the files that were named, or what is built in.
fn load(args: &Bench, engine: &Engine) -> Result<Vec<Loaded>, String> {
    let text = |error: EngineError| error.to_string();
    let mut loaded = Vec::new();
    for path in &args.networks {
        let read = || Pieces::read(std::fs::File::open(path)?, MAX_NETWORK_BYTES);
        let onnx = read().map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let start = Instant::now();
        let model = match &args.input_shape {
            Some(shape) => engine.load(&name, onnx, shape),
            None => engine.load_as_declared(&name, onnx),
        };
        loaded.push(Loaded::network(name, model.map_err(text)?, start));
    }
    if let Some((width, height)) = args.pyramid {
        loaded.push(pyramid(engine, width, height)?);
    }
    if loaded.is_empty() && args.clip.is_none() {
        let bundle = Bundle::embedded().map_err(|error| error.to_string())?;
        let side = bundle.manifest().input.size_px as usize;
        let start = Instant::now();
        let model = engine.load(&bundle.manifest().id, bundle.model(), &[1, 3, side, side]).map_err(text)?;
        loaded.push(Loaded::network(bundle.manifest().id.clone(), model, start));
        loaded.push(pyramid(engine, 640, 360)?);
    }
    Ok(loaded)
}

impl Loaded {
    fn network(name: String, model: Model, start: Instant) -> Self {
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let n_values = model.input_shape().iter().product();
        let input = noise().take(n_values).map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
        Loaded { name, subject: Subject::Network(Box::new(model), input), load_ms }
    }
}

fn pyramid(engine: &Engine, width: u32, height: u32) -> Result<Loaded, String> {
    let start = Instant::now();
    let detector = Mtcnn::new(engine, detect::Settings::default()).map_err(|error| error.to_string())?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let pixels = noise().take(3 * width as usize * height as usize).collect();
    let picture = RgbImage::from_raw(width, height, pixels).unwrap_or_default();
    let name = format!("P-Net, pyramid of {width}x{height}");
    Ok(Loaded { name, subject: Subject::Pyramid(Box::new(detector), picture), load_ms })
}

/// The same bytes each time (xorshift64, Marsaglia, "Xorshift RNGs", 2003).
fn noise() -> impl Iterator<Item = u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    })
}

/// For each number of runs on standard input: the mean seconds of that many, on standard output.
fn serve(subject: &mut Subject) -> Result<(), String> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let n_runs: u32 =
            line.trim().parse().map_err(|_| format!("standard input: expected a number, found {line:?}"))?;
        let start = Instant::now();
        for _ in 0..n_runs {
            subject.run().map_err(|error| error.to_string())?;
        }
        let mean_s = start.elapsed().as_secs_f64() / f64::from(n_runs.max(1));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{mean_s:.9}")
            .and_then(|()| stdout.flush())
            .map_err(|error| format!("standard output: {error}"))?;
    }
    Ok(())
}

fn measure(subject: &mut Subject, n_rounds: usize) -> Result<Measured, EngineError> {
    subject.run()?;
    let mut sorted_ms = Vec::with_capacity(n_rounds);
    for _ in 0..n_rounds {
        let start = Instant::now();
        subject.run()?;
        sorted_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    sorted_ms.sort_by(f64::total_cmp);
    let mut per_op: Vec<Vec<f64>> = Vec::new();
    if let Subject::Network(model, input) = subject {
        for _ in 0..n_rounds {
            let ends = Mutex::new(vec![Instant::now()]);
            model.run_watched(input, &|_| {
                if let Ok(mut ends) = ends.lock() {
                    ends.push(Instant::now());
                }
            })?;
            let ends = ends.into_inner().unwrap_or_default();
            per_op.resize(ends.len().saturating_sub(1), Vec::new());
            for (op, pair) in per_op.iter_mut().zip(ends.windows(2)) {
                op.push(pair[1].duration_since(pair[0]).as_secs_f64() * 1e6);
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        quantile(times, 0.5)
    };
    Ok(Measured { sorted_ms, ops_us: per_op.iter_mut().map(median).collect() })
}

/// The value that `part` of the sorted values don't exceed.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "few rounds")]
    let at = (sorted.len().saturating_sub(1)) as f64 * part;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    sorted.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

/// Prints a subject's table, or gives it as JSON.
fn report(
    name: &str,
    subject: &Subject,
    load_ms: f64,
    measured: &Measured,
    args: &Bench,
    engine: &Engine,
) -> serde_json::Value {
    let (median, low, high) = (measured.at(0.5), measured.at(0.1), measured.at(0.9));
    let (ops, bytes) = match subject {
        Subject::Network(model, _) => (model.ops(), model.memory_bytes()),
        Subject::Pyramid(..) => (Vec::new(), None),
    };
    let us = |idx: usize| measured.ops_us.get(idx).copied();
    if args.json {
        let ops: Vec<_> = ops
            .iter()
            .enumerate()
            .map(|(idx, op)| {
                json!({ "name": op.name, "kind": op.kind, "type": type_of(op.is_int8), "median_us": us(idx) })
            })
            .collect();
        return json!({
            "name": name, "threads": engine.n_threads(), "load_ms": load_ms,
            "median_ms": median, "p10_ms": low, "p90_ms": high,
            "activation_bytes": bytes.map(|b| b.0), "weight_bytes": bytes.map(|b| b.1), "ops": ops,
        });
    }
    println!(
        "{name}: {median:.3} ms, median of {} ({low:.3} to {high:.3}); load {load_ms:.1} ms",
        args.rounds
    );
    if let Some((activations, weights)) = bytes {
        let (activations, weights) = (memory::mebibytes(activations), memory::mebibytes(weights));
        println!("  activations {activations}, weights {weights}");
    }
    if args.ops {
        for (idx, op) in ops.iter().enumerate() {
            let time = us(idx).map_or(String::new(), |us| format!("{us:.1}"));
            println!("  {time:>9} us  {:<4} {:<10} {}", type_of(op.is_int8), op.kind, op.name);
        }
    }
    serde_json::Value::Null
}

fn type_of(is_int8: bool) -> &'static str {
    if is_int8 { "u8" } else { "f32" }
}
