//! PyTorch's older checkpoints: concatenated pickles, then the numbers. Nothing that a pickle asks for is run.
//!
//! Only what a plain state dict needs is understood: `OrderedDict`, `_rebuild_tensor_v2` and storages.
//! Format: `torch.save` with `_use_new_zipfile_serialization=False` (torch/serialization.py), pickle protocol 2
//! (Lib/pickletools.py).

use std::collections::HashMap;

use tch::{Kind, Tensor};

const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Why bytes aren't a plain state dict.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// Another format.
    #[error("expected safetensors or a PyTorch checkpoint of the older format, found {0}")]
    Format(&'static str),
    /// The file ends too early.
    #[error("cut short: expected {expected} bytes at byte {at}, found {found}")]
    Short {
        /// Where.
        at: usize,
        /// How many should follow.
        expected: usize,
        /// How many do.
        found: usize,
    },
    /// An instruction that no state dict needs.
    #[error("byte {at}: instruction 0x{opcode:02x} isn't part of a plain state dict")]
    Opcode {
        /// Where.
        at: usize,
        /// Which.
        opcode: u8,
    },
    /// An object that no state dict needs.
    #[error("asks for {0}, which a plain state dict doesn't need")]
    Global(String),
    /// Instructions or numbers that make no state dict.
    #[error("byte {at}: expected {expected}")]
    Structure {
        /// Where.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
}

/// A flat buffer that tensors view.
#[derive(Clone, Debug)]
struct Storage {
    key: String,
    kind: Kind,
    n_values: usize,
}

/// A tensor without its numbers.
#[derive(Clone, Debug)]
struct View {
    storage: Storage,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// What a pickle builds.
#[derive(Clone, Debug)]
enum Value {
    Mark,
    None,
    Int(i64),
    /// An integer of more than 8 bytes, as they are.
    Long(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    OrderedDict,
    RebuildTensor,
    StorageOf(Kind),
    Storage(Storage),
    Tensor(View),
}

/// Tensors of the state dict in `bytes`, by name.
pub(super) fn state_dict(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, PickleError> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Err(PickleError::Format(
            "a zip archive (PyTorch 1.6 or later): save its tensors as safetensors first",
        ));
    }
    let mut reader = Reader { bytes, at: 0 };
    if !matches!(reader.pickle(), Ok(Value::Long(magic)) if magic == MAGIC) {
        return Err(PickleError::Format("something else"));
    }
    let _version = reader.pickle()?;
    let _system = reader.pickle()?;
    let Value::Dict(state) = reader.pickle()? else { return Err(reader.wrong("a dictionary of tensors")) };
    let Value::List(keys) = reader.pickle()? else { return Err(reader.wrong("a list of storages")) };
    let views: Vec<(String, View)> = state
        .into_iter()
        .filter_map(|(name, value)| match (name, value) {
            (Value::Text(name), Value::Tensor(view)) => Some((name, view)),
            _ => None,
        })
        .collect();
    let declared: HashMap<_, _> =
        views.iter().map(|(_, view)| (view.storage.key.as_str(), &view.storage)).collect();
    let mut numbers = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err(reader.wrong("a storage's key")) };
        let storage =
            *declared.get(key.as_str()).ok_or_else(|| reader.wrong("the key of a tensor's storage"))?;
        let n_values = usize::try_from(reader.i64()?).ok().filter(|&n_values| n_values == storage.n_values);
        let n_values = n_values.ok_or_else(|| reader.wrong("as many values as the storage declares"))?;
        let n_bytes = n_values.checked_mul(storage.kind.elt_size_in_bytes());
        let n_bytes = n_bytes.ok_or_else(|| reader.wrong("a storage that fits into memory"))?;
        numbers.insert(key, reader.take(n_bytes)?);
    }
    let tensor = |view: &View| view.tensor(numbers.get(&view.storage.key)?);
    let outside = || reader.wrong("tensors inside of their storages");
    views.iter().map(|(name, view)| Ok((name.clone(), tensor(view).ok_or_else(outside)?))).collect()
}

impl View {
    /// The numbers that the view shows; `None` when it reaches beyond them.
    fn tensor(&self, numbers: &[u8]) -> Option<Tensor> {
        let n_values = i64::try_from(self.storage.n_values).ok()?;
        let mut last = self.offset;
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((extent - 1).checked_mul(stride)?)?;
        }
        let is_inside = self.shape.iter().all(|&extent| extent > 0) && last < n_values;
        let flat = Tensor::f_from_data_size(numbers, &[n_values], self.storage.kind).ok()?;
        is_inside.then(|| flat.as_strided(&self.shape, &self.strides, self.offset).contiguous())
    }
}

/// Walks over the file; a pickle is a program for a stack, which gives one value.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, expected: &'static str) -> PickleError {
        PickleError::Structure { at: self.at, expected }
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let short = PickleError::Short { at: self.at, expected: n_bytes, found: rest.len() };
        let taken = rest.get(..n_bytes).ok_or(short)?;
        self.at += n_bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    fn i32(&mut self) -> Result<i32, PickleError> {
        self.array().map(i32::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, PickleError> {
        self.array().map(i64::from_le_bytes)
    }

    fn text(&mut self, n_bytes: usize) -> Result<Value, PickleError> {
        let text = std::str::from_utf8(self.take(n_bytes)?).map_err(|_| self.wrong("text in UTF-8"))?;
        Ok(Value::Text(text.to_owned()))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let n_bytes = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.wrong("a line"))?;
        let line = String::from_utf8_lossy(self.take(n_bytes)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    /// Runs the pickle that starts here.
    fn pickle(&mut self) -> Result<Value, PickleError> {
        let mut machine = Machine::default();
        loop {
            let at = self.at;
            let opcode = self.u8()?;
            let value = match opcode {
                0x80 => {
                    self.u8()?; // PROTO
                    continue;
                }
                b'.' => return machine.pop().ok_or_else(|| self.wrong("a value")),
                b'(' => Value::Mark,
                b'N' => Value::None,
                b'J' => Value::Int(self.i32()?.into()),
                b'K' => Value::Int(self.u8()?.into()),
                b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
                0x88 => Value::Int(1), // NEWTRUE
                0x89 => Value::Int(0), // NEWFALSE
                0x8a => self.long()?,
                b'X' => {
                    let n_bytes = usize::try_from(self.i32()?).map_err(|_| self.wrong("a length"))?;
                    self.text(n_bytes)?
                }
                b'U' => {
                    let n_bytes = self.u8()?;
                    self.text(n_bytes.into())?
                }
                b'}' => Value::Dict(Vec::new()),
                b']' | b')' => Value::List(Vec::new()),
                b'c' => class(&self.line()?, &self.line()?)?,
                b'q' => {
                    let key = self.u8()?.into();
                    machine.remember(key).ok_or_else(|| self.wrong("a value to remember"))?;
                    continue;
                }
                b'r' => {
                    let key = self.i32()?;
                    machine.remember(key).ok_or_else(|| self.wrong("a value to remember"))?;
                    continue;
                }
                b'h' => {
                    let key = self.u8()?.into();
                    machine.recall(key).ok_or_else(|| self.wrong("a remembered value"))?
                }
                b'j' => {
                    let key = self.i32()?;
                    machine.recall(key).ok_or_else(|| self.wrong("a remembered value"))?
                }
                b't' => Value::List(machine.since_mark().ok_or_else(|| self.wrong("a mark"))?),
                0x85..=0x87 => {
                    let n_values = usize::from(opcode - 0x84);
                    Value::List(machine.last(n_values).ok_or_else(|| self.wrong("the values of a tuple"))?)
                }
                b'a' | b'e' | b's' | b'u' | b'b' => {
                    machine.extend(opcode).ok_or_else(|| self.wrong("a container and its values"))?
                }
                b'Q' => machine.storage().ok_or_else(|| self.wrong("a storage"))?,
                b'R' => machine.call().ok_or_else(|| self.wrong("a tensor or an empty dictionary"))?,
                _ => return Err(PickleError::Opcode { at, opcode }),
            };
            machine.stack.push(value);
        }
    }

    fn long(&mut self) -> Result<Value, PickleError> {
        let n_bytes = self.u8()?;
        let bytes = self.take(n_bytes.into())?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes.to_vec()));
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }
}

fn class(module: &str, name: &str) -> Result<Value, PickleError> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Value::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Value::RebuildTensor,
        ("torch", "FloatStorage") => Value::StorageOf(Kind::Float),
        ("torch", "DoubleStorage") => Value::StorageOf(Kind::Double),
        ("torch", "HalfStorage") => Value::StorageOf(Kind::Half),
        ("torch", "LongStorage") => Value::StorageOf(Kind::Int64),
        ("torch", "IntStorage") => Value::StorageOf(Kind::Int),
        ("torch", "ByteStorage") => Value::StorageOf(Kind::Uint8),
        _ => return Err(PickleError::Global(format!("{module}.{name}"))),
    })
}

/// A pickle's stack and what it remembers. `None` stands for a stack that doesn't hold what an instruction needs.
#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    memory: HashMap<i32, Value>,
}

impl Machine {
    fn pop(&mut self) -> Option<Value> {
        self.stack.pop()
    }

    fn last(&mut self, n_values: usize) -> Option<Vec<Value>> {
        let values = self.stack.split_off(self.stack.len().checked_sub(n_values)?);
        shallow(values)
    }

    fn since_mark(&mut self) -> Option<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        shallow(values)
    }

    fn remember(&mut self, key: i32) -> Option<()> {
        self.memory.insert(key, self.stack.last()?.clone());
        Some(())
    }

    fn recall(&self, key: i32) -> Option<Value> {
        self.memory.get(&key).cloned()
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS and BUILD, whose state is metadata that nobody needs.
    fn extend(&mut self, opcode: u8) -> Option<Value> {
        let values = match opcode {
            b'a' | b'b' => self.last(1)?,
            b's' => self.last(2)?,
            _ => self.since_mark()?,
        };
        match (self.pop()?, opcode) {
            (container, b'b') => Some(container),
            (Value::List(mut list), b'a' | b'e') => {
                list.extend(values);
                Some(Value::List(list))
            }
            (Value::Dict(mut dict), b's' | b'u') => {
                let mut values = values.into_iter();
                while let Some(key) = values.next() {
                    dict.push((key, values.next()?));
                }
                Some(Value::Dict(dict))
            }
            _ => None,
        }
    }

    /// BINPERSID of ("storage", class, key, device, n_values, ...).
    fn storage(&mut self) -> Option<Value> {
        let Value::List(id) = self.pop()? else { return None };
        match &id[..] {
            [Value::Text(what), Value::StorageOf(kind), Value::Text(key), _, Value::Int(n_values), ..]
                if what == "storage" =>
            {
                let n_values = usize::try_from(*n_values).ok()?;
                Some(Value::Storage(Storage { key: key.clone(), kind: *kind, n_values }))
            }
            _ => None,
        }
    }

    /// REDUCE of `OrderedDict()` and `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`.
    fn call(&mut self) -> Option<Value> {
        let Value::List(arguments) = self.pop()? else { return None };
        match (self.pop()?, &arguments[..]) {
            (Value::OrderedDict, []) => Some(Value::Dict(Vec::new())),
            (
                Value::RebuildTensor,
                [Value::Storage(storage), Value::Int(offset), Value::List(shape), Value::List(strides), ..],
            ) => {
                let (shape, strides) = (integers(shape)?, integers(strides)?);
                let (storage, offset) = (storage.clone(), *offset);
                let is_view = offset >= 0 && shape.len() == strides.len();
                is_view.then_some(Value::Tensor(View { storage, offset, shape, strides }))
            }
            _ => None,
        }
    }
}

/// The values, if none nests deeper than a state dict's do, so that dropping them needs little stack.
fn shallow(values: Vec<Value>) -> Option<Vec<Value>> {
    const MOST: usize = 8;
    values.iter().all(|value| value.depth() < MOST).then_some(values)
}

impl Value {
    fn depth(&self) -> usize {
        match self {
            Value::List(values) => 1 + values.iter().map(Value::depth).max().unwrap_or(0),
            Value::Dict(pairs) => {
                1 + pairs.iter().map(|(key, value)| key.depth().max(value.depth())).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// The numbers of a shape or of strides, none negative.
fn integers(values: &[Value]) -> Option<Vec<i64>> {
    let integer = |value: &Value| match value {
        Value::Int(integer) if *integer >= 0 => Some(*integer),
        _ => None,
    };
    values.iter().map(integer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `tests/reference/legacy.py`.
    const CHECKPOINT: &[u8] = include_bytes!("../../../tests/golden/legacy.pth");

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_kind(Kind::Double).reshape([-1]).try_into().unwrap()
    }

    #[test]
    fn tensors_are_what_torch_saved() {
        let tensors: HashMap<_, _> = state_dict(CHECKPOINT).unwrap().into_iter().collect();
        assert_eq!(tensors.len(), 4);
        assert_eq!(tensors["transposed"].size(), [3, 2]);
        assert_eq!(values(&tensors["transposed"]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(values(&tensors["row"]), [3.0, 4.0, 5.0]);
        assert_eq!((tensors["half"].kind(), values(&tensors["half"])), (Kind::Half, vec![-0.5, 1.5]));
        let count = &tensors["count"];
        assert_eq!((count.kind(), count.size(), values(count)), (Kind::Int64, vec![], vec![7.0]));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for end in 0..CHECKPOINT.len() {
            assert!(state_dict(&CHECKPOINT[..end]).is_err(), "the first {end} bytes were read");
        }
        let mut bytes = CHECKPOINT.to_vec();
        for at in 0..bytes.len() {
            for change in [1, 0x20, 0x80, 0xff] {
                bytes[at] ^= change;
                let _ = state_dict(&bytes);
                bytes[at] ^= change;
            }
        }
    }

    #[test]
    fn what_no_state_dict_needs_is_refused() {
        let pickled = |program: &[u8]| [&CHECKPOINT[..21], b"\x80\x02N.\x80\x02", program].concat();
        let error = state_dict(&pickled(b"cposix\nsystem\n(X\x02\0\0\0ls\x85R.")).unwrap_err();
        assert_eq!(error, PickleError::Global("posix.system".into()));
        let deep = [b")".as_slice(), &[0x85; 100_000], b"."].concat();
        assert!(matches!(state_dict(&pickled(&deep)), Err(PickleError::Structure { .. })));
        assert!(matches!(state_dict(b"PK\x03\x04"), Err(PickleError::Format(_))));
        assert!(matches!(state_dict(b"GIF89a"), Err(PickleError::Format(_))));
    }
}
