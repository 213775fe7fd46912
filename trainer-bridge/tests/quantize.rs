//! Int8 networks in libtorch give the very bytes of candor's engine, and the file's logits those of ONNX Runtime.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candor::engine::{Engine, Model, sigmoid};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use support::{OnnxRuntime, cached, largest_difference, noise, used_network, values};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};
use trainer_bridge::model::{Backbone, Spec};
use trainer_bridge::quantize::adaround::{self, After, Pixels};
use trainer_bridge::quantize::equalize::equalize;
use trainer_bridge::quantize::float::Float;
use trainer_bridge::quantize::import::Imported;
use trainer_bridge::quantize::int8::{Int8, Layer};
use trainer_bridge::quantize::numbers::{Latent, Step, WeightRange};
use trainer_bridge::quantize::plan::Clip;
use trainer_bridge::quantize::ranges::{self, Method};
use trainer_bridge::quantize::recipe::{self, Crops, Event, Recipe, State};
use trainer_bridge::quantize::{qat, qdq, refine, rounded, sqnr};

const SEED: u64 = 5;

/// libtorch has one generator for the whole process: tests that draw from it take turns.
fn turn() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn quantized(spec: &Spec, method: Method, weights: WeightRange) -> (Float, Int8) {
    let variables = VarStore::new(Device::Cpu);
    let float = Float::new(&used_network(&variables, spec));
    let values = ranges::observe(&float, &[noise(2, spec)], &mut ChaCha8Rng::seed_from_u64(SEED), || ());
    let steps = ranges::steps(&float, &values, method, ranges::input_step(spec));
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

/// Compares every tensor of one picture with the engine's; gives the number of tensors.
fn compare_bytes(network: &str, model: &mut Model, int8: &Int8, picture: &Tensor) -> usize {
    let own = bytes(int8, picture);
    let mut n_compared = 0;
    for traced in model.trace(&values(picture)).unwrap().iter() {
        let Some((_, own)) = own.iter().find(|(name, _)| *name == traced.tensor) else { continue };
        let pairs = traced.bytes.iter().zip(own);
        let n_different = pairs.filter(|(a, b)| a != b).count() + traced.bytes.len().abs_diff(own.len());
        let n_bytes = own.len();
        assert_eq!(n_different, 0, "{network}: {n_different} of {n_bytes} bytes of {}", traced.tensor);
        n_compared += 1;
    }
    n_compared
}

#[test]
fn int8_networks_give_the_engines_bytes() {
    let _turn = turn();
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
        let n_compared = compare_bytes(member.name(), &mut model, &int8, &picture);
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
        // A few bytes of ONNX Runtime's residual sums may differ by one, which random networks carry on to the logits.
        assert!(difference <= 0.05, "{member} in ONNX Runtime: {difference:e}");
    }
}

/// The networks that others have trained: file, size, how many tensors of bytes the engine makes.
const OTHERS: [(&str, [i64; 2], usize); 4] = [
    ("mtcnn-float/pnet", [61, 84], 5),
    ("mtcnn-float/rnet", [24, 24], 7),
    ("mtcnn-float/onet", [48, 48], 9),
    ("landmarks-float/landmarks", [112, 112], 41),
];

#[test]
fn networks_of_others_give_the_engines_bytes() {
    let _turn = turn();
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let mut expected = Vec::new();
    for (name, [height, width], n_tensors) in OTHERS {
        let Some(path) = cached(&format!("models/{name}.onnx")) else { return };
        let bytes = fs::read(path).unwrap();
        let imported = Imported::new(&bytes).unwrap();
        let float = &imported.float;
        let is_detector = name.starts_with("mtcnn");
        let pictures = |n: i64| {
            let pixels = Tensor::randint(256, [n, 3, height, width], (Kind::Float, Device::Cpu));
            if is_detector { pixels } else { (pixels - 115.0) / 255.0 }
        };
        let input = if is_detector { Step::covering(0.0, 255.0) } else { Step::covering(-0.5, 0.6) };
        let batch = [pictures(4)];
        let mut equal = float.clone();
        equalize(&mut equal, &batch);
        let values_seen = ranges::observe(&equal, &batch, &mut ChaCha8Rng::seed_from_u64(SEED), || ());
        let steps = ranges::steps(&equal, &values_seen, Method::Mse, input);
        let mut int8 = rounded(&equal, steps, WeightRange::Mse);
        let adaround = adaround::Settings { n_steps: 10, n_pixels: 64 };
        let settings =
            refine::Settings { weights: WeightRange::Mse, adaround: Some(adaround), bias_correction: true };
        refine::refine(&equal, &mut int8, &batch, settings, || ());

        let picture = pictures(1);
        let onnx = imported.onnx(&int8, &[]);
        let shape = [1, 3, height, width].map(|side| usize::try_from(side).unwrap());
        let mut model = Engine::default().load(name, &onnx[..], &shape).unwrap();
        assert!(model.ops().iter().all(|op| op.is_int8 || op.kind == "emit"), "{name}: {:?}", model.ops());
        let n_compared = compare_bytes(name, &mut model, &int8, &picture);
        println!("{name}: {n_compared} tensors equal");
        assert_eq!(n_compared, n_tensors, "{name}: tensors compared");
        // The detector's first output is a probability.
        let given = |sums: &Tensor| {
            let mut values = values(sums);
            let n_first =
                if is_detector { sums.numel() / usize::try_from(sums.size()[1]).unwrap() } else { 0 };
            values[..n_first].iter_mut().for_each(|value| *value = sigmoid(*value));
            values
        };
        let found = model.run(&values(&picture)).unwrap().concat();
        let own = given(&no_grad(|| int8.logits(&picture)));
        assert_eq!(found, own, "{name}: outputs of candor and of libtorch");
        let short = name.split('/').next_back().unwrap();
        onnx_runtime.add_file(short, &bytes, &picture);
        onnx_runtime.add_file(&format!("{short}-int8"), &onnx, &picture);
        expected.push((short, given(&no_grad(|| float.logits(&picture))), own));
    }
    onnx_runtime.run();
    for (name, float, int8) in expected {
        let [exact, close] = [(name.to_owned(), &float), (format!("{name}-int8"), &int8)]
            .map(|(name, own)| largest_difference(&onnx_runtime.output(&name), own));
        println!("{name}: ONNX Runtime differs by {exact:e} in float, by {close:e} in int8");
        assert!(exact <= 1e-4, "{name} in float: {exact:e}");
        assert!(close <= 0.05, "{name} in int8: {close:e}");
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

/// A network through every method.
fn refined(spec: &Spec) -> (Float, State) {
    let variables = VarStore::new(Device::Cpu);
    let float = Float::new(&used_network(&variables, spec));
    let batches: Vec<Tensor> = (0..3).map(|_| noise(2, spec)).collect();
    let classes = Tensor::from_slice(&[0i64, 1]);
    let crops = Crops {
        calibration: batches[..2].iter().map(Tensor::shallow_clone).collect(),
        n_refining: 2,
        training: vec![(batches[0].shallow_clone(), classes)],
        checks: vec![batches[2].shallow_clone()],
    };
    let recipe = Recipe {
        equalize: true,
        adaround_steps: 20,
        adaround_pixels: 64,
        qat_steps: 3,
        qat_labels: 0.5,
        // A layer in float may fall on the other side of a rounding.
        most_float_layers: 0,
        ..Recipe::default()
    };
    let mut kept = Vec::new();
    let tell = |event: Event<'_>| {
        match event {
            Event::Trained(trained) => {
                assert!(trained.before.is_finite() && trained.after.is_finite(), "{trained:?}");
            }
            Event::Ended(state) => {
                let steps = state.int8.as_ref().map(|int8| int8.steps.clone());
                kept.push((state.stage, state.tensors(), steps));
            }
            _ => {}
        }
        Ok::<(), ()>(())
    };
    let (state, rows) =
        recipe::run(&recipe, ranges::input_step(spec), &crops, State::start(float.clone()), tell).unwrap();
    let whole = qdq::onnx(state.int8.as_ref().unwrap(), spec);
    assert_eq!(kept.len(), 5, "a state after each stage");
    for (stage, tensors, steps) in kept {
        let from = State::restored(&float, stage, tensors.into_iter().collect(), steps).unwrap();
        let (state, _) =
            recipe::run(&recipe, ranges::input_step(spec), &crops, from, |_| Ok::<(), ()>(())).unwrap();
        let onnx = qdq::onnx(state.int8.as_ref().unwrap(), spec);
        assert!(onnx == whole, "{}: other bytes when it goes on after {stage:?}", spec.backbone);
    }
    assert_eq!(rows.len(), float.plan.nodes.len());
    assert!(rows.iter().all(|row| row.own_db.is_finite() && row.whole_db.is_finite()), "{rows:?}");
    (float, state)
}

#[test]
fn refined_networks_still_give_the_engines_numbers() {
    let _turn = turn();
    for (member, size_px) in [(Backbone::Lite0, 64), (Backbone::B0, 75), (Backbone::ResNet18, 64)] {
        let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(member, size_px).unwrap() };
        let (float, state) = refined(&spec);
        let int8 = state.int8.as_ref().unwrap();
        let onnx = qdq::onnx(int8, &spec);
        let picture = noise(1, &spec);
        let logits = values(&no_grad(|| int8.logits(&picture)));
        let shape = [1, 3, size_px as usize, size_px as usize];
        let mut model = Engine::default().load(member.name(), &onnx[..], &shape).unwrap();
        let found = model.run(&values(&picture)).unwrap()[0].clone();
        assert_eq!(found, logits, "{member}: logits of candor and of libtorch");

        let kept = state.tensors().into_iter().collect();
        let again = State::restored(&float, state.stage, kept, Some(int8.steps.clone())).unwrap();
        assert_eq!(
            qdq::onnx(again.int8.as_ref().unwrap(), &spec),
            onnx,
            "{member}: other bytes after a rest"
        );
    }
}

#[test]
fn adaround_beats_the_nearest_rounding() {
    let _turn = turn();
    tch::manual_seed(1);
    let weight = Tensor::randn([8, 24], (Kind::Float, Device::Cpu));
    let bias = Tensor::zeros([8], (Kind::Float, Device::Cpu));
    let scale = Tensor::full([8], 0.4, (Kind::Float, Device::Cpu));
    // Inputs that go together, as real ones do: there the roundings of a row can make up for each other.
    let mixed = Tensor::randn([300, 4], (Kind::Float, Device::Cpu))
        .matmul(&Tensor::randn([4, 24], (Kind::Float, Device::Cpu)));
    let wanted = mixed.linear(&weight, Some(&bias));
    let latent = Latent { weight, bias, scale };
    let pixels = Pixels { windows: mixed, wanted };
    let settings = adaround::Settings { n_steps: 300, n_pixels: 300 };
    let found = adaround::round_weight(&latent, &pixels, After::Clip(Clip::Relu), settings);
    let nearest = latent.integers(1.0).weight;
    let units = &latent.weight / 0.4;
    assert!(((&found - &units).abs().max().double_value(&[])) < 1.0, "not one of both roundings");
    let lost = |integers: &Tensor| {
        let outputs = pixels.windows.linear(&(integers * 0.4), Some(&latent.bias)).relu();
        (outputs - pixels.wanted.relu()).square().mean(Kind::Double).double_value(&[])
    };
    let (found, nearest) = (lost(&found), lost(&nearest));
    println!("mean square {found} instead of {nearest}");
    assert!(found < 0.7 * nearest, "{found}, nearest {nearest}");
}

#[test]
fn corrected_biases_bring_each_channels_mean_back() {
    let _turn = turn();
    let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(Backbone::Lite0, 64).unwrap() };
    let (float, mut int8) = quantized(&spec, Method::Mse, WeightRange::Minmax);
    let crops = noise(4, &spec);
    let settings = refine::Settings { weights: WeightRange::Minmax, adaround: None, bias_correction: true };
    let first = float.plan.nodes.iter().position(|node| node.layer == "blocks.1.project").unwrap();
    let shift = |int8: &Int8| {
        let (mut exact, mut found) = (None, None);
        let see = |to: &mut Option<Tensor>, idx: usize, values: &Tensor| {
            if idx == first {
                *to = Some(values.mean_dim([0i64, 2, 3].as_slice(), false, None));
            }
        };
        let _logits = no_grad(|| {
            float.plan.walk(|idx, inputs| {
                let value = float.node(idx, inputs, &crops);
                see(&mut exact, idx, &value);
                value
            })
        });
        let _logits = no_grad(|| int8.watched(&crops, |idx, values| see(&mut found, idx, values)));
        (exact.unwrap() - found.unwrap()).abs().mean(Kind::Double).double_value(&[])
    };
    let before = shift(&int8);
    refine::refine(&float, &mut int8, &[crops.shallow_clone()], settings, || ());
    let after = shift(&int8);
    println!("mean shift {before} -> {after}");
    assert!(after < 0.3 * before, "{before} -> {after}");
}

#[test]
fn training_moves_the_network_towards_the_float_one() {
    let _turn = turn();
    let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(Backbone::B0, 64).unwrap() };
    let (float, mut int8) = quantized(&spec, Method::Minmax, WeightRange::Minmax);
    let crops = noise(4, &spec);
    let batches = [(crops.shallow_clone(), Tensor::zeros([4], (Kind::Int64, Device::Cpu)))];
    let settings = qat::Settings { n_steps: 10, learning_rate: 1e-4, labels: 0.0, seed: SEED };
    let checks = [crops.shallow_clone()];
    let mut losses = Vec::new();
    let trained = qat::train(&float, &mut int8, &batches, &checks, settings, |loss| losses.push(loss));
    println!("{trained:?} {losses:?}");
    assert!(
        (losses[0] - trained.before).abs() < 1e-6,
        "training and inference differ: {losses:?} {trained:?}"
    );
    assert!(trained.after < 0.9 * trained.before, "{trained:?}");
}

#[test]
fn layers_that_lose_too_much_stay_in_float() {
    let _turn = turn();
    let Some(mut onnx_runtime) = OnnxRuntime::new() else { return };
    let spec = Spec { batch_norm_momentum: 1.0, ..Spec::of(Backbone::Lite0, 64).unwrap() };
    let (float, mut int8) = quantized(&spec, Method::Mse, WeightRange::Minmax);
    // Scales in which hardly a weight is more than 0.
    let spoilt = ["blocks.1.depthwise", "blocks.3.project", "hidden"];
    let at = |name: &str| float.plan.nodes.iter().position(|node| node.layer == name).unwrap();
    for idx in spoilt.map(at) {
        let parameters = float.of(idx);
        let largest = parameters.weight.abs().max().double_value(&[]);
        let scale = Tensor::full([parameters.bias.size()[0]], largest, (Kind::Float, Device::Cpu));
        let (weight, bias) = (parameters.weight.copy(), parameters.bias.copy());
        let integers = Latent { weight, bias, scale }.integers(int8.input_step(idx, 0).scale);
        int8.layers[idx] = Some(Layer::Int8(integers));
    }
    let crops = [noise(2, &spec)];
    let rows = sqnr::measure(&float, &int8, &crops, || ());
    let ratios = spoilt.map(|name| rows[at(name)].own_db);
    assert!(ratios.iter().all(|db| *db < 12.0), "{ratios:?}");
    let rows = sqnr::widen(&float, &mut int8, &crops, rows, (12.0, 4));
    let in_float: Vec<&str> =
        rows.iter().filter(|row| row.numbers == "float").map(|row| &*row.name).collect();
    assert_eq!(in_float, ["blocks.1.depthwise.relu6", "blocks.3.project", "hidden.relu"]);
    assert!(spoilt.iter().all(|name| rows[at(name)].own_db > 25.0), "{rows:?}");

    let onnx = qdq::onnx(&int8, &spec);
    let logits = values(&no_grad(|| int8.logits(&crops[0])));
    let mut model = Engine::default().load("lite0", &onnx[..], &[2, 3, 64, 64]).unwrap();
    let found = model.run(&values(&crops[0])).unwrap()[0].clone();
    onnx_runtime.add_file("lite0", &onnx, &crops[0]);
    onnx_runtime.run();
    let others = onnx_runtime.output("lite0");
    println!("libtorch {logits:?}, candor {found:?}, ONNX Runtime {others:?}");
    // A sum in float may fall on the other side of a rounding, and random networks make more of it.
    assert!(largest_difference(&found, &logits) < 0.05, "{found:?}, expected {logits:?}");
    assert!(largest_difference(&others, &logits) < 0.05, "{others:?}, expected {logits:?}");
}
