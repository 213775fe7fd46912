//! The step of a QuantizeLinear: bytes of what its input is known to be.

use super::bounds::{MAX_MEAN_PIXELS, MOST_RATIO};
use super::conv::To;
use super::value::{Clip, Quant, Value, View};
use super::{Lowering, Refusal};
use crate::kernels::{Range8, Residual, pixel_bytes};
use crate::onnx::NodeExt as _;
use crate::steps::{Tensor, Work};

/// The numbers of a sum of two tensors; as ONNX Runtime's, in whose order they are computed.
fn sum_of(a: &Tensor, b: &Tensor, quant: Quant, clip: Clip) -> Result<Residual, Refusal> {
    let (own, other) = (a.scale / quant.scale, b.scale / quant.scale);
    let fixed = f32::from(quant.range.zero) - (own * f32::from(a.zero) + other * f32::from(b.zero));
    if own.max(other).is_nan() || own.max(other) > MOST_RATIO {
        return Err(format!("its scales are {own} and {other} times the sum's"));
    }
    Ok(Residual { own, other, fixed, is_own_last: true, sum: quant.clipped(clip) })
}

/// A multiplier, refused where its scales take it out of what an f32 holds in full.
fn usable(multiplier: f32) -> Result<f32, Refusal> {
    if multiplier.is_normal() { Ok(multiplier) } else { Err(format!("its scales make {multiplier}")) }
}

impl Lowering<'_> {
    /// Makes the step of `QuantizeLinear`: bytes of what its input is known to be.
    pub(super) fn quantized(&mut self, name: &str, input: &str, quant: Quant) -> Result<View, Refusal> {
        let Some(value) = self.values.get(input).cloned() else {
            return self.quantized_float(name, input, quant, 0);
        };
        match value {
            Value::Real(view) => self.requantized(name, view, quant),
            Value::Mapped(view, values) => {
                let table = Box::new(values.map(|v| quant.range.round(v / quant.scale)));
                self.mapped(name, view, table, quant)
            }
            Value::Product { of, product, clip, is_flat } => {
                let to = To::Bytes { scale: quant.scale, range: quant.clipped(clip) };
                let region = self.tensors[of.tensor].region;
                let target = self.tensor(name, product.size, product.n_out(), quant, region)?;
                let packed = self.packed(input, of, &product, &to)?;
                let work = if product.is_depthwise {
                    Work::Depthwise { packed, window: product.window }
                } else {
                    Work::Conv { packed, window: product.window }
                };
                Ok(View { is_flat, ..self.step(name, work, vec![of.tensor], target) })
            }
            Value::Sum(a, b, clip) => {
                let (own, other) = (&self.tensors[a.tensor], &self.tensors[b.tensor]);
                let work = Work::Add { sum: sum_of(own, other, quant, clip)? };
                let (size, n_channels) = ((own.height, own.width), own.n_channels);
                let target = self.tensor(name, size, n_channels, quant, own.region.max(other.region))?;
                Ok(View { is_flat: a.is_flat, ..self.step(name, work, vec![a.tensor, b.tensor], target) })
            }
            Value::Gate(x, gate) => {
                let (own, other) = (&self.tensors[x.tensor], &self.tensors[gate.tensor]);
                let multiplier = usable(own.scale * other.scale / quant.scale)?;
                let work = Work::Gate { multiplier, range: quant.range };
                let (size, n_channels) = ((own.height, own.width), own.n_channels);
                let target = self.tensor(name, size, n_channels, quant, own.region.max(other.region))?;
                Ok(self.step(name, work, vec![x.tensor, gate.tensor], target))
            }
            Value::Mean(x) => {
                let own = &self.tensors[x.tensor];
                let n_pixels = own.height * own.width;
                if n_pixels > MAX_MEAN_PIXELS {
                    return Err(format!("a mean over {n_pixels} pixels, expected at most {MAX_MEAN_PIXELS}"));
                }
                #[expect(clippy::cast_precision_loss, reason = "below 2^24 pixels")]
                let multiplier = usable(own.scale / (n_pixels as f32 * quant.scale))?;
                let work = Work::Mean { multiplier, range: quant.range };
                let target = self.tensor(name, (1, 1), own.n_channels, quant, own.region)?;
                Ok(self.step(name, work, vec![x.tensor], target))
            }
            Value::Max(x, window, size) => {
                let own = self.tensors[x.tensor].clone();
                let same = Quant { scale: own.scale, range: Range8 { zero: own.zero, min: 0, max: 255 } };
                let target = self.tensor(name, size, own.n_channels, same, own.region)?;
                let view = self.step(name, Work::Max { window }, vec![x.tensor], target);
                self.requantized(name, view, quant)
            }
            Value::Part(..) => {
                let level = self.float(input)?;
                self.quantized_float(name, input, quant, level)
            }
            Value::Float { level } => self.quantized_float(name, input, quant, level),
            Value::Bytes(_) | Value::Constant { .. } => Err("its input is no activation in float".into()),
        }
    }

    /// The same tensor where scale and zero point stay, else a table of its bytes.
    fn requantized(&mut self, name: &str, view: View, quant: Quant) -> Result<View, Refusal> {
        let own = &self.tensors[view.tensor];
        if own.scale == quant.scale && own.zero == quant.range.zero {
            return Ok(view);
        }
        let table = self.reals(view).map(|v| quant.range.round(v / quant.scale));
        self.mapped(name, view, Box::new(table), quant)
    }

    /// What each byte of a tensor stands for.
    pub(super) fn reals(&self, view: View) -> [f32; 256] {
        let own = &self.tensors[view.tensor];
        let mut byte = 0.0;
        [(); 256].map(|()| {
            let v = (byte - f32::from(own.zero)) * own.scale;
            byte += 1.0;
            v
        })
    }

    fn mapped(
        &mut self,
        name: &str,
        view: View,
        table: Box<[u8; 256]>,
        quant: Quant,
    ) -> Result<View, Refusal> {
        let own = &self.tensors[view.tensor];
        let target = self.tensor(name, (own.height, own.width), own.n_channels, quant, own.region)?;
        let step = self.step(name, Work::Table { table }, vec![view.tensor], target);
        Ok(View { is_flat: view.is_flat, ..step })
    }

    /// The step that takes a float from outside.
    fn quantized_float(
        &mut self,
        name: &str,
        input: &str,
        quant: Quant,
        level: usize,
    ) -> Result<View, Refusal> {
        if self.constants.contains(input) {
            return Err("its input is constant".into());
        }
        let shape = (self.around.float_shape)(input, &self.constants);
        let shape = shape.ok_or_else(|| format!("the shape of {input} is unknown"))?;
        if shape.first() != Some(&self.around.n_pictures) {
            return Err(format!("{input} has the shape {shape:?}, expected one entry for each picture"));
        }
        let (size, n_channels, is_flat) = match shape[..] {
            [_, n_channels, height, width] => ((height, width), n_channels, false),
            [_, n_channels] => ((1, 1), n_channels, true),
            _ => return Err(format!("{input} has the shape {shape:?}, expected 2 or 4 axes")),
        };
        let pixel =
            if n_channels <= 4 && self.is_for_convolutions(name) { 4 } else { pixel_bytes(n_channels) };
        let target = self.tensor_of(name, size, n_channels, pixel, Some(quant), level)?;
        let work = Work::Quantize { name: input.to_owned(), scale: quant.scale, range: quant.range };
        Ok(View { is_flat, ..self.step(name, work, vec![], target) })
    }

    /// Whether only convolutions that aren't depthwise read what a `QuantizeLinear` makes: no other step reads
    /// pixels of 4 bytes.
    fn is_for_convolutions(&self, name: &str) -> bool {
        let is_convolution =
            |value: &str| self.readers(value).all(|n| n.op_type == "Conv" && n.int("group", 1) == 1);
        !self.is_output(name)
            && self.readers(name).all(|node| {
                node.op_type == "DequantizeLinear" && node.output.iter().all(|value| is_convolution(value))
            })
    }
}
