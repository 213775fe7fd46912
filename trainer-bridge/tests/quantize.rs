//! Int8 networks in libtorch give the very bytes of candor's engine, and the file's logits those of ONNX Runtime.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use candor::engine::Engine;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use support::{OnnxRuntime, largest_difference, noise, used_network, values};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model::{Backbone, Spec};
use trainer_bridge::quantize::float::Float;
use trainer_bridge::quantize::int8::Int8;
use trainer_bridge::quantize::numbers::{Step, WeightRange};
use trainer_bridge::quantize::ranges::{self, Method};
use trainer_bridge::quantize::{qdq, rounded};

const SEED: u64 = 5;

fn quantized(spec: &Spec, method: Method, weights: WeightRange) -> (Float, Int8) {
    let variables = VarStore::new(Device::Cpu);
    let float = Float::new(&used_network(&variables, spec));
    let values = ranges::observe(&float, &[noise(2, spec)], &mut ChaCha8Rng::seed_from_u64(SEED), || ());
    let steps = ranges::steps(&float, &values, method, spec);
    let int8 = rounded(&float, steps, weights);
    (float, int8)
}

/// Every node's bytes of one picture [1,C,H,W] as NCHW, by the name of its step in the file.
fn bytes(int8: &Int8, picture: &Tensor) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let last = int8.plan.logits_idx();
    let _logits = no_grad(|| {
        int8.plan.walk(|idx, inputs| {
            let value = int8.node(idx, inputs, picture);
            if idx != last {
                let bytes = &value + f64::from(int8.steps[idx].zero);
                assert!(bytes.equal(&bytes.round().clamp(0.0, 255.0)), "no bytes");
                let bytes = Vec::<u8>::try_from(bytes.to_kind(Kind::Uint8).contiguous().reshape([-1]));
                found.push((format!("{}.q.u8", int8.plan.nodes[idx].name), bytes.unwrap()));
            }
            value
        })
    });
    found
}

#[test]
fn int8_networks_give_the_engines_bytes() {
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let mut expected = Vec::new();
    for (member_idx, member) in Backbone::ALL.into_iter().enumerate() {
        let size_px = [64, 75, 96][member_idx % 3];
        let method = [Method::Mse, Method::Minmax, Method::Percentile, Method::Entropy][member_idx % 4];
        let weights = [WeightRange::Minmax, WeightRange::Mse][member_idx % 2];
        let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(member, size_px).unwrap() };
        let (float, int8) = quantized(&spec, method, weights);
        let picture = noise(1, &spec);
        let logits = values(&no_grad(|| int8.logits(&picture)));
        let onnx = qdq::onnx(&int8, &spec);
        assert_eq!(onnx, qdq::onnx(&int8, &spec), "{member}: other bytes");

        let shape = [1, 3, size_px as usize, size_px as usize];
        let mut model = Engine::default().load(member.name(), &onnx[..], &shape).unwrap();
        assert!(model.ops().iter().all(|op| op.is_int8 || op.kind == "emit"), "{member}: {:?}", model.ops());
        let own = bytes(&int8, &picture);
        let mut n_compared = 0;
        for traced in model.trace(&values(&picture)).unwrap().iter() {
            let Some((_, own)) = own.iter().find(|(name, _)| *name == traced.tensor) else { continue };
            let pairs = traced.bytes.iter().zip(own);
            let n_different = pairs.filter(|(a, b)| a != b).count() + traced.bytes.len().abs_diff(own.len());
            assert_eq!(
                n_different,
                0,
                "{member}: {} of {} bytes of {}",
                n_different,
                own.len(),
                traced.tensor
            );
            n_compared += 1;
        }
        assert!(n_compared > 20, "{member}: only {n_compared} tensors compared");
        let found = model.run(&values(&picture)).unwrap()[0].clone();
        assert_eq!(found, logits, "{member}: logits of candor and of libtorch");
        let exact = values(&no_grad(|| float.logits(&picture)));
        println!("{member} {size_px} px {method:?}: {n_compared} tensors equal; {logits:?}, float {exact:?}");
        onnx_runtime.add_file(member.name(), &onnx, &picture);
        expected.push(logits);
    }
    onnx_runtime.run();
    for (member, logits) in Backbone::ALL.into_iter().zip(&expected) {
        let difference = largest_difference(&onnx_runtime.output(member.name()), logits);
        println!("{member}: ONNX Runtime differs by {difference:e}");
        assert!(difference <= 1e-5, "{member} in ONNX Runtime: {difference:e}");
    }
}

#[test]
fn steps_cover_their_range_and_hold_zero() {
    let step = Step::covering(-1.0, 3.0);
    assert_eq!((step.zero, step.scale), (64, 4.0 / 255.0));
    assert_eq!(Step::covering(0.5, 3.0), Step { zero: 0, scale: 3.0 / 255.0 });
    assert_eq!(Step::covering(-3.0, -0.5), Step { zero: 255, scale: 3.0 / 255.0 });
    let step = Step { scale: 0.5, zero: 3 };
    let centred = values(&step.centred(&Tensor::from_slice(&[-9.0f32, 0.25, 0.75, -0.75, 500.0])));
    assert_eq!(centred, [-3.0, 0.0, 2.0, -2.0, 252.0]);
}
