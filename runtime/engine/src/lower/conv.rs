//! Convolutions and dense layers: ONNX weights, scales and biases -> what a kernel packs.

use super::Refusal;
use crate::kernels::{Conv, Depthwise, Finish, Range8};
use crate::onnx::Constants;
use crate::steps::{Tensor, Window};

/// Largest |sum| and |rounded value| that a kernel may meet; leaves room for a kernel's own offsets.
const SUM_LIMIT: f64 = (1u64 << 30) as f64;

/// Most bits that a channel's numbers are made coarser by.
const MOST_COARSER: u8 = 40;

/// Where i8 weights are, with a scale for each output channel.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// The constant, and its DequantizeLinear's output.
    pub(super) name: String,
    pub(super) read_as: String,
    /// Whether the constant is [inputs, outputs] instead of outputs first.
    pub(super) is_transposed: bool,
    /// Output channels, input channels of a group, rows, columns.
    pub(super) shape: [usize; 4],
    pub(super) scales: Vec<f32>,
}

/// A bias as the file has it.
#[derive(Clone, Debug)]
pub(super) enum Bias {
    None,
    Floats(Vec<f32>),
    /// Integers and their scale for each output channel.
    Ints(Vec<i32>, Vec<f32>),
}

/// A convolution whose output is not known to be bytes or floats yet.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) weights: Weights,
    pub(super) bias: Bias,
    pub(super) window: Window,
    pub(super) is_depthwise: bool,
    /// Output height and width.
    pub(super) size: (usize, usize),
    pub(super) slopes: Option<Vec<f32>>,
}

/// What the sums become.
pub(super) enum To {
    /// Bytes of a scale.
    Bytes {
        scale: f32,
        range: Range8,
    },
    Floats,
}

impl Weights {
    /// The weights, output channels first.
    pub(super) fn values(&self, constants: &Constants) -> Result<Vec<i8>, Refusal> {
        let values =
            constants.weights(&self.name).ok_or_else(|| format!("{} is no 8-bit constant", self.name))?;
        if values.contains(&i8::MIN) {
            return Err(format!("{} holds a weight of -128, expected at least -127", self.name));
        }
        if values.len() != self.shape.iter().product::<usize>() {
            return Err(format!("{} has {} values, expected {:?}", self.name, values.len(), self.shape));
        }
        if !self.is_transposed {
            return Ok(values);
        }
        let n_out = self.shape[0];
        let n_in = values.len() / n_out.max(1);
        Ok((0..values.len()).map(|at| values[at % n_in * n_out + at / n_in]).collect())
    }
}

impl Product {
    pub(super) fn n_out(&self) -> usize {
        self.weights.shape[0]
    }

    /// The i32 bias of each output channel with the source's zero point folded in, and how many bits its
    /// numbers were made coarser by, which is none where its sums fit into [`SUM_LIMIT`].
    ///
    /// Exporters give a channel of almost no weight a tiny scale, in which its bias is huge. Such a channel
    /// keeps its bias to 30 bits, and its weights, which hardly count beside it, lose some of theirs.
    fn folded_bias(&self, source: &Tensor, values: &mut [i8]) -> Result<(Vec<i32>, Vec<u8>), Refusal> {
        let n_taps = values.len() / self.n_out().max(1);
        let (mut folded, mut coarser) = (Vec::with_capacity(self.n_out()), vec![0; self.n_out()]);
        for (channel, weights) in values.chunks_exact_mut(n_taps.max(1)).enumerate() {
            let step = f64::from(source.scale) * f64::from(self.weights.scales[channel]);
            let mut own = match &self.bias {
                Bias::None => 0.0,
                Bias::Floats(values) => f64::from(values[channel]) / step,
                Bias::Ints(values, scales) => {
                    let ratio = f64::from(scales[channel]) / step;
                    // The exporter's own product of the two scales, give or take its rounding.
                    let is_same = (ratio - 1.0).abs() < 1e-5;
                    f64::from(values[channel]) * if is_same { 1.0 } else { ratio }
                }
            };
            loop {
                let sum = sum_of(weights, i16::from);
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let bias = own.round_ties_even() - (sum * i64::from(source.zero)) as f64;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let largest = bias.abs() + (255 * magnitude(weights)) as f64;
                if largest < SUM_LIMIT {
                    #[expect(clippy::cast_possible_truncation, reason = "bounded by SUM_LIMIT")]
                    folded.push(bias as i32);
                    break;
                }
                if largest.is_nan() || coarser[channel] == MOST_COARSER {
                    return Err("its sums don't fit into 31 bits".into());
                }
                coarser[channel] += 1;
                own /= 2.0;
                weights.iter_mut().for_each(|w| *w /= 2);
            }
        }
        Ok((folded, coarser))
    }

    /// What is multiplied with each channel's sum, and what becomes of it.
    fn finish(
        &self,
        source: &Tensor,
        values: &[i8],
        (bias, coarser): (&[i32], &[u8]),
        to: &To,
    ) -> Result<(Vec<f32>, Finish), Refusal> {
        // In the order in which ONNX Runtime computes it.
        let mut multipliers: Vec<f32> = match to {
            To::Bytes { scale, .. } => self.weights.scales.iter().map(|w| source.scale * w / scale).collect(),
            To::Floats => self.weights.scales.iter().map(|w| source.scale * w).collect(),
        };
        for (multiplier, &bits) in multipliers.iter_mut().zip(coarser) {
            *multiplier *= (1u64 << bits) as f32;
        }
        if !multipliers.iter().all(|m| m.is_finite() && *m > 0.0) {
            return Err("a scale is no positive number".into());
        }
        let finish = match to {
            To::Bytes { range, .. } => {
                Finish::Bytes { range: *range, slopes: self.slopes.clone(), table: None, residual: None }
            }
            To::Floats if self.slopes.is_some() => return Err("PRelu without a quantized output".into()),
            To::Floats => Finish::Floats,
        };
        if matches!(to, To::Bytes { .. }) {
            self.check_range(values, bias, &multipliers)?;
        }
        Ok((multipliers, finish))
    }

    /// Refuses scales that take a channel's largest sum beyond what kernels convert to integers.
    fn check_range(&self, values: &[i8], bias: &[i32], multipliers: &[f32]) -> Result<(), Refusal> {
        let n_taps = values.len() / self.n_out().max(1);
        for (channel, multiplier) in multipliers.iter().enumerate() {
            let weights = &values[channel * n_taps..][..n_taps];
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let sum = f64::from(bias[channel]).abs() + (255 * magnitude(weights)) as f64;
            let slope = self.slopes.as_ref().map_or(1.0, |s| f64::from(s[channel]).abs());
            let scaled = sum * f64::from(*multiplier);
            let largest = scaled.max(scaled * slope);
            if slope.is_nan() || largest.is_nan() || largest >= SUM_LIMIT {
                return Err("its scaled sums don't fit into 31 bits".into());
            }
        }
        Ok(())
    }

    /// What kernels pack; `values` are the weights, output channels first.
    pub(super) fn conv(&self, source: &Tensor, mut values: Vec<i8>, to: &To) -> Result<Conv, Refusal> {
        let (bias, coarser) = self.folded_bias(source, &mut values)?;
        let (multipliers, finish) = self.finish(source, &values, (&bias, &coarser), to)?;
        let [n_out, n_in, rows, columns] = self.weights.shape;
        let pixel_bytes = source.pixel_bytes;
        let is_single = rows * columns == 1;
        let row_bytes = if is_single { n_in.next_multiple_of(4) } else { columns * pixel_bytes };
        let mut weights = vec![0; n_out * rows * row_bytes];
        for (packed, values) in weights
            .chunks_exact_mut((rows * row_bytes).max(1))
            .zip(values.chunks_exact((n_in * rows * columns).max(1)))
        {
            if is_single {
                packed[..n_in].copy_from_slice(values);
                continue;
            }
            for (channel, taps) in values.chunks_exact((rows * columns).max(1)).enumerate() {
                for (row, taps) in taps.chunks_exact(columns).enumerate() {
                    for (column, &w) in taps.iter().enumerate() {
                        packed[row * row_bytes + column * pixel_bytes + channel] = w;
                    }
                }
            }
        }
        Ok(Conv { n_out, n_rows: rows, row_bytes, weights, bias, multipliers, finish })
    }

    /// What kernels pack for a depthwise convolution.
    pub(super) fn depthwise(
        &self,
        source: &Tensor,
        mut values: Vec<i8>,
        to: &To,
    ) -> Result<Depthwise, Refusal> {
        let (bias, coarser) = self.folded_bias(source, &mut values)?;
        let (multipliers, finish) = self.finish(source, &values, (&bias, &coarser), to)?;
        let [n_channels, _, side, _] = self.weights.shape;
        let n_taps = side * side;
        let mut weights = vec![0; n_taps * n_channels];
        for (at, &w) in values.iter().enumerate() {
            weights[at % n_taps * n_channels + at / n_taps] = w;
        }
        Ok(Depthwise { n_channels, side, weights, bias, multipliers, finish })
    }
}

/// The sum of what `of` makes of each weight, at most 128 in size. Parts of it are summed in 16 bits, which vector
/// units do several times as fast.
fn sum_of(weights: &[i8], of: impl Fn(i8) -> i16) -> i64 {
    weights.chunks(128).map(|part| i64::from(part.iter().map(|&w| of(w)).sum::<i16>())).sum()
}

fn magnitude(weights: &[i8]) -> i64 {
    sum_of(weights, |w| i16::from(w).abs())
}

/// One scale for each of `n_out` channels, of scales along `axis`.
pub(super) fn per_channel(
    scales: Vec<f32>,
    axis: i64,
    expected: i64,
    n_out: usize,
) -> Result<Vec<f32>, Refusal> {
    match scales.len() {
        1 => Ok(vec![scales[0]; n_out]),
        n if n == n_out && axis == expected => Ok(scales),
        n => Err(format!("{n} scales along axis {axis}, expected {n_out} along {expected}")),
    }
}
