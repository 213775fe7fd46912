//! The networks against torchvision's and timm's own modules, on weights that both sides make from their names.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use serde::Deserialize;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model::weights::{self, Naming};
use trainer_bridge::model::{Backbone, Network, Padding, Spec};

/// Of `tests/reference/networks.py`.
const SIZE_PX: u32 = 90;
const N_PICTURES: i64 = 2;

/// One entry of `golden/networks.json`; see `reference/networks.py`.
#[derive(Deserialize)]
struct Golden {
    origin: String,
    name: String,
    backbone: Backbone,
    padding: Padding,
    epsilon: f64,
    momentum: f64,
    n_parameters: usize,
    n_tensors: usize,
    features: Vec<f64>,
    trained_features: Vec<f64>,
    stem_mean: Vec<f64>,
    last_var: Vec<f64>,
    stem_gradient: Vec<f64>,
}

impl Golden {
    fn spec(&self) -> Spec {
        Spec {
            padding: self.padding,
            batch_norm_epsilon: self.epsilon,
            batch_norm_momentum: self.momentum,
            drop_connect: 0.0,
            ..Spec::of(self.backbone, SIZE_PX).unwrap()
        }
    }

    fn naming(&self) -> Naming {
        match (self.origin.as_str(), self.backbone) {
            (_, Backbone::ResNet18 | Backbone::ResNet34) => Naming::ResNet,
            ("timm", _) => Naming::Timm,
            _ => Naming::Torchvision,
        }
    }
}

fn goldens() -> Vec<Golden> {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("golden/networks.json")).unwrap();
    assert_eq!(goldens.len(), 30, "every network by torchvision's and timm's names");
    goldens
}

/// Numbers in 0..1: SplitMix64 started at the FNV-1a hash of `name`.
fn uniform(name: &str, n_numbers: usize) -> impl Iterator<Item = f64> {
    let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let mut state = name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    })
    .take(n_numbers)
}

/// The tensor that both sides call `name`.
fn numbers(name: &str, shape: &[i64]) -> Tensor {
    let n_numbers = usize::try_from(shape.iter().product::<i64>()).unwrap();
    let fan_in = shape[1..].iter().product::<i64>() as f64;
    let bound = (4.5 / fan_in).sqrt();
    let is_near_one = name.ends_with(".weight") || name.ends_with(".running_var");
    let value = |u: f64| match shape.len() {
        2.. => (2.0 * u - 1.0) * bound,
        _ if is_near_one => 0.75 + 0.5 * u,
        _ => 0.2 * (u - 0.5),
    };
    #[allow(clippy::cast_possible_truncation, reason = "f32 is what the files hold")]
    let values: Vec<f32> = uniform(name, n_numbers).map(|u| value(u) as f32).collect();
    Tensor::from_slice(&values).reshape(shape)
}

fn pictures() -> Tensor {
    let side = i64::from(SIZE_PX);
    let n_numbers = usize::try_from(N_PICTURES * 3 * side * side).unwrap();
    #[allow(clippy::cast_possible_truncation, reason = "f32 is what the network takes")]
    let pixels: Vec<f32> = uniform("input", n_numbers).map(|u| (4.0 * u - 2.0) as f32).collect();
    Tensor::from_slice(&pixels).reshape([N_PICTURES, 3, side, side])
}

/// Writes a file with the reference's names and numbers for the whole backbone.
fn write_weights(golden: &Golden, path: &Path) -> usize {
    let variables = VarStore::new(Device::Cpu);
    let _network = Network::new(&variables.root(), &golden.spec());
    let own = variables.variables();
    let names = weights::backbone_names(&golden.spec(), golden.naming());
    let tensors: Vec<(String, Tensor)> = names
        .into_iter()
        .map(|(name, theirs)| {
            let tensor = numbers(&theirs, &own[&name].size());
            (theirs, tensor)
        })
        .collect();
    Tensor::write_safetensors(&tensors, path).unwrap();
    tensors.len()
}

/// Largest difference of the first numbers of `found` and `expected`, against the largest of `expected`.
fn difference(found: &Tensor, expected: &[f64]) -> f64 {
    let n_expected = i64::try_from(expected.len()).unwrap();
    let found =
        Vec::<f64>::try_from(found.detach().reshape([-1]).narrow(0, 0, n_expected).to_kind(Kind::Double));
    let pairs = found.unwrap().into_iter().zip(expected);
    let peak = expected.iter().fold(0.0f64, |peak, value| peak.max(value.abs()));
    pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max) / peak
}

fn first_features(features: &Tensor, expected: &[f64]) -> Tensor {
    features.narrow(1, 0, i64::try_from(expected.len()).unwrap() / N_PICTURES)
}

#[test]
fn networks_are_those_of_torchvision_and_timm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let pictures = pictures();
    for golden in goldens() {
        let (spec, label) = (golden.spec(), format!("{} {}", golden.origin, golden.name));
        assert_eq!(write_weights(&golden, &path), golden.n_tensors, "{label}");
        let mut variables = VarStore::new(Device::Cpu);
        let network = Network::new(&variables.root(), &spec);
        let backbone =
            variables.trainable_variables().iter().map(Tensor::numel).sum::<usize>() - n_head(&network);
        assert_eq!(backbone, golden.n_parameters, "{label}");
        assert_eq!(weights::load_imagenet(&variables, &spec, &path).unwrap(), golden.naming(), "{label}");

        for (kind, network) in [("as trained", &network), ("folded", &network.folded())] {
            let features = no_grad(|| network.features_t(&pictures, false));
            let error = difference(&first_features(&features, &golden.features), &golden.features);
            assert!(error < 1e-5, "{label} {kind}: features differ by {error:e} of the largest");
        }

        // A step in f64, where rounding can't hide a wrong formula.
        variables.double();
        let features = network.features_t(&pictures.to_kind(Kind::Double), true);
        features.square().mean(Kind::Double).backward();
        let own = variables.variables();
        let checks = [
            ("features", first_features(&features, &golden.trained_features), &golden.trained_features),
            ("stem's mean", own["stem.norm.running_mean"].shallow_clone(), &golden.stem_mean),
            ("last variance", last_variance(&golden, &own), &golden.last_var),
            ("gradient", own["stem.weight"].grad(), &golden.stem_gradient),
        ];
        for (what, found, expected) in checks {
            let error = difference(&found, expected);
            assert!(error < 1e-6, "{label} in training: {what} differs by {error:e} of the largest");
        }
    }
}

fn n_head(network: &Network) -> usize {
    let hidden = i64::from(network.spec().hidden);
    usize::try_from(network.n_features() * hidden + hidden + 2 * hidden + 2).unwrap()
}

/// Running variance of the module that the reference lists last.
fn last_variance(golden: &Golden, own: &std::collections::HashMap<String, Tensor>) -> Tensor {
    let name = match golden.backbone {
        Backbone::ResNet18 => "groups.3.1.conv2",
        Backbone::ResNet34 => "groups.3.2.conv2",
        _ => "features",
    };
    own[&format!("{name}.norm.running_var")].shallow_clone()
}
