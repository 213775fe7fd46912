//! What training and saving need of a network: frozen blocks, dropout, inputs, checkpoints, errors that name things.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::RgbImage;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model::description::{Convolution, Description, Op};
use trainer_bridge::model::weights::{self, WeightsError};
use trainer_bridge::model::{Backbone, Network, NormMode, Padding, Spec, checkpoint, input};

/// libtorch has one generator for the whole process: tests that draw from it take turns.
static GENERATOR: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec(member: Backbone) -> Spec {
    Spec::of(member, 64).unwrap()
}

fn seeded(spec: &Spec) -> (VarStore, Network) {
    tch::manual_seed(5);
    let variables = VarStore::new(Device::Cpu);
    let network = Network::new(&variables.root(), spec);
    (variables, network)
}

fn noise(n_pictures: i64) -> Tensor {
    Tensor::randn([n_pictures, 3, 64, 64], (Kind::Float, Device::Cpu))
}

fn copies(variables: &VarStore) -> HashMap<String, Tensor> {
    variables.variables().into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

fn is_gradient(tensor: &Tensor) -> bool {
    let gradient = tensor.grad();
    gradient.defined() && f64::try_from(gradient.abs().sum(Kind::Double)).unwrap() > 0.0
}

#[test]
fn same_padding_keeps_tensorflows_size() {
    for stride in [1, 2, 3] {
        for kernel_px in [1, 3, 5, 7] {
            let padding = Padding::Same;
            let (n_in, n_out, groups, has_norm) = (8, 8, 1, true);
            let layer = Convolution { n_in, n_out, kernel_px, stride, groups, padding, has_norm };
            for side_px in 1..200 {
                let (before, after) = layer.pads(side_px);
                // The smallest padding with which every step has a whole window.
                let n_steps = (0..side_px).step_by(usize::try_from(stride).unwrap()).count();
                let reach = (i64::try_from(n_steps).unwrap() - 1) * stride + kernel_px;
                assert_eq!(before + after, (reach - side_px).max(0), "{layer:?} at {side_px} px");
                assert!(after == before || after == before + 1, "the odd pixel is right and below");
            }
        }
    }
}

#[test]
fn every_layer_reads_earlier_ones_and_blocks_are_counted_in_order() {
    for member in Backbone::ALL {
        let description = Description::new(&spec(member));
        let mut names = std::collections::HashSet::new();
        let mut block_idx = 0;
        for (idx, layer) in description.layers.iter().enumerate() {
            assert!(names.insert(layer.name.as_str()), "{member}: two layers are called {}", layer.name);
            assert!(layer.inputs.iter().all(|&input| input < idx), "{member}: {layer:?}");
            assert!(layer.block_idx == block_idx || layer.block_idx == block_idx + 1, "{member}: {layer:?}");
            block_idx = layer.block_idx;
        }
        assert_eq!(block_idx, description.n_blocks, "{member}: the head comes after the last block");
    }
}

#[test]
fn frozen_blocks_have_no_gradient_and_keep_their_weights() {
    let _turn = turn();
    for member in [Backbone::ResNet18, Backbone::Lite0, Backbone::B0] {
        let (variables, mut network) = seeded(&Spec { dropout: 0.0, drop_connect: 0.0, ..spec(member) });
        let n_blocks = network.n_blocks();
        let block_of: HashMap<String, usize> =
            network.description().layers.iter().map(|layer| (layer.name.clone(), layer.block_idx)).collect();
        let block_of = |variable: &str| {
            let layer = variable.rsplit_once('.').unwrap().0;
            block_of[layer.strip_suffix(".norm").unwrap_or(layer)]
        };
        for first in [n_blocks, 3, 0] {
            network.freeze_below(first);
            let mut optimizer =
                tch::nn::OptimizerConfig::build(tch::nn::adamw(0.9, 0.999, 0.1), &variables, 1e-2).unwrap();
            optimizer.zero_grad();
            let before = copies(&variables);
            network.forward_t(&noise(4), true).square().sum(Kind::Float).backward();
            optimizer.step();
            for (name, variable) in
                variables.variables().into_iter().filter(|(name, _)| !name.contains("running"))
            {
                let learns = block_of(&name) >= first;
                assert_eq!(is_gradient(&variable), learns, "{member} {name}, frozen below {first}");
                assert_eq!(variable != before[&name], learns, "{member} {name}, frozen below {first}");
            }
        }
    }
}

#[test]
fn norm_modes_choose_whose_statistics_move() {
    let _turn = turn();
    let (variables, mut network) = seeded(&spec(Backbone::Lite0));
    network.freeze_below(4);
    let mut moved = |mode| {
        network.set_norm_mode(mode);
        let before = copies(&variables);
        let _logits = no_grad(|| network.forward_t(&noise(4), true));
        let mut moved: Vec<String> = variables
            .variables()
            .into_iter()
            .filter(|(name, now)| *now != before[name])
            .map(|(name, _)| name)
            .collect();
        moved.sort();
        moved
    };
    let n_statistics = variables.variables().keys().filter(|name| name.contains(".running_")).count();
    assert_eq!(moved(NormMode::Running), [""; 0]);
    assert_eq!(moved(NormMode::Batch).len(), n_statistics);
    let moved = moved(NormMode::FrozenBlocks);
    // Blocks 0 to 3 are the stem and `blocks.0` to `blocks.2`.
    let is_frozen = |name: &&String| {
        ["stem.", "blocks.0.", "blocks.1.", "blocks.2."].iter().any(|block| name.starts_with(block))
    };
    assert_eq!(moved.iter().find(is_frozen), None);
    let n_frozen =
        variables.variables().keys().filter(|name| name.contains(".running_")).filter(is_frozen).count();
    assert_eq!(moved.len(), n_statistics - n_frozen);
}

#[test]
fn dropout_follows_the_seed_and_inference_has_none() {
    let _turn = turn();
    let (_variables, network) = seeded(&spec(Backbone::B0));
    let drops = |op: &Op| matches!(op, Op::DropConnect(_) | Op::Dropout(_));
    assert_eq!(network.description().layers.iter().filter(|layer| drops(&layer.op)).count(), 9 + 1);
    let pictures = noise(2);
    let run = |seed, train| {
        tch::manual_seed(seed);
        no_grad(|| network.forward_t(&pictures, train))
    };
    assert_eq!(run(1, true), run(1, true));
    assert_ne!(run(1, true), run(2, true));
    assert_eq!(run(1, false), run(2, false));
}

#[test]
fn an_input_is_normalised_per_channel() {
    let spec = Spec::of(Backbone::B0, 32).unwrap();
    let picture = |k: u8| {
        RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([k.wrapping_add((x * 7 + y * 3).to_le_bytes()[0]), (x * y).to_le_bytes()[0], k])
        })
    };
    let pictures = [picture(3), picture(200)];
    let tensor = input(&[&pictures[0], &pictures[1]], &spec, Device::Cpu);
    assert_eq!(tensor.size(), [2, 3, 32, 32]);
    for (n, picture) in pictures.iter().enumerate() {
        for (x, y, pixel) in picture.enumerate_pixels() {
            for channel in 0..3 {
                let expected =
                    (f32::from(pixel.0[channel]) - spec.input.mean[channel]) / spec.input.std[channel];
                let at = [n, channel, y as usize, x as usize].map(|k| i64::try_from(k).unwrap());
                let found = tensor.double_value(&at);
                assert!((found - f64::from(expected)).abs() < 1e-5, "{at:?}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_checkpoint_is_read_again() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let (variables, network) = seeded(&spec(Backbone::Lite0));
    let _logits = no_grad(|| network.forward_t(&noise(4), true));
    checkpoint::save_spec(network.spec(), folder.path()).unwrap();
    let path = folder.path().join(checkpoint::BEST_FILE);
    checkpoint::save_weights(&variables, &path).unwrap();
    tch::manual_seed(99);
    for from in [folder.path(), &path] {
        let (read, again) = checkpoint::load(from, Device::Cpu).unwrap();
        assert_eq!(again.spec(), network.spec());
        let (read, written) = (read.variables(), variables.variables());
        assert_eq!(read.len(), written.len());
        for (name, tensor) in written {
            assert_eq!(read[&name], tensor, "{name}");
        }
    }
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "only the checkpoint stays: {files:?}");
}

#[test]
fn a_spec_that_no_network_has_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let json = serde_json::to_value(spec(Backbone::Lite0)).unwrap();
    let error = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        fs::write(folder.path().join(checkpoint::SPEC_FILE), json.to_string()).unwrap();
        checkpoint::load_spec(folder.path()).unwrap_err().to_string()
    };
    let unknown = error(&|json| json["surprise"] = 1.into());
    assert!(unknown.contains("surprise") && unknown.contains("model.json"), "{unknown}");
    let member = error(&|json| json["backbone"] = "lite9".into());
    assert!(member.contains("lite9"), "{member}");
    let size = error(&|json| json["input"]["size_px"] = 8.into());
    assert!(size.contains("input.size_px: expected 32..=1024, found 8"), "{size}");
}

#[test]
fn weights_of_another_network_are_refused_by_name_and_change_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lite0.safetensors");
    let (others, _network) = seeded(&spec(Backbone::Lite0));
    checkpoint::save_weights(&others, &path).unwrap();
    let (variables, _network) = seeded(&spec(Backbone::Lite2));
    let before = copies(&variables);
    let error = weights::load_imagenet(&variables, &spec(Backbone::Lite2), &path).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    assert!(mismatch.missing.contains(&"blocks.16.expand.weight".into()), "{error}");
    assert!(mismatch.shapes.iter().any(|shape| shape.contains("expected [24")), "{error}");
    assert!(error.to_string().contains("not the weights of lite2"), "{error}");
    for (name, tensor) in variables.variables() {
        assert_eq!(tensor, before[&name], "{name}");
    }
    let named = |tensors: &[(&str, Tensor)]| {
        let path = folder.path().join("other.safetensors");
        Tensor::write_safetensors(tensors, &path).unwrap();
        weights::load_imagenet(&variables, &spec(Backbone::Lite2), &path).unwrap_err().to_string()
    };
    let error = named(&[("encoder.weight", Tensor::zeros([1], (Kind::Float, Device::Cpu)))]);
    assert!(error.contains("encoder.weight"), "{error}");
    let error = weights::load_imagenet(&variables, &spec(Backbone::Lite2), Path::new("none.safetensors"));
    assert!(error.unwrap_err().to_string().contains("none.safetensors: reading"));
}

#[test]
fn mixed_precision_learns_the_same() {
    let _turn = turn();
    for member in [Backbone::ResNet18, Backbone::B0] {
        let plain = Spec { dropout: 0.0, drop_connect: 0.0, batch_norm_momentum: 1.0, ..spec(member) };
        let (variables, mut network) = seeded(&plain);
        let pictures = noise(8);
        // One label: pictures of noise look alike to random weights, and those of two would cancel out.
        let labels = Tensor::from_slice(&[1i64; 8]);
        // Statistics of a small batch would multiply every rounding.
        let _logits = no_grad(|| network.forward_t(&pictures, true));
        network.set_norm_mode(NormMode::Running);
        let mut step = |kind| {
            network.set_convolution_kind(kind);
            let logits = network.forward_t(&pictures, true);
            assert_eq!(logits.kind(), Kind::Float);
            // As at a training's start: the gradient of logits near 0 doesn't depend on them.
            logits.cross_entropy_for_logits(&labels).backward();
            let mut trained = variables.trainable_variables();
            let gradients: Vec<Tensor> =
                trained.iter().map(|variable| variable.grad().copy().reshape([-1])).collect();
            trained.iter_mut().for_each(Tensor::zero_grad);
            Tensor::cat(&gradients, 0)
        };
        let (exact, mixed) = (step(None), step(Some(Kind::BFloat16)));
        let cosine = exact.dot(&mixed) / (exact.norm() * mixed.norm());
        let cosine = f64::try_from(cosine).unwrap();
        println!("{member}: cosine of gradients {cosine:.4}");
        // Rounding moves some numbers over a ReLU's corner, and with each its whole gradient.
        assert!(cosine > 0.9, "{member}: {cosine}");
        assert_ne!(exact, mixed, "{member}: nothing was rounded");
    }
}
