//! `quantize` and `parity` from a checkpoint and a dataset to files, and on after a stop.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod toy;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::{cached, used_network};
use tch::Device;
use tch::nn::VarStore;
use trainer_bridge::model::{Backbone, Spec, checkpoint};

const SIZE_PX: u32 = 64;

fn run(command: &str, arguments: &[&Path], options: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_trainer-bridge");
    let output = Command::new(program).arg(command).args(arguments).args(options).output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_checkpoint_and_a_dataset_become_a_network_that_is_the_same_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["run", "other"] {
        fs::create_dir(at(name)).unwrap();
    }
    toy::write(&at("data"), 8, SIZE_PX, 1);
    let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(Backbone::Lite0, SIZE_PX).unwrap() };
    let variables = VarStore::new(Device::Cpu);
    used_network(&variables, &spec);
    checkpoint::save_spec(&spec, &at("run")).unwrap();
    checkpoint::save_weights(&variables, &at("run").join(checkpoint::BEST_FILE)).unwrap();

    let quantize = || {
        let options = ["--adaround-steps", "10", "--qat-steps", "2", "--calibration-crops", "4"];
        let places = [&at("run"), Path::new("--data"), &at("data"), Path::new("--out"), &at("int8")];
        run("quantize", &places, &options)
    };
    assert!(quantize().status.success());
    let files = ["int8.onnx", "sqnr.json", "sqnr.html", "model.json", "state.safetensors"];
    let first = files.map(|name| fs::read(at("int8").join(name)).unwrap());
    let again = quantize();
    assert!(String::from_utf8_lossy(&again.stdout).contains("going on after stage Widened"));
    assert_eq!(files.map(|name| fs::read(at("int8").join(name)).unwrap()), first);
    let report: serde_json::Value = serde_json::from_slice(&first[1]).unwrap();
    assert!(report["nodes"].as_array().unwrap().len() > 50);

    let loose = ["--most-auc", "1", "--most-crop-flips", "1", "--most-video-flips", "1", "--most-ece", "1"];
    let parity = |network: &str, options: &[&str]| {
        run(
            "parity",
            &[&at("int8"), Path::new("--network"), &at(network), Path::new("--data"), &at("data")],
            options,
        )
    };
    assert!(parity("run", &loose).status.success());
    let golden: serde_json::Value =
        serde_json::from_slice(&fs::read(at("int8").join("golden.json")).unwrap()).unwrap();
    assert_eq!(golden["vectors"].as_array().unwrap().len(), 8);
    if let Some(python) = cached("venv/bin/python") {
        let with_python = [&loose[..], &["--python", python.to_str().unwrap()]].concat();
        assert!(parity("run", &with_python).status.success());
        let table: serde_json::Value =
            serde_json::from_slice(&fs::read(at("int8").join("parity.json")).unwrap()).unwrap();
        let stages = table["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 6, "{table}");
        let largest = |at: usize| stages[at]["largest"].as_f64().unwrap();
        assert!(largest(3) == 0.0 && largest(4) < 1e-4 && largest(5) < 0.05, "{table}");
    }

    // No change of a figure is under a bound below 0.
    let broken = parity("run", &[&loose[..6], &["--most-ece=-1"]].concat());
    assert!(!broken.status.success());
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(said.contains("int8, libtorch: change of ECE: expected at most -1"), "{said}");

    // Other pixels under the same names are other crops.
    toy::write(&at("data"), 8, SIZE_PX, 2);
    let afresh = quantize();
    assert!(afresh.status.success());
    assert!(!String::from_utf8_lossy(&afresh.stdout).contains("going on"));

    tch::manual_seed(99);
    let variables = VarStore::new(Device::Cpu);
    let _other = trainer_bridge::model::Network::new(&variables.root(), &spec);
    checkpoint::save_spec(&spec, &at("other")).unwrap();
    checkpoint::save_weights(&variables, &at("other").join(checkpoint::BEST_FILE)).unwrap();
    let refused = parity("other", &loose);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected the network that was quantized"));
}
