//! AdamW over a network's variables, with all of its state at hand: libtorch's own can't be saved through tch.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Tensor, no_grad};

/// What doesn't change during a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Second beta, 0..1.
    pub beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub epsilon: f64,
    /// Share of a weight that is taken off per step and unit of learning rate, >= 0.
    pub weight_decay: f64,
}

/// One variable and its moments.
struct Parameter {
    name: String,
    variable: Tensor,
    group: usize,
    /// fast.ai lets biases and normalisations be.
    decays: bool,
    mean: Tensor,
    square: Tensor,
}

/// Adam with decoupled weight decay.
///
/// Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019). For a gradient g, at step t from 1:
/// w <- w - lr wd w; m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g g;
/// w <- w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps). Variables of one dimension (biases, normalisations)
/// don't decay.
pub struct AdamW {
    adam: Adam,
    parameters: Vec<Parameter>,
    n_steps: u64,
}

impl AdamW {
    /// An optimizer of the variables of `store` that require gradients now, with moments of 0.
    pub fn new(store: &VarStore, adam: Adam) -> Self {
        let names: HashMap<_, _> =
            store.variables().into_iter().map(|(name, tensor)| (tensor.data_ptr(), name)).collect();
        let groups = store.variables_.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let trained = groups.trainable_variables.iter().filter(|var| var.tensor.requires_grad());
        let mut parameters: Vec<Parameter> = trained
            .map(|var| Parameter {
                name: names[&var.tensor.data_ptr()].clone(),
                variable: var.tensor.shallow_clone(),
                group: var.group,
                decays: var.tensor.dim() > 1,
                mean: var.tensor.zeros_like().detach(),
                square: var.tensor.zeros_like().detach(),
            })
            .collect();
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        AdamW { adam, parameters, n_steps: 0 }
    }

    /// Number of variables.
    pub fn n_variables(&self) -> usize {
        self.parameters.len()
    }

    /// Steps taken.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Forgets all gradients.
    pub fn zero_grad(&mut self) {
        for parameter in &mut self.parameters {
            parameter.variable.zero_grad();
        }
    }

    /// Multiplies all gradients, then says their Euclidean norm; not finite where one of them isn't.
    pub fn scale_gradients(&mut self, factor: f64) -> f64 {
        no_grad(|| {
            let mut norms = Vec::new();
            for parameter in &self.parameters {
                let mut gradient = parameter.variable.grad();
                if gradient.defined() {
                    if factor != 1.0 {
                        let _ = gradient.g_mul_scalar_(factor);
                    }
                    norms.push(gradient.norm());
                }
            }
            if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
        })
    }

    /// One step; `learning_rates` are by group, the last one for all further groups. Variables without a gradient
    /// stay as they are.
    pub fn step(&mut self, learning_rates: &[f64], beta1: f64) {
        self.n_steps += 1;
        let Adam { beta2, epsilon, weight_decay } = self.adam;
        let t = self.n_steps as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(t), (1.0 - beta2.powf(t)).sqrt());
        no_grad(|| {
            for parameter in &mut self.parameters {
                let gradient = parameter.variable.grad();
                if !gradient.defined() {
                    continue;
                }
                let lr = learning_rates[parameter.group.min(learning_rates.len() - 1)];
                if parameter.decays && weight_decay > 0.0 {
                    let _ = parameter.variable.g_mul_scalar_(1.0 - lr * weight_decay);
                }
                let _ = parameter.mean.lerp_(&gradient, 1.0 - beta1);
                let _ = parameter.square.lerp_(&(&gradient * &gradient), 1.0 - beta2);
                let mut divisor = parameter.square.sqrt();
                let _ = divisor.g_div_scalar_(correction2).g_add_scalar_(epsilon);
                let _ = parameter.variable.g_sub_(&((&parameter.mean / divisor) * (lr / correction1)));
            }
        });
    }

    /// Both moments of every variable, by name; with [`AdamW::n_steps`] all that later steps rest on.
    pub fn moments(&self) -> impl Iterator<Item = (&str, [&Tensor; 2])> {
        self.parameters.iter().map(|p| (p.name.as_str(), [&p.mean, &p.square]))
    }

    /// Puts saved moments back.
    ///
    /// # Errors
    /// The name of a variable that `moments` doesn't give in its shape.
    pub fn restore(
        &mut self,
        n_steps: u64,
        moments: impl Fn(&str) -> Option<[Tensor; 2]>,
    ) -> Result<(), String> {
        for parameter in &mut self.parameters {
            let shape = parameter.variable.size();
            let [mean, square] = moments(&parameter.name)
                .filter(|pair| pair.iter().all(|tensor| tensor.size() == shape))
                .ok_or_else(|| parameter.name.clone())?;
            no_grad(|| {
                parameter.mean.copy_(&mean);
                parameter.square.copy_(&square);
            });
        }
        self.n_steps = n_steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::OptimizerConfig as _;
    use tch::{Device, Kind, nn};

    use super::*;

    /// Written by `trainer-bridge/tests/reference/training.py` in numpy.
    const GOLDEN: &str = include_str!("../../tests/goldens/adamw.csv");
    const ADAM: Adam = Adam { beta2: 0.99, epsilon: 1e-5, weight_decay: 0.01 };

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.flatten(0, -1).to_kind(Kind::Double)).unwrap()
    }

    /// A 2x2 matrix in group 0, a bias of 2 in group 1; the loss is sum(c w w w) / 3 with c = 1, 2, ...: its gradient
    /// c w w.
    fn problem(store: &VarStore) -> impl Fn() -> Tensor + use<> {
        let root = store.root();
        let matrix = root.var_copy("w", &Tensor::from_slice(&[0.5f32, -1.0, 2.0, -0.25]).view([2, 2]));
        let bias = root.set_group(1).var_copy("b", &Tensor::from_slice(&[1.0f32, -3.0]));
        move || {
            let all = Tensor::cat(&[matrix.flatten(0, -1), bias.shallow_clone()], 0);
            let c = Tensor::arange_start(1, 7, (Kind::Float, Device::Cpu));
            (&all * &all * &all * c).sum(Kind::Float) / 3.0
        }
    }

    #[test]
    fn steps_are_those_of_the_definition() {
        let store = VarStore::new(Device::Cpu);
        let loss = problem(&store);
        let mut optimizer = AdamW::new(&store, ADAM);
        let variables = store.variables();
        for (step_idx, line) in GOLDEN.lines().skip(1).enumerate() {
            let numbers: Vec<f64> = line.split(',').map(|text| text.parse().unwrap()).collect();
            optimizer.zero_grad();
            loss().backward();
            optimizer.step(&numbers[..2], numbers[2]);
            let found = [values(&variables["w"]), values(&variables["b"])].concat();
            for (found, expected) in found.iter().zip(&numbers[3..]) {
                assert!((found - expected).abs() < 2e-6, "step {step_idx}: {found}, expected {expected}");
            }
        }
        assert_eq!(optimizer.n_steps(), 25);
    }

    #[test]
    fn steps_are_libtorchs_own() {
        let (ours, theirs) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let (our_loss, their_loss) = (problem(&ours), problem(&theirs));
        // libtorch's decay would also hold for biases.
        let mut optimizer = AdamW::new(&ours, Adam { weight_decay: 0.0, ..ADAM });
        let mut reference = nn::AdamW { beta1: 0.9, beta2: 0.99, wd: 0.0, eps: 1e-5, amsgrad: false }
            .build(&theirs, 1e-2)
            .unwrap();
        reference.set_lr_group(1, 1e-3);
        for _ in 0..50 {
            optimizer.zero_grad();
            our_loss().backward();
            optimizer.step(&[1e-2, 1e-3], 0.9);
            reference.zero_grad();
            their_loss().backward();
            reference.step();
        }
        let (ours, theirs) = (ours.variables(), theirs.variables());
        for name in ["w", "b"] {
            for (found, expected) in values(&ours[name]).iter().zip(values(&theirs[name])) {
                assert!((found - expected).abs() < 2e-6, "{name}: {found}, libtorch {expected}");
            }
        }
    }

    #[test]
    fn restored_moments_continue_bit_for_bit() {
        let run = |store: &VarStore, optimizer: &mut AdamW, loss: &dyn Fn() -> Tensor, n_steps| {
            for _ in 0..n_steps {
                optimizer.zero_grad();
                loss().backward();
                optimizer.step(&[1e-2], 0.9);
            }
            values(&store.variables()["w"])
        };
        let (first, second) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let (loss, second_loss) = (problem(&first), problem(&second));
        let mut optimizer = AdamW::new(&first, ADAM);
        run(&first, &mut optimizer, &loss, 7);
        let saved: HashMap<String, [Tensor; 2]> =
            optimizer.moments().map(|(name, pair)| (name.to_owned(), pair.map(Tensor::copy))).collect();
        no_grad(|| {
            for (name, mut variable) in second.variables() {
                variable.copy_(&first.variables()[&name]);
            }
        });
        let expected = run(&first, &mut optimizer, &loss, 5);
        let mut resumed = AdamW::new(&second, ADAM);
        resumed.restore(7, |name| saved.get(name).map(|pair| [pair[0].copy(), pair[1].copy()])).unwrap();
        assert_eq!(run(&second, &mut resumed, &second_loss, 5), expected);
        let lost = AdamW::new(&second, ADAM).restore(7, |_| None);
        assert_eq!(lost, Err("b".to_owned()));
    }

    #[test]
    fn what_is_frozen_stays_and_norms_are_euclidean() {
        let mut store = VarStore::new(Device::Cpu);
        let loss = problem(&store);
        let mut optimizer = AdamW::new(&store, ADAM);
        loss().backward();
        let gradients = [0.25f64, 2.0, 12.0, 0.25, 5.0, 54.0];
        let norm = gradients.map(|g| g * g).iter().sum::<f64>().sqrt();
        assert!((optimizer.scale_gradients(0.5) - norm / 2.0).abs() < 1e-4);
        store.freeze();
        assert_eq!(AdamW::new(&store, ADAM).n_variables(), 0);
    }
}
