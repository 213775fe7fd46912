//! A short training of the int8 network itself: its own rounding forwards, straight through it backwards.
//!
//! The float network teaches: the loss is the Kullback-Leibler divergence of the classes' probabilities (Hinton et al.,
//! "Distilling the Knowledge in a Neural Network", 2015), and the labels' cross entropy by a share. Scales stay.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use tch::nn::{OptimizerConfig as _, VarStore};
use tch::{Kind as Type, Reduction, Tensor};

use super::float::Float;
use super::int8::{Int8, Layer};
use super::numbers::{Latent, per_output};

/// How far inside of its interval a weight starts that another method has rounded away from the nearest.
const INSIDE: f64 = 0.45;

/// How the network is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Batches.
    pub n_steps: usize,
    /// Adam's learning rate, falling to 0 as a half cosine.
    pub learning_rate: f64,
    /// Share of the labels in the loss, 0..=1; the rest is the float network's.
    pub labels: f64,
    /// Of the order of the batches.
    pub seed: u64,
}

/// Mean divergence from the float network before and after, on crops that weren't trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trained {
    /// Before.
    pub before: f64,
    /// After; the network stays as it was where this isn't less.
    pub after: f64,
}

/// Trains the int8 layers on `batches` of normalised crops with their classes; `checks` decide whether it helped.
///
/// `progress` gets the loss of each step.
pub fn train(
    float: &Float,
    int8: &mut Int8,
    batches: &[(Tensor, Tensor)],
    checks: &[Tensor],
    settings: Settings,
    mut progress: impl FnMut(f64),
) -> Trained {
    let before = divergence(float, int8, checks);
    let variables = VarStore::new(tch::Device::Cpu);
    let latents: Vec<Option<Latent>> =
        (0..int8.layers.len()).map(|idx| latent(float, int8, idx, &variables)).collect();
    let Ok(mut optimizer) = tch::nn::Adam::default().build(&variables, settings.learning_rate) else {
        unreachable!("a network has layers")
    };
    let taught: Vec<Tensor> = batches.iter().map(|(crops, _)| tch::no_grad(|| float.logits(crops))).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut order: Vec<usize> = Vec::new();
    let originals: Vec<Option<Layer>> = latents
        .iter()
        .enumerate()
        .map(|(idx, latent)| latent.as_ref().and_then(|_| int8.layers[idx].take()))
        .collect();
    let put = |int8: &mut Int8| {
        for (idx, latent) in latents.iter().enumerate() {
            if let Some(latent) = latent {
                let input_scale = int8.input_step(idx, 0).scale;
                int8.layers[idx] = Some(Layer::Int8(latent.integers(input_scale)));
            }
        }
    };
    for step in 0..settings.n_steps {
        if order.is_empty() {
            order = (0..batches.len()).collect();
            order.shuffle(&mut rng);
        }
        let Some(at) = order.pop() else { break };
        let share = step as f64 / settings.n_steps as f64;
        optimizer.set_lr(settings.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()));
        put(int8);
        let logits = int8.logits(&batches[at].0);
        let mut loss = divergence_of(&taught[at], &logits) * (1.0 - settings.labels);
        if settings.labels > 0.0 {
            loss += logits.cross_entropy_for_logits(&batches[at].1) * settings.labels;
        }
        optimizer.backward_step(&loss);
        progress(loss.double_value(&[]));
    }
    tch::no_grad(|| put(int8));
    let after = divergence(float, int8, checks);
    if after >= before {
        for (idx, layer) in originals.into_iter().enumerate() {
            if layer.is_some() {
                int8.layers[idx] = layer;
            }
        }
    }
    Trained { before, after }
}

/// A layer's float numbers as variables, each weight inside of the interval that its integer stands for.
fn latent(float: &Float, int8: &Int8, idx: usize, variables: &VarStore) -> Option<Latent> {
    let Some(Layer::Int8(integers)) = &int8.layers[idx] else { return None };
    let columns = per_output(&integers.scale, &integers.weight);
    let units = &float.of(idx).weight / &columns;
    let inside = units.clamp_tensor(Some(&integers.weight - INSIDE), Some(&integers.weight + INSIDE));
    let step = &integers.scale * f64::from(int8.input_step(idx, 0).scale);
    let bias = (&integers.bias * step.to_kind(Type::Double)).to_kind(Type::Float);
    let path = variables.root().sub(format!("layer{idx}"));
    Some(Latent {
        weight: path.var_copy("weight", &(inside * &columns)),
        bias: path.var_copy("bias", &bias),
        scale: integers.scale.shallow_clone(),
    })
}

/// Mean divergence of the int8 network's probabilities from the float network's.
pub fn divergence(float: &Float, int8: &Int8, batches: &[Tensor]) -> f64 {
    tch::no_grad(|| {
        let parts = batches.iter().map(|batch| {
            let n_crops = batch.size()[0] as f64;
            (divergence_of(&float.logits(batch), &int8.logits(batch)).double_value(&[]) * n_crops, n_crops)
        });
        let (sum, n_crops) = parts.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
        sum / n_crops
    })
}

fn divergence_of(taught: &Tensor, logits: &Tensor) -> Tensor {
    let [taught, found] = [taught, logits].map(|logits| logits.log_softmax(-1, Type::Float));
    let sum = found.kl_div(&taught, Reduction::Sum, true);
    sum / logits.size()[0] as f64
}
