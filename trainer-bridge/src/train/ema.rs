//! The mean of a network's weights over its last steps.

use std::collections::BTreeMap;

use tch::nn::VarStore;
use tch::{Kind, Tensor, no_grad};

/// Variables by name, in the names' order.
pub fn variables(store: &VarStore) -> BTreeMap<String, Tensor> {
    store.variables().into_iter().collect()
}

/// A copy of every variable, running statistics too.
pub fn snapshot(store: &VarStore) -> BTreeMap<String, Tensor> {
    variables(store).into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

/// Puts the values of `saved` into the variables of `store` that it names.
///
/// # Errors
/// The name of a variable that `saved` doesn't hold in its shape.
pub fn put_back(store: &VarStore, saved: &BTreeMap<String, Tensor>) -> Result<(), String> {
    for (name, mut variable) in variables(store) {
        let value = saved.get(&name).filter(|value| value.size() == variable.size()).ok_or(name)?;
        no_grad(|| variable.copy_(value));
    }
    Ok(())
}

/// Tensors under longer names.
pub fn named(prefix: &str, tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// Takes the tensors whose names start with `prefix`, under what follows.
pub fn taken(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let take = |name: String| {
        let tensor = tensors.remove(&name);
        tensor.map(|tensor| (name[prefix.len()..].to_owned(), tensor))
    };
    names.into_iter().filter_map(take).collect()
}

/// Exponential moving mean of weights and running statistics.
pub struct Ema {
    decay: f64,
    n_steps: u64,
    mean: BTreeMap<String, Tensor>,
}

impl Ema {
    /// Starts at the weights of `store`.
    pub fn new(store: &VarStore, decay: f64) -> Self {
        Ema { decay, n_steps: 0, mean: snapshot(store) }
    }

    /// Goes on from a saved mean.
    pub fn resume(decay: f64, n_steps: u64, mean: BTreeMap<String, Tensor>) -> Self {
        Ema { decay, n_steps, mean }
    }

    /// mean <- d mean + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n steps, so that random first
    /// weights are soon forgotten. What isn't a float is copied.
    pub fn update(&mut self, store: &VarStore) {
        let n = self.n_steps as f64;
        let share = 1.0 - self.decay.min((1.0 + n) / (10.0 + n));
        self.n_steps += 1;
        no_grad(|| {
            for (name, variable) in store.variables() {
                let Some(mean) = self.mean.get_mut(&name) else { continue };
                if mean.kind() == Kind::Float {
                    let _ = mean.lerp_(&variable, share);
                } else {
                    mean.copy_(&variable);
                }
            }
        });
    }

    /// Steps seen.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The mean, by the variables' names.
    pub fn mean(&self) -> &BTreeMap<String, Tensor> {
        &self.mean
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn};

    use super::*;

    #[test]
    fn the_mean_follows_its_definition() {
        let store = VarStore::new(Device::Cpu);
        let mut w = store.root().var("w", &[1], nn::Init::Const(8.0));
        let mut ema = Ema::new(&store, 0.5);
        let mut expected = 8.0;
        for n in 0..12 {
            no_grad(|| w.copy_(&Tensor::from_slice(&[n as f32])));
            ema.update(&store);
            let decay = f64::min(0.5, (1.0 + f64::from(n)) / (10.0 + f64::from(n)));
            expected = decay * expected + (1.0 - decay) * f64::from(n);
            assert!((ema.mean()["w"].double_value(&[0]) - expected).abs() < 1e-5, "after step {n}");
        }
        // The early steps look back less far than the decay says.
        assert_eq!(ema.n_steps(), 12);
    }

    #[test]
    fn a_snapshot_is_put_back() {
        let store = VarStore::new(Device::Cpu);
        let mut w = store.root().var("w", &[2], nn::Init::Const(1.0));
        let saved = snapshot(&store);
        no_grad(|| w.copy_(&Tensor::from_slice(&[5f32, 6.0])));
        assert_eq!(saved["w"].double_value(&[1]), 1.0);
        put_back(&store, &saved).unwrap();
        assert_eq!(w.double_value(&[1]), 1.0);
        assert_eq!(put_back(&store, &BTreeMap::new()), Err("w".to_owned()));
    }
}
