//! A float ONNX file -> nodes and numbers to quantize, and the file around the integers that come of them.
//!
//! What is taken: opset 13, f32 constants in `raw_data`, one input, and nodes in an order in which they can run:
//!
//! - Conv with a square kernel and one stride, any pads, of one group or depthwise; PRelu with a slope for each channel
//!   or Relu behind it;
//! - MaxPool with a square window, `ceil_mode` where nothing is padded below and to the right;
//! - GlobalAveragePool, and Flatten behind it; Gemm without transA;
//! - Add of two tensors; Relu anywhere.
//!
//! The last Conv or Gemm gives floats. What follows it (Split, Sigmoid, Softmax, Flatten, Reshape) stays as it is, and may
//! give several outputs. A dense layer over a picture is written as a Conv whose kernel is as large as the picture.

use std::collections::HashMap;

use prost::Message as _;
use tch::{Kind as Type, Tensor};

use super::float::{Float, Parameters};
use super::int8::Int8;
use super::plan::{Clip, Kind, Node, Plan, Window};
use super::qdq;
use crate::export::OPSET;
use crate::export::onnx::{Constant, FLOAT, Model, Node as Operator, Property};

/// What may follow the last product.
const TAIL: [&str; 5] = ["Split", "Sigmoid", "Softmax", "Flatten", "Reshape"];

/// Why a file can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No ONNX.
    #[error("no ONNX file: {0}")]
    Syntax(#[from] prost::DecodeError),
    /// The file as a whole.
    #[error("expected {expected}, found {found}")]
    File {
        /// What was expected.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// One operator.
    #[error("node {node} ({op_type}): {why}")]
    Operator {
        /// Its first output.
        node: String,
        /// What it is.
        op_type: String,
        /// What was expected, and what was found.
        why: String,
    },
}

/// A network of a float file.
#[derive(Debug)]
pub struct Imported {
    /// Its nodes up to the last product, and their numbers.
    pub float: Float,
    /// What the last product gives is called.
    last: String,
    /// The file without what `float` has.
    rest: Model,
}

impl Imported {
    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// [`ImportError`] for anything but what this module's head lists.
    pub fn new(bytes: &[u8]) -> Result<Self, ImportError> {
        let mut rest = Model::decode(bytes)?;
        let versions: Vec<i64> = rest.opset_import.iter().map(|set| set.version).collect();
        if versions != [OPSET] {
            return Err(ImportError::File { expected: "opset 13 alone", found: format!("{versions:?}") });
        }
        let mut graph = rest.graph.take().unwrap_or_default();
        let is_product = |node: &Operator| matches!(node.op_type.as_str(), "Conv" | "Gemm");
        let Some(last) = graph.node.iter().rposition(is_product) else {
            return Err(ImportError::File { expected: "a Conv or a Gemm", found: "none".into() });
        };
        let [input] = &graph.input[..] else {
            let found = format!("{}", graph.input.len());
            return Err(ImportError::File { expected: "one input", found });
        };
        let mut n_readers: HashMap<&str, usize> = HashMap::new();
        let read = graph.node.iter().flat_map(|node| &node.input);
        for name in read.chain(graph.output.iter().map(|output| &output.name)) {
            *n_readers.entry(name).or_default() += 1;
        }
        let constants = graph.initializer.iter().map(|constant| (constant.name.as_str(), constant));
        let mut reader = Reader {
            constants: constants.collect(),
            n_readers,
            made: HashMap::from([(input.name.clone(), 0)]),
            nodes: vec![node(&input.name, Kind::Input, vec![])],
            parameters: vec![None],
        };
        for operator in &graph.node[..=last] {
            reader.operator(operator).map_err(|why| refused(operator, why))?;
        }
        let name = graph.node[last].output[0].clone();
        let Reader { nodes, parameters, .. } = reader;
        let float = Float { plan: Plan::of_nodes(nodes), parameters };

        let tail = graph.node.split_off(last + 1);
        let mut known = vec![name.clone()];
        known.extend(graph.initializer.iter().map(|constant| constant.name.clone()));
        for operator in &tail {
            check_tail(operator, &known).map_err(|why| refused(operator, why))?;
            known.extend(operator.output.iter().cloned());
        }
        if let Some(output) = graph.output.iter().find(|output| !known.contains(&output.name)) {
            let expected = "outputs that the last product leads to";
            return Err(ImportError::File { expected, found: output.name.clone() });
        }
        graph.initializer.retain(|constant| tail.iter().any(|node| node.input.contains(&constant.name)));
        graph.node = tail;
        rest.graph = Some(graph);
        Ok(Imported { float, last: name, rest })
    }

    /// The bytes of a file with the same inputs and outputs, `int8` in the place of the float nodes; `metadata` are added.
    ///
    /// Equal networks give equal bytes.
    pub fn onnx(&self, int8: &Int8, metadata: &[(&str, String)]) -> Vec<u8> {
        let mut model = self.rest.clone();
        let body = qdq::graph(int8, &self.last);
        if let Some(graph) = &mut model.graph {
            graph.node.splice(..0, body.node);
            graph.initializer.splice(..0, body.initializer);
        }
        model.producer_name = env!("CARGO_PKG_NAME").into();
        model.producer_version = env!("CARGO_PKG_VERSION").into();
        model.doc_string = format!("{}, int8 QDQ", model.doc_string);
        let properties =
            metadata.iter().map(|(key, value)| Property { key: (*key).to_owned(), value: value.clone() });
        model.metadata_props.extend(properties);
        model.encode_to_vec()
    }
}

fn refused(operator: &Operator, why: String) -> ImportError {
    let node = operator.output.first().cloned().unwrap_or_default();
    ImportError::Operator { node, op_type: operator.op_type.clone(), why }
}

fn check_tail(operator: &Operator, known: &[String]) -> Result<(), String> {
    if !TAIL.contains(&operator.op_type.as_str()) {
        return Err(format!("expected one of {} behind the last product", TAIL.join(", ")));
    }
    if let Some(other) = operator.attribute.iter().find(|attribute| attribute.integers().is_none()) {
        return Err(format!("{}: expected an attribute of integers", other.name));
    }
    match operator.input.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(format!("expected to read what the last product gives alone, found {name}")),
        None => Ok(()),
    }
}

fn node(name: &str, kind: Kind, inputs: Vec<usize>) -> Node {
    Node { name: name.into(), layer: name.into(), kind, inputs, slopes: None, clip: Clip::None }
}

/// Makes nodes of operators.
struct Reader<'a> {
    constants: HashMap<&'a str, &'a Constant>,
    n_readers: HashMap<&'a str, usize>,
    /// Which node makes a value.
    made: HashMap<String, usize>,
    nodes: Vec<Node>,
    parameters: Vec<Option<Parameters>>,
}

impl Reader<'_> {
    fn operator(&mut self, operator: &Operator) -> Result<(), String> {
        let [name] = &operator.output[..] else {
            return Err(format!("expected one output, found {}", operator.output.len()));
        };
        let attributes = Attributes::of(operator)?;
        let (kind, n_inputs, parameters) = match operator.op_type.as_str() {
            "Conv" => {
                let (kind, parameters) = self.convolution(operator, &attributes)?;
                (kind, 1, Some(parameters))
            }
            "Gemm" => {
                let (kind, parameters) = self.dense(operator, &attributes)?;
                (kind, 1, Some(parameters))
            }
            "PRelu" => return self.prelu(operator, name),
            "Relu" => return self.relu(operator, name),
            "MaxPool" => (Kind::MaxPool(attributes.pool()?), 1, None),
            "GlobalAveragePool" => (Kind::Mean, 1, None),
            "Flatten" => {
                let input = self.value(operator, 0)?;
                if self.nodes[input].kind != Kind::Mean || attributes.one("axis", 1)? != 1 {
                    return Err("expected axis 1 of a GlobalAveragePool".into());
                }
                (Kind::Flatten, 1, None)
            }
            "Add" => (Kind::Add, 2, None),
            _ => {
                return Err("expected one of Conv, Gemm, PRelu, Relu, MaxPool, GlobalAveragePool, Flatten, \
                            Add before the last product"
                    .into());
            }
        };
        let inputs = (0..n_inputs).map(|nth| self.value(operator, nth)).collect::<Result<_, _>>()?;
        self.push(node(name, kind, inputs), parameters);
        Ok(())
    }

    fn push(&mut self, node: Node, parameters: Option<Parameters>) {
        self.made.insert(node.name.clone(), self.nodes.len());
        self.nodes.push(node);
        self.parameters.push(parameters);
    }

    /// The node that makes an operator's input.
    fn value(&self, operator: &Operator, nth: usize) -> Result<usize, String> {
        let name = operator.input.get(nth).ok_or_else(|| format!("expected an input {nth}, found none"))?;
        self.made.get(name).copied().ok_or_else(|| format!("{name}: expected what an earlier node gives"))
    }

    /// An f32 constant; `None` where the operator has no such input.
    fn constant(&self, operator: &Operator, nth: usize) -> Result<Option<Tensor>, String> {
        let Some(name) = operator.input.get(nth).filter(|name| !name.is_empty()) else { return Ok(None) };
        let constant =
            self.constants.get(name.as_str()).ok_or_else(|| format!("{name}: expected a constant"))?;
        let mut sides = constant.dims.iter().map(|&side| usize::try_from(side).ok());
        let n_values = sides.try_fold(1usize, |n, side| n.checked_mul(side?));
        let (words, odd) = constant.raw_data.as_chunks::<4>();
        if constant.data_type != FLOAT || n_values != Some(words.len()) || !odd.is_empty() {
            let (dims, n_bytes) = (&constant.dims, constant.raw_data.len());
            return Err(format!("{name}: expected f32 {dims:?} as raw data, found {n_bytes} bytes"));
        }
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(format!("{name}: expected finite numbers"));
        }
        Ok(Some(Tensor::from_slice(&values).reshape(&constant.dims[..])))
    }

    fn weight(&self, operator: &Operator) -> Result<Tensor, String> {
        self.constant(operator, 1)?.ok_or_else(|| "expected weights, found none".into())
    }

    /// A bias for each of `n_out`, zeros where there is none.
    fn bias(&self, operator: &Operator, n_out: i64) -> Result<Tensor, String> {
        let Some(bias) = self.constant(operator, 2)? else {
            return Ok(Tensor::zeros([n_out], (Type::Float, tch::Device::Cpu)));
        };
        if bias.size() == [n_out] {
            Ok(bias)
        } else {
            Err(format!("expected {n_out} biases, found {bias:?}"))
        }
    }

    fn convolution(
        &self,
        operator: &Operator,
        attributes: &Attributes,
    ) -> Result<(Kind, Parameters), String> {
        let weight = self.weight(operator)?;
        let [n_out, n_in, rows, columns] = weight.size()[..] else {
            return Err(format!("expected weights of 4 axes, found {:?}", weight.size()));
        };
        let groups = attributes.one("group", 1)?;
        if rows != columns || !(groups == 1 || (groups == n_out && n_in == 1)) {
            let found = format!("{rows} x {columns} and {groups} groups");
            return Err(format!(
                "expected a square kernel and one group or {n_out} of one channel, found {found}"
            ));
        }
        let window = attributes.window(rows)?;
        let bias = self.bias(operator, n_out)?;
        Ok((Kind::Convolution { window, groups }, Parameters { weight, bias }))
    }

    fn dense(&self, operator: &Operator, attributes: &Attributes) -> Result<(Kind, Parameters), String> {
        let weight = self.weight(operator)?;
        if weight.dim() != 2 || attributes.one("transA", 0)? != 0 {
            return Err(format!("expected weights of 2 axes and no transA, found {:?}", weight.size()));
        }
        let is_outputs_first = attributes.one("transB", 0)? != 0;
        let weight = if is_outputs_first { weight } else { weight.transpose(0, 1).contiguous() };
        let (n_out, n_in) = (weight.size()[0], weight.size()[1]);
        let bias = self.bias(operator, n_out)?;
        Ok((Kind::Dense { n_in, n_out }, Parameters { weight, bias }))
    }

    /// The product that an activation of its own belongs to.
    fn bare(&self, operator: &Operator) -> Option<usize> {
        let idx = self.value(operator, 0).ok()?;
        let node = &self.nodes[idx];
        let is_sole = self.n_readers.get(node.name.as_str()) == Some(&1);
        let is_bare = node.slopes.is_none() && node.clip == Clip::None;
        (is_sole && is_bare && (node.is_product() || node.kind == Kind::Add)).then_some(idx)
    }

    fn rename(&mut self, idx: usize, name: &str) {
        self.nodes[idx].name = name.into();
        self.made.insert(name.into(), idx);
    }

    fn prelu(&mut self, operator: &Operator, name: &str) -> Result<(), String> {
        let idx = self.bare(operator).filter(|&idx| self.nodes[idx].is_product());
        let idx = idx.ok_or("expected it behind a Conv or a Gemm that nothing else reads")?;
        let n_out = self.parameters[idx].as_ref().map_or(0, |own| own.bias.size()[0]);
        let slopes = self.constant(operator, 1)?.ok_or("expected slopes, found none")?;
        let shape = slopes.size();
        let is_per_channel = if matches!(self.nodes[idx].kind, Kind::Convolution { .. }) {
            shape == [n_out, 1, 1] || shape == [1, n_out, 1, 1]
        } else {
            shape == [n_out] || shape == [1, n_out]
        };
        if !is_per_channel {
            return Err(format!("expected a slope for each of {n_out} channels, found {shape:?}"));
        }
        self.nodes[idx].slopes = Some(super::ranges::floats(&slopes));
        self.rename(idx, name);
        Ok(())
    }

    fn relu(&mut self, operator: &Operator, name: &str) -> Result<(), String> {
        if let Some(idx) = self.bare(operator) {
            self.nodes[idx].clip = Clip::Relu;
            self.rename(idx, name);
            return Ok(());
        }
        let inputs = vec![self.value(operator, 0)?];
        self.push(Node { clip: Clip::Relu, ..node(name, Kind::Relu, inputs) }, None);
        Ok(())
    }
}

/// An operator's settings, all of them integers.
struct Attributes(HashMap<String, Vec<i64>>);

impl Attributes {
    fn of(operator: &Operator) -> Result<Self, String> {
        let known = match operator.op_type.as_str() {
            "Conv" => &["kernel_shape", "strides", "pads", "group", "dilations"][..],
            "MaxPool" => &["kernel_shape", "strides", "pads", "ceil_mode", "dilations"],
            "Gemm" => &["transA", "transB"],
            "Flatten" => &["axis"],
            _ => &[],
        };
        let mut found = HashMap::new();
        for attribute in &operator.attribute {
            let values = attribute.integers().filter(|_| known.contains(&attribute.name.as_str()));
            let values =
                values.ok_or_else(|| format!("attribute {}: expected one of {known:?}", attribute.name))?;
            found.insert(attribute.name.clone(), values);
        }
        Ok(Attributes(found))
    }

    fn all<const N: usize>(&self, name: &str, default: [i64; N]) -> Result<[i64; N], String> {
        let Some(values) = self.0.get(name) else { return Ok(default) };
        <[i64; N]>::try_from(&values[..])
            .map_err(|_| format!("{name}: expected {N} numbers, found {values:?}"))
    }

    fn one(&self, name: &str, default: i64) -> Result<i64, String> {
        self.all(name, [default]).map(|[value]| value)
    }

    /// A window whose side is `kernel_px` unless it says another.
    fn window(&self, kernel_px: i64) -> Result<Window, String> {
        let kernel = self.all("kernel_shape", [kernel_px; 2])?;
        let strides = self.all("strides", [1; 2])?;
        let pads = self.all("pads", [0; 4])?;
        let is_taken = kernel == [kernel_px; 2]
            && strides[0] == strides[1]
            && strides[0] > 0
            && pads.iter().all(|pad| (0..kernel_px).contains(pad))
            && self.all("dilations", [1; 2])? == [1; 2];
        if !is_taken {
            return Err(format!(
                "expected a square kernel, one stride, pads below the kernel and no dilation, found {kernel:?}, \
                 {strides:?}, {pads:?}"
            ));
        }
        Ok(Window { kernel_px, stride: strides[0], pads })
    }

    /// The window of a pool. As many zeros below and to the right as a stride has steps, less one, give what rounding
    /// up gives.
    fn pool(&self) -> Result<Window, String> {
        let [kernel_px, _] = self.all("kernel_shape", [0; 2])?;
        let window = self.window(kernel_px)?;
        if self.one("ceil_mode", 0)? == 0 {
            return Ok(window);
        }
        let Window { stride, pads: [top, left, bottom, right], .. } = window;
        if (bottom, right) != (0, 0) || stride > kernel_px {
            return Err(
                "ceil_mode: expected no pads below and to the right, and no gaps between windows".into()
            );
        }
        Ok(Window { pads: [top, left, stride - 1, stride - 1], ..window })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use tch::Device;

    use super::*;
    use crate::export::onnx::{Attribute, Graph, OperatorSet, Value};

    fn operator(op_type: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Operator {
        let input = input.iter().map(|&name| name.to_owned()).collect();
        let (name, op_type) = (output.to_owned(), op_type.to_owned());
        Operator { input, output: vec![output.into()], name, op_type, attribute }
    }

    /// A pool that rounds up, and a convolution that adds its two channels.
    fn pooling(kernel_px: i64, stride: i64) -> Model {
        let mut attributes = crate::export::window_attributes(kernel_px, stride, [0; 4]);
        attributes.push(Attribute::int("ceil_mode", 1));
        let raw_data = [1.0f32; 2].iter().flat_map(|value| value.to_le_bytes()).collect();
        let weight = Constant { dims: vec![1, 2, 1, 1], data_type: FLOAT, name: "weight".into(), raw_data };
        let graph = Graph {
            node: vec![
                operator("MaxPool", &["input"], "pool", attributes),
                operator("Conv", &["pool", "weight"], "sum", vec![]),
                operator("Sigmoid", &["sum"], "out", vec![]),
            ],
            name: "test".into(),
            initializer: vec![weight],
            input: vec![Value::batch("input", &[2, 9, 9])],
            output: vec![Value::batch("out", &[1, 4, 4])],
        };
        let opset_import = vec![OperatorSet { domain: String::new(), version: OPSET }];
        Model { ir_version: 8, graph: Some(graph), opset_import, ..Model::default() }
    }

    #[test]
    fn pools_that_round_up_give_libtorchs() {
        for (kernel_px, stride) in [(2, 2), (3, 2), (3, 3), (4, 3)] {
            let float = Imported::new(&pooling(kernel_px, stride).encode_to_vec()).unwrap().float;
            for size in [[9, 10], [11, 12], [13, 14]] {
                let picture = Tensor::randn([1, 2, size[0], size[1]], (Type::Float, Device::Cpu));
                let found = float.logits(&picture);
                let pooled = picture.max_pool2d([kernel_px; 2], [stride; 2], [0; 2], [1; 2], true);
                let expected = pooled.sum_dim_intlist([1i64].as_slice(), true, None);
                assert!(found.allclose(&expected, 1e-5, 1e-6, false), "{kernel_px} {stride} {size:?}");
            }
        }
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let refused = |change: fn(&mut Graph)| {
            let mut model = pooling(3, 2);
            change(model.graph.as_mut().unwrap());
            Imported::new(&model.encode_to_vec()).unwrap_err().to_string()
        };
        let said = refused(|graph| graph.node[0].op_type = "AveragePool".into());
        assert!(said.starts_with("node pool (AveragePool)") && said.contains("expected one of"), "{said}");
        let said = refused(|graph| graph.node[0].attribute[3] = Attribute::int("storage_order", 1));
        assert!(said.contains("attribute storage_order"), "{said}");
        let said = refused(|graph| graph.node[0].attribute[2] = Attribute::ints("pads", &[0, 0, 1, 1]));
        assert!(said.contains("ceil_mode: expected no pads"), "{said}");
        let said = refused(|graph| graph.initializer[0].dims = vec![1, 3, 1, 1]);
        assert!(said.contains("weight: expected f32 [1, 3, 1, 1] as raw data, found 8 bytes"), "{said}");
        let said = refused(|graph| graph.node[2].input = vec!["pool".into()]);
        assert!(said.contains("expected to read what the last product gives alone, found pool"), "{said}");
        let said = refused(|graph| graph.node[2].op_type = "Exp".into());
        assert!(said.contains("behind the last product"), "{said}");
        let said = refused(|graph| graph.output[0].name = "pool".into());
        assert!(said.contains("expected outputs that the last product leads to, found pool"), "{said}");
        let said = Imported::new(b"nothing").unwrap_err().to_string();
        assert!(said.starts_with("no ONNX file"), "{said}");
    }
}
