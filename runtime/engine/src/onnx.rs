//! Reading ONNX: constants and attributes of a protobuf graph, checked where they are taken.

use std::collections::{HashMap, HashSet};

use super::pb::{self, DataType};

/// Most values of a constant that is read; bounds what a small file may claim.
const MAX_VALUES: usize = 1 << 28;

/// The constants of a graph by name, taken out of it.
pub(super) struct Constants {
    by_name: HashMap<String, pb::TensorProto>,
    forgotten: HashSet<String>,
}

/// A constant's values.
#[derive(Clone, Debug)]
pub(super) struct Constant<T> {
    pub(super) shape: Vec<usize>,
    /// Row-major, as many as the shape says.
    pub(super) values: Vec<T>,
}

/// Element types that constants are read as.
pub(super) trait Element: Copy {
    const TYPE: DataType;
    const BYTES: usize;
    fn from_le(bytes: &[u8]) -> Self;
    /// The tensor's typed field, which files use instead of raw bytes.
    fn typed(tensor: &pb::TensorProto) -> Vec<Self>;
}

macro_rules! element {
    ($type:ty, $onnx:ident, $bytes:literal, $typed:expr) => {
        impl Element for $type {
            const TYPE: DataType = DataType::$onnx;
            const BYTES: usize = $bytes;
            fn from_le(bytes: &[u8]) -> Self {
                let mut le = [0; $bytes];
                le.copy_from_slice(bytes);
                <$type>::from_le_bytes(le)
            }
            fn typed(tensor: &pb::TensorProto) -> Vec<Self> {
                let convert: fn(&pb::TensorProto) -> Vec<Self> = $typed;
                convert(tensor)
            }
        }
    };
}

element!(f32, Float, 4, |t| t.float_data.clone());
element!(i32, Int32, 4, |t| t.int32_data.clone());
element!(i64, Int64, 8, |t| t.int64_data.clone());
// A value that is out of range has no defined meaning: its lowest byte counts.
element!(i8, Int8, 1, |t| t.int32_data.iter().map(|v| v.to_le_bytes()[0].cast_signed()).collect());
element!(u8, Uint8, 1, |t| t.int32_data.iter().map(|v| v.to_le_bytes()[0]).collect());

impl Constants {
    /// Takes the initializers and the values of `Constant` nodes out of `graph`.
    pub(super) fn take(graph: &mut pb::GraphProto) -> Self {
        let mut by_name: HashMap<_, _> =
            std::mem::take(&mut graph.initializer).into_iter().map(|t| (t.name.clone(), t)).collect();
        for node in graph.node.iter_mut().filter(|n| n.op_type == "Constant") {
            let value = node.attribute.iter_mut().find_map(constant);
            if let (Some(mut value), Some(output)) = (value, node.output.first()) {
                value.name.clone_from(output);
                by_name.insert(output.clone(), value);
            }
        }
        Constants { by_name, forgotten: HashSet::new() }
    }

    /// The constants of those `names`, as initializers.
    #[cfg(feature = "float")]
    pub(super) fn into_initializers(mut self, names: &HashSet<&str>) -> Vec<pb::TensorProto> {
        self.by_name.retain(|name, _| names.contains(name.as_str()));
        let mut found: Vec<_> = self.by_name.into_values().collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Forgets the values of a constant that nothing will ask for again.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(tensor) = self.by_name.get_mut(name) {
            tensor.raw_data = Vec::new();
            tensor.int32_data = Vec::new();
            self.forgotten.insert(name.to_owned());
        }
    }

    /// All constants as initializers, with zeros for values that are forgotten: enough to find out shapes.
    #[cfg(feature = "float")]
    pub(super) fn stand_ins(&self) -> Vec<pb::TensorProto> {
        let stand_in = |tensor: &pb::TensorProto| {
            let mut tensor = tensor.clone();
            if self.forgotten.contains(&tensor.name) {
                let sizes = tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0));
                let len = sizes.fold(1usize, usize::saturating_mul);
                tensor.raw_data = vec![0; len.min(MAX_VALUES)];
            }
            tensor
        };
        self.by_name.values().map(stand_in).collect()
    }

    /// The shape of a constant.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let dims = &self.by_name.get(name)?.dims;
        dims.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().ok()
    }

    /// A constant of 8-bit weights as i8, as it lies in the file; u8 ones stand for their value less 128.
    pub(super) fn weights(&self, name: &str) -> Option<Vec<i8>> {
        match self.data_type(name)? {
            DataType::Int8 => self.get::<i8>(name).map(|c| c.values),
            DataType::Uint8 => {
                let bytes = self.get::<u8>(name)?.values;
                Some(bytes.into_iter().map(|b| (b ^ 0x80).cast_signed()).collect())
            }
            _ => None,
        }
    }

    /// Whether every zero point of a constant is the middle of its type: 0, or 128 of u8.
    pub(super) fn is_centred(&self, name: &str, zero: &str) -> bool {
        match self.data_type(name) {
            Some(DataType::Int8) => self.get::<i8>(zero).is_some_and(|z| z.values.iter().all(|&z| z == 0)),
            Some(DataType::Uint8) => self.get::<u8>(zero).is_some_and(|z| z.values.iter().all(|&z| z == 128)),
            Some(DataType::Int32) => self.get::<i32>(zero).is_some_and(|z| z.values.iter().all(|&z| z == 0)),
            _ => false,
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The element type of a constant.
    pub(super) fn data_type(&self, name: &str) -> Option<DataType> {
        DataType::try_from(self.by_name.get(name)?.data_type).ok()
    }

    /// A constant's values; `None` when there is none of that name and type, or when its data doesn't
    /// fit its shape.
    pub(super) fn get<T: Element>(&self, name: &str) -> Option<Constant<T>> {
        let tensor = self.by_name.get(name)?;
        if tensor.data_type != T::TYPE as i32 || !tensor.external_data.is_empty() {
            return None;
        }
        let shape: Vec<usize> =
            tensor.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>().ok()?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_VALUES)?;
        let values: Vec<T> = if tensor.raw_data.is_empty() {
            T::typed(tensor)
        } else {
            tensor.raw_data.chunks_exact(T::BYTES).map(T::from_le).collect()
        };
        let is_whole = tensor.raw_data.is_empty() || tensor.raw_data.len() == len * T::BYTES;
        (values.len() == len && is_whole).then_some(Constant { shape, values })
    }

    /// A constant of one value.
    pub(super) fn scalar<T: Element>(&self, name: &str) -> Option<T> {
        let constant = self.get::<T>(name)?;
        (constant.values.len() == 1).then(|| constant.values[0])
    }
}

/// The tensor that an attribute of a `Constant` stands for.
fn constant(attribute: &mut pb::AttributeProto) -> Option<pb::TensorProto> {
    let (floats, ints) = match attribute.name.as_str() {
        "value" => return attribute.t.take(),
        "value_float" => (vec![attribute.f], vec![]),
        "value_floats" => (std::mem::take(&mut attribute.floats), vec![]),
        "value_int" => (vec![], vec![attribute.i]),
        "value_ints" => (vec![], std::mem::take(&mut attribute.ints)),
        _ => return None,
    };
    let n_values = i64::try_from(floats.len() + ints.len()).ok()?;
    let is_float = attribute.name.starts_with("value_float");
    Some(pb::TensorProto {
        dims: if attribute.name.ends_with('s') { vec![n_values] } else { vec![] },
        data_type: if is_float { DataType::Float } else { DataType::Int64 } as i32,
        float_data: floats,
        int64_data: ints,
        ..Default::default()
    })
}

/// A node's inputs and attributes.
pub(super) trait NodeExt {
    /// The name of input `idx`; `None` when it is left out.
    fn input(&self, idx: usize) -> Option<&str>;
    /// An integer attribute, or `default` where it isn't given.
    fn int(&self, name: &str, default: i64) -> i64;
    /// A float attribute, or `default` where it isn't given.
    fn float(&self, name: &str, default: f32) -> f32;
    /// A list of integers that are no less than 0, or `default` where it isn't given.
    ///
    /// # Errors
    /// Where it has others.
    fn sizes(&self, name: &str, default: &[usize]) -> Result<Vec<usize>, String>;
    /// A text attribute, empty where it isn't given.
    fn text(&self, name: &str) -> &str;
    /// The node's name for people: its own or its first output's.
    fn label(&self) -> &str;
}

impl NodeExt for pb::NodeProto {
    fn input(&self, idx: usize) -> Option<&str> {
        self.input.get(idx).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        attribute(self, name).map_or(default, |a| a.i)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        attribute(self, name).map_or(default, |a| a.f)
    }

    fn sizes(&self, name: &str, default: &[usize]) -> Result<Vec<usize>, String> {
        let Some(attribute) = attribute(self, name) else { return Ok(default.to_vec()) };
        let sizes = attribute.ints.iter().map(|&i| usize::try_from(i)).collect::<Result<_, _>>();
        sizes.map_err(|_| format!("{name} of {:?}", attribute.ints))
    }

    fn text(&self, name: &str) -> &str {
        attribute(self, name).map_or("", |a| std::str::from_utf8(&a.s).unwrap_or("that is no text"))
    }

    fn label(&self) -> &str {
        if self.name.is_empty() { self.output.first().map_or("", String::as_str) } else { &self.name }
    }
}

fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}
