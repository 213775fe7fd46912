//! Whole networks give the same bytes with every set of kernels that this processor can run, and with any
//! number of threads.
//!
//! Prints a digest of each network's outputs; `tests/isa/run` compares those of different processors. The
//! inputs are goldens, see `tests/reference/goldens.py`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use candor_engine::{Engine, KernelSet, Settings};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The repository's root and `.cache/goldens` in it; `None`, with a printed reason, where they haven't been
/// made.
fn goldens() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let goldens = root.join(".cache/goldens");
    if goldens.is_dir() {
        return Some((root, goldens));
    }
    let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
    assert!(!is_required, "{} is missing: run tests/reference/goldens.py", goldens.display());
    println!("skipped: {} is missing, run tests/reference/goldens.py", goldens.display());
    None
}

fn described(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Shape and bytes of a golden's tensor.
fn tensor(folder: &Path, described: &Value) -> (Vec<usize>, Vec<u8>) {
    let shape = serde_json::from_value(described["shape"].clone()).unwrap();
    (shape, fs::read(folder.join(described["file"].as_str().unwrap())).unwrap())
}

/// The best kernels on three threads and every set of kernels on one, the specification last; without it where
/// `CANDOR_TEST_SCALAR` is 0, because it is slow.
fn engines() -> Vec<(String, Engine)> {
    let mut settings: Vec<Settings> = Engine::kernels_available()
        .iter()
        .map(|name| Settings { threads: 1, kernels: name.parse().unwrap() })
        .collect();
    if settings.len() > 1 && std::env::var_os("CANDOR_TEST_SCALAR").is_some_and(|v| v == "0") {
        settings.retain(|s| s.kernels != KernelSet::Scalar);
    }
    settings.insert(0, Settings { threads: 3, ..settings[0] });
    let named = |s: &Settings| (format!("{} on {}", s.kernels.name(), s.threads), Engine::new(s).unwrap());
    settings.iter().map(named).collect()
}

/// The bytes of all outputs for one input.
fn run(engine: &Engine, network: &Path, shape: &[usize], input: &[f32]) -> Vec<u8> {
    let mut model = engine.load("test", &fs::read(network).unwrap()[..], shape).unwrap();
    model.run(input).unwrap().iter().flatten().flat_map(|v| v.to_le_bytes()).collect()
}

/// Compares all engines on goldens `name-photo` and `name-noise`.
fn compare(name: &str) {
    let Some((root, folder)) = goldens() else { return };
    for kind in ["photo", "noise"] {
        let golden = described(&folder.join(format!("{name}-{kind}.json")));
        let (shape, input) = tensor(&folder, &golden["input"]);
        let input: Vec<f32> =
            input.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let network = root.join(golden["model"].as_str().unwrap());
        let found =
            engines().into_iter().map(|(kernels, engine)| (kernels, run(&engine, &network, &shape, &input)));
        let expected = one_of(&format!("{name} {kind}"), found);
        println!("outputs: {name} {kind} {}", hex(&expected));
    }
}

/// The outputs that all engines gave.
fn one_of(what: &str, mut all: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let (first, expected) = all.next().unwrap();
    for (kernels, found) in all {
        let n_wrong = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!((n_wrong, found.len()), (0, expected.len()), "{what}: {first}, {kernels}");
    }
    expected
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_default_classifier_gives_the_same_bytes() {
    compare("default");
}

#[test]
fn an_efficientnet_b0_gives_the_same_bytes() {
    compare("b0-int8");
}

#[test]
fn a_resnet18_gives_the_same_bytes() {
    compare("resnet18-int8");
}

#[test]
fn mtcnn_gives_the_same_bytes() {
    for net in ["pnet", "rnet", "onet"] {
        compare(net);
    }
}

/// Faces of clips: every set of kernels against each other. `CANDOR_TEST_CROPS` says how many, 16 unless told; too
/// many for the specification, which is slow.
#[test]
fn faces_give_the_same_bytes() {
    let Some((root, folder)) = goldens() else { return };
    let golden = described(&folder.join("crops.json"));
    let (shape, pixels) = tensor(&folder, &golden["crops"]);
    let n_bytes = shape[1] * shape[2] * shape[3];
    let wanted = std::env::var("CANDOR_TEST_CROPS").map_or(16, |n| n.parse().unwrap());
    let n_crops = shape[0].min(wanted);
    assert!(n_crops > 0, "no crops");
    // Spread over all clips.
    let crops: Vec<&[u8]> =
        (0..n_crops).map(|i| &pixels[i * shape[0] / n_crops * n_bytes..][..n_bytes]).collect();
    for network in ["models/default/model.onnx", ".cache/models/int8/b0.onnx"] {
        let onnx = fs::read(root.join(network)).unwrap();
        let is_fast = |kernels: &str| !kernels.starts_with(KernelSet::Scalar.name());
        let found = engines().into_iter().filter(|(kernels, _)| is_fast(kernels)).map(|(kernels, engine)| {
            let mut model = engine.load(network, &onnx[..], &[1, 3, shape[1], shape[2]]).unwrap();
            let mut scores = |crop: &&[u8]| -> Vec<u8> {
                let plane = n_bytes / 3;
                let value = |at: usize| (f32::from(crop[at % plane * 3 + at / plane]) - 127.0) / 128.0;
                let input: Vec<f32> = (0..n_bytes).map(value).collect();
                model.run(&input).unwrap().iter().flatten().flat_map(|v| v.to_le_bytes()).collect()
            };
            (kernels, crops.iter().flat_map(&mut scores).collect())
        });
        let expected = one_of(network, found);
        println!("outputs: {network} {n_crops} faces {}", hex(&expected));
    }
}
