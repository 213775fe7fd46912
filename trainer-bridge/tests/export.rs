//! Exported files give what the network gives in libtorch: in ONNX Runtime and in candor's engine.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use candor::engine::Engine;
use support::{OnnxRuntime, cached, largest_difference, values};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::export;
use trainer_bridge::model::{Backbone, Network, Spec, weights};

/// Of the largest logit, or of 1.
const MOST: f32 = 1e-4;
const SEED: i64 = 11;

/// A network whose batch normalisations have seen a batch and have gains and biases of their own.
fn used_network(variables: &VarStore, spec: &Spec) -> Network {
    tch::manual_seed(SEED);
    let network = Network::new(&variables.root(), spec);
    let noise = noise(8, spec);
    let _logits = no_grad(|| {
        for (name, variable) in sorted(variables) {
            if name.ends_with(".norm.weight") {
                let _ = { variable }.uniform_(0.5, 1.5);
            } else if name.ends_with(".norm.bias") {
                let _ = { variable }.uniform_(-0.3, 0.3);
            }
        }
        network.forward_t(&noise, true)
    });
    network
}

/// Largest difference, against the largest of `expected` where that is below 1.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let peak = expected.iter().fold(0.0f32, |peak, logit| peak.max(logit.abs()));
    largest_difference(found, expected) / peak.min(1.0)
}

fn noise(n_pictures: i64, spec: &Spec) -> Tensor {
    let side = i64::from(spec.size_px());
    Tensor::randn([n_pictures, 3, side, side], (Kind::Float, Device::Cpu))
}

fn sorted(variables: &VarStore) -> Vec<(String, Tensor)> {
    let mut sorted: Vec<_> = variables.variables().into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted
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
fn square(path: &std::path::Path, size_px: u32) -> image::RgbImage {
    let photo = image::open(path).unwrap().to_rgb8();
    let (w, h) = photo.dimensions();
    let side = w.min(h);
    let middle = image::imageops::crop_imm(&photo, (w - side) / 2, (h - side) / 2, side, side).to_image();
    image::imageops::resize(&middle, size_px, size_px, image::imageops::FilterType::CatmullRom)
}
