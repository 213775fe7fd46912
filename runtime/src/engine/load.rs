//! ONNX bytes -> a network: what is quantized becomes regions, the rest stays with tract.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Buf;
use tract_onnx::model::ParseResult;
use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{Factoid as _, TractErrorContext as _, ensure, format_err};
use tract_onnx::tract_hir::tract_core::ops::cnn::{MaxPool, SumPool};

use super::lower::{self, Lowered};
use super::model::{Body, Network, ops_of};
use super::onnx::{Constants, NodeExt as _};
use super::program::Program;
use super::region;
use super::steps::{Tensor as Tensor8, TensorId};
use super::{Engine, EngineError, Model, Op, check};

/// Most values of an input, and of all outputs together.
const MAX_VALUES: usize = 1 << 26;
/// Most regions of a graph, and most of its nodes that run in float: tract takes the square of their number,
/// tens of seconds for these.
const MAX_REGIONS: usize = 256;
const MAX_FLOAT_NODES: usize = 1 << 12;
/// Most bytes of one tensor that tract makes, and of all together.
const MAX_FLOAT_TENSOR_BYTES: u64 = 1 << 28;
const MAX_FLOAT_BYTES: u64 = 1 << 32;

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

fn failed(name: &str, step: &'static str) -> impl FnOnce(TractError) -> EngineError {
    move |cause| EngineError::Load { network: name.to_owned(), step, cause: format!("{cause:#}") }
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
        let cause = format_err!("expected 1 to {MAX_VALUES} values of pictures, found shape {input_shape:?}");
        return Err(failed("input")(cause));
    }
    let (body, output_shapes) =
        contained(|| body_of(engine, proto, &input.name, constants, &input_shape)).map_err(failed("load"))?;
    let n_values = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let n_outputs = output_shapes.iter().try_fold(0usize, |sum, shape| sum.checked_add(n_values(shape)?));
    if n_outputs.is_none_or(|n| n > MAX_VALUES) {
        let cause = format_err!("expected at most {MAX_VALUES} values, found shapes {output_shapes:?}");
        return Err(failed("outputs")(cause));
    }
    Ok(Model::new(engine, Network { name: name.to_owned(), input_shape, output_shapes, body }))
}

/// Runs what calls tract, which hostile graphs may make panic: that is a failure like any other. `run` owns
/// what it changes, or leaves it to be dropped.
fn contained<T>(run: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| Err(format_err!("a graph that the loader failed on")))
}

/// A file's graph, refused where it keeps to no rules.
pub(super) fn decode(onnx: impl Buf) -> TractResult<pb::ModelProto> {
    let refused = |why: String| format_err!("{why}");
    check::file(onnx.remaining()).map_err(refused)?;
    let proto = pb::ModelProto::decode(onnx)?;
    let graph = proto.graph.as_ref().ok_or_else(|| format_err!("the file has no graph"))?;
    check::graph(graph).map_err(refused)?;
    Ok(proto)
}

/// The graph's one input; and its constants, taken out of it.
fn input_of(proto: &mut pb::ModelProto) -> TractResult<(pb::ValueInfoProto, Constants)> {
    let graph = proto.graph.as_mut().ok_or_else(|| format_err!("the file has no graph"))?;
    let constants = Constants::take(graph);
    let mut inputs = graph.input.iter().filter(|i| !constants.contains(&i.name));
    match (inputs.next(), inputs.count()) {
        (Some(input), 0) => {
            check_type(input)?;
            Ok((input.clone(), constants))
        }
        (first, n_more) => {
            Err(format_err!("expected one input, found {}", usize::from(first.is_some()) + n_more))
        }
    }
}

/// Refuses an input that isn't f32.
fn check_type(input: &pb::ValueInfoProto) -> TractResult<()> {
    if let Some(pb::type_proto::Value::TensorType(tensor)) =
        input.r#type.as_ref().and_then(|t| t.value.as_ref())
    {
        let is_f32 = tensor.elem_type == pb::tensor_proto::DataType::Float as i32;
        ensure!(is_f32, "{}: expected an input of f32, found type {}", input.name, tensor.elem_type);
    }
    Ok(())
}

/// The input shape that a file declares; a first axis that it leaves open is 1.
fn declared(input: &pb::ValueInfoProto) -> TractResult<Vec<usize>> {
    use pb::tensor_shape_proto::dimension::Value as Size;
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(format_err!("{}: expected a tensor", input.name));
    };
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let size = |(axis, dim): (usize, &pb::tensor_shape_proto::Dimension)| match &dim.value {
        Some(Size::DimValue(n)) if *n > 0 => Ok(usize::try_from(*n)?),
        _ if axis == 0 => Ok(1),
        other => Err(format_err!("{}: expected a size for axis {axis}, found {other:?}", input.name)),
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
) -> TractResult<(Body, Vec<Vec<usize>>)> {
    let graph = proto.graph.as_ref().ok_or_else(|| format_err!("the file has no graph"))?;
    // Shapes inside a graph that is partly float are tract's to find out.
    let inner = OnceCell::new();
    let float_shape = |value: &str, constants: &Constants| {
        if value == input_name {
            return Some(input_shape.to_vec());
        }
        let found = || float_shapes(&proto, constants, input_shape).unwrap_or_default();
        inner.get_or_init(found).get(value).cloned()
    };
    let around =
        lower::Around { opset: opset(&proto), n_pictures: input_shape[0], float_shape: &float_shape };
    let lowered =
        lower::lower(graph, constants, engine.kernels, around).map_err(|why| format_err!("{why}"))?;
    let is_whole = lowered.kept.is_empty() && lowered.steps.iter().all(|s| s.region == 0);
    if is_whole && !lowered.steps.is_empty() {
        let program = Program::new(engine.kernels, lowered.tensors.into(), lowered.steps, Vec::new());
        let place = |o: &pb::ValueInfoProto| {
            let place = program.outputs.iter().position(|port| port.name == o.name);
            place.ok_or_else(|| format_err!("the output {} is not computed", o.name))
        };
        let outputs: Vec<usize> = graph.output.iter().map(place).collect::<TractResult<_>>()?;
        let is_simple = program.inputs.len() == 1 && program.taken.is_empty();
        ensure!(is_simple, "expected one input, found {}", program.inputs.len());
        let shape = |&idx: &usize| [&input_shape[..1], program.outputs[idx].shape.as_slice()].concat();
        let shapes = outputs.iter().map(shape).collect();
        return Ok((Body::Region { program, outputs }, shapes));
    }
    plan_of(engine, proto, lowered, input_name, input_shape)
}

/// A plan of tract's with regions in it.
fn plan_of(
    engine: &Engine,
    mut proto: pb::ModelProto,
    lowered: Lowered,
    input_name: &str,
    input_shape: &[usize],
) -> TractResult<(Body, Vec<Vec<usize>>)> {
    let Lowered { constants, tensors, mut steps, kept } = lowered;
    let n_regions = steps.iter().map(|s| s.region).collect::<HashSet<_>>().len();
    ensure!(n_regions <= MAX_REGIONS, "expected at most {MAX_REGIONS} regions of bytes, found {n_regions}");
    ensure!(
        kept.len() <= MAX_FLOAT_NODES,
        "expected at most {MAX_FLOAT_NODES} nodes in float, found {}",
        kept.len()
    );
    let tensors: Arc<[Tensor8]> = tensors.into();
    let mut programs: Vec<Arc<Program>> = Vec::new();
    while let Some(number) = steps.first().map(|s| s.region) {
        let n_steps = steps.iter().take_while(|s| s.region == number).count();
        let later = steps.split_off(n_steps);
        let made: HashSet<TensorId> = steps.iter().filter_map(|s| s.target).collect();
        let mut given: Vec<TensorId> =
            later.iter().flat_map(|s| &s.sources).copied().filter(|t| made.contains(t)).collect();
        given.sort_unstable();
        given.dedup();
        programs.push(Arc::new(Program::new(engine.kernels, Arc::clone(&tensors), steps, given)));
        steps = later;
    }
    let graph = proto.graph.as_mut().ok_or_else(|| format_err!("the file has no graph"))?;
    let nodes = std::mem::take(&mut graph.node);
    graph.node =
        nodes.into_iter().enumerate().filter(|(idx, _)| kept.contains(idx)).map(|(_, n)| n).collect();
    for node in graph.node.iter().filter(|n| n.op_type != "Constant") {
        let is_known = matches!(&node.domain[..], "" | "ai.onnx") && check::may_run_in_float(&node.op_type);
        ensure!(
            is_known,
            "node {} ({}): an operator that the engine doesn't run",
            node.label(),
            node.op_type
        );
    }
    let read: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|n| &n.input)
        .chain(graph.output.iter().map(|o| &o.name))
        .map(String::as_str)
        .collect();
    graph.initializer = constants.into_initializers(&read);
    graph.node.retain(|n| n.op_type != "Constant");
    graph.node.extend(programs.iter().enumerate().map(|(idx, program)| region::node(idx, program)));
    graph.input.retain(|i| i.name == input_name);

    let parsed = region::with_programs(&programs, || parse(&mut proto, input_shape))?;
    let typed = parsed.model.into_typed()?;
    check_plan(&typed)?;
    let typed = typed.into_optimized()?;
    let shape = |i: usize| {
        let fact = typed.output_fact(i)?;
        ensure!(
            fact.datum_type == f32::datum_type(),
            "output {i}: expected f32, found {:?}",
            fact.datum_type
        );
        let shape = fact.shape.as_concrete().map(<[usize]>::to_vec);
        shape.ok_or_else(|| format_err!("output {i} has no fixed shape: {:?}", fact.shape))
    };
    let shapes: Vec<_> = (0..typed.outputs.len()).map(shape).collect::<TractResult<_>>()?;
    let float = |name: &str, kind: String| Op { name: name.to_owned(), kind, is_int8: false };
    let mut ops: Vec<Op> = programs.iter().flat_map(|program| ops_of(program)).collect();
    let is_own = |kind: &str| kind == region::OPERATOR || kind == "Source" || kind == "Const";
    let tracts = typed.nodes().iter().map(|n| float(&n.name, n.op.name().into_owned()));
    ops.extend(tracts.filter(|op| !is_own(&op.kind)));
    Ok((Body::Plan { plan: typed.into_runnable()?, ops }, shapes))
}

/// tract's graph of a file, with the shapes and types of all values, the input's being `input_shape`.
///
/// What the file declares of shapes is left out: it is of no use, and names of sizes are formulas to tract.
fn parse(proto: &mut pb::ModelProto, input_shape: &[usize]) -> TractResult<ParseResult> {
    let graph = proto.graph.as_mut().ok_or_else(|| format_err!("the file has no graph"))?;
    graph.value_info.clear();
    let inputs = graph.input.iter_mut().filter_map(|i| i.r#type.as_mut()?.value.as_mut());
    for pb::type_proto::Value::TensorType(tensor) in inputs {
        tensor.shape = None;
    }
    graph.output.iter_mut().for_each(|output| output.r#type = None);
    let mut loader = tract_onnx::onnx();
    loader.op_register.0.retain(|operator, _| check::may_run_in_float(operator) || operator == "Constant");
    loader.op_register.insert(region::OPERATOR, region::parse);
    let mut parsed = loader.parse(proto, None)?;
    ensure!(parsed.unresolved_inputs.is_empty(), "values that nothing makes: {:?}", parsed.unresolved_inputs);
    let sources = parsed.model.input_outlets()?.to_vec();
    ensure!(sources.len() == 1, "expected one input, found {}", sources.len());
    parsed.model.set_input_fact(0, f32::fact(input_shape).into())?;
    infer(&mut parsed.model)?;
    Ok(parsed)
}

/// Finds the shapes of values, node by node in the file's order, and refuses a value that is too large before
/// anything is computed of it: tract computes what depends on constants alone at once.
fn infer(model: &mut InferenceModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        let (inputs, outputs) = model.node_facts(id)?;
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let node = model.node_mut(id);
        let failed = format!("node {} ({})", node.name, node.op.name());
        let (ins, outs) = (inputs.iter().collect(), outputs.iter().collect());
        let (_, found, _) = node.op.infer_facts(ins, outs, tvec![]).context(failed.clone())?;
        for fact in &found {
            let n_bytes = bytes_of(fact.shape.concretize().as_deref(), fact.datum_type.concretize());
            let is_constant = inputs.iter().all(|fact| fact.value.is_concrete());
            ensure!(
                n_bytes.map_or(!is_constant || inputs.is_empty(), |n| n <= MAX_FLOAT_TENSOR_BYTES),
                "{failed}: an output of shape {:?}, expected one of at most {MAX_FLOAT_TENSOR_BYTES} bytes",
                fact.shape
            );
        }
        let (ins, outs) = (inputs.iter().collect(), outputs.iter().collect());
        let (found_ins, found_outs, _) = node.op.infer(ins, outs, tvec![]).context(failed)?;
        let outlets: Vec<OutletId> = node
            .inputs
            .iter()
            .copied()
            .chain((0..outputs.len()).map(|slot| OutletId::new(id, slot)))
            .collect();
        for (outlet, fact) in outlets.into_iter().zip(found_ins.iter().chain(&found_outs)) {
            let fact = model.outlet_fact(outlet)?.unify(fact)?;
            model.set_outlet_fact(outlet, fact)?;
        }
    }
    Ok(())
}

/// Bytes of a tensor; `None` where its size isn't known.
fn bytes_of(shape: Option<&[TDim]>, datum_type: Option<DatumType>) -> Option<u64> {
    let size = |n: u64, d: &TDim| Some(n.saturating_mul(d.to_i64().ok()?.max(0).cast_unsigned()));
    let of_one = datum_type.map_or(8, |t| t.size_of()) as u64;
    shape?.iter().try_fold(of_one, size)
}

/// Refuses a graph whose tensors or whose work are too much.
fn check_plan(model: &TypedModel) -> TractResult<()> {
    let (mut n_bytes, mut n_macs) = (0u64, 0u64);
    for node in model.nodes() {
        let failed = || format!("node {} ({})", node.name, node.op.name());
        let mut most_values = 0;
        for output in &node.outputs {
            let shape = output.fact.shape.as_concrete();
            let shape = shape
                .ok_or_else(|| format_err!("{}: {:?} is no fixed shape", failed(), output.fact.shape))?;
            let n = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
            let size = n.saturating_mul(output.fact.datum_type.size_of() as u64);
            ensure!(
                size <= MAX_FLOAT_TENSOR_BYTES,
                "{}: an output of {size} bytes, expected at most {MAX_FLOAT_TENSOR_BYTES}",
                failed()
            );
            n_bytes = n_bytes.saturating_add(size);
            most_values = most_values.max(n);
        }
        let window = match (node.op_as::<MaxPool>(), node.op_as::<SumPool>()) {
            (Some(pool), _) => &pool.pool_spec.kernel_shape[..],
            (_, Some(pool)) => &pool.pool_spec.kernel_shape[..],
            _ => &[],
        };
        n_macs =
            n_macs.saturating_add(window.iter().fold(most_values, |n, &side| n.saturating_mul(side as u64)));
        let cost = node.op.cost(&model.node_input_facts(node.id)?)?;
        for (_, n) in cost.iter().filter(|(kind, _)| kind.is_compute()) {
            n_macs = n_macs.saturating_add(n.to_i64()?.max(0).cast_unsigned());
        }
    }
    ensure!(n_bytes <= MAX_FLOAT_BYTES, "tensors of {n_bytes} bytes, expected at most {MAX_FLOAT_BYTES}");
    ensure!(n_macs <= lower::MAX_MACS, "a run of {n_macs} operations, expected at most {}", lower::MAX_MACS);
    Ok(())
}

/// The shapes that tract finds for the values of the whole graph.
fn float_shapes(
    proto: &pb::ModelProto,
    constants: &Constants,
    input_shape: &[usize],
) -> TractResult<HashMap<String, Vec<usize>>> {
    let mut proto = proto.clone();
    if let Some(graph) = proto.graph.as_mut() {
        graph.initializer = constants.stand_ins();
        graph.node.retain(|n| n.op_type != "Constant");
    }
    let parsed = parse(&mut proto, input_shape)?;
    let mut shapes = HashMap::new();
    for (name, outlet) in parsed.outlets_by_name {
        let dims = parsed.model.outlet_fact(outlet)?.shape.as_concrete_finite()?;
        if let Some(dims) = dims {
            shapes.insert(name, dims.to_vec());
        }
    }
    Ok(shapes)
}

/// Runs a plan and copies its outputs.
pub(super) fn run_plan(
    network: &Network,
    plan: &Arc<TypedRunnableModel>,
    input: &[f32],
    outputs: &mut [Vec<f32>],
) -> Result<(), EngineError> {
    let run = || -> TractResult<()> {
        let tensor = Tensor::from_shape(&network.input_shape, input)?;
        let found = plan.run(tvec!(tensor.into()))?;
        for (to, from) in outputs.iter_mut().zip(found.iter()) {
            let view = from.to_plain_array_view::<f32>()?;
            to.iter_mut().zip(view.iter()).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    };
    contained(run)
        .map_err(|cause| EngineError::Run { network: network.name.clone(), cause: format!("{cause:#}") })
}
