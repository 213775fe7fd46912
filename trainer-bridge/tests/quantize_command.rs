//! `quantize` and `parity` from a checkpoint and a dataset to files, and on after a stop.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod toy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candor::bundle::{Bundle, Status};
use candor::engine::Engine;
use support::{OnnxRuntime, cached, largest_difference, used_network, values};
use tch::nn::VarStore;
use tch::{Device, Tensor};
use trainer_bridge::evaluate::calibration_file::{CALIBRATION_FILE, CalibrationFile};
use trainer_bridge::evaluate::prediction;
use trainer_bridge::manifest::{self, Split};
use trainer_bridge::model::{Backbone, Spec, checkpoint};
use trainer_bridge::quantize::crops::batches;

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
    toy::write(&at("more"), 4, SIZE_PX, 3);
    let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(Backbone::Lite0, SIZE_PX).unwrap() };
    let variables = VarStore::new(Device::Cpu);
    used_network(&variables, &spec);
    checkpoint::save_spec(&spec, &at("run")).unwrap();
    checkpoint::save_weights(&variables, &at("run").join(checkpoint::BEST_FILE)).unwrap();

    let quantize = || {
        let options = ["--adaround-steps", "10", "--qat-steps", "2", "--calibration-crops", "4"];
        let (data, more) = (at("data"), at("more"));
        let places = [&at("run"), Path::new("--data"), &data, &more, Path::new("--out"), &at("int8")];
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

    a_bundle_is_of_the_network_that_was_measured(&at("int8"), &at("run"), &at("data"), folder.path());
    a_pruned_network_gives_the_same_logits(&at("int8").join("int8.onnx"), &at("data"), folder.path());

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

/// candor's own logits, and a bundle only of what they were measured on.
fn a_bundle_is_of_the_network_that_was_measured(int8: &Path, float: &Path, data: &Path, scratch: &Path) {
    let at = |name: &str| scratch.join(name);
    for (network, out) in [(int8, "of-int8"), (float, "of-float")] {
        let options = ["--split", "all", "--resamples", "100", "--threads", "1", "--device", "cpu"];
        let places = [network, Path::new("--data"), data, Path::new("--out"), &at(out)];
        assert!(run("evaluate", &places, &options).status.success());
    }
    let predictions = prediction::read(&at("of-int8").join(prediction::FILE)).unwrap();
    let onnx = fs::read(int8.join("int8.onnx")).unwrap();
    let side = SIZE_PX as usize;
    let mut model = Engine::default().load("int8", &onnx[..], &[1, 3, side, side]).unwrap();
    for prediction in &predictions {
        let picture = image::open(data.join(&prediction.crop)).unwrap().to_rgb8();
        let pixels = picture.as_raw();
        // Lite's own normalisation, channel by channel.
        let values: Vec<f32> = (0..3)
            .flat_map(|k| pixels.iter().skip(k).step_by(3).map(|&v| (f32::from(v) - 127.0) / 128.0))
            .collect();
        assert_eq!(model.run(&values).unwrap()[0], prediction.logits());
    }

    fs::write(at("card.md"), "what it is").unwrap();
    let bundle = |report: &str| {
        let places = [int8, Path::new("--evaluated"), &at(report), Path::new("--out"), &at("bundle")];
        let (card, text) = (at("card.md"), at("card.md"));
        let texts = ["--card", card.to_str().unwrap(), "--licence-text", text.to_str().unwrap()];
        let names = ["--id", "toy", "--model-version", "1.0.0", "--data-terms", "toy", "--licence", "MIT"];
        run("bundle", &places, &[&texts[..], &names].concat())
    };
    let refused = bundle("of-float");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected a report on"));
    assert!(!at("bundle").exists());
    assert!(bundle("of-int8").status.success());
    let bundle = Bundle::open(&at("bundle")).unwrap();
    let chosen = CalibrationFile::read(&at("of-int8").join(CALIBRATION_FILE)).unwrap();
    let manifest = bundle.manifest();
    assert_eq!(manifest.status, Status::Trained);
    assert_eq!((&manifest.score, &manifest.thresholds), (&chosen.score, &chosen.thresholds));
    let faces = &manifest.quality.as_ref().unwrap()["levels"]["face"];
    assert!(faces["auc"]["value"].as_f64().is_some() && faces["ece"].as_f64().is_some(), "{faces}");
}

/// Of a network's hidden units those stay that a training crop reaches, and its logits stay as they were.
fn a_pruned_network_gives_the_same_logits(int8: &Path, data: &Path, scratch: &Path) {
    let prune = |name: &str, most_change: &str| {
        let out = scratch.join(name);
        let places = [int8, Path::new("--data"), data, Path::new("--out"), &out];
        assert!(run("prune", &places, &["--most-change", most_change]).status.success());
        fs::read(out).unwrap()
    };
    let whole = fs::read(int8).unwrap();
    let [same, alike] = [("same.onnx", "0"), ("alike.onnx", "0.1")].map(|(name, most)| prune(name, most));

    let rows = manifest::read(data).unwrap();
    let training = rows.iter().filter(|row| row.split == Split::Train);
    let paths: Vec<PathBuf> = training.map(|row| data.join(&row.crop)).collect();
    let spec = Spec::of(Backbone::Lite0, SIZE_PX).unwrap();
    let pictures = Tensor::cat(&batches(&paths, &spec, 1).unwrap(), 0);
    let pictures = Tensor::cat(&[&pictures, &pictures.flip([3])], 0);
    let side = SIZE_PX as usize;
    let mut units = Vec::new();
    for onnx in [&whole, &same, &alike] {
        let mut model = Engine::default().load("pruned", &onnx[..], &[1, 3, side, side]).unwrap();
        let mut reached = Vec::new();
        for at in 0..pictures.size()[0] {
            let traced = model.trace(&values(&pictures.get(at))).unwrap();
            let found = traced.iter().find(|traced| traced.tensor == "hidden.relu.q.u8").unwrap();
            reached.resize(found.bytes.len(), false);
            reached.iter_mut().zip(&found.bytes).for_each(|(reached, byte)| *reached |= *byte > 0);
        }
        units.push((reached.len(), reached.iter().filter(|reached| **reached).count()));
    }
    println!("hidden units, and those that a crop reaches: {units:?}");
    let [(n_whole, n_reached), (n_same, n_same_reached), (n_alike, _)] = units[..] else { unreachable!() };
    // A unit whose weights are all 0 adds nothing however often it is reached.
    assert!(n_whole == 1024 && n_reached < n_whole && n_same_reached == n_same && n_same <= n_reached);
    assert!(n_alike < n_same, "nothing went for a change of .1");

    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    for (name, onnx) in [("whole", &whole), ("same", &same), ("alike", &alike)] {
        onnx_runtime.add_file(name, onnx, &pictures);
    }
    onnx_runtime.run();
    let [whole, same, alike] = ["whole", "same", "alike"].map(|name| onnx_runtime.output(name));
    assert_eq!(whole, same);
    let change = largest_difference(&whole, &alike);
    println!("largest change {change}");
    assert!(0.0 < change && change <= 0.1001);
    let described = onnx_runtime.described("alike");
    let spec: Spec = serde_json::from_str(described["metadata"]["spec"].as_str().unwrap()).unwrap();
    assert_eq!(spec.hidden as usize, n_alike);

    // What is no network is refused, and nothing is written.
    let refused = run(
        "prune",
        &[
            data.join("manifest.csv").as_path(),
            Path::new("--data"),
            data,
            Path::new("--out"),
            &scratch.join("none.onnx"),
        ],
        &[],
    );
    assert!(!refused.status.success() && !scratch.join("none.onnx").exists());
}
