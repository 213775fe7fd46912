//! A classifier's network in two: up to its last map of features, which runs as any other, and the dense layers
//! after the map's mean, as numbers. What follows a mean is the same for every place of the map, so that the two
//! together say what each place adds to a logit.

use std::collections::HashSet;

use prost::bytes::Buf;

use super::onnx::{Constants, NodeExt as _};
use super::pb::{self, DataType};
use super::{Engine, EngineError, Model, load};

/// A dense layer and the range that its values are cut to.
#[derive(Clone, Debug, PartialEq)]
struct Dense {
    /// `[bias.len()][n_in]`, row-major.
    weights: Vec<f32>,
    bias: Vec<f32>,
    low: f32,
    high: f32,
}

impl Dense {
    fn n_in(&self) -> usize {
        self.weights.len() / self.bias.len()
    }

    /// The values before they are cut, summed in order.
    fn apply(&self, input: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(self.n_in()).zip(&self.bias);
        let sum = |(row, bias): (&[f32], &f32)| {
            row.iter().zip(input).fold(f64::from(*bias), |sum, (w, x)| sum + f64::from(*w) * x)
        };
        rows.map(sum).collect()
    }
}

/// The dense layers from the means of a network's last map of features to its logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The range that the means are cut to.
    low: f32,
    high: f32,
    layers: Vec<Dense>,
}

/// What a difference of two logits is near some means: the sum of `weights[c] * mean[c]`, plus `constant`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slope {
    /// One a channel.
    pub weights: Vec<f64>,
    /// What is left at means of 0.
    pub constant: f64,
}

impl Head {
    /// Channels of the map.
    pub fn n_channels(&self) -> usize {
        self.layers.first().map_or(0, Dense::n_in)
    }

    /// Logits.
    pub fn n_logits(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.bias.len())
    }

    /// Logit `plus` less logit `minus`, exact near `means` where neither they nor a layer's value cross an end of a range:
    /// dense layers between ReLUs are linear in pieces. In f64, each sum in one order, so that every processor
    /// gives the same. `means` has [`Head::n_channels`] values; `plus` and `minus` are below [`Head::n_logits`].
    pub fn difference(&self, means: &[f64], plus: usize, minus: usize) -> Slope {
        let cut = |values: &mut [f64], low: f32, high: f32| -> Vec<bool> {
            let (low, high) = (f64::from(low), f64::from(high));
            let is_free = values.iter().map(|&v| low < v && v < high).collect();
            values.iter_mut().for_each(|v| *v = v.clamp(low, high));
            is_free
        };
        let mut values = means.to_vec();
        let is_mean_free = cut(&mut values, self.low, self.high);
        let mut is_free: Vec<Vec<bool>> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            values = layer.apply(&values);
            is_free.push(cut(&mut values, layer.low, layer.high));
        }
        let mut weights = vec![0.0; self.n_logits()];
        weights[plus] += 1.0;
        weights[minus] -= 1.0;
        for (layer, is_free) in self.layers.iter().zip(&is_free).rev() {
            let mut before = vec![0.0; layer.n_in()];
            let rows = layer.weights.chunks_exact(layer.n_in()).zip(is_free).zip(&weights);
            for ((row, _), weight) in rows.filter(|((_, is_free), _)| **is_free) {
                before.iter_mut().zip(row).for_each(|(sum, w)| *sum += weight * f64::from(*w));
            }
            weights = before;
        }
        weights.iter_mut().zip(is_mean_free).filter(|(_, is_free)| !is_free).for_each(|(w, _)| *w = 0.0);
        let linear = weights.iter().zip(means).fold(0.0, |sum, (w, x)| sum + w * x);
        Slope { constant: values[plus] - values[minus] - linear, weights }
    }
}

impl Engine {
    /// Loads a classifier in two: a [`Model`] whose one output is the last map of features, [1, channels, height,
    /// width], and the [`Head`] behind the map's mean. `input_shape` as in [`Engine::load`].
    ///
    /// # Errors
    /// [`EngineError::Load`] as [`Engine::load`], and when the network doesn't end in a GlobalAveragePool and
    /// dense layers (Gemm), with nothing but Relu, Clip and quantization between them.
    pub fn load_split(
        &self,
        name: &str,
        onnx: impl Buf,
        input_shape: &[usize],
    ) -> Result<(Model, Head), EngineError> {
        let refused =
            |cause| EngineError::Load { network: name.to_owned(), step: "split at the last mean", cause };
        let mut proto = load::decode(onnx).map_err(refused)?;
        let graph = proto.graph.as_mut().ok_or_else(|| refused("the file has no graph".to_owned()))?;
        let (head, map) = head_of(graph).map_err(refused)?;
        cut(graph, map);
        let model = load::load_proto(self, name, proto, Some(input_shape))?;
        let is_map = matches!(model.output_shapes(), [shape] if shape.len() == 4 && shape[..2] == [1, head.n_channels()]);
        if !is_map {
            let found = format!("{:?}", model.output_shapes());
            return Err(refused(format!(
                "expected a map of {} channels for the head, found {found}",
                head.n_channels()
            )));
        }
        Ok((model, head))
    }
}

/// The head of a graph, and the name of the map whose mean it takes.
fn head_of(graph: &pb::GraphProto) -> Result<(Head, String), String> {
    let mut of_constants = graph.clone();
    let constants = Constants::take(&mut of_constants);
    let [output] = &graph.output[..] else {
        return Err(format!("expected one output, found {}", graph.output.len()));
    };
    let maker = |value: &str| graph.node.iter().find(|node| node.output.iter().any(|o| o == value));
    let mut layers: Vec<Dense> = Vec::new();
    let mut value = output.name.as_str();
    let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
    // A chain is no longer than the graph.
    for _ in 0..graph.node.len() {
        if low > high {
            return Err(format!("{value}: expected a range, found {low} to {high}"));
        }
        let node = maker(value).ok_or_else(|| format!("{value}: nothing makes it"))?;
        let failed = |why: String| format!("node {} ({}): {why}", node.label(), node.op_type);
        let missing = || failed("expected more inputs".to_owned());
        match node.op_type.as_str() {
            "GlobalAveragePool" if !layers.is_empty() => {
                layers.reverse();
                let is_chain = layers.windows(2).all(|pair| pair[0].bias.len() == pair[1].n_in());
                if !is_chain {
                    return Err("dense layers of sizes that don't follow one another".to_owned());
                }
                return Ok((Head { low, high, layers }, node.input(0).ok_or_else(missing)?.to_owned()));
            }
            "Gemm" => {
                layers.push(Dense { low, high, ..dense(node, graph, &constants).map_err(failed)? });
                (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
            }
            "Relu" => low = low.max(0.0),
            "Clip" => {
                let limit = |idx: usize, attribute: &str, none: f32| match node.input(idx) {
                    Some(name) => constants.scalar::<f32>(name).ok_or_else(missing),
                    None => Ok(node.float(attribute, none)),
                };
                low = low.max(limit(1, "min", f32::NEG_INFINITY)?);
                high = high.min(limit(2, "max", f32::INFINITY)?);
            }
            "QuantizeLinear" => {
                let scale =
                    node.input(1).and_then(|name| constants.scalar::<f32>(name)).ok_or_else(missing)?;
                let zero = node.input(2).and_then(|name| constants.scalar::<u8>(name)).ok_or_else(missing)?;
                low = low.max(-f32::from(zero) * scale);
                high = high.min(f32::from(u8::MAX - zero) * scale);
            }
            "DequantizeLinear" | "Flatten" | "Reshape" | "Identity" => {}
            _ => return Err(failed("expected GlobalAveragePool, then Gemm, Relu or Clip".to_owned())),
        }
        value = node.input(0).ok_or_else(missing)?;
    }
    Err("expected an end of the graph's nodes, found a ring".to_owned())
}

/// The layer of a Gemm, uncut.
fn dense(node: &pb::NodeProto, graph: &pb::GraphProto, constants: &Constants) -> Result<Dense, String> {
    let is_plain = node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0;
    if !is_plain || node.int("transA", 0) != 0 {
        return Err("expected alpha and beta of 1, and no transA".to_owned());
    }
    let floats = |idx: usize| {
        let name = node.input(idx).ok_or_else(|| format!("expected input {idx}"))?;
        read(name, graph, constants).ok_or_else(|| format!("{name}: expected a constant"))
    };
    let ((shape, weights), (_, bias)) = (floats(1)?, floats(2)?);
    let is_transposed = node.int("transB", 0) != 0;
    let (n_out, n_in) = match shape[..] {
        [n_out, n_in] if is_transposed => (n_out, n_in),
        [n_in, n_out] => (n_out, n_in),
        _ => return Err(format!("expected weights of two axes, found {shape:?}")),
    };
    if n_in == 0 || n_out == 0 || bias.len() != n_out {
        return Err(format!(
            "expected weights and as many biases, found {n_out} x {n_in} and {}",
            bias.len()
        ));
    }
    let weights = if is_transposed {
        weights
    } else {
        (0..n_out).flat_map(|out| weights.iter().skip(out).step_by(n_out).copied()).collect()
    };
    Ok(Dense { weights, bias, low: f32::NEG_INFINITY, high: f32::INFINITY })
}

/// A constant's shape and values: f32, or what DequantizeLinear makes of integers.
fn read(name: &str, graph: &pb::GraphProto, constants: &Constants) -> Option<(Vec<usize>, Vec<f32>)> {
    if let Some(floats) = constants.get::<f32>(name) {
        return Some((floats.shape, floats.values));
    }
    let node =
        graph.node.iter().find(|n| n.op_type == "DequantizeLinear" && n.output.iter().any(|o| o == name))?;
    let (quantized, scales) = (node.input(0)?, constants.get::<f32>(node.input(1)?)?.values);
    let (shape, integers) = integers(quantized, constants)?;
    let zeros = match node.input(2) {
        Some(name) => integers_or_none(name, constants)?,
        None => vec![0; scales.len()],
    };
    let axis = node.int("axis", 1);
    let axis = usize::try_from(if axis < 0 { axis + i64::try_from(shape.len()).ok()? } else { axis }).ok()?;
    let n_inner = shape.iter().skip(axis + 1).product::<usize>().max(1);
    let n_scales = scales.len();
    let is_sound = n_scales == zeros.len() && (n_scales == 1 || shape.get(axis) == Some(&n_scales));
    let scaled = |(at, q): (usize, i64)| {
        let channel = at / n_inner % n_scales;
        #[expect(clippy::cast_precision_loss, reason = "as DequantizeLinear computes it, in f32")]
        let steps = (q - zeros[channel]) as f32;
        steps * scales[channel]
    };
    is_sound.then(|| (shape, integers.into_iter().enumerate().map(scaled).collect()))
}

fn integers_or_none(name: &str, constants: &Constants) -> Option<Vec<i64>> {
    integers(name, constants).map(|(_, values)| values)
}

fn integers(name: &str, constants: &Constants) -> Option<(Vec<usize>, Vec<i64>)> {
    match constants.data_type(name)? {
        DataType::Int8 => {
            constants.get::<i8>(name).map(|c| (c.shape, c.values.into_iter().map(i64::from).collect()))
        }
        DataType::Uint8 => {
            constants.get::<u8>(name).map(|c| (c.shape, c.values.into_iter().map(i64::from).collect()))
        }
        DataType::Int32 => {
            constants.get::<i32>(name).map(|c| (c.shape, c.values.into_iter().map(i64::from).collect()))
        }
        _ => None,
    }
}

/// Makes `value` the graph's output, and leaves only what it is made of.
fn cut(graph: &mut pb::GraphProto, value: String) {
    let mut read: HashSet<String> = HashSet::from([value.clone()]);
    // Nodes stand behind those that make what they read.
    let mut nodes: Vec<pb::NodeProto> = std::mem::take(&mut graph.node);
    let mut kept: Vec<pb::NodeProto> = Vec::with_capacity(nodes.len());
    while let Some(node) = nodes.pop() {
        if node.output.iter().any(|output| read.contains(output)) {
            read.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|constant| read.contains(&constant.name));
    graph.output = vec![pb::ValueInfoProto { name: value, ..Default::default() }];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let hidden = Dense {
            weights: vec![1.0, 2.0, -1.0, 0.5, 3.0, 0.0],
            bias: vec![0.5, -1.0, 100.0],
            low: 0.0,
            high: 6.0,
        };
        let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
        let logits = Dense { weights: vec![1.0, 0.0, 0.5, -2.0, 4.0, 1.0], bias: vec![0.25, 1.0], low, high };
        Head { low: 0.0, high: 4.0, layers: vec![hidden, logits] }
    }

    /// By hand: at (1, 0.5) the hidden values are 2.5, -1.75 -> 0 and 103 -> 6, and the logits 5.75 and 2.
    #[test]
    fn a_slope_is_the_head_near_its_means() {
        let slope = head().difference(&[1.0, 0.5], 1, 0);
        assert_eq!(slope.weights, [-3.0, -6.0]);
        let at = |x: [f64; 2]| slope.constant + slope.weights[0] * x[0] + slope.weights[1] * x[1];
        assert_eq!(at([1.0, 0.5]), 2.0 - 5.75);
        // A step that crosses no end, through the layers themselves.
        let moved = head().difference(&[1.25, 0.375], 1, 0);
        assert_eq!(at([1.25, 0.375]), moved.constant + moved.weights[0] * 1.25 + moved.weights[1] * 0.375);
        assert_eq!((head().n_channels(), head().n_logits()), (2, 2));
        // A mean beyond its range counts as the range's end, and moving it changes nothing.
        let (beyond, end) = (head().difference(&[5.0, 0.5], 1, 0), head().difference(&[4.0, 0.5], 1, 0));
        assert_eq!(beyond.weights[0], 0.0);
        let value = |slope: &Slope, x: f64| slope.constant + slope.weights[0] * x + slope.weights[1] * 0.5;
        assert_eq!(value(&beyond, 5.0), value(&end, 4.0));
    }
}
