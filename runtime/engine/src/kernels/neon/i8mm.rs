//! Cores with USMMLA: eight products for each of two pixels and two channels at once, bytes without sign.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, uint8x16_t, vaddq_s32, vcombine_u8, vdupq_n_s32, vdupq_n_u8, vld1_u8,
    vreinterpretq_s32_s64, vreinterpretq_s64_s32, vreinterpretq_u8_u64, vreinterpretq_u64_u8, vzip1q_s64,
    vzip1q_u64, vzip2q_s64, vzip2q_u64,
};
use std::arch::asm;

use super::{BLOCK, ConvOrder, Sums, TILE, Taps, dotprod, load, load_weights};
use crate::kernels::{Conv, ConvRun, Depthwise, DepthwiseRun, Kernels, Packed};

/// Kernels for cores with products of matrices of bytes (and dot products, which come with them).
pub(crate) struct NeonI8mm;

/// Taps of a channel that lie side by side in the packed weights: half a USMMLA operand.
const GROUP: usize = 8;
/// Taps that are loaded at a time.
const STEP: usize = 16;
/// Pairs of channels in a block.
const PAIRS: usize = BLOCK / 2;

impl Kernels for NeonI8mm {
    fn name(&self) -> &'static str {
        "neon-i8mm"
    }

    fn pack_conv(&self, conv: &Conv) -> Packed {
        // [row][group][channel][GROUP]
        let order = ConvOrder::<GROUP> { is_signed: false };
        order.pack(conv, |row_bytes, channel, row, byte| (row * row_bytes + byte) * BLOCK + channel * GROUP)
    }

    unsafe fn conv(&self, packed: &Packed, run: &ConvRun) {
        // SAFETY: the caller's.
        unsafe { conv(packed, run) };
    }

    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed {
        dotprod::pack_columns(depthwise)
    }

    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun) {
        // SAFETY: the caller's; cores with i8mm have dot products.
        unsafe { dotprod::depthwise(packed, run) };
    }
}

/// Adds `bytes` (2 pixels x 8) times `weights` (2 channels x 8) to their 2 x 2 sums.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply(sums: &mut int32x4_t, bytes: uint8x16_t, weights: int8x16_t) {
    // SAFETY: reads and writes its operands only; this function has the instruction set.
    unsafe {
        asm!("usmmla {sums:v}.4s, {bytes:v}.16b, {weights:v}.16b", sums = inout(vreg) *sums,
             bytes = in(vreg) bytes, weights = in(vreg) weights,
             options(pure, nomem, nostack, preserves_flags));
    }
}

/// # Safety
/// See [`Kernels`].
#[target_feature(enable = "neon,i8mm")]
unsafe fn conv(packed: &Packed, run: &ConvRun) {
    let four = |taps: &Taps, [a, b, c, d]: [*const u8; TILE]| {
        // SAFETY: `conv` gives taps and windows that are the caller's to read.
        let [[a, b], [c, d]] = unsafe { sums(taps, [[a, b], [c, d]]) };
        [a, b, c, d]
    };
    let one = |taps: &Taps, window: *const u8| {
        // SAFETY: as above.
        let [[sums, _]] = unsafe { sums(taps, [[window, window]]) };
        sums
    };
    // SAFETY: the caller's.
    unsafe { super::conv(packed, run, four, one) };
}

/// The sums of `N` pairs of pixels.
///
/// # Safety
/// The windows, to whole groups, and the weights are the caller's to read.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn sums<const N: usize>(taps: &Taps, windows: [[*const u8; 2]; N]) -> [[Sums; 2]; N] {
    // [pair of pixels][pair of channels]
    let mut parts = [[vdupq_n_s32(0); PAIRS]; N];
    let mut weights = taps.weights;
    for row in 0..taps.n_rows {
        let mut src = advanced(windows, row * taps.src_row_bytes);
        for _ in 0..taps.row_bytes / STEP {
            let mut bytes = [[vdupq_n_u8(0); N]; STEP / GROUP];
            for pair in 0..N {
                // SAFETY: a step of the window's row.
                let a = vreinterpretq_u64_u8(unsafe { load(src[pair][0]) });
                // SAFETY: as above.
                let b = vreinterpretq_u64_u8(unsafe { load(src[pair][1]) });
                bytes[0][pair] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
                bytes[1][pair] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
            }
            for bytes in bytes {
                // SAFETY: the group's weights.
                weights = unsafe { group(&mut parts, weights, bytes) };
            }
            src = advanced(src, STEP);
        }
        if !taps.row_bytes.is_multiple_of(STEP) {
            let mut bytes = [vdupq_n_u8(0); N];
            for (bytes, [a, b]) in bytes.iter_mut().zip(src) {
                // SAFETY: a group of the window's row.
                let a = unsafe { vld1_u8(a) };
                // SAFETY: as above.
                *bytes = vcombine_u8(a, unsafe { vld1_u8(b) });
            }
            // SAFETY: the group's weights.
            weights = unsafe { group(&mut parts, weights, bytes) };
        }
    }
    let mut sums = [[taps.bias; 2]; N];
    for (sums, parts) in sums.iter_mut().zip(parts) {
        for quarter in 0..BLOCK / 4 {
            let left = vreinterpretq_s64_s32(parts[2 * quarter]);
            let right = vreinterpretq_s64_s32(parts[2 * quarter + 1]);
            let pixels = [vzip1q_s64(left, right), vzip2q_s64(left, right)];
            for (sums, pixel) in sums.iter_mut().zip(pixels) {
                sums[quarter] = vaddq_s32(sums[quarter], vreinterpretq_s32_s64(pixel));
            }
        }
    }
    sums
}

#[inline(always)]
fn advanced<const N: usize>(places: [[*const u8; 2]; N], n_bytes: usize) -> [[*const u8; 2]; N] {
    places.map(|[a, b]| [a.wrapping_add(n_bytes), b.wrapping_add(n_bytes)])
}

/// Adds eight taps of all 16 channels; gives the next weights.
///
/// # Safety
/// The eight taps' weights are the caller's to read.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn group<const N: usize>(
    parts: &mut [[int32x4_t; PAIRS]; N],
    weights: *const i8,
    bytes: [uint8x16_t; N],
) -> *const i8 {
    for pair in 0..PAIRS {
        // SAFETY: the caller's.
        let w = unsafe { load_weights(weights.wrapping_add(pair * 2 * GROUP)) };
        for (parts, bytes) in parts.iter_mut().zip(bytes) {
            multiply(&mut parts[pair], bytes, w);
        }
    }
    weights.wrapping_add(GROUP * BLOCK)
}
