//! A network that learns: one step of the optimizer, and one pass over validation pictures.

use image::RgbImage;
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor, autocast, no_grad};

use super::config::{Config, ConfigError, Optimizer};
use super::loader::Batch;
use super::metrics::Outcome;
use super::optimizer::AdamW;
use crate::model::{self, Network, Spec};

/// The first scale of a loss in mixed precision, and how long it must hold before it doubles: PyTorch's.
const FIRST_LOSS_SCALE: f64 = 65536.0;
const STEPS_TO_DOUBLE: u64 = 2000;

/// Why a training can't go on.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// The loss is no number.
    #[error(
        "step {step}: the loss is {loss}: try a smaller learning rate (lr-find) or clip_norm; weights are as before it"
    )]
    Loss {
        /// Optimizer steps before this one.
        step: u64,
        /// NaN or infinite.
        loss: f64,
    },
    /// The loss is a number and its gradient isn't.
    #[error(
        "step {step}: the loss is {loss} and its gradient's norm {norm}: try a smaller learning rate; weights are as before it"
    )]
    Gradient {
        /// Optimizer steps before this one.
        step: u64,
        /// The loss.
        loss: f64,
        /// NaN or infinite.
        norm: f64,
    },
}

/// What a step tells.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Mean loss of its pictures, label smoothing included.
    pub loss: f64,
    /// Euclidean norm of the gradient before it is clipped; not finite where mixed precision left the step out.
    pub gradient_norm: f64,
}

/// What f16's gradients are kept from vanishing with.
///
/// Source: Micikevicius et al., "Mixed Precision Training" (2018).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    /// What the loss is multiplied by, a power of two.
    pub scale: f64,
    /// Steps since it changed.
    pub n_steps: u64,
}

impl LossScale {
    /// Notes whether a step's gradients were finite; halves the scale where not, doubles it after a while where so.
    fn update(&mut self, is_finite: bool) {
        self.n_steps += 1;
        if !is_finite {
            *self = LossScale { scale: self.scale / 2.0, n_steps: 0 };
        } else if self.n_steps == STEPS_TO_DOUBLE {
            *self = LossScale { scale: self.scale * 2.0, n_steps: 0 };
        }
    }
}

/// A network, its optimizer, and what a step needs beside them.
pub struct Learner {
    /// The network's variables.
    pub store: VarStore,
    /// The network.
    pub network: Network,
    /// Its optimizer.
    pub optimizer: AdamW,
    /// Of mixed precision; 1 without it.
    pub loss_scale: LossScale,
    spec: Spec,
    settings: Optimizer,
    seed: u64,
    is_mixed: bool,
}

impl Learner {
    /// The recipe's network on `device`, with random weights that follow from its seed.
    ///
    /// # Errors
    /// [`ConfigError::Spec`].
    pub fn new(config: &Config, device: Device) -> Result<Self, ConfigError> {
        let spec = config.spec()?;
        tch::manual_seed(torch_seed(config.seed, u64::MAX));
        // Made on the CPU, so that every device starts from the same weights.
        let mut store = VarStore::new(Device::Cpu);
        let mut network = Network::new(&store.root(), &spec);
        store.set_device(device);
        network.set_norm_mode(config.optimizer.norms);
        let is_mixed = config.optimizer.mixed_precision && device.is_cuda();
        Ok(Learner {
            optimizer: AdamW::new(&store, config.optimizer.adam),
            store,
            network,
            loss_scale: LossScale { scale: if is_mixed { FIRST_LOSS_SCALE } else { 1.0 }, n_steps: 0 },
            spec,
            settings: config.optimizer.clone(),
            seed: config.seed,
            is_mixed,
        })
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Lets only blocks from `block_idx` on learn, with a fresh optimizer.
    pub fn freeze_below(&mut self, block_idx: usize) {
        self.optimizer.zero_grad();
        self.network.freeze_below(block_idx);
        self.optimizer = AdamW::new(&self.store, self.settings.adam);
    }

    /// One step on the mean loss of `batches`; `learning_rates` are [backbone, head], `step` counts the steps before.
    ///
    /// # Errors
    /// [`StepError`]; no weight has changed then.
    pub fn step(
        &mut self,
        batches: &[Batch],
        learning_rates: [f64; 2],
        momentum: f64,
        step: u64,
    ) -> Result<Step, StepError> {
        tch::manual_seed(torch_seed(self.seed, step));
        self.optimizer.zero_grad();
        let share = 1.0 / batches.len() as f64;
        let mut losses = Vec::with_capacity(batches.len());
        for batch in batches {
            let classes = Tensor::from_slice(&batch.classes).to_device(self.store.device());
            let input = self.input(&batch.pictures);
            let logits =
                autocast(self.is_mixed, || self.network.forward_t(&input, true)).to_kind(Kind::Float);
            let smoothing = self.settings.label_smoothing;
            let loss = logits.cross_entropy_loss(&classes, None::<Tensor>, Reduction::Mean, -100, smoothing);
            (&loss * (self.loss_scale.scale * share)).backward();
            losses.push(loss.detach());
        }
        let loss = Tensor::stack(&losses, 0).mean(Kind::Float).double_value(&[]);
        if !loss.is_finite() {
            return Err(StepError::Loss { step, loss });
        }
        let norm = self.optimizer.scale_gradients(1.0 / self.loss_scale.scale);
        if self.is_mixed {
            self.loss_scale.update(norm.is_finite());
        }
        if norm.is_finite() {
            if self.settings.clip_norm > 0.0 && norm > self.settings.clip_norm {
                self.optimizer.scale_gradients(self.settings.clip_norm / norm);
            }
            self.optimizer.step(&learning_rates, momentum);
        } else if !self.is_mixed || self.loss_scale.scale < 1.0 {
            return Err(StepError::Gradient { step, loss, norm });
        }
        Ok(Step { loss, gradient_norm: norm })
    }

    /// What the network says of a batch, as in inference.
    pub fn outcomes(&self, batch: &Batch) -> Vec<Outcome> {
        let input = self.input(&batch.pictures);
        let logits = no_grad(|| autocast(self.is_mixed, || self.network.forward_t(&input, false)));
        let logits = logits.to_kind(Kind::Double).to_device(Device::Cpu);
        let margins = logits.select(1, 1) - logits.select(1, 0);
        let pairs = margins.iter::<f64>().into_iter().flatten().zip(&batch.classes);
        pairs.map(|(margin, &class)| Outcome { margin, is_fake: class == 1 }).collect()
    }

    fn input(&self, pictures: &[RgbImage]) -> Tensor {
        model::input(&pictures.iter().collect::<Vec<_>>(), &self.spec, self.store.device())
    }
}

/// libtorch's seed of a step: nothing need be remembered of its generator's state. SplitMix64's finalizer.
fn torch_seed(seed: u64, step: u64) -> i64 {
    let mut z = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_and_doubles() {
        let mut scale = LossScale { scale: 8.0, n_steps: 5 };
        scale.update(false);
        assert_eq!(scale, LossScale { scale: 4.0, n_steps: 0 });
        (0..STEPS_TO_DOUBLE).for_each(|_| scale.update(true));
        assert_eq!(scale, LossScale { scale: 8.0, n_steps: 0 });
    }
}
