//! Channels of one tensor brought to like ranges, so that one scale serves them all.
//!
//! A channel that is divided by a factor in every layer that writes it and multiplied by it in every layer that reads it
//! changes nothing as long as what lies between lets factors through: sums, ReLU, pools, means. SiLU and sigmoid don't.
//! ReLU6 does below 6: there a channel may only grow, as far as its largest value stays below 6, and one that reaches 6
//! stays. Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), with the
//! range of the activations in the place of the first layer's weights, whose channels have scales of their own.

use tch::{Kind as Type, Tensor};

use super::float::{Float, Parameters};
use super::plan::{Clip, Kind, Plan};

/// How much smaller than the largest a factor may be.
const LEAST_FACTOR: f64 = 1.0 / 32.0;
/// A channel within this of ReLU6's end counts as cut.
const CUT: f64 = 5.999;

/// Tensors whose channels share one factor, and the layers round them.
#[derive(Debug, Default, PartialEq)]
struct Class {
    tensors: Vec<usize>,
    writers: Vec<usize>,
    readers: Vec<usize>,
    is_fixed: bool,
    has_relu6: bool,
}

/// What equalizing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equalized {
    /// Sets of tensors whose channels got factors.
    pub n_classes: usize,
    /// Channels with a factor other than 1.
    pub n_channels: usize,
}

/// Equalizes a network by what it gives on `batches` of normalised crops.
///
/// On them the outputs stay the same but for rounding.
pub fn equalize(float: &mut Float, batches: &[Tensor]) -> Equalized {
    let reaches = reaches(float, batches);
    let mut done = Equalized { n_classes: 0, n_channels: 0 };
    for class in classes(&float.plan).into_iter().filter(|class| !class.is_fixed) {
        let factors = factors(float, &class, &reaches);
        let n_changed = factors.ne(1.0).sum(Type::Int64).int64_value(&[]);
        done.n_classes += usize::from(n_changed > 0);
        done.n_channels += usize::try_from(n_changed).unwrap_or(0);
        apply(float, &class, &factors);
    }
    done
}

fn classes(plan: &Plan) -> Vec<Class> {
    let nodes = &plan.nodes;
    let mut class_of: Vec<usize> = (0..nodes.len()).collect();
    let mut is_fixed = vec![false; nodes.len()];
    is_fixed[0] = true;
    is_fixed[plan.logits_idx()] = true;
    for (idx, node) in nodes.iter().enumerate() {
        match node.kind {
            Kind::Silu | Kind::Sigmoid => {
                is_fixed[idx] = true;
                is_fixed[node.inputs[0]] = true;
            }
            Kind::MaxPool(_) | Kind::Mean | Kind::Flatten | Kind::Relu | Kind::Multiply | Kind::Add => {
                for &input in &node.inputs {
                    let (from, to) = (class_of[idx], class_of[input]);
                    class_of.iter_mut().filter(|class| **class == from).for_each(|class| *class = to);
                }
            }
            Kind::Input | Kind::Convolution { .. } | Kind::Dense { .. } => {}
        }
    }
    let mut classes: Vec<Class> = nodes.iter().map(|_| Class::default()).collect();
    for (idx, node) in nodes.iter().enumerate() {
        let class = &mut classes[class_of[idx]];
        class.tensors.push(idx);
        class.is_fixed |= is_fixed[idx];
        class.has_relu6 |= node.clip == Clip::Relu6;
        if node.is_product() {
            class.writers.push(idx);
            classes[class_of[node.inputs[0]]].readers.push(idx);
        }
    }
    classes.retain(|class| !class.tensors.is_empty());
    classes
}

/// How far from zero a tensor's channels go.
struct Reach {
    /// Mean of the crops' largest values, f64 [C].
    usual: Tensor,
    /// Largest of all, f64 [C].
    most: Tensor,
}

/// For each node, its channels' reach.
fn reaches(float: &Float, batches: &[Tensor]) -> Vec<Reach> {
    let mut all: Vec<Option<Tensor>> = float.plan.nodes.iter().map(|_| None).collect();
    for batch in batches {
        let _logits = tch::no_grad(|| {
            float.plan.walk(|idx, inputs| {
                let value = float.node(idx, inputs, batch);
                let largest = value.abs().reshape([value.size()[0], value.size()[1], -1]);
                let largest = largest.amax([2i64].as_slice(), false).to_kind(Type::Double);
                all[idx] = Some(match all[idx].take() {
                    None => largest,
                    Some(before) => Tensor::cat(&[before, largest], 0),
                });
                value
            })
        });
    }
    let reach = |rows: Option<Tensor>| {
        let rows = rows.unwrap_or_else(|| unreachable!("every node has run"));
        Reach {
            usual: rows.mean_dim([0i64].as_slice(), false, None),
            most: rows.amax([0i64].as_slice(), false),
        }
    };
    all.into_iter().map(reach).collect()
}

/// What a class's channels are divided by, f64 [C].
fn factors(float: &Float, class: &Class, reaches: &[Reach]) -> Tensor {
    let largest = |of: fn(&Reach) -> &Tensor| {
        let parts = class.tensors.iter().map(|&idx| of(&reaches[idx]).shallow_clone());
        parts.reduce(|a, b| a.maximum(&b)).unwrap_or_else(|| unreachable!("no class is empty"))
    };
    let (usual, most) = (largest(|reach| &reach.usual), largest(|reach| &reach.most));
    let readers = class.readers.iter().filter(|&&idx| !float.plan.nodes[idx].is_depthwise());
    let weights = readers.map(|&idx| columns(&float.of(idx).weight)).reduce(|a, b| a.maximum(&b));
    let wanted = match weights {
        // A depthwise layer has a scale for each channel: the tensor alone counts.
        None => usual,
        Some(weights) => (usual / weights.clamp_min(1e-3)).sqrt(),
    };
    let top = wanted.max();
    if top.double_value(&[]) <= 0.0 {
        return Tensor::ones_like(&wanted);
    }
    let factors = (wanted / top).clamp_min(LEAST_FACTOR);
    if !class.has_relu6 {
        return factors;
    }
    let factors = factors.maximum(&(&most / CUT)).clamp_max(1.0);
    let ones = Tensor::ones_like(&factors);
    ones.where_self(&most.ge(CUT), &factors)
}

/// For each input channel, its largest weight over the largest of the same output, f64 [C].
fn columns(weight: &Tensor) -> Tensor {
    let size = weight.size();
    let taps = weight.abs().reshape([size[0], size[1], -1]).amax([2i64].as_slice(), false);
    let row = taps.amax([1i64].as_slice(), true).clamp_min(f64::from(f32::MIN_POSITIVE));
    (taps / row).amax([0i64].as_slice(), false).to_kind(Type::Double)
}

fn apply(float: &mut Float, class: &Class, factors: &Tensor) {
    let change = |parameters: &mut Option<Parameters>, shape: &[i64], is_writer: bool| {
        let Some(Parameters { weight, bias }) = parameters else { return };
        let (wide, factors_there) = (weight.to_kind(Type::Double), factors.reshape(shape));
        if is_writer {
            *weight = (wide / factors_there).to_kind(Type::Float);
            *bias = (bias.to_kind(Type::Double) / factors).to_kind(Type::Float);
        } else {
            *weight = (wide * factors_there).to_kind(Type::Float);
        }
    };
    for (layers, is_writer) in [(&class.writers, true), (&class.readers, false)] {
        for &idx in layers {
            // A depthwise layer's channels are both its inputs' and its outputs', along the first axis.
            let axis = usize::from(!is_writer && !float.plan.nodes[idx].is_depthwise());
            let mut shape = vec![1; float.of(idx).weight.dim()];
            shape[axis] = -1;
            change(&mut float.parameters[idx], &shape, is_writer);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::model::description::Description;
    use crate::model::{Backbone, Network, Spec};
    use tch::{Device, nn::VarStore, no_grad};

    fn names(plan: &Plan, nodes: &[usize]) -> Vec<String> {
        nodes.iter().map(|&idx| plan.nodes[idx].layer.clone()).collect()
    }

    #[test]
    fn classes_follow_residuals_and_stop_at_silu() {
        let plan = Plan::new(&Description::new(&Spec::of(Backbone::Lite0, 64).unwrap()), 64);
        let classes = classes(&plan);
        let stream = classes
            .iter()
            .find(|class| names(&plan, &class.writers)[..] == ["blocks.1.project", "blocks.2.project"]);
        assert_eq!(names(&plan, &stream.unwrap().readers), ["blocks.2.expand", "blocks.3.expand"]);
        let depthwise =
            classes.iter().find(|class| names(&plan, &class.readers)[..] == ["blocks.1.depthwise"]);
        assert!(depthwise.unwrap().has_relu6);
        let plan = Plan::new(&Description::new(&Spec::of(Backbone::B0, 64).unwrap()), 64);
        let free = super::classes(&plan).into_iter().filter(|class| !class.is_fixed);
        let writers: Vec<_> = free.flat_map(|class| names(&plan, &class.writers)).collect();
        assert!(writers.iter().all(|name| name.ends_with(".project") || name == "hidden"), "{writers:?}");
    }

    #[test]
    fn equalized_networks_give_the_same_and_have_like_channels() {
        for member in [Backbone::Lite0, Backbone::B0, Backbone::ResNet18] {
            tch::manual_seed(3);
            let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(member, 64).unwrap() };
            let variables = VarStore::new(Device::Cpu);
            let network = Network::new(&variables.root(), &spec);
            let crops = Tensor::randn([4, 3, 64, 64], (Type::Float, Device::Cpu));
            let _ = no_grad(|| network.forward_t(&crops, true));
            let before = Float::new(&network);
            let mut after = before.clone();
            let done = equalize(&mut after, &[crops.shallow_clone()]);
            assert!(done.n_classes > 3, "{member}: {done:?}");
            let [a, b] = [&before, &after].map(|float| no_grad(|| float.logits(&crops)));
            let difference = ((&a - &b).abs().max() / a.abs().max()).double_value(&[]);
            assert!(difference < 1e-4, "{member}: {difference}");
        }
    }
}
