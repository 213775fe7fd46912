//! Networks of a few layers: sound ones, partly or wholly in float, give what ONNX Runtime gives; hostile
//! ones are refused with an error that names what is wrong.
//!
//! `golden/networks/make.py` writes them, with ONNX Runtime's outputs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candor_engine::{Engine, Model};
use serde::Deserialize;

/// Largest difference.
const MOST: f32 = 1e-4;

#[derive(Deserialize)]
struct Index {
    sound: BTreeMap<String, Sound>,
    /// What the error names.
    hostile: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Sound {
    shape: Vec<usize>,
    outputs: BTreeMap<String, Vec<usize>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/networks")
}

fn index() -> Index {
    serde_json::from_slice(&fs::read(folder().join("index.json")).unwrap()).unwrap()
}

fn onnx(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.onnx"))).unwrap()
}

fn floats(file: String) -> Vec<f32> {
    let bytes = fs::read(folder().join(file)).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Kinds of the ops that run in float, but for what only gives a float away.
fn float_ops(model: &Model) -> Vec<String> {
    let ops = model.ops().into_iter().filter(|op| !op.is_int8 && op.kind != "emit");
    ops.map(|op| format!("{} ({})", op.name, op.kind)).collect()
}

/// Runs a sound network, compares its outputs with ONNX Runtime's, and gives its float ops.
fn run(name: &str) -> Vec<String> {
    let sound = &index().sound[name];
    let mut model = Engine::default().load(name, &*onnx(name), &sound.shape).unwrap();
    let mut shapes = model.output_shapes().to_vec();
    let mut expected_shapes: Vec<Vec<usize>> = sound.outputs.values().cloned().collect();
    shapes.sort();
    expected_shapes.sort();
    assert_eq!(shapes, expected_shapes, "{name}");
    let found = model.run(&floats(format!("{name}.input"))).unwrap().concat();
    let expected = floats(format!("{name}.output"));
    assert_eq!(found.len(), expected.len(), "{name}");
    let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
    let ops = float_ops(&model);
    println!("{name}: largest difference {largest:e}, in float: {ops:?}");
    assert!(largest <= MOST, "{name}: {largest}");
    ops
}

#[test]
fn quantized_networks_run_in_bytes() {
    for name in ["plain", "depthwise-silu", "squeeze-excite", "residual", "pools-and-heads", "few-channels"] {
        let ops = run(name);
        assert!(ops.is_empty(), "{name}: {ops:?}");
    }
}

#[test]
fn a_node_without_a_step_runs_in_float_between_regions() {
    for (name, node) in [("float-middle", "elu"), ("float-pool", "average")] {
        let ops = run(name);
        assert!(ops.iter().all(|op| op.contains(node)) && !ops.is_empty(), "{name}: {ops:?}");
    }
}

#[test]
fn a_tensor_may_pass_by_the_float_part() {
    let ops = run("residual-across");
    assert!(!ops.is_empty());
}

#[test]
fn a_batch_with_a_float_part_is_each_picture_alone() {
    run("batch");
    let mut model = Engine::default().load("batch", &*onnx("batch"), &[2, 3, 8, 8]).unwrap();
    let mut single = Engine::default().load("single", &*onnx("batch"), &[1, 3, 8, 8]).unwrap();
    let input = floats("batch.input".into());
    let both = model.run(&input).unwrap().concat();
    let apart: Vec<f32> =
        input.chunks_exact(3 * 8 * 8).flat_map(|picture| single.run(picture).unwrap().concat()).collect();
    assert_eq!(both, apart);
}

#[test]
fn a_network_without_bytes_runs_in_float() {
    assert!(!run("all-float").is_empty());
}

#[test]
fn weights_that_a_float_node_wants_too_are_kept() {
    for name in ["shared-product", "bytes-read-as-they-are"] {
        assert!(!run(name).is_empty(), "{name}");
    }
}

#[test]
fn weights_that_no_kernel_takes_run_in_float() {
    let ops = run("weights-of-minus-128");
    assert!(ops.iter().any(|op| op.contains("Conv") || op.contains("branch")), "{ops:?}");
}

/// Keeps what is logged.
struct Kept(Mutex<Vec<String>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("candor") {
            self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_log_names_nodes_that_run_in_float() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    run("float-middle");
    run("weights-of-minus-128");
    let kept = KEPT.0.lock().unwrap().clone();
    for named in ["WARN node elu (Elu) runs in float: ", "WARN node branch (Conv) runs in float: "] {
        assert!(kept.iter().any(|line| line.starts_with(named)), "{named}: {kept:?}");
    }
}

#[test]
fn every_sound_network_is_tested() {
    assert_eq!(index().sound.len(), 14);
}

#[test]
fn hostile_networks_are_refused_by_name() {
    let hostile = index().hostile;
    assert!(hostile.len() >= 20);
    for (name, named) in hostile {
        let error = Engine::default().load(&name, &*onnx(&name), &[1, 3, 8, 8]).err();
        let error = error.unwrap_or_else(|| panic!("{name}: taken")).to_string();
        println!("{error}");
        assert!(error.contains(&named), "{name}: expected {named:?} in {error:?}");
    }
}

#[test]
fn hostile_input_shapes_are_refused() {
    let plain = onnx("plain");
    for shape in
        [&[][..], &[0, 3, 8, 8], &[1, 3, 0, 8], &[1, 1 << 40], &[usize::MAX, 2, 8, 8], &[1, 3, 1 << 20, 64]]
    {
        assert!(Engine::default().load("plain", &*plain, shape).is_err(), "{shape:?}");
    }
    for shape in [&[1, 4, 8, 8][..], &[1, 3, 8], &[3]] {
        assert!(Engine::default().load("plain", &*plain, shape).is_err(), "{shape:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_or_runs() {
    let plain = onnx("plain");
    for n_bytes in (0..plain.len()).step_by(37) {
        if let Ok(mut model) = Engine::default().load("cut", &plain[..n_bytes], &[1, 3, 8, 8]) {
            model.run(&[0.0; 192]).unwrap();
        }
    }
}

#[test]
fn quantized_networks_of_the_zoo_run_in_bytes_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let zoo = root.join(".cache/models/int8");
    if !zoo.is_dir() {
        println!("skipped: {} is missing, run models/zoo.py", zoo.display());
        return;
    }
    let mut n_networks = 0;
    for entry in fs::read_dir(zoo).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let model = Engine::default().load_as_declared(&name, &*fs::read(&path).unwrap()).unwrap();
        assert_eq!(float_ops(&model), Vec::<String>::new(), "{name}");
        println!("{name}: {} ops", model.ops().len());
        n_networks += 1;
    }
    assert!(n_networks > 0);
}
