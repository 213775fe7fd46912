//! ONNX bytes -> a network: what is quantized becomes regions, the rest stays with tract.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use prost::Message as _;
use prost::bytes::Buf;

use super::model::{Body, Network};
use super::onnx::Constants;
use super::program::Program;
use super::{Engine, EngineError, Model, check, float, lower, pb};

/// Most values of an input, and of all outputs together.
const MAX_VALUES: usize = 1 << 26;

/// What was made of a file, or why nothing was.
pub(super) type Loaded<T> = Result<T, String>;

const NO_GRAPH: &str = "the file has no graph";

/// See [`Engine::load`]; without a shape the file's own.
pub(super) fn load(
    engine: &Engine,
    name: &str,
    onnx: impl Buf,
    input_shape: Option<&[usize]>,
) -> Result<Model, EngineError> {
    let proto = decode(onnx).map_err(failed(name, "parse"))?;
    load_proto(engine, name, proto, input_shape)
}

fn failed(name: &str, step: &'static str) -> impl FnOnce(String) -> EngineError {
    move |cause| EngineError::Load { network: name.to_owned(), step, cause }
}

/// As [`load`], of a file that [`decode`] has let through.
pub(super) fn load_proto(
    engine: &Engine,
    name: &str,
    mut proto: pb::ModelProto,
    input_shape: Option<&[usize]>,
) -> Result<Model, EngineError> {
    let failed = |step| failed(name, step);
    let (input, constants) = input_of(&mut proto).map_err(failed("parse"))?;
    let input_shape = match input_shape {
        Some(shape) => shape.to_vec(),
        None => declared(&input).map_err(failed("declared input"))?,
    };
    let n_values = input_shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if input_shape.is_empty() || n_values.is_none_or(|n| n == 0 || n > MAX_VALUES) {
        let cause = format!("expected 1 to {MAX_VALUES} values of pictures, found shape {input_shape:?}");
        return Err(failed("input")(cause));
    }
    let (body, output_shapes) =
        contained(|| body_of(engine, proto, &input.name, constants, &input_shape)).map_err(failed("load"))?;
    let n_values = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let n_outputs = output_shapes.iter().try_fold(0usize, |sum, shape| sum.checked_add(n_values(shape)?));
    if n_outputs.is_none_or(|n| n > MAX_VALUES) {
        let cause = format!("expected at most {MAX_VALUES} values, found shapes {output_shapes:?}");
        return Err(failed("outputs")(cause));
    }
    Ok(Model::new(engine, Network { name: name.to_owned(), input_shape, output_shapes, body }))
}

/// Runs what calls tract, which hostile graphs may make panic: that is a failure like any other. `run` owns
/// what it changes, or leaves it to be dropped.
pub(super) fn contained<T>(run: impl FnOnce() -> Loaded<T>) -> Loaded<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| Err("a graph that the loader failed on".into()))
}

/// A file's graph, refused where it keeps to no rules.
pub(super) fn decode(onnx: impl Buf) -> Loaded<pb::ModelProto> {
    check::file(onnx.remaining())?;
    let proto = pb::ModelProto::decode(onnx).map_err(|error| error.to_string())?;
    check::graph(proto.graph.as_ref().ok_or(NO_GRAPH)?)?;
    Ok(proto)
}

/// The graph's one input; and its constants, taken out of it.
fn input_of(proto: &mut pb::ModelProto) -> Loaded<(pb::ValueInfoProto, Constants)> {
    let graph = proto.graph.as_mut().ok_or(NO_GRAPH)?;
    let constants = Constants::take(graph);
    let mut inputs = graph.input.iter().filter(|i| !constants.contains(&i.name));
    match (inputs.next(), inputs.count()) {
        (Some(input), 0) => {
            check_type(input)?;
            Ok((input.clone(), constants))
        }
        (first, n_more) => {
            Err(format!("expected one input, found {}", usize::from(first.is_some()) + n_more))
        }
    }
}

/// Refuses an input that isn't f32.
fn check_type(input: &pb::ValueInfoProto) -> Loaded<()> {
    if let Some(pb::TypeValue::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        let is_f32 = tensor.elem_type == pb::DataType::Float as i32;
        if !is_f32 {
            return Err(format!("{}: expected an input of f32, found type {}", input.name, tensor.elem_type));
        }
    }
    Ok(())
}

/// The input shape that a file declares; a first axis that it leaves open is 1.
fn declared(input: &pb::ValueInfoProto) -> Loaded<Vec<usize>> {
    use pb::DimensionValue as Size;
    let Some(pb::TypeValue::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err(format!("{}: expected a tensor", input.name));
    };
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let size = |(axis, dim): (usize, &pb::Dimension)| match &dim.value {
        Some(Size::DimValue(n)) if *n > 0 => usize::try_from(*n).map_err(|error| error.to_string()),
        _ if axis == 0 => Ok(1),
        other => Err(format!("{}: expected a size for axis {axis}, found {other:?}", input.name)),
    };
    dims.iter().enumerate().map(size).collect()
}

/// The version of ONNX's operators that a file is written in.
fn opset(proto: &pb::ModelProto) -> i64 {
    let is_onnx = |o: &&pb::OperatorSetIdProto| o.domain.is_empty() || o.domain == "ai.onnx";
    proto.opset_import.iter().find(is_onnx).map_or(0, |o| o.version)
}

fn body_of(
    engine: &Engine,
    proto: pb::ModelProto,
    input_name: &str,
    constants: Constants,
    input_shape: &[usize],
) -> Loaded<(Body, Vec<Vec<usize>>)> {
    let graph = proto.graph.as_ref().ok_or(NO_GRAPH)?;
    // Shapes inside a graph that is partly float are tract's to find out.
    let inner = OnceCell::new();
    let float_shape = |value: &str, constants: &Constants| {
        if value == input_name {
            return Some(input_shape.to_vec());
        }
        let found = || float::shapes(&proto, constants, input_shape).unwrap_or_default();
        inner.get_or_init(found).get(value).cloned()
    };
    let around =
        lower::Around { opset: opset(&proto), n_pictures: input_shape[0], float_shape: &float_shape };
    let lowered = lower::lower(graph, constants, engine.kernels, around)?;
    let is_whole = lowered.kept.is_empty() && lowered.steps.iter().all(|s| s.region == 0);
    if is_whole && !lowered.steps.is_empty() {
        let program = Program::new(engine.kernels, lowered.tensors.into(), lowered.steps, Vec::new());
        let place = |o: &pb::ValueInfoProto| {
            let place = program.outputs.iter().position(|port| port.name == o.name);
            place.ok_or_else(|| format!("the output {} is not computed", o.name))
        };
        let outputs: Vec<usize> = graph.output.iter().map(place).collect::<Loaded<_>>()?;
        let is_simple = program.inputs.len() == 1 && program.taken.is_empty();
        if !is_simple {
            return Err(format!("expected one input, found {}", program.inputs.len()));
        }
        let shape = |&idx: &usize| [&input_shape[..1], program.outputs[idx].shape.as_slice()].concat();
        let shapes = outputs.iter().map(shape).collect();
        return Ok((Body::Region { program, outputs }, shapes));
    }
    float::plan_of(engine, proto, lowered, input_name, input_shape)
}
