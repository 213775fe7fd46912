//! ONNX bytes -> a network: what is quantized becomes regions, the rest stays with tract.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Buf;
use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::format_err;

use super::lower::{self, Lowered};
use super::onnx::Constants;
use super::program::Program;
use super::region;
use super::steps::TensorId;
use super::{Body, Engine, EngineError, Model, Network, Op, ops_of};

/// Most nodes of a graph.
const MAX_NODES: usize = 1 << 16;
/// Most values of an input.
const MAX_INPUT: usize = 1 << 26;

/// See [`Engine::load`]; without a shape the file's own.
pub(super) fn load(
    engine: &Engine,
    name: &str,
    onnx: impl Buf,
    input_shape: Option<&[usize]>,
) -> Result<Model, EngineError> {
    let failed = |step: &'static str| {
        move |cause: TractError| EngineError::Load {
            network: name.to_owned(),
            step,
            cause: format!("{cause:#}"),
        }
    };
    let mut proto = decode(onnx).map_err(failed("parse"))?;
    let (input, constants) = input_of(&mut proto).map_err(failed("parse"))?;
    let input_shape = match input_shape {
        Some(shape) => shape.to_vec(),
        None => declared(&input).map_err(failed("declared input"))?,
    };
    let n_values = input_shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if n_values.is_none_or(|n| n == 0 || n > MAX_INPUT) {
        let cause = format_err!("expected 1 to {MAX_INPUT} values, found shape {input_shape:?}");
        return Err(failed("input")(cause));
    }
    let (body, output_shapes) =
        body_of(engine, proto, &input.name, constants, &input_shape).map_err(failed("load"))?;
    Ok(Model::new(engine, Network { name: name.to_owned(), input_shape, output_shapes, body }))
}

fn decode(onnx: impl Buf) -> TractResult<pb::ModelProto> {
    let proto = pb::ModelProto::decode(onnx)?;
    let graph = proto.graph.as_ref().ok_or_else(|| format_err!("the file has no graph"))?;
    if graph.node.len() > MAX_NODES {
        return Err(format_err!("expected at most {MAX_NODES} nodes, found {}", graph.node.len()));
    }
    // A tensor outside of the file could be any file of this machine.
    let is_inside = |t: &pb::TensorProto| t.external_data.is_empty() && t.data_location.unwrap_or(0) == 0;
    let constants = graph.node.iter().flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    if let Some(outside) = graph.initializer.iter().chain(constants).find(|t| !is_inside(t)) {
        return Err(format_err!("{}: expected a tensor in the file, found one beside it", outside.name));
    }
    Ok(proto)
}

/// The graph's one input; and its constants, taken out of it.
fn input_of(proto: &mut pb::ModelProto) -> TractResult<(pb::ValueInfoProto, Constants)> {
    let graph = proto.graph.as_mut().ok_or_else(|| format_err!("the file has no graph"))?;
    let constants = Constants::take(graph);
    let mut inputs = graph.input.iter().filter(|i| !constants.contains(&i.name));
    match (inputs.next(), inputs.count()) {
        (Some(input), 0) => Ok((input.clone(), constants)),
        (first, n_more) => {
            Err(format_err!("expected one input, found {}", usize::from(first.is_some()) + n_more))
        }
    }
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
    let lowered =
        lower::lower(graph, constants, engine.kernels, &float_shape).map_err(|why| format_err!("{why}"))?;
    let is_whole = lowered.kept.is_empty() && lowered.steps.iter().all(|s| s.region == 0);
    if is_whole && !lowered.steps.is_empty() {
        let program = Program::new(engine.kernels, lowered.tensors, lowered.steps, Vec::new());
        let place = |o: &pb::ValueInfoProto| program.outputs.iter().position(|port| port.name == o.name);
        let outputs: Option<Vec<usize>> = graph.output.iter().map(place).collect();
        let is_simple = program.inputs.len() == 1 && program.taken.is_empty();
        let outputs = outputs.filter(|_| is_simple).ok_or_else(|| format_err!("an output is not made"))?;
        let shape = |&idx: &usize| [&input_shape[..1], program.outputs[idx].shape.as_slice()].concat();
        let shapes = outputs.iter().map(shape).collect();
        return Ok((Body::Region { program, outputs }, shapes));
    }
    plan_of(engine, proto, lowered, input_shape)
}

/// A plan of tract's with regions in it.
fn plan_of(
    engine: &Engine,
    mut proto: pb::ModelProto,
    lowered: Lowered,
    input_shape: &[usize],
) -> TractResult<(Body, Vec<Vec<usize>>)> {
    let Lowered { constants, tensors, mut steps, kept } = lowered;
    let mut programs: Vec<Arc<Program>> = Vec::new();
    while let Some(number) = steps.first().map(|s| s.region) {
        let n_steps = steps.iter().take_while(|s| s.region == number).count();
        let later = steps.split_off(n_steps);
        let made: HashSet<TensorId> = steps.iter().filter_map(|s| s.target).collect();
        let mut given: Vec<TensorId> =
            later.iter().flat_map(|s| &s.sources).copied().filter(|t| made.contains(t)).collect();
        given.sort_unstable();
        given.dedup();
        programs.push(Arc::new(Program::new(engine.kernels, tensors.clone(), steps, given)));
        steps = later;
    }
    let graph = proto.graph.as_mut().ok_or_else(|| format_err!("the file has no graph"))?;
    let nodes = std::mem::take(&mut graph.node);
    graph.node =
        nodes.into_iter().enumerate().filter(|(idx, _)| kept.contains(idx)).map(|(_, n)| n).collect();
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
    graph.value_info.clear();

    let mut loader = tract_onnx::onnx();
    loader.op_register.insert(region::OPERATOR, region::parse);
    region::LOADING.set(programs.clone());
    let parsed = loader.model_for_proto_model(&proto);
    region::LOADING.take();
    let typed = parsed?.with_input_fact(0, f32::fact(input_shape).into())?.into_optimized()?;
    let shape = |i: usize| {
        let fact = typed.output_fact(i)?;
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
    let mut parsed = tract_onnx::onnx().parse(&proto, None)?;
    parsed.model.set_input_fact(0, f32::fact(input_shape).into())?;
    parsed.model.analyse(false)?;
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
    let mut run = || -> TractResult<()> {
        let tensor = Tensor::from_shape(&network.input_shape, input)?;
        let found = plan.run(tvec!(tensor.into()))?;
        for (to, from) in outputs.iter_mut().zip(found.iter()) {
            let view = from.to_plain_array_view::<f32>()?;
            to.iter_mut().zip(view.iter()).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    };
    run().map_err(|cause| EngineError::Run { network: network.name.clone(), cause: format!("{cause:#}") })
}
