//! What the engine computes with: one [`Kernels`] for each instruction set, all of which give the same
//! bytes. [`scalar`] is their specification; the numbers are defined here.
//!
//! Activations are bytes q that stand for (q - zero) * scale, one scale a tensor. They lie as NHWC:
//! pixels of a multiple of [`LANES`] bytes (4 bytes for an input of up to 4 channels that only convolutions
//! read), whose bytes
//! past the last channel hold anything; a border round the picture, where a convolution needs one, holds
//! the zero point. Weights are i8 with |w| <= 127, one scale an output channel.
//!
//! A convolution's sum is exact in i32: acc = bias + sum(w * q), with the input's zero point folded into
//! the bias. Then, each operation rounded to f32 on its own, and fma being a product and a sum rounded once:
//!
//! 1. v = f32(acc) * multiplier; [`Finish::Floats`] ends here;
//! 2. where there are slopes (PReLU): v = v * slope where v < 0;
//! 3. q = zero + clamp(round(v), min - zero, max - zero), ties to the even number;
//! 4. where there is a table (SiLU, sigmoid): q = table[q];
//! 5. where there is a residual r: q = clamp(round(fma(q, own, fma(r, other, fixed))), min, max), or with
//!    the two operands the other way round; `fixed` holds the zero points. ONNX Runtime adds like this.
//!
//! The loader refuses numbers with which acc or round(v) could leave i32, so a kernel may convert before
//! it clamps.
#![allow(unsafe_code, reason = "kernels read and write what runs point to")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(super) mod plain;
pub(super) mod scalar;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::memory::Aligned;

/// Pixels' bytes are a multiple of this, so that kernels load and store whole vectors.
pub(crate) const LANES: usize = 16;
/// Bytes that may be read past the end of any tensor.
pub(crate) const SLACK_BYTES: usize = 128;
/// Most output pixels that a kernel computes at a time.
pub(crate) const MAX_TILE_PIXELS: usize = 16;

/// Bytes from a pixel to the next one, of every tensor but inputs of 4 bytes a pixel.
pub(crate) fn pixel_bytes(n_channels: usize) -> usize {
    n_channels.next_multiple_of(LANES)
}

/// How q's range is cut: bytes from `min` to `max`, 0 being `zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range8 {
    pub(crate) zero: u8,
    pub(crate) min: u8,
    pub(crate) max: u8,
}

impl Range8 {
    /// The byte nearest to `zero + v`, ties to the even distance from `zero`; not a number gives `min`.
    #[inline(always)]
    pub(crate) fn round(self, v: f32) -> u8 {
        let zero = f32::from(self.zero);
        nearest(v, f32::from(self.min) - zero, f32::from(self.max) - zero).wrapping_add(self.zero)
    }

    /// The byte nearest to `v`, which has the zero point in it; ties to even, not a number gives `min`.
    #[inline(always)]
    pub(crate) fn round_whole(self, v: f32) -> u8 {
        nearest(v, f32::from(self.min), f32::from(self.max))
    }
}

/// The lowest byte of the whole number nearest to `v` moved to `low..=high`, ties to even; not a number gives
/// `low`'s. Limits within +-2^20.
#[inline(always)]
fn nearest(v: f32, low: f32, high: f32) -> u8 {
    // Written so that compilers turn loops of it into vectors. Adding 1.5 * 2^23 leaves no bit behind the
    // point, so the sum is rounded to a whole number, which its lowest bits then are.
    const WHOLE: f32 = 12_582_912.0;
    let kept = if v > low { v } else { low };
    let kept = if kept < high { kept } else { high };
    (kept + WHOLE).to_bits().to_le_bytes()[0]
}

/// A residual that is added to a convolution's output: see the module's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Residual {
    /// Scale of the convolution's bytes over the sum's.
    pub(crate) own: f32,
    /// Scale of the residual's bytes over the sum's.
    pub(crate) other: f32,
    /// The sum's zero point less what the operands' zero points stand for in it.
    pub(crate) fixed: f32,
    /// Whether the convolution's bytes come last: then they are the sum's first operand.
    pub(crate) is_own_last: bool,
    /// Its `zero` is in `fixed`.
    pub(crate) sum: Range8,
}

impl Residual {
    /// Step 5 of the numbers.
    #[inline(always)]
    pub(crate) fn add(&self, own: u8, other: u8) -> u8 {
        let (own, other) = (f32::from(own), f32::from(other));
        let t = if self.is_own_last {
            own.mul_add(self.own, other.mul_add(self.other, self.fixed))
        } else {
            other.mul_add(self.other, own.mul_add(self.own, self.fixed))
        };
        self.sum.round_whole(t)
    }
}

/// What becomes of a convolution's sums.
#[derive(Clone, Debug)]
pub(crate) enum Finish {
    /// f32 of acc * multiplier.
    Floats,
    /// Bytes.
    Bytes {
        range: Range8,
        /// One an output channel.
        slopes: Option<Vec<f32>>,
        table: Option<Box<[u8; 256]>>,
        /// Not with a table.
        residual: Option<Residual>,
    },
}

/// A convolution (a dense layer is one of 1 x 1 pixels): what a kernel packs.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    pub(crate) n_out: usize,
    /// Rows of taps.
    pub(crate) n_rows: usize,
    /// Bytes of input under one row of taps, which lie side by side: taps * `pixel_bytes`; of a 1 x 1
    /// convolution only the channels, rounded up to 4.
    pub(crate) row_bytes: usize,
    /// `[n_out][n_rows][row_bytes]`, 0 where no channel is.
    pub(crate) weights: Vec<i8>,
    /// `[n_out]`, input's zero point folded in.
    pub(crate) bias: Vec<i32>,
    /// `[n_out]`, > 0.
    pub(crate) multipliers: Vec<f32>,
    pub(crate) finish: Finish,
}

/// A depthwise convolution, one filter of `side` x `side` taps a channel.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    pub(crate) n_channels: usize,
    /// Taps in a row and in a column.
    pub(crate) side: usize,
    /// `[side][side][n_channels]`.
    pub(crate) weights: Vec<i8>,
    /// `[n_channels]`, input's zero point folded in.
    pub(crate) bias: Vec<i32>,
    /// `[n_channels]`, > 0.
    pub(crate) multipliers: Vec<f32>,
    /// Bytes, without a residual.
    pub(crate) finish: Finish,
}

/// A [`Conv`] or [`Depthwise`] in a kernel's own order. The per-channel numbers are in the kernel's order
/// too, padded to whole blocks (bias 0, multiplier 0, slope 0).
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Channels that exist.
    pub(crate) n_out: usize,
    /// Rows of taps; a depthwise convolution's side.
    pub(crate) n_rows: usize,
    /// Bytes of a row of taps as the kernel reads it; unused for depthwise.
    pub(crate) row_bytes: usize,
    /// Pieces that `n_out` is cut into: threads may share them out.
    pub(crate) n_blocks: usize,
    pub(crate) weights: Aligned<i8>,
    pub(crate) bias: Aligned<i32>,
    pub(crate) multipliers: Aligned<f32>,
    pub(crate) slopes: Option<Aligned<f32>>,
    /// Its slopes are taken out.
    pub(crate) finish: Finish,
}

impl Packed {
    /// Bytes that it takes.
    pub(crate) fn n_bytes(&self) -> usize {
        let slopes = self.slopes.as_ref().map_or(0, Aligned::n_bytes);
        self.weights.n_bytes() + self.bias.n_bytes() + self.multipliers.n_bytes() + slopes
    }
}

/// Where pixels that follow one another stand: lines of `width` pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines<P> {
    /// First pixel of the run.
    pub(crate) at: P,
    /// Bytes from a pixel to the next one of the line.
    pub(crate) step_bytes: usize,
    /// Bytes from a line's first pixel to the next line's.
    pub(crate) line_bytes: usize,
}

/// Some output pixels of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct ConvRun {
    /// First byte under the first row of taps of the first output pixel.
    pub(crate) src: *const u8,
    /// Bytes from there to the same of the next output pixel, for all pixels of the run.
    pub(crate) src_step_bytes: usize,
    /// Bytes from a row of taps to the next.
    pub(crate) src_row_bytes: usize,
    /// Output pixels.
    pub(crate) n_pixels: usize,
    /// Column of the first output pixel in its line, and pixels of a line.
    pub(crate) column: usize,
    pub(crate) width: usize,
    /// Where they go: bytes or, for [`Finish::Floats`], f32.
    pub(crate) dst: Lines<*mut u8>,
    /// The residual, where there is one.
    pub(crate) residual: Option<Lines<*const u8>>,
    /// Which of [`Packed::n_blocks`].
    pub(crate) blocks: Range<usize>,
}

/// A line of output pixels of a depthwise convolution.
#[derive(Clone, Debug)]
pub(crate) struct DepthwiseRun {
    /// First byte under the first tap of the first output pixel.
    pub(crate) src: *const u8,
    /// Bytes from an input pixel to the next, and from the window of an output pixel to the next one's:
    /// once or more times that.
    pub(crate) pixel_bytes: usize,
    pub(crate) src_step_bytes: usize,
    /// Bytes from a row of taps to the next.
    pub(crate) src_row_bytes: usize,
    pub(crate) n_pixels: usize,
    pub(crate) dst: *mut u8,
    pub(crate) dst_step_bytes: usize,
    /// Which of [`Packed::n_blocks`].
    pub(crate) blocks: Range<usize>,
}

/// One output pixel's places, for up to [`MAX_TILE_PIXELS`] of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) src: *const u8,
    pub(crate) n_pixels: usize,
    pub(crate) dst: [*mut u8; MAX_TILE_PIXELS],
    /// Null without a residual.
    pub(crate) residual: [*const u8; MAX_TILE_PIXELS],
}

impl ConvRun {
    /// Calls `each` with the run's pixels, up to `most` at a time and about as many each time.
    #[inline(always)]
    pub(crate) fn tiles(&self, most: usize, mut each: impl FnMut(&Tile)) {
        let mut column = self.column;
        let null = Lines { at: std::ptr::null(), step_bytes: 0, line_bytes: 0 };
        let (mut dst, mut residual) = (self.dst, self.residual.unwrap_or(null));
        // From the pixel after a line's last one to the next line's first one.
        let dst_gap = dst.line_bytes.wrapping_sub(self.width * dst.step_bytes);
        let residual_gap = residual.line_bytes.wrapping_sub(self.width * residual.step_bytes);
        let n_tiles = self.n_pixels.div_ceil(most);
        let (fewest, n_larger) = (self.n_pixels / n_tiles.max(1), self.n_pixels % n_tiles.max(1));
        let mut src = self.src;
        for tile_idx in 0..n_tiles {
            let n_pixels = fewest + usize::from(tile_idx < n_larger);
            let mut tile = Tile {
                src,
                n_pixels,
                dst: [dst.at; MAX_TILE_PIXELS],
                residual: [residual.at; MAX_TILE_PIXELS],
            };
            // All of them, in a loop that compilers unroll; then past the ends of lines.
            for at in 0..MAX_TILE_PIXELS {
                tile.dst[at] = dst.at.wrapping_add(at * dst.step_bytes);
                tile.residual[at] = residual.at.wrapping_add(at * residual.step_bytes);
            }
            for end in (self.width - column..n_pixels).step_by(self.width) {
                for at in end..n_pixels {
                    tile.dst[at] = tile.dst[at].wrapping_add(dst_gap);
                    tile.residual[at] = tile.residual[at].wrapping_add(residual_gap);
                }
            }
            each(&tile);
            src = src.wrapping_add(n_pixels * self.src_step_bytes);
            dst.at = dst.at.wrapping_add(n_pixels * dst.step_bytes);
            residual.at = residual.at.wrapping_add(n_pixels * residual.step_bytes);
            column += n_pixels;
            while column >= self.width {
                column -= self.width;
                dst.at = dst.at.wrapping_add(dst_gap);
                residual.at = residual.at.wrapping_add(residual_gap);
            }
        }
    }
}

/// The kernels of one instruction set.
///
/// # Safety
/// Implementations read and write only what the runs describe: `row_bytes` at each row of taps of each
/// pixel, rounded up by at most [`SLACK_BYTES`]; and of each output pixel at most `pixel_bytes(n_out)`
/// bytes (4 times that for floats) from the block's first channel on.
///
/// Callers of the unsafe methods see to it that all of that is theirs to read or to write, that a `Packed`
/// comes from the same implementation, and that the processor has its instruction set.
pub(crate) trait Kernels: Send + Sync {
    /// Its name in the setting, the log and the benchmark.
    fn name(&self) -> &'static str;

    /// Puts a convolution into this implementation's order.
    fn pack_conv(&self, conv: &Conv) -> Packed;

    /// Computes a run of a convolution.
    ///
    /// # Safety
    /// See [`Kernels`].
    unsafe fn conv(&self, packed: &Packed, run: &ConvRun);

    /// Puts a depthwise convolution into this implementation's order; sides from 1 to 7.
    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed;

    /// Computes a line of a depthwise convolution.
    ///
    /// # Safety
    /// See [`Kernels`].
    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun);

    // The loops of `plain`; an instruction set has them compiled with its features.
    plain::vectorised!();
}

/// The kernels that this processor can run, the best one first, [`scalar`] last.
pub(crate) fn available() -> Vec<&'static dyn Kernels> {
    let mut found: Vec<&'static dyn Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if avx512::Avx512::is_detected() {
        found.push(&avx512::Avx512);
    }
    #[cfg(target_arch = "x86_64")]
    if avx2::Avx2::is_detected() {
        found.push(&avx2::Avx2);
    }
    #[cfg(target_arch = "aarch64")]
    found.extend(neon::available());
    found.push(&scalar::Scalar);
    found
}
