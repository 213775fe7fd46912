//! The specification: every kernel's numbers, one channel of one pixel at a time.
#![allow(unsafe_code, reason = "reads and writes what a run points to")]

use super::{Conv, ConvRun, Depthwise, DepthwiseRun, Finish, Kernels, MAX_TILE_PIXELS, Packed};
use crate::memory::Aligned;

/// Kernels without vectors.
pub(crate) struct Scalar;

/// Channels of a block.
const BLOCK: usize = 16;

impl Kernels for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn pack_conv(&self, conv: &Conv) -> Packed {
        Packed {
            n_out: conv.n_out,
            n_rows: conv.n_rows,
            row_bytes: conv.row_bytes,
            n_blocks: conv.n_out.div_ceil(BLOCK),
            weights: Aligned::copied(&conv.weights),
            bias: Aligned::copied(&conv.bias),
            multipliers: Aligned::copied(&conv.multipliers),
            slopes: slopes(&conv.finish).map(Aligned::copied),
            finish: without_slopes(&conv.finish),
        }
    }

    unsafe fn conv(&self, packed: &Packed, run: &ConvRun) {
        let taps = packed.n_rows * packed.row_bytes;
        run.tiles(MAX_TILE_PIXELS, |tile| {
            for pixel in 0..tile.n_pixels {
                let window = tile.src.wrapping_add(pixel * run.src_step_bytes);
                for channel in channels(packed, &run.blocks) {
                    let weights = &packed.weights[channel * taps..][..taps];
                    let mut acc = packed.bias[channel];
                    for row in 0..packed.n_rows {
                        let bytes = window.wrapping_add(row * run.src_row_bytes);
                        for (at, &w) in
                            weights[row * packed.row_bytes..][..packed.row_bytes].iter().enumerate()
                        {
                            // SAFETY: a row of taps is the caller's to read.
                            acc += i32::from(w) * i32::from(unsafe { bytes.wrapping_add(at).read() });
                        }
                    }
                    // SAFETY: the pixel's channel is the caller's to write, the residual's to read.
                    unsafe { finish(packed, channel, acc, tile.dst[pixel], tile.residual[pixel]) };
                }
            }
        });
    }

    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed {
        Packed {
            n_out: depthwise.n_channels,
            n_rows: depthwise.side,
            row_bytes: 0,
            n_blocks: depthwise.n_channels.div_ceil(BLOCK),
            weights: Aligned::copied(&depthwise.weights),
            bias: Aligned::copied(&depthwise.bias),
            multipliers: Aligned::copied(&depthwise.multipliers),
            slopes: slopes(&depthwise.finish).map(Aligned::copied),
            finish: without_slopes(&depthwise.finish),
        }
    }

    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun) {
        for pixel in 0..run.n_pixels {
            let window = run.src.wrapping_add(pixel * run.src_step_bytes);
            let dst = run.dst.wrapping_add(pixel * run.dst_step_bytes);
            for channel in channels(packed, &run.blocks) {
                let mut acc = packed.bias[channel];
                for tap in 0..packed.n_rows * packed.n_rows {
                    let (row, column) = (tap / packed.n_rows, tap % packed.n_rows);
                    let at = row * run.src_row_bytes + column * run.pixel_bytes + channel;
                    let weight = packed.weights[tap * packed.n_out + channel];
                    // SAFETY: a tap is the caller's to read.
                    acc += i32::from(weight) * i32::from(unsafe { window.wrapping_add(at).read() });
                }
                // SAFETY: the pixel's channel is the caller's to write.
                unsafe { finish(packed, channel, acc, dst, std::ptr::null()) };
            }
        }
    }
}

/// The channels of some blocks that exist.
fn channels(packed: &Packed, blocks: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    blocks.start * BLOCK..(blocks.end * BLOCK).min(packed.n_out)
}

/// The slopes of a finish, which a kernel packs in its own order.
pub(crate) fn slopes(finish: &Finish) -> Option<&[f32]> {
    match finish {
        Finish::Bytes { slopes, .. } => slopes.as_deref(),
        Finish::Floats => None,
    }
}

/// The finish without its slopes.
pub(crate) fn without_slopes(finish: &Finish) -> Finish {
    match finish.clone() {
        Finish::Bytes { range, table, residual, .. } => {
            Finish::Bytes { range, slopes: None, table, residual }
        }
        Finish::Floats => Finish::Floats,
    }
}

/// Steps 1 to 5 of the module's numbers for one channel.
///
/// # Safety
/// `dst` and, with a residual, `residual` are a pixel that has `channel`.
unsafe fn finish(packed: &Packed, channel: usize, acc: i32, dst: *mut u8, residual: *const u8) {
    #[expect(clippy::cast_precision_loss, reason = "rounds to nearest even, as defined")]
    let mut v = acc as f32 * packed.multipliers[channel];
    let Finish::Bytes { range, table, residual: sum, .. } = &packed.finish else {
        // SAFETY: the caller's to write; f32 pixels are aligned.
        unsafe { dst.cast::<f32>().wrapping_add(channel).write(v) };
        return;
    };
    if let Some(slopes) = &packed.slopes
        && v < 0.0
    {
        v *= slopes[channel];
    }
    let mut q = range.round(v);
    if let Some(table) = table {
        q = table[usize::from(q)];
    }
    if let Some(sum) = sum {
        // SAFETY: the caller's to read.
        let other = unsafe { residual.wrapping_add(channel).read() };
        q = sum.add(q, other);
    }
    // SAFETY: the caller's to write.
    unsafe { dst.wrapping_add(channel).write(q) };
}
