//! An int8 network as an ONNX file, in the form that `onnxruntime.quantization` gives: QDQ.
//!
//! A step is QuantizeLinear -> DequantizeLinear to u8, one scale and zero point a tensor; weights are i8, one scale an
//! output channel; biases are i32 of the scale input x weight. ReLU and ReLU6 have no node: the step ends where they do.
//! A layer that stays in float has f32 weights, and its activation's node, between its input's DequantizeLinear and the
//! next QuantizeLinear.

use tch::{Kind as Type, Tensor};

use super::int8::{Int8, Layer};
use super::numbers::{Integers, Step};
use super::plan::{Clip, Kind, Node};
use super::ranges::floats;
use crate::export::onnx::{Attribute, Constant, FLOAT, Graph, INT8, INT32, Node as Operator, UINT8};
use crate::export::{LOGITS, little_endian, model, window_attributes};
use crate::model::Spec;

/// The bytes of `network` as ONNX: `input`, f32 [N,3,S,S] normalised RGB -> `logits`, f32 [N,classes].
///
/// Metadata as the float file's. Equal networks give equal bytes.
pub fn onnx(network: &Int8, spec: &Spec) -> Vec<u8> {
    let n_classes = match network.plan.nodes[network.plan.logits_idx()].kind {
        Kind::Dense { n_out, .. } => n_out,
        _ => unreachable!("a classifier's last layer is dense"),
    };
    model(graph(network, LOGITS), spec, n_classes, "int8 QDQ")
}

/// The nodes and constants of `network`, whose input is called as its first node is; what its last node gives, `output`.
pub(super) fn graph(network: &Int8, output: &str) -> Graph {
    let mut writer = Writer { network, output, flows: Vec::new(), graph: Graph::default() };
    for idx in 0..network.plan.nodes.len() {
        writer.node(idx);
    }
    writer.graph
}

/// Appends a plan's nodes to a graph.
struct Writer<'a> {
    network: &'a Int8,
    output: &'a str,
    /// For each node so far, the name of what its bytes stand for.
    flows: Vec<String>,
    graph: Graph,
}

impl Writer<'_> {
    fn node(&mut self, idx: usize) {
        let node = &self.network.plan.nodes[idx];
        let inputs: Vec<String> = node.inputs.iter().map(|&input| self.flows[input].clone()).collect();
        let name = node.name.as_str();
        let output = match &node.kind {
            Kind::Input => name.to_owned(),
            Kind::Convolution { window, groups } => {
                let mut attributes = window_attributes(window.kernel_px, window.stride, window.pads);
                attributes.push(Attribute::int("group", *groups));
                self.product(idx, "Conv", inputs, attributes)
            }
            Kind::Dense { .. } => self.product(idx, "Gemm", inputs, vec![Attribute::int("transB", 1)]),
            Kind::Silu => {
                let gate = format!("{}.sigmoid", node.name.trim_end_matches(".silu"));
                self.operator("Sigmoid", inputs.clone(), &gate, vec![]);
                self.operator("Mul", [inputs, vec![gate]].concat(), name, vec![])
            }
            Kind::Relu => self.operator("Relu", inputs, name, vec![]),
            Kind::Sigmoid => self.operator("Sigmoid", inputs, name, vec![]),
            Kind::MaxPool(window) => {
                let attributes = window_attributes(window.kernel_px, window.stride, window.pads);
                self.operator("MaxPool", inputs, name, attributes)
            }
            Kind::Mean => self.operator("GlobalAveragePool", inputs, name, vec![]),
            Kind::Flatten => self.operator("Flatten", inputs, name, vec![Attribute::int("axis", 1)]),
            Kind::Multiply => self.operator("Mul", inputs, name, vec![]),
            Kind::Add => self.operator("Add", inputs, &node.layer, vec![]),
        };
        let flow = if idx == self.network.plan.logits_idx() {
            output
        } else {
            self.step(&output, &format!("{name}.q"), self.network.steps[idx])
        };
        self.flows.push(flow);
    }

    /// A layer with weights; of one in float, its activation too.
    fn product(
        &mut self,
        idx: usize,
        op_type: &str,
        inputs: Vec<String>,
        attributes: Vec<Attribute>,
    ) -> String {
        let network = self.network;
        let node = &network.plan.nodes[idx];
        let output = if idx == network.plan.logits_idx() { self.output } else { &node.layer };
        match network.layers[idx].as_ref().unwrap_or_else(|| unreachable!("{} has weights", node.name)) {
            Layer::Int8(integers) => {
                let parameters = self.integers(node, integers, network.input_step(idx, 0).scale);
                let sums = self.operator(op_type, [inputs, parameters].concat(), output, attributes);
                self.bent(node, sums)
            }
            Layer::Float { weight, bias } => {
                let parameters = [("weight", weight), ("bias", bias)].map(|(what, values)| {
                    let name = format!("{}.{what}", node.layer);
                    self.constant(name, FLOAT, values.size(), little_endian(values))
                });
                let sums = self.operator(op_type, [&inputs[..], &parameters].concat(), output, attributes);
                let sums = self.bent(node, sums);
                match node.clip {
                    Clip::None => sums,
                    Clip::Relu => self.operator("Relu", vec![sums], &node.name, vec![]),
                    Clip::Relu6 => {
                        let limits = [0.0f32, 6.0].map(|limit| {
                            let name = format!("{}.{limit}", node.name);
                            self.constant(name, FLOAT, vec![], limit.to_le_bytes().to_vec())
                        });
                        self.operator("Clip", [&[sums][..], &limits].concat(), &node.name, vec![])
                    }
                }
            }
        }
    }

    /// Appends a node's slopes, if it has any.
    fn bent(&mut self, node: &Node, sums: String) -> String {
        let Some(slopes) = &node.slopes else { return sums };
        let bytes = slopes.iter().flat_map(|slope| slope.to_le_bytes()).collect();
        let mut dims = vec![i64::try_from(slopes.len()).unwrap_or(i64::MAX)];
        if matches!(node.kind, Kind::Convolution { .. }) {
            dims.extend([1, 1]);
        }
        let slopes = self.constant(format!("{}.slope", node.name), FLOAT, dims, bytes);
        self.operator("PRelu", vec![sums, slopes], &node.name, vec![])
    }

    fn integers(&mut self, node: &Node, integers: &Integers, input_scale: f32) -> Vec<String> {
        let Integers { weight, scale, bias } = integers;
        let bytes = |kind: Type| {
            let whole = weight.detach().to_kind(kind).contiguous().reshape([-1]);
            let mut bytes = vec![0i8; whole.numel()];
            whole.copy_data(&mut bytes, whole.numel());
            bytes.into_iter().map(i8::cast_unsigned).collect::<Vec<u8>>()
        };
        let bias_scale = scale * f64::from(input_scale);
        let words = bias.detach().to_kind(Type::Int).contiguous();
        let mut ints = vec![0i32; words.numel()];
        words.copy_data(&mut ints, words.numel());
        let ints: Vec<u8> = ints.into_iter().flat_map(i32::to_le_bytes).collect();
        let (weight_dims, layer) = (weight.size(), &node.layer);
        let weight =
            self.dequantized(&format!("{layer}.weight"), "i8", weight_dims, bytes(Type::Int8), scale);
        let bias = self.dequantized(&format!("{layer}.bias"), "i32", bias.size(), ints, &bias_scale);
        vec![weight, bias]
    }

    /// Integers with one scale for each entry of the first axis; gives the name of what they stand for.
    fn dequantized(
        &mut self,
        name: &str,
        word: &str,
        dims: Vec<i64>,
        integers: Vec<u8>,
        scale: &Tensor,
    ) -> String {
        let n_scales = dims[0];
        let (data_type, n_bytes) = if word == "i8" { (INT8, 1) } else { (INT32, 4) };
        let zeros = vec![0u8; floats(scale).len() * n_bytes];
        let inputs = vec![
            self.constant(format!("{name}.{word}"), data_type, dims, integers),
            self.constant(format!("{name}.scale"), FLOAT, vec![n_scales], little_endian(scale)),
            self.constant(format!("{name}.zero"), data_type, vec![n_scales], zeros),
        ];
        self.operator("DequantizeLinear", inputs, name, vec![Attribute::int("axis", 0)])
    }

    /// Lets `source` go on in bytes; gives the name of what they stand for.
    fn step(&mut self, source: &str, name: &str, step: Step) -> String {
        let scale = step.scale.to_le_bytes().to_vec();
        let numbers = [
            self.constant(format!("{name}.scale"), FLOAT, vec![], scale),
            self.constant(format!("{name}.zero"), UINT8, vec![], vec![step.zero]),
        ];
        let bytes = format!("{name}.u8");
        self.operator("QuantizeLinear", [&[source.to_owned()][..], &numbers].concat(), &bytes, vec![]);
        let inputs = [&[bytes][..], &numbers].concat();
        self.operator("DequantizeLinear", inputs, &format!("{name}.f32"), vec![])
    }

    fn operator(
        &mut self,
        op_type: &str,
        input: Vec<String>,
        output: &str,
        attribute: Vec<Attribute>,
    ) -> String {
        let (op_type, name) = (op_type.to_owned(), output.to_owned());
        self.graph.node.push(Operator {
            input,
            output: vec![name.clone()],
            name: name.clone(),
            op_type,
            attribute,
        });
        name
    }

    fn constant(&mut self, name: String, data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>) -> String {
        self.graph.initializer.push(Constant { dims, data_type, name: name.clone(), raw_data });
        name
    }
}
