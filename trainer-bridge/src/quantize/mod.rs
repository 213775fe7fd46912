//! A float network -> one of 8-bit integers that `candor` and ONNX Runtime run alike.
//!
//! [`plan`] says where the bytes are, [`numbers`] what they stand for, [`int8`] computes as the engine does, [`qdq`] writes
//! the file. [`ranges`] measures tensors on real crops. [`import`] takes networks of others.

pub mod adaround;
pub mod agreement;
pub mod command;
pub mod crops;
pub mod equalize;
pub mod float;
pub mod folder;
pub mod import;
pub mod int8;
pub mod net;
pub mod numbers;
mod page;
pub mod plan;
pub mod prune;
pub mod qat;
pub mod qdq;
pub mod ranges;
pub mod recipe;
pub mod refine;
pub mod sqnr;

use tch::Tensor;

use self::float::Float;
use self::int8::{Int8, Layer};
use self::numbers::{Latent, Step, WeightRange, weight_scales};

/// The integers nearest to a float network's numbers, tensors having `steps`.
pub fn rounded(float: &Float, steps: Vec<Step>, weights: WeightRange) -> Int8 {
    let plan = float.plan.clone();
    let layers = (0..plan.nodes.len()).map(|idx| {
        plan.nodes[idx].is_product().then(|| {
            let input_scale = steps[plan.nodes[idx].inputs[0]].scale;
            Layer::Int8(latent(float, idx, input_scale, weights).integers(input_scale))
        })
    });
    let layers = layers.collect();
    Int8 { plan, steps, layers }
}

/// A layer's numbers before rounding, with the scales that they will be rounded to.
pub fn latent(float: &Float, idx: usize, input_scale: f32, weights: WeightRange) -> Latent {
    let parameters = float.of(idx);
    let scale = weight_scales(&parameters.weight, &parameters.bias, input_scale, weights);
    let [weight, bias] = [&parameters.weight, &parameters.bias].map(Tensor::copy);
    Latent { weight, bias, scale }
}
