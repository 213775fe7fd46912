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

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_network_in_float_is_refused_and_the_node_named() {
        let tensor = pb::TensorType { elem_type: pb::DataType::Float as i32, shape: None };
        let input = pb::ValueInfoProto {
            name: "x".into(),
            r#type: Some(pb::TypeProto { value: Some(pb::TypeValue::TensorType(tensor)) }),
        };
        let node = pb::NodeProto {
            name: "act".into(),
            op_type: "Relu".into(),
            input: vec!["x".into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let output = pb::ValueInfoProto { name: "y".into(), r#type: None };
        let graph = pb::GraphProto {
            node: vec![node],
            input: vec![input],
            output: vec![output],
            ..Default::default()
        };
        let opset = pb::OperatorSetIdProto { version: 13, ..Default::default() };
        let file = pb::ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph) };
        let refused = Engine::default().load("net", &*file.encode_to_vec(), &[1, 3, 4, 4]).map(drop);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("node act (Relu) isn't quantized"), "{message}");
    }
}
