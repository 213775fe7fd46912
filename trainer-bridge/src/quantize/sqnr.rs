//! How much of each tensor's signal int8 keeps, and which layers need more than 8 bits.

use serde::{Deserialize, Serialize};
use tch::{Kind as Type, Tensor};

use super::float::Float;
use super::int8::{Int8, Layer, real_weight};
use super::plan::{Kind, Node};

/// The ratio of what has no error, dB.
const EXACT_DB: f64 = 300.0;
/// A layer in float must be better than in int8 by this much, or it goes back.
const LEAST_GAIN_DB: f64 = 3.0;

/// One node, measured on crops. Ratios are 10 log10(signal's power / error's power).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The tensor's name in the files.
    pub name: String,
    /// What makes it.
    pub kind: String,
    /// `int8`, or `float` for a layer that stays so.
    pub numbers: String,
    /// Scale of its bytes; absent for the logits.
    pub scale: Option<f32>,
    /// Its bytes' zero point.
    pub zero: Option<u8>,
    /// Share of the float network's values that lie outside of the bytes' range.
    pub clipped: f64,
    /// Ratio in the int8 network as a whole, dB.
    pub whole_db: f64,
    /// Ratio when this node alone is in int8, its inputs being the float network's as bytes, dB.
    pub own_db: f64,
    /// Ratio of the weights, dB.
    pub weights_db: Option<f64>,
}

/// Sums of squares.
#[derive(Clone, Copy, Default)]
struct Power {
    signal: f64,
    error: f64,
}

impl Power {
    fn add(&mut self, exact: &Tensor, found: &Tensor) {
        let square =
            |values: Tensor| values.to_kind(Type::Double).square().sum(Type::Double).double_value(&[]);
        self.signal += square(exact.shallow_clone());
        self.error += square(exact - found);
    }

    fn ratio_db(self) -> f64 {
        let ratio = (self.signal + f64::MIN_POSITIVE) / (self.error + f64::MIN_POSITIVE);
        (10.0 * ratio.log10()).min(EXACT_DB)
    }
}

#[derive(Clone, Copy, Default)]
struct Measured {
    whole: Power,
    own: Power,
    n_values: f64,
    n_outside: f64,
}

/// Measures every node on `batches` of normalised crops. `progress` is called after each batch.
pub fn measure(float: &Float, int8: &Int8, batches: &[Tensor], mut progress: impl FnMut()) -> Vec<Row> {
    let plan = &float.plan;
    let last = plan.logits_idx();
    let mut all = vec![Measured::default(); plan.nodes.len()];
    let real = |idx: usize, value: &Tensor| {
        if idx == last { value.shallow_clone() } else { int8.steps[idx].reals(value) }
    };
    for batch in batches {
        let _logits = tch::no_grad(|| {
            plan.walk(|idx, inputs: &[&(Tensor, Tensor)]| {
                let node = &plan.nodes[idx];
                let exact =
                    float.node(idx, &inputs.iter().map(|(float, _)| float).collect::<Vec<_>>(), batch);
                let found = int8.node(idx, &inputs.iter().map(|(_, int8)| int8).collect::<Vec<_>>(), batch);
                let bytes: Vec<Tensor> = (inputs.iter().zip(&node.inputs))
                    .map(|((float, _), &input)| int8.steps[input].centred(float))
                    .collect();
                let alone = int8.node(idx, &bytes.iter().collect::<Vec<_>>(), batch);
                let measured = &mut all[idx];
                measured.whole.add(&exact, &real(idx, &found));
                measured.own.add(&exact, &real(idx, &alone));
                if idx != last {
                    let (low, high) = int8.steps[idx].limits();
                    let half = f64::from(int8.steps[idx].scale) / 2.0;
                    let outside = exact.lt(low - half).logical_or(&exact.gt(high + half));
                    measured.n_outside += outside.sum(Type::Double).double_value(&[]);
                    measured.n_values += exact.numel() as f64;
                }
                (exact, found)
            })
        });
        progress();
    }
    let row = |idx: usize| {
        let (node, measured) = (&plan.nodes[idx], all[idx]);
        let (weights_db, is_float) = match &int8.layers[idx] {
            None => (None, false),
            Some(Layer::Float { .. }) => (None, true),
            Some(Layer::Int8(integers)) => {
                let mut power = Power::default();
                power.add(&float.of(idx).weight, &real_weight(integers));
                (Some(power.ratio_db()), false)
            }
        };
        Row {
            name: node.name.clone(),
            kind: kind(node).into(),
            numbers: if is_float { "float" } else { "int8" }.into(),
            scale: (idx != last).then(|| int8.steps[idx].scale),
            zero: (idx != last).then(|| int8.steps[idx].zero),
            clipped: measured.n_outside / measured.n_values.max(1.0),
            whole_db: measured.whole.ratio_db(),
            own_db: measured.own.ratio_db(),
            weights_db,
        }
    };
    (0..plan.nodes.len()).map(row).collect()
}

fn kind(node: &Node) -> &'static str {
    match node.kind {
        Kind::Input => "input",
        Kind::Convolution { .. } if node.is_depthwise() => "depthwise convolution",
        Kind::Convolution { .. } => "convolution",
        Kind::Dense { .. } => "dense",
        Kind::Silu => "SiLU",
        Kind::Sigmoid => "sigmoid",
        Kind::MaxPool(_) => "max pool",
        Kind::Mean => "mean",
        Kind::Flatten => "flatten",
        Kind::Relu => "ReLU",
        Kind::Multiply => "product",
        Kind::Add => "sum",
    }
}

/// Leaves the layers in float whose own ratio is below `least_db`, the worst first and `most` at the most, where that
/// gains at least 3 dB. Such a layer lies between a DequantizeLinear and a QuantizeLinear with f32 weights, which `candor`
/// and ONNX Runtime both run.
///
/// Gives the rows measured again.
pub fn widen(
    float: &Float,
    int8: &mut Int8,
    batches: &[Tensor],
    rows: Vec<Row>,
    (least_db, most): (f64, usize),
) -> Vec<Row> {
    let is_product = |idx: &usize| float.plan.nodes[*idx].is_product();
    let mut worst: Vec<usize> =
        (0..rows.len()).filter(is_product).filter(|&idx| rows[idx].own_db < least_db).collect();
    worst.sort_by(|&a, &b| rows[a].own_db.total_cmp(&rows[b].own_db));
    worst.truncate(most);
    if worst.is_empty() {
        return rows;
    }
    let mut replaced = Vec::new();
    for &idx in &worst {
        let parameters = float.of(idx);
        let wide = Layer::Float { weight: parameters.weight.copy(), bias: parameters.bias.copy() };
        replaced.push((idx, int8.layers[idx].replace(wide)));
    }
    let again = measure(float, int8, batches, || ());
    let mut is_back = false;
    for (idx, layer) in replaced {
        if again[idx].own_db < rows[idx].own_db + LEAST_GAIN_DB {
            int8.layers[idx] = layer;
            is_back = true;
        }
    }
    if is_back { measure(float, int8, batches, || ()) } else { again }
}
