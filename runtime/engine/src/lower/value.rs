//! What is known of a graph's values while they are read.

use super::conv::Product;
use crate::kernels::Range8;
use crate::steps::{Part, TensorId, Window};

/// What is known of a value of the graph.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Bytes of a tensor.
    Bytes(View),
    /// What bytes stand for.
    Real(View),
    /// A function of what a byte stands for: one number for each byte.
    Mapped(View, Box<[f32; 256]>),
    /// A convolution, perhaps with slopes; and the least and largest value that a clip leaves.
    Product { of: View, product: Box<Product>, clip: Clip, is_flat: bool },
    /// A sum of two tensors, clipped.
    Sum(View, View, Clip),
    /// A tensor times one pixel of another.
    Gate(View, View),
    /// The mean over all pixels.
    Mean(View),
    /// The largest of each window; output height and width.
    Max(View, Window, (usize, usize)),
    /// Floats that a region computes.
    Part(Part, bool),
    /// i8 constants with their scales and axis.
    Constant { name: String, scales: Vec<f32>, axis: i64 },
    /// Floats made outside of regions, after the region of that number less one.
    Float { level: usize },
}

/// A tensor, perhaps seen as [1, values].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct View {
    pub(super) tensor: TensorId,
    pub(super) is_flat: bool,
}

/// Values outside are moved to the nearest inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clip {
    pub(super) least: f32,
    pub(super) most: f32,
}

impl Clip {
    pub(super) const NONE: Clip = Clip { least: f32::NEG_INFINITY, most: f32::INFINITY };

    pub(super) fn then(self, least: f32, most: f32) -> Clip {
        Clip { least: self.least.max(least).min(most), most: self.most.min(most).max(least) }
    }
}

/// A tensor's scale, and its bytes' range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quant {
    pub(super) scale: f32,
    pub(super) range: Range8,
}

impl Quant {
    /// The bytes that a clip leaves. Rounding keeps order, so clipping before and after it is the same.
    pub(super) fn clipped(self, clip: Clip) -> Range8 {
        let (min, max) =
            (self.range.round(clip.least / self.scale), self.range.round(clip.most / self.scale));
        Range8 { zero: self.range.zero, min, max }
    }
}
