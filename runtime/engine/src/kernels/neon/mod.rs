//! 64-bit ARM: what its three instruction sets share. [`baseline`] runs on every core (Cortex-A53, A57,
//! A72), [`dotprod`] on cores with SDOT (Cortex-A76, A78AE), [`i8mm`] on cores with USMMLA.
//!
//! A block is 16 channels, a tile 4 pixels of it: 16 vectors of four sums, which leaves the other 16
//! registers to bytes and weights. Blocks are the outer loop, so that a block's weights stay in the first
//! cache while the pixels pass.
#![allow(unsafe_code, reason = "reads and writes what a run points to")]

mod baseline;
mod dotprod;
mod finish;
mod i8mm;

use std::arch::aarch64::{
    int8x16_t, int32x4_t, uint8x16_t, vdupq_n_s8, vdupq_n_u8, veorq_u8, vld1q_s8, vld1q_s32, vld1q_u8,
    vreinterpretq_s8_u8,
};
use std::arch::is_aarch64_feature_detected;

use finish::{Pixel, Quantization};

use super::scalar::{slopes, without_slopes};
use super::{Conv, ConvRun, Depthwise, Finish, Kernels, LANES, Packed};
use crate::memory::{Aligned, Number};

/// Those of the three that this processor can run, the best one first.
pub(super) fn available() -> impl Iterator<Item = &'static dyn Kernels> {
    let has_dotprod = is_aarch64_feature_detected!("dotprod");
    let has_i8mm = has_dotprod && is_aarch64_feature_detected!("i8mm");
    let i8mm: Option<&'static dyn Kernels> = has_i8mm.then_some(&i8mm::NeonI8mm as _);
    let dotprod: Option<&'static dyn Kernels> = has_dotprod.then_some(&dotprod::NeonDotprod as _);
    i8mm.into_iter().chain(dotprod).chain([&baseline::Neon as _])
}

/// Channels of a block.
const BLOCK: usize = LANES;
/// Pixels of a tile.
const TILE: usize = 4;
/// Four sums for each quarter of a block.
type Sums = [int32x4_t; BLOCK / 4];

/// 16 bytes.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(at: *const u8) -> uint8x16_t {
    // SAFETY: the caller's.
    unsafe { vld1q_u8(at) }
}

/// 16 weights.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_weights(at: *const i8) -> int8x16_t {
    // SAFETY: the caller's.
    unsafe { vld1q_s8(at) }
}

/// q - 128, as instruction sets whose products are of signed bytes need it: 128 * sum(w) is in the packed
/// bias.
#[inline]
#[target_feature(enable = "neon")]
fn signed(bytes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80)))
}

/// [`signed`] bytes at `N` places.
///
/// # Safety
/// 16 bytes at each are the caller's to read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_signed<const N: usize>(at: [*const u8; N]) -> [int8x16_t; N] {
    let mut bytes = [vdupq_n_s8(0); N];
    for (bytes, at) in bytes.iter_mut().zip(at) {
        // SAFETY: the caller's.
        *bytes = signed(unsafe { load(at) });
    }
    bytes
}

/// One block's weights and the windows that they are laid over.
struct Taps {
    /// The block's, in the instruction set's order.
    weights: *const i8,
    n_rows: usize,
    row_bytes: usize,
    src_row_bytes: usize,
    bias: Sums,
}

/// Computes a run with `four`, which gives the sums of a tile, and `one`, of a single pixel.
///
/// # Safety
/// See [`Kernels`](super::Kernels); `four` and `one` read no more than the windows and the weights.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn conv(
    packed: &Packed,
    run: &ConvRun,
    four: impl Fn(&Taps, [*const u8; TILE]) -> [Sums; TILE],
    one: impl Fn(&Taps, *const u8) -> Sums,
) {
    let is_simple = matches!(packed.finish, Finish::Bytes { residual: None, .. });
    for block in run.blocks.clone() {
        let taps = Taps {
            weights: packed.weights[block * BLOCK * packed.n_rows * packed.row_bytes..].as_ptr(),
            n_rows: packed.n_rows,
            row_bytes: packed.row_bytes,
            src_row_bytes: run.src_row_bytes,
            bias: quarters(&packed.bias, block),
        };
        // None for floats and where a residual is added.
        let quantization = Quantization::of(packed, block).filter(|_| is_simple);
        let mut pixels = Pixels::of(run);
        let mut src = run.src;
        let mut left = run.n_pixels;
        while left > 1 {
            let n_pixels = left.min(TILE);
            // Where fewer are left, the last one is computed more than once.
            let mut windows = [src; TILE];
            for i in 1..TILE {
                windows[i] = windows[i - 1].wrapping_add(if i < n_pixels { run.src_step_bytes } else { 0 });
            }
            let sums = four(&taps, windows);
            let places = pixels.next(n_pixels);
            if let Some(quantization) = quantization {
                // With a fixed number of passes the sums stay in registers.
                for i in 0..TILE {
                    if i < n_pixels {
                        let bytes = quantization.bytes(&sums[i]);
                        // SAFETY: the run's pixels are the caller's.
                        unsafe { finish::write(places[i].dst, block, bytes) };
                    }
                }
            } else {
                // SAFETY: as above. A copy, so that the sums themselves stay in registers.
                unsafe { finish::finish(packed, block, &{ sums }[..n_pixels], &places) };
            }
            src = src.wrapping_add(n_pixels * run.src_step_bytes);
            left -= n_pixels;
        }
        if left == 1 {
            // SAFETY: as above.
            unsafe { finish::finish(packed, block, &[one(&taps, src)], &[pixels.at]) };
        }
    }
}

/// A run's output pixels, a tile at a time.
struct Pixels<'a> {
    run: &'a ConvRun,
    column: usize,
    at: Pixel,
}

impl<'a> Pixels<'a> {
    fn of(run: &'a ConvRun) -> Self {
        let residual = run.residual.map_or(std::ptr::null(), |r| r.at);
        Pixels { run, column: run.column, at: Pixel { dst: run.dst.at, residual } }
    }

    /// The places of the next `n_pixels`, the others' are not to be used.
    #[inline(always)]
    fn next(&mut self, n_pixels: usize) -> [Pixel; TILE] {
        let (step, line) = (self.run.dst.step_bytes, self.run.dst.line_bytes);
        let (residual_step, residual_line) =
            self.run.residual.map_or((0, 0), |r| (r.step_bytes, r.line_bytes));
        let mut places = [self.at; TILE];
        if self.column + n_pixels < self.run.width {
            for i in 1..TILE {
                places[i] = places[i - 1].moved(step, residual_step);
            }
            self.column += n_pixels;
            self.at = self.at.moved(n_pixels * step, n_pixels * residual_step);
            return places;
        }
        for place in places.iter_mut().take(n_pixels) {
            *place = self.at;
            self.column += 1;
            self.at = self.at.moved(step, residual_step);
            if self.column == self.run.width {
                let back = |line: usize, step: usize| line.wrapping_sub(self.column * step);
                self.at = self.at.moved(back(line, step), back(residual_line, residual_step));
                self.column = 0;
            }
        }
        places
    }
}

/// A block's 16 numbers as four vectors.
#[inline]
#[target_feature(enable = "neon")]
fn quarters(numbers: &[i32], block: usize) -> Sums {
    let numbers = &numbers[block * BLOCK..][..BLOCK];
    // SAFETY: 4 numbers at each quarter of 16.
    std::array::from_fn(|i| unsafe { vld1q_s32(numbers[4 * i..].as_ptr()) })
}

/// How an instruction set lays a convolution's weights.
///
/// `GROUP` bytes of a channel lie side by side; a row is rounded up to whole groups.
struct ConvOrder<const GROUP: usize> {
    /// Whether bytes are [`signed`].
    is_signed: bool,
}

impl<const GROUP: usize> ConvOrder<GROUP> {
    /// Packs `conv`; `place` gives a group's place in its block, from the packed row's bytes, the channel
    /// in the block, the row and the group's first byte in it.
    fn pack(&self, conv: &Conv, place: impl Fn(usize, usize, usize, usize) -> usize) -> Packed {
        let row_bytes = conv.row_bytes.next_multiple_of(GROUP);
        let n_blocks = conv.n_out.div_ceil(BLOCK);
        let block_bytes = BLOCK * conv.n_rows * row_bytes;
        let mut weights = Aligned::zeros(n_blocks * block_bytes);
        for (line, from) in conv.weights.chunks_exact(conv.row_bytes).enumerate() {
            let (channel, row) = (line / conv.n_rows, line % conv.n_rows);
            let block = &mut weights[channel / BLOCK * block_bytes..][..block_bytes];
            let place = |at| place(row_bytes, channel % BLOCK, row, at * GROUP);
            let (groups, rest) = from.as_chunks::<GROUP>();
            for (at, group) in groups.iter().enumerate() {
                block[place(at)..][..GROUP].copy_from_slice(group);
            }
            if !rest.is_empty() {
                block[place(groups.len())..][..rest.len()].copy_from_slice(rest);
            }
        }
        let taps = conv.n_rows * conv.row_bytes;
        let sums = (0..conv.n_out).map(|c| sum(&conv.weights[c * taps..][..taps]));
        let bias = biases(&conv.bias, self.is_signed, sums);
        Packed {
            n_out: conv.n_out,
            n_rows: conv.n_rows,
            row_bytes,
            n_blocks,
            weights,
            bias,
            multipliers: padded(&conv.multipliers),
            slopes: slopes(&conv.finish).map(padded),
            finish: without_slopes(&conv.finish),
        }
    }
}

/// Packs a depthwise convolution for products of signed bytes: `place` gives (row, column) of a tap and
/// the channel in its block to the place among `block_bytes`.
fn pack_depthwise(
    depthwise: &Depthwise,
    block_bytes: usize,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Packed {
    let (side, n_channels) = (depthwise.side, depthwise.n_channels);
    let n_blocks = n_channels.div_ceil(BLOCK);
    let mut weights = Aligned::zeros(n_blocks * block_bytes);
    for (tap, from) in depthwise.weights.chunks_exact(n_channels).enumerate() {
        for (channel, &w) in from.iter().enumerate() {
            let at = place(tap / side, tap % side, channel % BLOCK);
            weights[channel / BLOCK * block_bytes + at] = w;
        }
    }
    let sums = (0..n_channels)
        .map(|c| depthwise.weights.iter().skip(c).step_by(n_channels).map(|&w| i32::from(w)).sum());
    let bias = biases(&depthwise.bias, true, sums);
    Packed {
        n_out: n_channels,
        n_rows: side,
        row_bytes: 0,
        n_blocks,
        weights,
        bias,
        multipliers: padded(&depthwise.multipliers),
        slopes: slopes(&depthwise.finish).map(padded),
        finish: without_slopes(&depthwise.finish),
    }
}

fn sum(weights: &[i8]) -> i32 {
    weights.iter().map(|&w| i32::from(w)).sum()
}

/// Biases of whole blocks, with what [`signed`] takes away added. It may wrap: the sums wrap back.
fn biases(bias: &[i32], is_signed: bool, sums: impl Iterator<Item = i32>) -> Aligned<i32> {
    let mut made = padded(bias);
    if is_signed {
        for (bias, sum) in made.iter_mut().zip(sums) {
            *bias = bias.wrapping_add(sum.wrapping_mul(128));
        }
    }
    made
}

/// `values`, then zeros up to a whole block.
fn padded<T: Number>(values: &[T]) -> Aligned<T> {
    let mut made = Aligned::zeros(values.len().next_multiple_of(BLOCK));
    made[..values.len()].copy_from_slice(values);
    made
}

#[cfg(test)]
mod tests {
    /// `tests/isa/run` says which kernels the core that it emulates has.
    #[test]
    fn the_core_has_the_kernels_that_are_expected() {
        let found: Vec<&str> = super::available().map(|kernels| kernels.name()).collect();
        let expected = std::env::var("CANDOR_TEST_KERNELS").unwrap_or_else(|_| found.join(","));
        assert_eq!(found.join(","), expected);
        assert_eq!(found.last(), Some(&"neon"), "every 64-bit ARM core has it");
    }
}
