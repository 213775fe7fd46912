//! A network as a float ONNX file, from the description that training runs.
//!
//! Batch normalisation is folded into the convolutions before it and what only training does is left out. Nodes and
//! constants have the names of the scripts in `models/`.

pub mod command;
pub(crate) mod onnx;

use prost::Message as _;
use tch::{Kind, Tensor};

use self::onnx::{Attribute, Constant, FLOAT, Graph, Model, Node, OperatorSet, Property, Value};
use crate::model::description::{Layer, N_CLASSES, Op};
use crate::model::{Network, Spec};

/// The operators' version: the first with scales per channel, which every engine in use reads.
pub const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;
/// The input's name.
pub const INPUT: &str = "input";
/// The output's name.
pub const LOGITS: &str = "logits";

/// The bytes of `network` as ONNX: `input`, f32 [N,3,S,S] normalised RGB -> `logits`, f32 [N,2] (real, fake).
///
/// The metadata hold `spec` (JSON of [`crate::model::Spec`]), `input` (JSON: size, mean, std, margin of the crops) and
/// `labels` (the logits' names). Equal networks give equal bytes.
pub fn onnx(network: &Network) -> Vec<u8> {
    let spec = network.spec();
    let mut writer = Writer {
        network: &network.folded(),
        side_px: Vec::new(),
        names: Vec::new(),
        graph: Graph::default(),
    };
    for (idx, layer) in network.description().layers.iter().enumerate() {
        writer.layer(idx, layer);
    }
    model(writer.graph, spec, N_CLASSES, "float")
}

/// The bytes of a file around `graph`, whose logits are `n_classes`; `kind` says what its numbers are.
pub(crate) fn model(mut graph: Graph, spec: &Spec, n_classes: i64, kind: &str) -> Vec<u8> {
    let size_px = i64::from(spec.size_px());
    graph.name = "classifier".into();
    graph.input = vec![Value::batch(INPUT, &[3, size_px, size_px])];
    graph.output = vec![Value::batch(LOGITS, &[n_classes])];
    let property = |key: &str, value| Property { key: key.into(), value };
    let json =
        |value: Result<String, serde_json::Error>| value.unwrap_or_else(|_| unreachable!("plain numbers"));
    let mut metadata_props = vec![
        property("spec", json(serde_json::to_string(spec))),
        property("input", json(serde_json::to_string(&spec.input))),
    ];
    if n_classes == N_CLASSES {
        metadata_props.push(property("labels", "real,fake".into()));
    }
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: format!("{}, {size_px} px, {kind}", spec.backbone),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props,
    };
    model.encode_to_vec()
}

/// Appends a description's layers to a graph.
struct Writer<'a> {
    network: &'a Network,
    /// For each layer so far, the side of its square output.
    side_px: Vec<i64>,
    /// For each layer so far, the name of its output.
    names: Vec<String>,
    graph: Graph,
}

impl Writer<'_> {
    fn layer(&mut self, idx: usize, layer: &Layer) {
        let name = layer.name.as_str();
        let inputs: Vec<String> = layer.inputs.iter().map(|&input| self.names[input].clone()).collect();
        let mut side_px = layer.inputs.first().map_or(0, |&input| self.side_px[input]);
        match &layer.op {
            Op::Input => side_px = i64::from(self.network.spec().size_px()),
            Op::Convolution(convolution) => {
                let inputs = [inputs, self.parameters(idx, name)].concat();
                let (kernel_px, stride) = (convolution.kernel_px, convolution.stride);
                let (before, after) = convolution.pads(side_px);
                let mut attributes = window_attributes(kernel_px, stride, [before, before, after, after]);
                attributes.push(Attribute::int("group", convolution.groups));
                self.node("Conv", inputs, name, attributes);
                side_px = (side_px + stride - 1) / stride;
            }
            Op::Relu => self.node("Relu", inputs, name, vec![]),
            Op::Relu6 => {
                let limits = [0.0f32, 6.0].map(|limit| {
                    self.constant(format!("{name}.{limit}"), vec![], limit.to_le_bytes().to_vec())
                });
                self.node("Clip", [inputs, limits.to_vec()].concat(), name, vec![]);
            }
            Op::Silu => {
                let gate = format!("{}.sigmoid", name.trim_end_matches(".silu"));
                self.node("Sigmoid", inputs.clone(), &gate, vec![]);
                self.node("Mul", [inputs, vec![gate]].concat(), name, vec![]);
            }
            Op::Sigmoid => self.node("Sigmoid", inputs, name, vec![]),
            &Op::MaxPool { kernel_px, stride } => {
                self.node("MaxPool", inputs, name, window_attributes(kernel_px, stride, [kernel_px / 2; 4]));
                side_px = (side_px + stride - 1) / stride;
            }
            Op::Mean => {
                self.node("GlobalAveragePool", inputs, name, vec![]);
                side_px = 1;
            }
            Op::Flatten => self.node("Flatten", inputs, name, vec![Attribute::int("axis", 1)]),
            Op::Multiply => self.node("Mul", inputs, name, vec![]),
            Op::Add => self.node("Add", inputs, name, vec![]),
            Op::DropConnect(_) | Op::Dropout(_) => {}
            Op::Dense { .. } => {
                let is_last = idx + 1 == self.network.description().layers.len();
                let output = if is_last { LOGITS } else { name };
                let inputs = [inputs, self.parameters(idx, name)].concat();
                self.node("Gemm", inputs, output, vec![Attribute::int("transB", 1)]);
            }
        }
        // What only training does passes its input on.
        self.names.push(match layer.op {
            Op::DropConnect(_) | Op::Dropout(_) => self.names[layer.inputs[0]].clone(),
            _ => name.to_owned(),
        });
        self.side_px.push(side_px);
    }

    /// Adds an operator that is called as its output is.
    fn node(&mut self, op_type: &str, input: Vec<String>, output: &str, attribute: Vec<Attribute>) {
        let (op_type, name, output) = (op_type.to_owned(), output.to_owned(), vec![output.to_owned()]);
        self.graph.node.push(Node { input, output, name, op_type, attribute });
    }

    fn constant(&mut self, name: String, dims: Vec<i64>, raw_data: Vec<u8>) -> String {
        self.graph.initializer.push(Constant { dims, data_type: FLOAT, name: name.clone(), raw_data });
        name
    }

    fn parameters(&mut self, idx: usize, name: &str) -> Vec<String> {
        let (weight, bias) = self
            .network
            .weight_and_bias(idx)
            .unwrap_or_else(|| unreachable!("a folded network has a weight and a bias in {name}"));
        let (weight_bytes, bias_bytes) = (little_endian(weight), little_endian(bias));
        let (weight_dims, bias_dims) = (weight.size(), bias.size());
        vec![
            self.constant(format!("{name}.weight"), weight_dims, weight_bytes),
            self.constant(format!("{name}.bias"), bias_dims, bias_bytes),
        ]
    }
}

/// The attributes of what moves a square window over a picture; pads as [top, left, bottom, right].
pub(crate) fn window_attributes(kernel_px: i64, stride: i64, pads: [i64; 4]) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &[kernel_px; 2]),
        Attribute::ints("strides", &[stride; 2]),
        Attribute::ints("pads", &pads),
    ]
}

/// A tensor's numbers as the format holds f32.
pub(crate) fn little_endian(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().reshape([-1]);
    let mut values = vec![0.0f32; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}
