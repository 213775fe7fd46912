//! Exported files give what the network gives in libtorch: in ONNX Runtime and in candor's engine.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::path::Path;
use std::process::Command;

use candor::engine::Engine;
use support::{OnnxRuntime, cached, largest_difference, noise, used_network, values};
use tch::nn::VarStore;
use tch::{Device, no_grad};
use trainer_bridge::export;
use trainer_bridge::model::{Backbone, Network, Spec, checkpoint, weights};

/// Of the largest logit, or of 1.
const MOST: f32 = 1e-4;

/// Largest difference, against the largest of `expected` where that is below 1.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let peak = expected.iter().fold(0.0f32, |peak, logit| peak.max(logit.abs()));
    largest_difference(found, expected) / peak.min(1.0)
}

#[test]
fn exported_networks_are_the_trained_ones() {
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let mut expected = Vec::new();
    for (member_idx, member) in Backbone::ALL.into_iter().enumerate() {
        // Even and odd sides are padded differently.
        let size_px = [90, 97, 110][member_idx % 3];
        let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(member, size_px).unwrap() };
        let variables = VarStore::new(Device::Cpu);
        let network = used_network(&variables, &spec);
        let pictures = noise(2, &spec);
        let logits = values(&no_grad(|| network.forward_t(&pictures, false)));
        let onnx = export::onnx(&network);
        assert_eq!(onnx, export::onnx(&network), "{member}: other bytes");

        let shape = [2, 3, size_px as usize, size_px as usize];
        let mut model = Engine::default().load(member.name(), &onnx[..], &shape).unwrap();
        let found = model.run(&values(&pictures)).unwrap();
        let difference = difference(&found[0], &logits);
        println!("{member} {size_px} px: candor differs by {difference:e}, logits {logits:?}");
        assert!(difference <= MOST, "{member} in candor: {difference:e}");
        onnx_runtime.add_file(member.name(), &onnx, &pictures);
        expected.push(logits);
    }
    onnx_runtime.run();
    for (member, logits) in Backbone::ALL.into_iter().zip(&expected) {
        let difference = difference(&onnx_runtime.output(member.name()), logits);
        println!("{member}: ONNX Runtime differs by {difference:e}");
        assert!(difference <= MOST, "{member} in ONNX Runtime: {difference:e}");
    }
}

#[test]
fn pretrained_lite_networks_are_those_of_the_scripts() {
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let Some(upstream) = cached("models/upstream") else { return };
    let mut expected = Vec::new();
    for (member, size_px) in [("lite0", 224), ("lite0", 161), ("lite1", 240), ("lite2", 260), ("lite2", 225)]
    {
        let Some(checkpoint) = cached(&format!("models/upstream/{member}/{member}.pth")) else { continue };
        let spec = Spec::named(member, size_px).unwrap();
        let variables = VarStore::new(Device::Cpu);
        let network = Network::new(&variables.root(), &spec);
        weights::load_imagenet(&variables, &spec, &checkpoint).unwrap();
        let classifier = weights::read(&checkpoint).unwrap();
        // ImageNet classes: tabby, tiger cat, Egyptian cat; espresso.
        for (photo, classes) in [("chelsea", &[281i64, 282, 285][..]), ("coffee", &[967][..])] {
            let picture = square(&upstream.join("photos").join(format!("{photo}.png")), size_px);
            let pictures = trainer_bridge::model::input(&[&picture], &spec, Device::Cpu);
            let features = no_grad(|| network.features_t(&pictures, false));
            let logits = features.linear(&classifier["_fc.weight"], Some(&classifier["_fc.bias"]));
            let top = i64::try_from(logits.argmax(-1, false)).unwrap();
            assert!(classes.contains(&top), "{member} {size_px} px: {photo} is class {top}");
            let name = format!("{member}-{size_px}-{photo}");
            onnx_runtime.add_member(&name, member, &checkpoint, &pictures);
            expected.push((name, values(&logits)));
        }
    }
    onnx_runtime.run();
    for (name, logits) in expected {
        let difference = difference(&onnx_runtime.output(&name), &logits);
        println!("{name}: {difference:e}");
        assert!(difference <= MOST, "{name}: {difference:e}");
    }
}

/// The middle square of a photo.
fn square(path: &Path, size_px: u32) -> image::RgbImage {
    let photo = image::open(path).unwrap().to_rgb8();
    let (w, h) = photo.dimensions();
    let side = w.min(h);
    let middle = image::imageops::crop_imm(&photo, (w - side) / 2, (h - side) / 2, side, side).to_image();
    image::imageops::resize(&middle, size_px, size_px, image::imageops::FilterType::CatmullRom)
}

#[test]
fn the_program_exports_a_run_and_the_file_says_what_it_is() {
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let spec = Spec::of(Backbone::Lite0, 64).unwrap();
    let variables = VarStore::new(Device::Cpu);
    let network = used_network(&variables, &spec);
    let run = tempfile::tempdir().unwrap();
    let export = |run: &Path| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"));
        program.arg("export").arg(run).arg("--out").arg(run.join("model.onnx")).output().unwrap()
    };
    let failed = export(run.path());
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.status.code() == Some(1) && message.contains("model.json: reading"), "{message}");

    checkpoint::save_spec(&spec, run.path()).unwrap();
    checkpoint::save_weights(&variables, &run.path().join(checkpoint::BEST_FILE)).unwrap();
    let exported = export(run.path());
    assert!(exported.status.success(), "{exported:?}");
    let onnx = std::fs::read(run.path().join("model.onnx")).unwrap();
    assert_eq!(onnx, export::onnx(&network));

    let pictures = noise(1, &spec);
    onnx_runtime.add_file("exported", &onnx, &pictures);
    let Some(checkpoint) = cached("models/upstream/lite0/lite0.pth") else { return };
    onnx_runtime.add_member("scripts", "lite0", &checkpoint, &pictures);
    onnx_runtime.run();
    let described = onnx_runtime.described("exported");
    assert_eq!(described["producer"], "trainer-bridge");
    assert_eq!(described["opset"], 13);
    assert_eq!(described["inputs"], serde_json::json!({"input": ["N", 3, 64, 64]}));
    assert_eq!(described["outputs"], serde_json::json!({"logits": ["N", 2]}));
    let metadata = &described["metadata"];
    assert_eq!(metadata["labels"], "real,fake");
    let said: Spec = serde_json::from_str(metadata["spec"].as_str().unwrap()).unwrap();
    assert_eq!(said, spec);
    let input: serde_json::Value = serde_json::from_str(metadata["input"].as_str().unwrap()).unwrap();
    assert_eq!(input["mean"], serde_json::json!([127.0, 127.0, 127.0]));

    // The quantizer knows layers by these names.
    let names = |name: &str| onnx_runtime.described(name)["layers"].as_array().unwrap().clone();
    let (mut own, mut scripts) = (names("exported"), names("scripts"));
    assert_eq!(own.split_off(own.len() - 2), ["hidden", "classes"]);
    assert_eq!(scripts.split_off(scripts.len() - 1), ["imagenet"]);
    assert_eq!(own, scripts);
}
