//! What is known of a node's outputs, from what is known of its inputs.

use super::conv::{Bias, Product, Weights, per_channel};
use super::value::{Clip, Quant, Value, View};
use super::{Lowering, Refusal};
use crate::kernels::Range8;
use crate::numbers::sigmoid;
use crate::onnx::NodeExt as _;
use crate::pb::{DataType, NodeProto};
use crate::steps::{Function, MAX_SOFTMAX, Part, Window};

/// Largest side of a convolution's or a pool's window.
const MAX_SIDE: usize = 1024;
/// Largest side of a depthwise convolution's window.
const MAX_DEPTHWISE_SIDE: usize = 7;

impl Lowering<'_> {
    /// The values of a node's outputs.
    pub(super) fn values_of(&mut self, node: &NodeProto) -> Result<Vec<Value>, Refusal> {
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return Err(format!("its domain {} is unknown", node.domain));
        }
        let value = match node.op_type.as_str() {
            "QuantizeLinear" => {
                let quant = self.quant(node)?;
                let input = node.input(0).ok_or("no input")?;
                Value::Bytes(self.quantized(node.output.first().ok_or("no output")?, input, quant)?)
            }
            "DequantizeLinear" => self.dequantized(node)?,
            "Conv" => self.convolution(node)?,
            "Gemm" => self.gemm(node)?,
            "MatMul" => self.dense(node, true, None)?,
            "Add" => self.sum(node)?,
            "Mul" => self.product(node)?,
            "Relu" => self.clipped(node, 0.0, f32::INFINITY)?,
            "Clip" => {
                let bound = |idx: usize, attribute: &str, default: f32| match node.input(idx) {
                    Some(name) => self.constants.scalar::<f32>(name).ok_or(format!("{name} is no constant")),
                    None => Ok(node.float(attribute, default)),
                };
                let (least, most) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
                self.clipped(node, least, most)?
            }
            "PRelu" => self.prelu(node)?,
            "Sigmoid" => match self.input(node, 0)? {
                Value::Product { .. } | Value::Part(..) => self.ended(node, Function::Sigmoid)?,
                other => self.map(other, sigmoid)?,
            },
            "Softmax" => {
                let axis = node.int("axis", -1);
                let value = self.ended(node, Function::Softmax)?;
                let Value::Part(_, is_flat) = value else { return Err("not of the last floats".into()) };
                // Before version 13 it was over all axes from that one on.
                let is_channels = axis == 1 && (is_flat || self.around.opset >= 13);
                if !(is_channels || axis == -1 && is_flat) {
                    return Err(format!("axis {axis}, expected the channels"));
                }
                value
            }
            "GlobalAveragePool" => match self.input(node, 0)? {
                Value::Real(view) if !view.is_flat => Value::Mean(view),
                _ => return Err("its input isn't quantized".into()),
            },
            "MaxPool" => self.max_pool(node)?,
            "Flatten" if node.int("axis", 1) == 1 => self.flat(node)?,
            "Reshape" => {
                let shape = node.input(1).and_then(|name| self.constants.get::<i64>(name));
                let keeps_pictures = |n: i64| n == 0 || n == 1 && self.around.n_pictures == 1;
                match shape.as_ref().map(|s| s.values.as_slice()) {
                    Some([n, -1]) if node.int("allowzero", 0) == 0 && keeps_pictures(*n) => {
                        self.flat(node)?
                    }
                    Some([n_pictures, n])
                        if keeps_pictures(*n_pictures)
                            && self.n_values(node).is_some_and(|own| i64::try_from(own) == Ok(*n)) =>
                    {
                        self.flat(node)?
                    }
                    _ => return Err("expected a shape of [1, values]".into()),
                }
            }
            "Split" => return self.split(node),
            _ => return Err("no step exists for it".into()),
        };
        Ok(vec![value])
    }

    fn input(&self, node: &NodeProto, idx: usize) -> Result<Value, Refusal> {
        let name = node.input(idx).ok_or_else(|| format!("input {idx} is missing"))?;
        self.values.get(name).cloned().ok_or_else(|| format!("{name} isn't quantized"))
    }

    /// Scale and zero point of a `QuantizeLinear` or `DequantizeLinear` of activations, as of u8.
    pub(super) fn quant(&self, node: &NodeProto) -> Result<Quant, Refusal> {
        let scale = node.input(1).and_then(|name| self.constants.scalar::<f32>(name));
        let scale = scale.ok_or("its scale is no constant number")?;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(format!("its scale is {scale}"));
        }
        let zero = match node.input(2) {
            None => 0,
            Some(name) => match self.constants.data_type(name) {
                Some(DataType::Uint8) => self.constants.scalar::<u8>(name).ok_or("several zero points")?,
                // s8 is u8 less 128.
                Some(DataType::Int8) => {
                    self.constants.scalar::<i8>(name).ok_or("several zero points")?.cast_unsigned() ^ 0x80
                }
                _ => return Err(format!("{name} is no 8-bit constant")),
            },
        };
        Ok(Quant { scale, range: Range8 { zero, min: 0, max: 255 } })
    }

    fn dequantized(&self, node: &NodeProto) -> Result<Value, Refusal> {
        let name = node.input(0).ok_or("no input")?;
        if self.constants.contains(name) {
            let scales = node.input(1).and_then(|name| self.constants.get::<f32>(name));
            let scales = scales.ok_or("its scales are no constants")?.values;
            let is_u8 = self.constants.data_type(name) == Some(DataType::Uint8);
            if !node.input(2).map_or(!is_u8, |zero| self.constants.is_centred(name, zero)) {
                return Err("its zero point isn't the middle".into());
            }
            return Ok(Value::Constant { name: name.to_owned(), scales, axis: node.int("axis", 1) });
        }
        let Value::Bytes(view) = self.input(node, 0)? else { return Err("its input isn't quantized".into()) };
        let quant = self.quant(node)?;
        let own = &self.tensors[view.tensor];
        if quant.scale != own.scale || quant.range.zero != own.zero {
            return Err("its scale or zero point isn't the QuantizeLinear's".into());
        }
        Ok(Value::Real(view))
    }

    fn convolution(&self, node: &NodeProto) -> Result<Value, Refusal> {
        let Value::Real(of) = self.input(node, 0)? else { return Err("its input isn't quantized".into()) };
        let Value::Constant { name, scales, axis } = self.input(node, 1)? else {
            return Err("its weights aren't quantized".into());
        };
        let source = &self.tensors[of.tensor];
        let shape = self.constants.shape(&name).unwrap_or_default();
        let [n_out, n_in, rows, columns] = shape[..] else {
            return Err(format!("weights of shape {shape:?}"));
        };
        let group = usize::try_from(node.int("group", 1)).unwrap_or(0);
        let is_depthwise = group > 1 && group == source.n_channels && n_out == group && n_in == 1;
        let n_expected = if is_depthwise { 1 } else { source.n_channels };
        if of.is_flat || n_in != n_expected || !(group == 1 || is_depthwise) {
            return Err(format!("{group} groups of {n_in} channels, the input has {}", source.n_channels));
        }
        if is_depthwise && (rows != columns || rows > MAX_DEPTHWISE_SIDE) {
            return Err(format!("a depthwise window of {rows} x {columns}"));
        }
        let (window, size) = self.window(node, of, (rows, columns), false)?;
        let weights = Weights {
            scales: per_channel(scales, axis, 0, n_out)?,
            name,
            read_as: node.input(1).unwrap_or_default().to_owned(),
            is_transposed: false,
            shape: [n_out, n_in, rows, columns],
        };
        let bias = self.bias(node.input(2), n_out)?;
        let product = Product { weights, bias, window, is_depthwise, size, slopes: None };
        Ok(Value::Product { of, product: Box::new(product), clip: Clip::NONE, is_flat: false })
    }

    /// The window of a convolution or a pool, and its output's height and width.
    fn window(
        &self,
        node: &NodeProto,
        of: View,
        (rows, columns): (usize, usize),
        may_round_up: bool,
    ) -> Result<(Window, (usize, usize)), Refusal> {
        let source = &self.tensors[of.tensor];
        if node.sizes("dilations", &[])?.iter().any(|&d| d != 1) {
            return Err("dilations other than 1".into());
        }
        if node.sizes("kernel_shape", &[rows, columns])? != [rows, columns] {
            return Err(format!("kernel_shape other than the weights' {rows} x {columns}"));
        }
        let strides = node.sizes("strides", &[1, 1])?;
        let [stride, other] = strides[..] else { return Err(format!("strides {strides:?}")) };
        if stride != other || stride == 0 || stride > MAX_SIDE {
            return Err(format!("strides {strides:?}, expected the same both ways"));
        }
        if rows == 0 || columns == 0 || rows > MAX_SIDE || columns > MAX_SIDE {
            return Err(format!("a window of {rows} x {columns}"));
        }
        let rounds_up = node.int("ceil_mode", 0) != 0;
        let same = |n_in: usize, side: usize| {
            let total = ((n_in.div_ceil(stride) - 1) * stride + side).saturating_sub(n_in);
            let less = total / 2;
            if node.text("auto_pad") == "SAME_LOWER" { (total - less, less) } else { (less, total - less) }
        };
        let [top, left, bottom, right] = match node.text("auto_pad") {
            "" | "NOTSET" => {
                let pads = node.sizes("pads", &[0; 4])?;
                <[usize; 4]>::try_from(pads).map_err(|pads| format!("pads {pads:?}"))?
            }
            "VALID" => [0; 4],
            "SAME_UPPER" | "SAME_LOWER" => {
                let ((top, bottom), (left, right)) = (same(source.height, rows), same(source.width, columns));
                [top, left, bottom, right]
            }
            other => return Err(format!("auto_pad {other}")),
        };
        if top.max(bottom) >= rows || left.max(right) >= columns || rounds_up && !may_round_up {
            return Err("pads as large as the window, or ceil_mode".into());
        }
        let n_windows = |n_in: usize, before: usize, after: usize, side: usize| {
            let room = (n_in + before + after).checked_sub(side)?;
            let n = if rounds_up { room.div_ceil(stride) } else { room / stride } + 1;
            // A window that would begin behind the picture doesn't count.
            Some(if rounds_up && (n - 1) * stride >= n_in + before { n - 1 } else { n })
        };
        let height = n_windows(source.height, top, bottom, rows);
        let width = n_windows(source.width, left, right, columns);
        let (Some(height), Some(width)) = (height, width) else {
            return Err(format!("a window of {rows} x {columns} on {} x {}", source.height, source.width));
        };
        Ok((Window { rows, columns, stride, top, left }, (height, width)))
    }

    fn bias(&self, name: Option<&str>, n_out: usize) -> Result<Bias, Refusal> {
        let Some(name) = name else { return Ok(Bias::None) };
        // [N, 1] would be a bias for each of N pictures.
        let whole = |shape: &[usize]| match shape {
            [] if n_out == 1 => Ok(()),
            [n] | [1, n] if *n == n_out => Ok(()),
            _ => Err(format!("biases of shape {shape:?}, expected {n_out}")),
        };
        if let Some(Value::Constant { name, scales, axis }) = self.values.get(name) {
            let ints = self.constants.get::<i32>(name).ok_or("its bias is no i32")?;
            whole(&ints.shape)?;
            let scales = per_channel(scales.clone(), *axis, 0, n_out)?;
            return Ok(Bias::Ints(ints.values, scales));
        }
        let floats = self.constants.get::<f32>(name).ok_or("its bias is no constant")?;
        whole(&floats.shape)?;
        Ok(Bias::Floats(floats.values))
    }

    /// A dense layer over all of a tensor: a convolution whose window is the whole picture.
    fn dense(&self, node: &NodeProto, is_transposed: bool, bias: Option<&str>) -> Result<Value, Refusal> {
        let Value::Real(of) = self.input(node, 0)? else { return Err("its input isn't quantized".into()) };
        let Value::Constant { name, scales, axis } = self.input(node, 1)? else {
            return Err("its weights aren't quantized".into());
        };
        let source = &self.tensors[of.tensor];
        let shape = self.constants.shape(&name).unwrap_or_default();
        let (n_out, n_values) = match (&shape[..], is_transposed) {
            (&[n_values, n_out], true) | (&[n_out, n_values], false) => (n_out, n_values),
            _ => return Err(format!("weights of shape {shape:?}")),
        };
        let (rows, columns) = (source.height, source.width);
        let is_one_pixel = rows * columns == 1;
        if n_values != rows * columns * source.n_channels || !(of.is_flat || is_one_pixel) {
            return Err(format!("weights for {n_values} values, the input has another number"));
        }
        let weights = Weights {
            scales: per_channel(scales, axis, i64::from(is_transposed), n_out)?,
            name,
            read_as: node.input(1).unwrap_or_default().to_owned(),
            is_transposed,
            shape: [n_out, source.n_channels, rows, columns],
        };
        let window = Window { rows, columns, stride: 1, top: 0, left: 0 };
        let bias = self.bias(bias, n_out)?;
        let product = Product { weights, bias, window, is_depthwise: false, size: (1, 1), slopes: None };
        Ok(Value::Product { of, product: Box::new(product), clip: Clip::NONE, is_flat: true })
    }

    fn gemm(&self, node: &NodeProto) -> Result<Value, Refusal> {
        if node.float("alpha", 1.0) != 1.0 || node.float("beta", 1.0) != 1.0 || node.int("transA", 0) != 0 {
            return Err("alpha, beta or transA".into());
        }
        self.dense(node, node.int("transB", 0) == 0, node.input(2))
    }

    fn sum(&self, node: &NodeProto) -> Result<Value, Refusal> {
        if let (Ok(Value::Real(a)), Ok(Value::Real(b))) = (self.input(node, 0), self.input(node, 1)) {
            let (own, other) = (&self.tensors[a.tensor], &self.tensors[b.tensor]);
            let size = |t: &super::Tensor| (t.height, t.width, t.n_channels);
            if size(own) != size(other) || a.is_flat != b.is_flat {
                return Err("tensors of different shapes".into());
            }
            return Ok(Value::Sum(a, b, Clip::NONE));
        }
        // A dense layer that got its bias as a node of its own.
        for (product, bias) in [(0, 1), (1, 0)] {
            if let Ok(Value::Product { of, mut product, clip, is_flat: true }) = self.input(node, product)
                && clip == Clip::NONE
                && product.slopes.is_none()
                && matches!(product.bias, Bias::None)
            {
                product.bias = self.bias(node.input(bias), product.n_out())?;
                return Ok(Value::Product { of, product, clip, is_flat: true });
            }
        }
        Err("its inputs aren't quantized".into())
    }

    fn product(&self, node: &NodeProto) -> Result<Value, Refusal> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        if let (Value::Real(x), Value::Real(gate)) = (&a, &b) {
            for (x, gate) in [(*x, *gate), (*gate, *x)] {
                let (own, other) = (&self.tensors[x.tensor], &self.tensors[gate.tensor]);
                let is_pixel = other.height * other.width == 1 && own.height * own.width > 1;
                if is_pixel && own.n_channels == other.n_channels && !x.is_flat && !gate.is_flat {
                    return Ok(Value::Gate(x, gate));
                }
            }
        }
        // x * f(x), as SiLU is written: both are functions of the same bytes.
        let (Some((of, a)), Some((other, b))) = (self.mapping(&a), self.mapping(&b)) else {
            return Err("its inputs aren't functions of one tensor".into());
        };
        if of != other {
            return Err("its inputs are functions of different tensors".into());
        }
        let mut products = a;
        products.iter_mut().zip(b.iter()).for_each(|(a, b)| *a *= b);
        Ok(Value::Mapped(of, products))
    }

    /// A value as a function of the bytes of one tensor, the deepest that is known.
    fn mapping(&self, value: &Value) -> Option<(View, Box<[f32; 256]>)> {
        match value {
            Value::Mapped(view, values) => Some((*view, values.clone())),
            Value::Real(view) => {
                let made_by = self.steps.iter().find(|s| s.target == Some(view.tensor))?;
                let reals = self.reals(*view);
                if let super::Work::Table { table } = &made_by.work {
                    let values = table.map(|q| reals[usize::from(q)]);
                    return Some((View { tensor: made_by.sources[0], ..*view }, Box::new(values)));
                }
                Some((*view, Box::new(reals)))
            }
            _ => None,
        }
    }

    fn map(&self, value: Value, function: impl Fn(f32) -> f32) -> Result<Value, Refusal> {
        match value {
            Value::Mapped(view, values) => Ok(Value::Mapped(view, Box::new(values.map(function)))),
            Value::Real(view) => Ok(Value::Mapped(view, Box::new(self.reals(view).map(function)))),
            _ => Err("its input isn't quantized".into()),
        }
    }

    fn clipped(&self, node: &NodeProto, least: f32, most: f32) -> Result<Value, Refusal> {
        if least.is_nan() || most.is_nan() || least > most {
            return Err(format!("a range from {least} to {most}"));
        }
        Ok(match self.input(node, 0)? {
            Value::Product { of, product, clip, is_flat } => {
                Value::Product { of, product, clip: clip.then(least, most), is_flat }
            }
            Value::Sum(a, b, clip) => Value::Sum(a, b, clip.then(least, most)),
            other => self.map(other, |v| v.max(least).min(most))?,
        })
    }

    fn prelu(&self, node: &NodeProto) -> Result<Value, Refusal> {
        let slopes =
            node.input(1).and_then(|name| self.constants.get::<f32>(name)).ok_or("no constant slopes")?;
        match self.input(node, 0)? {
            Value::Product { of, mut product, clip, is_flat }
                if clip == Clip::NONE && product.slopes.is_none() =>
            {
                let n_out = product.n_out();
                // [C, 1, 1], [1, C, 1, 1] or one slope for all; [C] alone would lie along the width.
                let channel_axis = slopes.shape.len().checked_sub(3);
                let is_channels = channel_axis.is_some_and(|axis| slopes.shape[axis] == n_out) || is_flat;
                product.slopes = match slopes.values.len() {
                    1 => Some(vec![slopes.values[0]; n_out]),
                    n if n == n_out && is_channels => Some(slopes.values),
                    n => return Err(format!("{n} slopes, expected {n_out}")),
                };
                Ok(Value::Product { of, product, clip, is_flat })
            }
            other if slopes.values.len() == 1 => {
                let slope = slopes.values[0];
                self.map(other, |v| if v < 0.0 { v * slope } else { v })
            }
            _ => Err("it doesn't follow a quantized convolution".into()),
        }
    }

    fn max_pool(&self, node: &NodeProto) -> Result<Value, Refusal> {
        let Value::Real(of) = self.input(node, 0)? else { return Err("its input isn't quantized".into()) };
        let sides = node.sizes("kernel_shape", &[])?;
        let [rows, columns] = sides[..] else { return Err(format!("a window of {sides:?}")) };
        if of.is_flat || node.output.len() != 1 {
            return Err("expected one output and an input of 4 axes".into());
        }
        let (window, size) = self.window(node, of, (rows, columns), true)?;
        Ok(Value::Max(of, window, size))
    }

    fn flat(&self, node: &NodeProto) -> Result<Value, Refusal> {
        match self.input(node, 0)? {
            Value::Real(view) => Ok(Value::Real(View { is_flat: true, ..view })),
            Value::Bytes(view) => Ok(Value::Bytes(View { is_flat: true, ..view })),
            Value::Product { of, product, clip, .. } if product.size == (1, 1) => {
                Ok(Value::Product { of, product, clip, is_flat: true })
            }
            Value::Part(part, _) if self.is_pixel(&part) => Ok(Value::Part(part, true)),
            _ => Err("its input isn't quantized".into()),
        }
    }

    /// Values of one picture of a node's first input, where that is bytes.
    fn n_values(&self, node: &NodeProto) -> Option<usize> {
        let (tensor, n_channels) = match self.input(node, 0).ok()? {
            Value::Real(view) | Value::Bytes(view) => (view.tensor, self.tensors[view.tensor].n_channels),
            Value::Part(part, _) => (part.tensor, part.n_channels),
            Value::Product { product, .. } => return Some(product.n_out() * product.size.0 * product.size.1),
            _ => return None,
        };
        Some(n_channels * self.tensors[tensor].height * self.tensors[tensor].width)
    }

    fn is_pixel(&self, part: &Part) -> bool {
        let tensor = &self.tensors[part.tensor];
        tensor.height * tensor.width == 1
    }

    /// The floats of a network's end that a node works on.
    fn last_floats(&mut self, node: &NodeProto) -> Result<(Part, bool), Refusal> {
        match self.input(node, 0)? {
            Value::Part(part, is_flat) => Ok((part, is_flat)),
            Value::Product { of, product, clip, is_flat }
                if clip == Clip::NONE && product.slopes.is_none() =>
            {
                let name = node.input(0).ok_or("no input")?;
                let part = self.floats_of(name, of, &product)?;
                if let Some(value) = self.values.get_mut(name) {
                    *value = Value::Part(part.clone(), is_flat);
                }
                Ok((part, is_flat))
            }
            _ => Err("its input isn't a network's last convolution".into()),
        }
    }

    fn ended(&mut self, node: &NodeProto, function: Function) -> Result<Value, Refusal> {
        let (part, is_flat) = self.last_floats(node)?;
        if part.function != Function::None {
            return Err("a function of a function".into());
        }
        if function == Function::Softmax && part.n_channels > MAX_SOFTMAX {
            return Err(format!("{} channels, expected at most {MAX_SOFTMAX}", part.n_channels));
        }
        Ok(Value::Part(Part { function, ..part }, is_flat))
    }

    fn split(&mut self, node: &NodeProto) -> Result<Vec<Value>, Refusal> {
        if node.int("axis", 0) != 1 {
            return Err("expected axis 1".into());
        }
        let sizes = match node.input(1) {
            Some(name) => self.constants.get::<i64>(name).map(|c| c.values).unwrap_or_default(),
            None => node.sizes("split", &[])?.iter().map(|&n| n as i64).collect(),
        };
        let sizes: Vec<usize> = sizes.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        let (part, is_flat) = self.last_floats(node)?;
        let total = sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        let is_whole = total == Some(part.n_channels) && !sizes.contains(&0);
        if !is_whole || sizes.len() != node.output.len() || part.function != Function::None {
            return Err(format!("parts of {sizes:?} of {} channels", part.n_channels));
        }
        let mut from = part.from;
        let parts = sizes.into_iter().map(|n_channels| {
            let piece = Part { from, n_channels, ..part.clone() };
            from += n_channels;
            Value::Part(piece, is_flat)
        });
        Ok(parts.collect())
    }
}
