//! What a network is lowered to: tensors of bytes and steps between them.

use super::kernels::{Finish, Packed, Range8, Residual};

/// Index into a network's tensors.
pub(super) type TensorId = usize;

/// Pixels round a tensor, which hold its zero point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Border {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) bottom: usize,
    pub(super) right: usize,
}

/// An activation of one picture, NHWC; bytes with one scale, or f32.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// The value of the graph that it holds.
    pub(super) name: String,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) n_channels: usize,
    /// Bytes from a pixel to the next.
    pub(super) pixel_bytes: usize,
    pub(super) border: Border,
    /// The byte that stands for 0.
    pub(super) zero: u8,
    /// What a step of a byte stands for.
    pub(super) scale: f32,
    /// The region that makes it.
    pub(super) region: usize,
}

impl Tensor {
    /// Bytes from a line to the next.
    pub(super) fn line_bytes(&self) -> usize {
        (self.border.left + self.width + self.border.right).saturating_mul(self.pixel_bytes)
    }

    /// Bytes of all lines with the border.
    pub(super) fn n_bytes(&self) -> usize {
        (self.border.top + self.height + self.border.bottom).saturating_mul(self.line_bytes())
    }

    /// Where the first pixel inside the border stands.
    pub(super) fn origin_bytes(&self) -> usize {
        self.border.top * self.line_bytes() + self.border.left * self.pixel_bytes
    }

    /// Whether its pixels follow one another without a gap.
    pub(super) fn is_dense(&self) -> bool {
        self.border.left + self.border.right == 0
    }
}

/// How a step's windows lie on its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    /// Rows above and columns left of the picture that the first window begins at.
    pub(super) top: usize,
    pub(super) left: usize,
}

impl Window {
    /// The border that a source of `height` x `width` needs for an output of `out_height` x `out_width`.
    pub(super) fn border(
        &self,
        (height, width): (usize, usize),
        (out_height, out_width): (usize, usize),
    ) -> Border {
        let after = |n_out: usize, side: usize, before: usize, n_in: usize| {
            ((n_out - 1) * self.stride + side).saturating_sub(before + n_in)
        };
        Border {
            top: self.top,
            left: self.left,
            bottom: after(out_height, self.rows, self.top, height),
            right: after(out_width, self.columns, self.left, width),
        }
    }
}

/// Most channels of a softmax.
pub(super) const MAX_SOFTMAX: usize = 1024;

/// A function of a network's last floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    None,
    Sigmoid,
    /// Over the channels of the part.
    Softmax,
}

/// Channels of a float tensor with a function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) tensor: TensorId,
    pub(super) from: usize,
    pub(super) n_channels: usize,
    pub(super) function: Function,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// f32 NCHW of the region's input `name` -> bytes: round(x / scale).
    Quantize {
        name: String,
        scale: f32,
        range: Range8,
    },
    /// A convolution or dense layer; a second source is the residual.
    Conv {
        packed: Packed,
        window: Window,
    },
    Depthwise {
        packed: Packed,
        window: Window,
    },
    /// The sum of the first source, as a convolution's bytes, and the second.
    Add {
        sum: Residual,
    },
    /// Every channel of the first source times the second's one pixel:
    /// round((x - its zero) * (gate - its zero) * multiplier).
    Gate {
        multiplier: f32,
        range: Range8,
    },
    /// Mean over all pixels: round((sum - n * zero) * multiplier).
    Mean {
        multiplier: f32,
        range: Range8,
    },
    /// Largest byte of each window; what lies outside the picture doesn't count.
    Max {
        window: Window,
    },
    /// A table of bytes.
    Table {
        table: Box<[u8; 256]>,
    },
    /// Bytes -> f32 NCHW, (q - zero) * scale, as the region's output `name`.
    Dequantize {
        name: String,
        is_flat: bool,
    },
    /// A part of a float tensor, with its function -> f32 NCHW, as the region's output `name`.
    Emit {
        name: String,
        part: Part,
        is_flat: bool,
    },
}

impl Work {
    /// Whether it is a convolution to bytes without a table or a residual.
    pub(super) fn is_plain(&self) -> bool {
        let (Work::Conv { packed, .. } | Work::Depthwise { packed, .. }) = self else { return false };
        matches!(packed.finish, Finish::Bytes { table: None, residual: None, .. })
    }

    /// The step's kind, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Work::Quantize { .. } => "quantize",
            Work::Conv { window, .. } if window.rows * window.columns == 1 => "conv 1x1",
            Work::Conv { .. } => "conv",
            Work::Depthwise { .. } => "depthwise",
            Work::Add { .. } => "add",
            Work::Gate { .. } => "gate",
            Work::Mean { .. } => "mean",
            Work::Max { .. } => "max pool",
            Work::Table { .. } => "table",
            Work::Dequantize { .. } => "dequantize",
            Work::Emit { .. } => "emit",
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// The ONNX node's name.
    pub(super) name: String,
    pub(super) work: Work,
    pub(super) sources: Vec<TensorId>,
    /// `None` for a region's output.
    pub(super) target: Option<TensorId>,
    /// The region that it belongs to.
    pub(super) region: usize,
}
