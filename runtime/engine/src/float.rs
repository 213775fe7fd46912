//! What isn't quantized: tract's plan of a graph, with the regions as ops in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use prost::Message as _;
use tract_onnx::model::ParseResult;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{Factoid as _, TractErrorContext as _, ensure, format_err};
use tract_onnx::tract_hir::tract_core::ops::cnn::{MaxPool, SumPool};

use super::load::{Loaded, contained};
use super::lower::{self, Lowered};
use super::model::{Body, Network, ops_of};
use super::onnx::{Constants, NodeExt as _};
use super::program::Program;
use super::steps::{Tensor as Tensor8, TensorId};
use super::{Engine, EngineError, Op, pb, region};

/// A network that tract runs.
pub(super) type Plan = Arc<TypedRunnableModel>;

/// Most regions of a graph, and most of its nodes that run in float: tract takes the square of their number,
/// tens of seconds for these.
const MAX_REGIONS: usize = 256;
const MAX_FLOAT_NODES: usize = 1 << 12;
/// Most bytes of one tensor that tract makes, and of all together.
const MAX_FLOAT_TENSOR_BYTES: u64 = 1 << 28;
const MAX_FLOAT_BYTES: u64 = 1 << 32;

/// Operators that may run in float: those whose outputs are as large as the shapes of their inputs say,
/// without graphs of their own.
#[rustfmt::skip]
const FLOAT_OPERATORS: &[&str] = &[
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip",
    "Concat", "Conv", "ConvTranspose", "Cos", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Elu",
    "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LRN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization",
    "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow",
    "QuantizeLinear", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "Relu", "Reshape", "Resize", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus",
    "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile",
    "Transpose", "Unsqueeze", "Upsample", "Where",
];

/// Whether an operator may run in float.
fn may_run(operator: &str) -> bool {
    FLOAT_OPERATORS.contains(&operator)
}

fn in_words(error: TractError) -> String {
    format!("{error:#}")
}

/// A plan of tract's with regions in it, and the shapes of its outputs.
pub(super) fn plan_of(
    engine: &Engine,
    proto: pb::ModelProto,
    lowered: Lowered,
    input_name: &str,
    input_shape: &[usize],
) -> Loaded<(Body, Vec<Vec<usize>>)> {
    planned(engine, proto, lowered, input_name, input_shape).map_err(in_words)
}

fn planned(
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
        let is_known = matches!(&node.domain[..], "" | "ai.onnx") && may_run(&node.op_type);
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
    for pb::TypeValue::TensorType(tensor) in inputs {
        tensor.shape = None;
    }
    graph.output.iter_mut().for_each(|output| output.r#type = None);
    let mut loader = tract_onnx::onnx();
    loader.op_register.0.retain(|operator, _| may_run(operator) || operator == "Constant");
    loader.op_register.insert(region::OPERATOR, region::parse);
    // The same messages, as tract declares them.
    let theirs = tract_onnx::pb::ModelProto::decode(&*proto.encode_to_vec())?;
    let mut parsed = loader.parse(&theirs, None)?;
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
pub(super) fn shapes(
    proto: &pb::ModelProto,
    constants: &Constants,
    input_shape: &[usize],
) -> Loaded<HashMap<String, Vec<usize>>> {
    found_shapes(proto, constants, input_shape).map_err(in_words)
}

fn found_shapes(
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
pub(super) fn run(
    network: &Network,
    plan: &Plan,
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
    contained(|| run().map_err(in_words))
        .map_err(|cause| EngineError::Run { network: network.name.clone(), cause })
}
