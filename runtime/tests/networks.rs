//! Every shipped network, and an EfficientNet-B5, give what ONNX Runtime gives.
//!
//! `tests/reference/check_models.py` writes the goldens to `.cache/goldens`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use candor::engine::Engine;
use serde_json::Value;

/// Largest difference of networks that compute in f32.
const MOST: f32 = 1e-4;
/// Largest difference of networks with 8-bit steps between their layers, where the last bit of an f32 can
/// move a value by a step.
const MOST_8_BIT: f32 = 1e-3;

/// The repository's root; `None`, with a printed reason, where the goldens haven't been made.
fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let goldens = root.join(".cache/goldens");
    if goldens.is_dir() {
        return Some(root);
    }
    let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
    assert!(!is_required, "{} is missing: run tests/reference/check_models.py", goldens.display());
    println!("skipped: {} is missing, run tests/reference/check_models.py", goldens.display());
    None
}

/// A golden's tensor: its shape and values.
fn tensor(folder: &Path, described: &Value) -> (Vec<usize>, Vec<f32>) {
    let shape: Vec<usize> = serde_json::from_value(described["shape"].clone()).unwrap();
    let bytes = fs::read(folder.join(described["file"].as_str().unwrap())).unwrap();
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{described}");
    (shape, values)
}

/// Runs the networks of goldens `network-photo` and `network-noise`, whose outputs are `names` in order;
/// no value may be further than `most` from ONNX Runtime's.
fn compare(network: &str, names: &[&str], most: f32) {
    let Some(root) = repository() else { return };
    let folder = root.join(".cache/goldens");
    for kind in ["photo", "noise"] {
        let golden = format!("{network}-{kind}");
        let described: Value =
            serde_json::from_slice(&fs::read(folder.join(format!("{golden}.json"))).unwrap()).unwrap();
        let (shape, input) = tensor(&folder, &described["input"]);
        let onnx = fs::read(root.join(described["model"].as_str().unwrap())).unwrap();
        let mut model = Engine::default().load(network, &onnx, &shape).unwrap();
        let shapes = model.output_shapes().to_vec();
        let outputs = model.run(&input).unwrap();
        assert_eq!(outputs.len(), described["outputs"].as_object().unwrap().len(), "{golden}");
        for ((name, found), found_shape) in names.iter().zip(outputs).zip(&shapes) {
            let (shape, expected) = tensor(&folder, &described["outputs"][*name]);
            assert_eq!(*found_shape, shape, "{golden} {name}");
            let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
            println!("{golden} {name}: largest difference {largest:e}");
            assert!(largest <= most, "{golden} {name}: {largest} > {most}");
        }
    }
}

#[test]
fn the_default_classifier_matches_onnx_runtime() {
    compare("default", &["logits"], MOST);
}

#[test]
fn a_b5_with_a_head_of_two_layers_matches_onnx_runtime() {
    compare("b5", &["logits"], MOST);
}

#[test]
fn pnet_matches_onnx_runtime() {
    compare("pnet", &["prob", "offset"], MOST_8_BIT);
}

#[test]
fn rnet_matches_onnx_runtime() {
    compare("rnet", &["prob", "offset"], MOST_8_BIT);
}

#[test]
fn onet_matches_onnx_runtime() {
    compare("onet", &["prob", "offset", "landmarks"], MOST_8_BIT);
}
