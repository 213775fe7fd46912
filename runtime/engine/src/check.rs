//! What a file must be before anything is made of it: constants as long as they say, every value made once
//! and before it is read, sizes that no arithmetic overflows on, and only operators that are known.

use std::collections::HashSet;

use super::onnx::NodeExt as _;
use super::pb::{self, DataType};

/// Why a file is refused.
pub(super) type Refusal = String;

/// Most bytes of a file: reading one takes many times its length.
const MAX_FILE_BYTES: usize = 1 << 28;
/// Most nodes of a graph; some of what is done to graphs takes the square of it.
const MAX_NODES: usize = 1 << 14;
/// Most values of a constant.
const MAX_VALUES: usize = 1 << 28;
/// Most axes of a constant.
const MAX_AXES: usize = 8;
/// Largest stride, dilation, pad and side of a window, and most taps of a window.
const MAX_GEOMETRY: i64 = 1 << 16;
const MAX_TAPS: i64 = 1 << 20;

/// Refuses a file that is too long to read.
pub(super) fn file(n_bytes: usize) -> Result<(), Refusal> {
    if n_bytes > MAX_FILE_BYTES {
        return Err(format!("expected at most {MAX_FILE_BYTES} bytes, found {n_bytes}"));
    }
    Ok(())
}

/// Refuses a graph that keeps to ONNX's rules so little that its meaning is in doubt.
pub(super) fn graph(graph: &pb::GraphProto) -> Result<(), Refusal> {
    if graph.node.len() > MAX_NODES {
        return Err(format!("expected at most {MAX_NODES} nodes, found {}", graph.node.len()));
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |values| &values.name);
        return Err(format!("{name}: a sparse constant, expected a dense one"));
    }
    let mut made: HashSet<&str> = HashSet::new();
    for constant in &graph.initializer {
        tensor(&constant.name, constant)?;
        if !made.insert(&constant.name) {
            return Err(format!("{}: a second constant of that name", constant.name));
        }
    }
    // Old files list their constants as inputs, too.
    let mut inputs: HashSet<&str> = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(&input.name) {
            return Err(format!("{}: a second input of that name", input.name));
        }
    }
    made.extend(inputs);
    for node in &graph.node {
        let failed = |why: String| format!("node {} ({}): {why}", node.label(), node.op_type);
        check_node(node).map_err(failed)?;
        if let Some(input) = node.input.iter().find(|i| !i.is_empty() && !made.contains(i.as_str())) {
            return Err(failed(format!("its input {input} isn't made before it")));
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !made.insert(output) {
                return Err(failed(format!("its output {output} is made before it")));
            }
        }
    }
    if graph.output.is_empty() {
        return Err("the graph has no output".into());
    }
    match graph.output.iter().find(|o| !made.contains(o.name.as_str())) {
        Some(output) => Err(format!("the output {} is not made", output.name)),
        None => Ok(()),
    }
}

/// Refuses a node with a graph of its own, and numbers of its geometry that are out of any use.
fn check_node(node: &pb::NodeProto) -> Result<(), Refusal> {
    for attribute in &node.attribute {
        let name = &attribute.name;
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return Err(format!("{name} is a graph of its own"));
        }
        if attribute.sparse_tensor.is_some()
            || !(attribute.sparse_tensors.is_empty() && attribute.tensors.is_empty())
        {
            return Err(format!("{name} is no single dense tensor"));
        }
        if let Some(constant) = &attribute.t {
            tensor(name, constant)?;
        }
        // Numbers that tract leaves out of account.
        let is_new = name == "block_size" || name == "output_dtype" && node.input(2).is_none();
        if is_new && attribute.i != 0 && matches!(&*node.op_type, "QuantizeLinear" | "DequantizeLinear") {
            return Err(format!("{name}: expected none, found {}", attribute.i));
        }
        let range = match name.as_str() {
            "kernel_shape" | "strides" | "dilations" | "group" => 1..=MAX_GEOMETRY,
            "pads" if node.op_type == "Pad" => -MAX_GEOMETRY..=MAX_GEOMETRY,
            "pads" | "output_padding" | "output_shape" => 0..=MAX_GEOMETRY,
            _ => continue,
        };
        let all = if name == "group" { std::slice::from_ref(&attribute.i) } else { &attribute.ints[..] };
        if let Some(wrong) = all.iter().find(|n| !range.contains(n)) {
            return Err(format!("{name}: expected {range:?}, found {wrong}"));
        }
        let taps = all.iter().try_fold(1i64, |n, &side| n.checked_mul(side));
        if name == "kernel_shape" && taps.is_none_or(|n| n > MAX_TAPS) {
            return Err(format!("{name}: expected at most {MAX_TAPS} taps, found sides {all:?}"));
        }
    }
    Ok(())
}

/// Refuses a constant whose values aren't as many as its shape says, or aren't in the file: they could be
/// in any file of this machine.
fn tensor(name: &str, t: &pb::TensorProto) -> Result<(), Refusal> {
    if !t.external_data.is_empty() || t.data_location.unwrap_or(0) != 0 || t.segment.is_some() {
        return Err(format!("{name}: expected a tensor in the file, found one beside it"));
    }
    let size = |n: usize, &d: &i64| n.checked_mul(usize::try_from(d).ok()?);
    let len = t.dims.iter().try_fold(1, size).filter(|&n| n <= MAX_VALUES && t.dims.len() <= MAX_AXES);
    let len = len.ok_or_else(|| format!("{name}: a shape of {:?}", t.dims))?;
    let (n_bytes, n_typed) = match DataType::try_from(t.data_type) {
        Ok(DataType::Float) => (4, t.float_data.len()),
        Ok(DataType::Double) => (8, t.double_data.len()),
        Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => (1, t.int32_data.len()),
        Ok(DataType::Int16 | DataType::Uint16 | DataType::Float16) => (2, t.int32_data.len()),
        Ok(DataType::Int32) => (4, t.int32_data.len()),
        Ok(DataType::Int64) => (8, t.int64_data.len()),
        Ok(DataType::Uint32) => (4, t.uint64_data.len()),
        Ok(DataType::Uint64) => (8, t.uint64_data.len()),
        _ => return Err(format!("{name}: elements of type {}", t.data_type)),
    };
    let n_found = if t.raw_data.is_empty() { n_typed } else { t.raw_data.len() / n_bytes };
    if n_found != len || !t.raw_data.len().is_multiple_of(n_bytes) {
        return Err(format!("{name}: expected {len} values of shape {:?}, found {n_found}", t.dims));
    }
    Ok(())
}
