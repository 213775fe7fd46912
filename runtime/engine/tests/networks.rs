//! Every shipped network, and an EfficientNet-B5, give what ONNX Runtime gives.
//!
//! `tests/reference/check_models.py` writes the goldens to `.cache/goldens`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use candor_engine::Engine;
use serde_json::Value;

/// Largest difference of networks that compute in f32.
const MOST: f32 = 1e-4;
/// Largest difference of networks with 8-bit steps between their layers, where the last bit of an f32 can
/// move a value by a step.
const MOST_8_BIT: f32 = 1e-3;

/// The repository's root; `None`, with a printed reason, where the goldens haven't been made.
fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
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

/// A golden's description, its network and its input.
struct Golden {
    folder: PathBuf,
    described: Value,
    onnx: Vec<u8>,
    shape: Vec<usize>,
    input: Vec<f32>,
}

impl Golden {
    fn read(root: &Path, name: &str) -> Self {
        let folder = root.join(".cache/goldens");
        let json = fs::read(folder.join(format!("{name}.json"))).unwrap();
        let described: Value = serde_json::from_slice(&json).unwrap();
        let (shape, input) = tensor(&folder, &described["input"]);
        let onnx = fs::read(root.join(described["model"].as_str().unwrap())).unwrap();
        Golden { folder, described, onnx, shape, input }
    }
}

/// Runs the networks of goldens `network-photo` and `network-noise`, whose outputs are `names` in order;
/// no value may be further than `most` from ONNX Runtime's.
fn compare(network: &str, names: &[&str], most: f32) {
    let Some(root) = repository() else { return };
    for kind in ["photo", "noise"] {
        let name = format!("{network}-{kind}");
        let golden = Golden::read(&root, &name);
        let mut model = Engine::default().load(network, &golden.onnx[..], &golden.shape).unwrap();
        let shapes = model.output_shapes().to_vec();
        let outputs = model.run(&golden.input).unwrap();
        assert_eq!(outputs.len(), golden.described["outputs"].as_object().unwrap().len(), "{name}");
        for ((output, found), found_shape) in names.iter().zip(outputs).zip(&shapes) {
            let (shape, expected) = tensor(&golden.folder, &golden.described["outputs"][*output]);
            assert_eq!(*found_shape, shape, "{name} {output}");
            let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
            println!("{name} {output}: largest difference {largest:e}");
            assert!(largest <= most, "{name} {output}: {largest} > {most}");
        }
    }
}

/// Every tensor on the way through `network` against ONNX Runtime's. A convolution of the same bytes must
/// give the same bytes; steps that ONNX Runtime computes in float may differ by one.
fn compare_steps(network: &str, most_differing: f64) {
    let Some(root) = repository() else { return };
    for kind in ["photo", "noise"] {
        let name = format!("{network}-{kind}");
        let golden = Golden::read(&root, &name);
        let steps = golden.described["steps"].as_array().unwrap();
        let expected: HashMap<&str, Vec<u8>> = steps
            .iter()
            .map(|s| {
                (
                    s["name"].as_str().unwrap(),
                    fs::read(golden.folder.join(s["file"].as_str().unwrap())).unwrap(),
                )
            })
            .collect();
        let mut model = Engine::default().load(network, &golden.onnx[..], &golden.shape).unwrap();
        let traced = model.trace(&golden.input).unwrap();
        let mut equal: HashSet<&str> = HashSet::new();
        let (mut n_convolutions, mut n_compared, mut n_differing, mut n_bytes) = (0, 0, 0, 0);
        for step in traced.iter().filter(|s| !s.tensor.is_empty()) {
            let Some(reference) = expected.get(step.tensor.as_str()) else { continue };
            assert_eq!(step.bytes.len(), reference.len(), "{name} {}", step.tensor);
            let differences = step.bytes.iter().zip(reference).map(|(a, b)| a.abs_diff(*b));
            let (most, n) = differences.fold((0, 0), |(most, n), d| (most.max(d), n + usize::from(d > 0)));
            let has_equal_sources = step.sources.iter().all(|s| equal.contains(s.as_str()));
            if has_equal_sources {
                assert!(
                    most <= 1,
                    "{name} {} ({}): {n} bytes differ by up to {most}",
                    step.tensor,
                    step.kind
                );
                if step.is_plain {
                    n_convolutions += 1;
                    assert_eq!(n, 0, "{name} {}: {n} bytes differ of the same input", step.tensor);
                }
            }
            if n == 0 {
                equal.insert(&step.tensor);
            } else {
                println!(
                    "{name} {} ({}): {n} of {} differ, by {most} at most",
                    step.tensor,
                    step.kind,
                    reference.len()
                );
            }
            (n_compared, n_differing, n_bytes) = (n_compared + 1, n_differing + n, n_bytes + reference.len());
        }
        assert!(n_compared > 10, "{name}: only {n_compared} tensors compared");
        assert!(n_convolutions > 3, "{name}: only {n_convolutions} convolutions had equal inputs");
        #[expect(clippy::cast_precision_loss, reason = "counts of bytes")]
        let share = n_differing as f64 / n_bytes as f64;
        println!(
            "{name}: {n_convolutions} convolutions equal of equal inputs, {n_compared} tensors, {share:.2e} of bytes differ"
        );
        assert!(share <= most_differing, "{name}: {share}");
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

/// With i8 activations ONNX Runtime computes some convolutions in float, so a byte may differ here and there.
const MOST_OF_LOGITS_I8: f32 = 0.05;

#[test]
fn int8_classifiers_match_onnx_runtime() {
    for network in ["lite0", "lite4", "b0", "b5", "resnet18"] {
        compare(&format!("{network}-int8"), &["logits"], MOST);
    }
}

#[test]
fn classifiers_that_onnx_runtime_quantized_match_it() {
    for network in ["lite0-ort", "b0-ort", "resnet18-ort"] {
        compare(&format!("{network}-int8"), &["logits"], MOST);
    }
    compare("lite0-ort-s8-int8", &["logits"], MOST_OF_LOGITS_I8);
}

#[test]
fn every_step_matches_onnx_runtime() {
    for network in [
        "lite0-int8",
        "lite4-int8",
        "b5-int8",
        "b0-int8",
        "resnet18-int8",
        "lite0-ort-int8",
        "b0-ort-int8",
        "resnet18-ort-int8",
    ] {
        compare_steps(network, 0.02);
    }
}
