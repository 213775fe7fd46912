//! Every 64-bit ARM core: two products of signed bytes fit 16 bits, |2 * 128 * 127| < 2^15, so a pair is
//! summed there (SMULL, SMLAL) before it is widened (SADALP).

use std::arch::aarch64::{
    int16x8_t, int32x4_t, vaddq_s32, vaddw_high_s16, vaddw_s16, vdup_n_s8, vdup_n_u8, vdupq_n_s32, veor_u8,
    vget_low_s8, vget_low_s16, vld1_s8, vld1_u8, vmlal_high_s8, vmlal_s8, vmull_high_s8, vmull_s8,
    vpadalq_s16, vpaddq_s32, vreinterpret_s8_u8,
};

use super::finish::Quantization;
use super::{
    BLOCK, ConvOrder, Sums, TILE, Taps, finish, load, load_signed, load_weights, pack_depthwise, quarters,
    signed,
};
use crate::kernels::{Conv, ConvRun, Depthwise, DepthwiseRun, Kernels, Packed};

/// Kernels for every 64-bit ARM core.
pub(crate) struct Neon;

/// Taps of a channel that lie side by side in the packed weights; a row's last 8 stand alone.
const STEP: usize = 16;
/// Channels that are summed at a time: 4 of 4 pixels are 16 vectors of partial sums.
const QUAD: usize = 4;

impl Kernels for Neon {
    fn name(&self) -> &'static str {
        "neon"
    }

    fn pack_conv(&self, conv: &Conv) -> Packed {
        // [quad][row][step][channel][STEP], a row's last half step [channel][STEP / 2]
        let order = ConvOrder::<{ STEP / 2 }> { is_signed: true };
        order.pack(conv, |row_bytes, channel, row, byte| {
            let row_start = (channel / QUAD * conv.n_rows + row) * row_bytes * QUAD;
            let step_start = byte / STEP * STEP;
            let width = STEP.min(row_bytes - step_start);
            row_start + step_start * QUAD + channel % QUAD * width + byte % STEP
        })
    }

    unsafe fn conv(&self, packed: &Packed, run: &ConvRun) {
        // SAFETY: the caller's.
        unsafe { conv(packed, run) };
    }

    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed {
        let side = depthwise.side;
        pack_depthwise(depthwise, n_taps(side) * BLOCK, |row, column, channel| {
            (row * side + column) * BLOCK + channel
        })
    }

    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun) {
        match n_taps(packed.n_rows) {
            // SAFETY: the caller's.
            9 => unsafe { depthwise::<9>(packed, run) },
            // SAFETY: the caller's.
            25 => unsafe { depthwise::<25>(packed, run) },
            // SAFETY: the caller's.
            _ => unsafe { depthwise::<49>(packed, run) },
        }
    }
}

/// Taps of a depthwise convolution as it is packed: one of three numbers, the missing ones 0.
fn n_taps(side: usize) -> usize {
    match side {
        0..=3 => 9,
        4 | 5 => 25,
        _ => 49,
    }
}

/// # Safety
/// See [`Kernels`].
#[target_feature(enable = "neon")]
unsafe fn conv(packed: &Packed, run: &ConvRun) {
    let four = |taps: &Taps, windows: [*const u8; TILE]| {
        // SAFETY: `conv` gives taps and windows that are the caller's to read.
        unsafe { sums(taps, windows) }
    };
    let one = |taps: &Taps, window: *const u8| {
        // SAFETY: as above.
        let [sums] = unsafe { sums(taps, [window]) };
        sums
    };
    // SAFETY: the caller's.
    unsafe { super::conv(packed, run, four, one) };
}

/// The sums of `N` pixels.
///
/// # Safety
/// The windows, to whole half steps, and the weights are the caller's to read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sums<const N: usize>(taps: &Taps, windows: [*const u8; N]) -> [Sums; N] {
    let mut all = [taps.bias; N];
    let mut weights = taps.weights;
    for quad in 0..BLOCK / QUAD {
        // [channel][pixel], each lane a part of the sum.
        let mut parts = [[vdupq_n_s32(0); N]; QUAD];
        for row in 0..taps.n_rows {
            let mut src = windows.map(|w| w.wrapping_add(row * taps.src_row_bytes));
            for _ in 0..taps.row_bytes / STEP {
                // SAFETY: a step of each window's row.
                let bytes = unsafe { load_signed(src) };
                for (channel, parts) in parts.iter_mut().enumerate() {
                    // SAFETY: the step's weights of a channel.
                    let w = unsafe { load_weights(weights.wrapping_add(channel * STEP)) };
                    for (part, bytes) in parts.iter_mut().zip(bytes) {
                        let pair = vmull_s8(vget_low_s8(bytes), vget_low_s8(w));
                        *part = vpadalq_s16(*part, vmlal_high_s8(pair, bytes, w));
                    }
                }
                src = src.map(|at| at.wrapping_add(STEP));
                weights = weights.wrapping_add(QUAD * STEP);
            }
            if !taps.row_bytes.is_multiple_of(STEP) {
                let mut bytes = [vdup_n_s8(0); N];
                for (bytes, at) in bytes.iter_mut().zip(src) {
                    // SAFETY: half a step of the window's row.
                    *bytes = vreinterpret_s8_u8(veor_u8(unsafe { vld1_u8(at) }, vdup_n_u8(0x80)));
                }
                for (channel, parts) in parts.iter_mut().enumerate() {
                    // SAFETY: the half step's weights of a channel.
                    let w = unsafe { vld1_s8(weights.wrapping_add(channel * STEP / 2)) };
                    for (part, bytes) in parts.iter_mut().zip(bytes) {
                        *part = vpadalq_s16(*part, vmull_s8(bytes, w));
                    }
                }
                weights = weights.wrapping_add(QUAD * STEP / 2);
            }
        }
        for (pixel, all) in all.iter_mut().enumerate() {
            let [a, b, c, d] = parts.map(|parts| parts[pixel]);
            all[quad] = vaddq_s32(all[quad], vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
        }
    }
    all
}

/// A line of a depthwise convolution of `TAPS` taps.
///
/// # Safety
/// See [`Kernels`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn depthwise<const TAPS: usize>(packed: &Packed, run: &DepthwiseRun) {
    let side = packed.n_rows;
    // Taps that are missing see the window's first pixel.
    let mut offsets = [0; TAPS];
    for (tap, offset) in offsets.iter_mut().enumerate().take(side * side) {
        *offset = tap / side * run.src_row_bytes + tap % side * run.pixel_bytes;
    }
    for block in run.blocks.clone() {
        let Some(quantization) = Quantization::of(packed, block) else { unreachable!("no floats") };
        let weights = packed.weights[block * TAPS * BLOCK..].as_ptr();
        let bias = quarters(&packed.bias, block);
        let mut window = run.src.wrapping_add(block * BLOCK);
        for pixel in 0..run.n_pixels {
            let mut sums = bias;
            for (pair, offsets) in offsets.chunks(2).enumerate() {
                let w = weights.wrapping_add(2 * pair * BLOCK);
                // SAFETY: a tap of the window and its weights.
                let bytes = signed(unsafe { load(window.wrapping_add(offsets[0])) });
                // SAFETY: as above.
                let first = unsafe { load_weights(w) };
                let mut low = vmull_s8(vget_low_s8(bytes), vget_low_s8(first));
                let mut high = vmull_high_s8(bytes, first);
                if let [_, offset] = offsets {
                    // SAFETY: the next one's.
                    let bytes = signed(unsafe { load(window.wrapping_add(*offset)) });
                    // SAFETY: as above.
                    let second = unsafe { load_weights(w.wrapping_add(BLOCK)) };
                    low = vmlal_s8(low, vget_low_s8(bytes), vget_low_s8(second));
                    high = vmlal_high_s8(high, bytes, second);
                }
                widen(&mut sums, low, high);
            }
            window = window.wrapping_add(run.src_step_bytes);
            let dst = run.dst.wrapping_add(pixel * run.dst_step_bytes);
            let bytes = quantization.bytes(&sums);
            // SAFETY: the run's pixels are the caller's.
            unsafe { finish::write(dst, block, bytes) };
        }
    }
}

/// Adds 16 channels' 16-bit sums to their sums.
#[inline]
#[target_feature(enable = "neon")]
fn widen(sums: &mut [int32x4_t; BLOCK / 4], low: int16x8_t, high: int16x8_t) {
    sums[0] = vaddw_s16(sums[0], vget_low_s16(low));
    sums[1] = vaddw_high_s16(sums[1], low);
    sums[2] = vaddw_s16(sums[2], vget_low_s16(high));
    sums[3] = vaddw_high_s16(sums[3], high);
}
