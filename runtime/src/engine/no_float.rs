//! Stands for `float` in a program without tract: a network of which a part isn't quantized is refused.

use std::collections::HashMap;

use super::load::Loaded;
use super::lower::Lowered;
use super::model::{Body, Network};
use super::onnx::{Constants, NodeExt as _};
use super::{Engine, EngineError, pb};

/// There is none.
pub(super) enum Plan {}

/// Says which node is in the way.
pub(super) fn plan_of(
    _engine: &Engine,
    proto: pb::ModelProto,
    lowered: Lowered,
    _input_name: &str,
    _input_shape: &[usize],
) -> Loaded<(Body, Vec<Vec<usize>>)> {
    let mut nodes = proto.graph.iter().flat_map(|graph| &graph.node).enumerate();
    let first = nodes.find(|(idx, node)| lowered.kept.contains(idx) && node.op_type != "Constant");
    Err(first.map_or_else(
        || "nothing in the graph is quantized".into(),
        |(_, n)| {
            format!(
                "node {} ({}) isn't quantized: this program was built without float",
                n.label(),
                n.op_type
            )
        },
    ))
}

/// Shapes inside a graph that is partly float aren't found out.
pub(super) fn shapes(
    _proto: &pb::ModelProto,
    _constants: &Constants,
    _input_shape: &[usize],
) -> Loaded<HashMap<String, Vec<usize>>> {
    Ok(HashMap::new())
}

/// Never called: no plan can be made.
pub(super) fn run(
    _network: &Network,
    plan: &Plan,
    _input: &[f32],
    _outputs: &mut [Vec<f32>],
) -> Result<(), EngineError> {
    match *plan {}
}
