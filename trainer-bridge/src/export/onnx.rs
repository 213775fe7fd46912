//! The part of ONNX's format that our networks need, as protobuf messages.
//!
//! Source: onnx/onnx.proto of ONNX 1.12 (IR version 8); fields that are never written or read are left out.

use prost::Message;

/// FLOAT of `TensorProto.DataType`.
pub(crate) const FLOAT: i32 = 1;
/// UINT8 of the same.
pub(crate) const UINT8: i32 = 2;
/// INT8 of the same.
pub(crate) const INT8: i32 = 3;
/// INT32 of the same.
pub(crate) const INT32: i32 = 6;
/// INT and INTS of `AttributeProto.AttributeType`.
const INT: i32 = 2;
const INTS: i32 = 7;

/// A whole file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(string, tag = "6")]
    pub(crate) doc_string: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<Property>,
}

/// Which operators the nodes mean.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// One entry of the metadata.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Property {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// Nodes in an order in which they can run.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Constant>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<Value>,
}

/// One operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
}

/// An operator's setting.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

impl Attribute {
    pub(crate) fn int(name: &str, value: i64) -> Self {
        Attribute { name: name.into(), i: Some(value), ints: Vec::new(), kind: INT }
    }

    pub(crate) fn ints(name: &str, values: &[i64]) -> Self {
        Attribute { name: name.into(), i: None, ints: values.to_vec(), kind: INTS }
    }

    /// Its integers; `None` where it is something else, of which a part wasn't read.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        match self.kind {
            INT => Some(vec![self.i.unwrap_or(0)]),
            INTS => Some(self.ints.clone()),
            _ => None,
        }
    }
}

/// A tensor with its numbers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Constant {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    /// Little-endian.
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) raw_data: Vec<u8>,
}

/// An input or output.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

/// A number, or a symbol where it may be any.
#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    parameter: Option<String>,
}

impl Value {
    /// An f32 tensor [N, ...`shape`] for any N.
    pub(crate) fn batch(name: &str, shape: &[i64]) -> Self {
        let n_pictures = Dimension { value: None, parameter: Some("N".into()) };
        let rest = shape.iter().map(|&extent| Dimension { value: Some(extent), parameter: None });
        let shape = Some(Shape { dim: std::iter::once(n_pictures).chain(rest).collect() });
        let tensor = Some(TensorType { elem_type: FLOAT, shape });
        Value { name: name.into(), kind: Some(Type { tensor }) }
    }
}
