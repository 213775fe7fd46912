//! A QDQ graph -> steps over bytes. Nodes are read in the file's order, each value being what is known of
//! it; a QuantizeLinear makes a step of what leads to it. What no step can be made of stays an ONNX node,
//! which tract runs in float; the log names it.

mod bounds;
mod conv;
mod fold;
mod nodes;
mod quantize;
mod value;

use std::collections::{BTreeMap, BTreeSet, HashMap};

#[cfg(feature = "float")]
pub(super) use self::bounds::MAX_MACS;
use self::bounds::{MAX_BYTES, MAX_CHANNELS, MAX_DEPTH, MAX_TENSOR_BYTES, MOST_PACKED};
use self::conv::{Product, To, Weights};
use self::value::{Clip, Quant, Value, View};
use super::kernels::{Kernels, Packed, pixel_bytes};
use super::onnx::{Constants, NodeExt as _};
use super::pb;
use super::steps::{Function, Part, Step, Tensor, TensorId, Work};

/// Why no step can be made of a node.
pub(super) type Refusal = String;

/// A network as steps and what is left of its graph.
pub(super) struct Lowered {
    #[cfg_attr(not(feature = "float"), expect(dead_code, reason = "read by what runs in float"))]
    pub(super) constants: Constants,
    pub(super) tensors: Vec<Tensor>,
    /// In the order in which they run; those of a region follow one another.
    pub(super) steps: Vec<Step>,
    /// Indices of the graph's nodes that stay.
    pub(super) kept: BTreeSet<usize>,
}

/// What lowering needs to know besides the graph.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The version of ONNX's operators.
    pub(super) opset: i64,
    /// Pictures of a run.
    pub(super) n_pictures: usize,
    /// Shapes of floats made outside, the first axis counting pictures; asked for only when one is quantized.
    pub(super) float_shape: &'a dyn Fn(&str, &Constants) -> Option<Vec<usize>>,
}

/// Who reads a value.
#[derive(Default)]
struct Readers {
    nodes: Vec<usize>,
    is_output: bool,
}

/// The state of lowering one graph.
struct Lowering<'a> {
    graph: &'a pb::GraphProto,
    constants: Constants,
    kernels: &'a dyn Kernels,
    around: Around<'a>,
    /// Bytes of the weights packed so far.
    packed_bytes: usize,
    /// How many nodes deep [`Lowering::keep`] is.
    depth: usize,
    tensors: Vec<Tensor>,
    steps: Vec<Step>,
    values: HashMap<&'a str, Value>,
    makers: HashMap<&'a str, usize>,
    /// Nodes that read a value, once for each time, and whether the graph gives it out.
    readers: HashMap<&'a str, Readers>,
    kept: BTreeSet<usize>,
    /// Floats that regions give, with the level of those that use them.
    given: BTreeMap<String, usize>,
}

/// Lowers `graph` for one picture at a time.
///
/// # Errors
/// A reason when the tensors are too large or the work is too much.
pub(super) fn lower(
    graph: &pb::GraphProto,
    constants: Constants,
    kernels: &dyn Kernels,
    around: Around<'_>,
) -> Result<Lowered, Refusal> {
    let mut makers = HashMap::new();
    for (idx, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().map(|name| (name.as_str(), idx)));
    }
    let mut readers: HashMap<&str, Readers> = HashMap::new();
    for (idx, node) in graph.node.iter().enumerate() {
        for name in &node.input {
            readers.entry(name).or_default().nodes.push(idx);
        }
    }
    for output in &graph.output {
        readers.entry(&output.name).or_default().is_output = true;
    }
    let mut lowering = Lowering {
        graph,
        constants,
        kernels,
        around,
        packed_bytes: 0,
        depth: 0,
        tensors: Vec::new(),
        steps: Vec::new(),
        values: HashMap::new(),
        makers,
        readers,
        kept: BTreeSet::new(),
        given: BTreeMap::new(),
    };
    for idx in 0..graph.node.len() {
        lowering.read(idx)?;
    }
    for output in &graph.output {
        lowering.float(&output.name)?;
    }
    let Lowering { constants, mut tensors, mut steps, kept, .. } = lowering;
    fold::fold(&mut steps);
    fold::widen(&mut tensors, &steps);
    bounds::check(&tensors, &steps, around.n_pictures)?;
    // A stable sort: within a region the order stays.
    steps.sort_by_key(|s| s.region);
    Ok(Lowered { constants, tensors, steps, kept })
}

impl<'a> Lowering<'a> {
    /// Reads one node.
    fn read(&mut self, idx: usize) -> Result<(), Refusal> {
        let node = &self.graph.node[idx];
        if node.op_type == "Constant" {
            return Ok(());
        }
        match self.values_of(node) {
            Ok(values) if values.len() < node.output.len() => {
                return Err(format!("node {} ({}): more outputs than known", node.label(), node.op_type));
            }
            Ok(values) => {
                for (name, value) in node.output.iter().zip(values) {
                    self.values.insert(name, value);
                }
            }
            Err(why) => {
                // Nothing to say of graphs, or parts of them, that were never quantized.
                if node.input.iter().any(|name| self.is_quantized(name)) {
                    log::warn!("node {} ({}) runs in float: {why}", node.label(), node.op_type);
                }
                self.keep(idx).map_err(|why| format!("node {} ({}): {why}", node.label(), node.op_type))?;
            }
        }
        Ok(())
    }

    fn is_quantized(&self, name: &str) -> bool {
        !matches!(self.values.get(name), None | Some(Value::Float { .. } | Value::Constant { .. }))
    }

    /// Leaves a node to tract; gives the level of its outputs.
    fn keep(&mut self, idx: usize) -> Result<usize, Refusal> {
        let node = &self.graph.node[idx];
        let mut level = 0;
        if self.kept.insert(idx) {
            if self.depth == MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} nodes before it that no step was made of"));
            }
            self.depth += 1;
            for name in node.input.iter().filter(|name| !name.is_empty()) {
                level = level.max(self.float(name)?);
            }
            self.depth -= 1;
        }
        for name in &node.output {
            // What is known of a value stays known; it only exists in float as well.
            self.values.entry(name).or_insert(Value::Float { level });
            self.given.entry(name.clone()).or_insert(level);
        }
        Ok(level)
    }

    /// Sees to it that the value exists in float; gives its level.
    fn float(&mut self, name: &str) -> Result<usize, Refusal> {
        if let Some(level) = self.given.get(name) {
            return Ok(*level);
        }
        let Some((&name, value)) = self.values.get_key_value(name) else { return Ok(0) };
        let value = value.clone();
        match value.clone() {
            Value::Float { level } => Ok(level),
            Value::Real(view) => {
                let region = self.tensors[view.tensor].region;
                let work = Work::Dequantize { name: name.to_owned(), is_flat: view.is_flat };
                self.steps.push(Step {
                    name: name.to_owned(),
                    work,
                    sources: vec![view.tensor],
                    target: None,
                    region,
                });
                Ok(self.give(name, region))
            }
            Value::Part(part, is_flat) => Ok(self.emit(name, part, is_flat)),
            Value::Constant { .. }
            | Value::Bytes(_)
            | Value::Mapped(..)
            | Value::Product { .. }
            | Value::Sum(..)
            | Value::Gate(..)
            | Value::Mean(_)
            | Value::Max(..) => {
                if let Value::Product { of, product, clip, is_flat } = &value
                    && *clip == Clip::NONE
                    && product.slopes.is_none()
                    && let Ok(part) = self.floats_of(name, *of, product)
                {
                    self.values.insert(name, Value::Part(part.clone(), *is_flat));
                    return Ok(self.emit(name, part, *is_flat));
                }
                let idx = self.makers.get(name).copied().ok_or_else(|| format!("{name}: made by no node"))?;
                if !matches!(value, Value::Constant { .. }) {
                    let node = &self.graph.node[idx];
                    log::warn!(
                        "node {} ({}) runs in float: its output isn't quantized",
                        node.label(),
                        node.op_type
                    );
                }
                self.keep(idx)
            }
        }
    }

    fn emit(&mut self, name: &str, part: Part, is_flat: bool) -> usize {
        let (tensor, region) = (part.tensor, self.tensors[part.tensor].region);
        let work = Work::Emit { name: name.to_owned(), part, is_flat };
        self.steps.push(Step { name: name.to_owned(), work, sources: vec![tensor], target: None, region });
        self.give(name, region)
    }

    /// Notes that a region gives a float; gives its level.
    fn give(&mut self, name: &str, region: usize) -> usize {
        self.given.insert(name.to_owned(), region + 1);
        region + 1
    }

    /// Adds a tensor, after a check of its size.
    fn tensor(
        &mut self,
        name: &str,
        (height, width): (usize, usize),
        n_channels: usize,
        quant: Quant,
        region: usize,
    ) -> Result<TensorId, Refusal> {
        self.tensor_of(name, (height, width), n_channels, pixel_bytes(n_channels), Some(quant), region)
    }

    fn tensor_of(
        &mut self,
        name: &str,
        (height, width): (usize, usize),
        n_channels: usize,
        pixel_bytes: usize,
        quant: Option<Quant>,
        region: usize,
    ) -> Result<TensorId, Refusal> {
        let n_bytes = height.checked_mul(width).and_then(|n| n.checked_mul(pixel_bytes));
        if n_bytes.is_none_or(|n| n == 0 || n > MAX_TENSOR_BYTES) || n_channels > MAX_CHANNELS {
            return Err(format!("{height} x {width} x {n_channels} are no values or too many"));
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            height,
            width,
            n_channels,
            pixel_bytes,
            border: super::steps::Border::default(),
            zero: quant.map_or(0, |q| q.range.zero),
            scale: quant.map_or(1.0, |q| q.scale),
            region,
        });
        Ok(self.tensors.len() - 1)
    }

    /// Adds a step that makes a tensor of bytes.
    fn step(&mut self, name: &str, work: Work, sources: Vec<TensorId>, target: TensorId) -> View {
        let region = self.tensors[target].region;
        self.steps.push(Step { name: name.to_owned(), work, sources, target: Some(target), region });
        View { tensor: target, is_flat: false }
    }

    /// The step of a convolution whose sums are wanted as floats.
    fn floats_of(&mut self, name: &str, of: View, product: &Product) -> Result<Part, Refusal> {
        if product.is_depthwise {
            return Err("a depthwise convolution without a quantized output".into());
        }
        let (n_channels, region) = (product.n_out(), self.tensors[of.tensor].region);
        let tensor =
            self.tensor_of(name, product.size, n_channels, 4 * pixel_bytes(n_channels), None, region)?;
        let packed = self.packed(name, of, product, &To::Floats)?;
        let work = Work::Conv { packed, window: product.window };
        self.step(name, work, vec![of.tensor], tensor);
        Ok(Part { tensor, from: 0, n_channels, function: Function::None })
    }

    /// A convolution in the kernels' order; `name` is its output in the graph.
    fn packed(&mut self, name: &str, of: View, product: &Product, to: &To) -> Result<Packed, Refusal> {
        let source = &self.tensors[of.tensor];
        let [n_out, _, rows, columns] = product.weights.shape;
        let pixel = if product.is_depthwise { 1 } else { source.pixel_bytes };
        let sides = [n_out.next_multiple_of(MOST_PACKED), rows, columns, pixel];
        let n_bytes = sides.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        self.packed_bytes = self.packed_bytes.saturating_add(n_bytes.unwrap_or(usize::MAX));
        if self.packed_bytes > MAX_BYTES {
            return Err(format!("the network's weights take more than {MAX_BYTES} bytes"));
        }
        let values = product.weights.values(&self.constants)?;
        let packed = if product.is_depthwise {
            self.kernels.pack_depthwise(&product.depthwise(source, values, to)?)
        } else {
            self.kernels.pack_conv(&product.conv(source, values, to)?)
        };
        // The file's copy goes as soon as nothing else can want it, so that only one copy of the weights of
        // a network is held while it is loaded.
        if self.is_spent(name, &product.weights, to) {
            self.constants.forget(&product.weights.name);
        }
        Ok(packed)
    }

    /// The nodes that read a value.
    fn readers(&self, name: &str) -> impl Iterator<Item = &'a pb::NodeProto> + '_ {
        let graph = self.graph;
        self.readers.get(name).into_iter().flat_map(|r| &r.nodes).map(move |&idx| &graph.node[idx])
    }

    fn is_output(&self, name: &str) -> bool {
        self.readers.get(name).is_some_and(|r| r.is_output)
    }

    /// Whether no node but those of the step of `name`, which is a product, can want its weights: nothing else
    /// reads them or a value between them and `name`, and its bytes are only read as what they stand for.
    fn is_spent(&self, name: &str, weights: &Weights, to: &To) -> bool {
        let is_sole =
            |name: &str| self.readers.get(name).is_none_or(|r| r.nodes.len() + usize::from(r.is_output) == 1);
        if let To::Bytes { scale, range } = to {
            let is_real = |node: &pb::NodeProto| {
                node.op_type == "DequantizeLinear"
                    && self.quant(node).is_ok_and(|q| q.scale == *scale && q.range.zero == range.zero)
            };
            let mut bytes = self.readers(name).flat_map(|node| &node.output);
            if bytes.any(|bytes| self.is_output(bytes) || !self.readers(bytes).all(is_real)) {
                return false;
            }
        }
        let mut at = name;
        while is_sole(at) {
            let Some(node) = self.makers.get(at).map(|&idx| &self.graph.node[idx]) else { return false };
            if node.input.contains(&weights.read_as) {
                return is_sole(&weights.name) && is_sole(&weights.read_as);
            }
            let is_product =
                |name: &&String| matches!(self.values.get(name.as_str()), Some(Value::Product { .. }));
            let Some(before) = node.input.iter().find(is_product) else { return false };
            at = before;
        }
        false
    }
}
