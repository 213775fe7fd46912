//! One step of a training: seeds, accumulation, clipping, smoothing, freezing. A test program of its own, as libtorch has
//! one random generator for the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use image::RgbImage;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model;
use trainer_bridge::train::config::Config;
use trainer_bridge::train::ema;
use trainer_bridge::train::learner::{Learner, StepError};
use trainer_bridge::train::loader::Batch;

/// Held while the generator must be a test's own.
fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(settings: &[&str]) -> Config {
    let small = ["model.backbone=lite0", "model.size_px=32", "model.hidden=8", "optimizer.head_lr=0.01"];
    let settings = small.iter().chain(settings).map(|&s| s.to_owned()).collect::<Vec<_>>();
    Config::load(None, &settings).unwrap()
}

fn batch(first: u8) -> Batch {
    let picture = |k: u8| {
        RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([k.wrapping_mul(31), u8::try_from(x * 7).unwrap(), u8::try_from(y * 5).unwrap()])
        })
    };
    Batch { pictures: (first..first + 4).map(picture).collect(), classes: vec![0, 1, 0, 1] }
}

fn weights_after(config: &Config, scale: f64) -> (f64, Vec<f32>) {
    let mut learner = Learner::new(config, Device::Cpu).unwrap();
    learner.loss_scale.scale = scale;
    let mut loss = 0.0;
    for step in 0..3 {
        loss = learner.step(&[batch(1)], [1e-3, 1e-2], 0.9, step).unwrap().loss;
    }
    let weight = ema::variables(&learner.store)["classes.weight"].flatten(0, -1);
    (loss, Vec::try_from(weight).unwrap())
}

#[test]
fn a_power_of_two_as_loss_scale_changes_no_bit() {
    let _own = generator();
    let config = config(&[]);
    assert_eq!(weights_after(&config, 1.0), weights_after(&config, 1024.0));
}

#[test]
fn a_seed_fixes_weights_and_dropout() {
    let _own = generator();
    assert_eq!(weights_after(&config(&[]), 1.0), weights_after(&config(&[]), 1.0));
    assert_ne!(weights_after(&config(&[]), 1.0), weights_after(&config(&["seed=2"]), 1.0));
}

#[test]
fn accumulated_gradients_are_the_mean() {
    let _own = generator();
    // Running statistics make a picture's output independent of its batch; no dropout.
    let config = config(&["optimizer.norms=running", "model.dropout=0", "model.drop_connect=0"]);
    let gradient = |batches: &[Batch]| {
        let mut learner = Learner::new(&config, Device::Cpu).unwrap();
        let step = learner.step(batches, [0.0, 0.0], 0.9, 0).unwrap();
        let gradient = ema::variables(&learner.store)["hidden.weight"].grad();
        (step.loss, Vec::<f32>::try_from(gradient.flatten(0, -1)).unwrap())
    };
    let (a, b) = (batch(1), batch(5));
    let both = Batch {
        pictures: [&a.pictures[..], &b.pictures].concat(),
        classes: [&a.classes[..], &b.classes].concat(),
    };
    let ((found_loss, found), (loss, expected)) = (gradient(&[a, b]), gradient(&[both]));
    assert!((found_loss - loss).abs() < 1e-6);
    let largest = expected.iter().fold(0f32, |m, g| m.max(g.abs()));
    assert!(largest > 0.0);
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4 * largest, "{found} {expected}");
    }
}

#[test]
fn clipping_and_smoothing_follow_their_definitions() {
    let _own = generator();
    let plain = ["model.dropout=0", "model.drop_connect=0"];
    let step = |setting: &str| {
        let mut learner = Learner::new(&config(&[plain[0], plain[1], setting]), Device::Cpu).unwrap();
        let step = learner.step(&[batch(1)], [0.0, 0.0], 0.9, 0).unwrap();
        (step.loss, step.gradient_norm, learner.optimizer.scale_gradients(1.0))
    };
    let (loss, before, after) = step("optimizer.clip_norm=0.01");
    assert!(before > 0.01 && (after - 0.01).abs() < 1e-6, "{before} {after}");
    // Cross entropy with targets 1 - s/2 and s/2.
    let (smoothed, ..) = step("optimizer.label_smoothing=0.2");
    let learner = Learner::new(&config(&plain), Device::Cpu).unwrap();
    let input = model::input(&batch(1).pictures.iter().collect::<Vec<_>>(), learner.spec(), Device::Cpu);
    let log_p = learner.network.forward_t(&input, true).log_softmax(1, Kind::Double);
    let mut expected = [0.0; 2];
    for (n, &class) in (0..).zip(&batch(1).classes) {
        let (right, wrong) = (log_p.double_value(&[n, class]), log_p.double_value(&[n, 1 - class]));
        expected[0] -= right / 4.0;
        expected[1] -= (0.9 * right + 0.1 * wrong) / 4.0;
    }
    assert!((loss - expected[0]).abs() < 1e-5 && (smoothed - expected[1]).abs() < 1e-5);
}

#[test]
fn a_loss_that_is_no_number_changes_no_weight() {
    let _own = generator();
    let mut learner = Learner::new(&config(&[]), Device::Cpu).unwrap();
    let mut bias = ema::variables(&learner.store).remove("classes.bias").unwrap();
    no_grad(|| bias.copy_(&Tensor::from_slice(&[f32::NAN, 0.0])));
    let weight = || ema::variables(&learner.store)["hidden.weight"].copy();
    let before = weight();
    let outcome = learner.step(&[batch(1)], [1e-3, 1e-2], 0.9, 7);
    assert!(matches!(outcome, Err(StepError::Loss { step: 7, loss }) if loss.is_nan()));
    assert_eq!(ema::variables(&learner.store)["hidden.weight"], before);
}

#[test]
fn what_is_frozen_stays() {
    let _own = generator();
    let mut learner = Learner::new(&config(&[]), Device::Cpu).unwrap();
    let n_all = learner.optimizer.n_variables();
    let n_blocks = learner.network.n_blocks();
    learner.freeze_below(n_blocks);
    assert_eq!(learner.optimizer.n_variables(), 4, "of {n_all}: weight and bias of two dense layers");
    let before = ema::snapshot(&learner.store);
    learner.step(&[batch(1)], [1e-2, 1e-2], 0.9, 0).unwrap();
    for (name, tensor) in ema::variables(&learner.store) {
        let moves = name.starts_with("hidden") || name.starts_with("classes") || name.contains("running_");
        assert_eq!(tensor != before[&name], moves, "{name}");
    }
}
