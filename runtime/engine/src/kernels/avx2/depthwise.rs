//! Depthwise convolutions: 16 channels of two pixels at a time, two taps an instruction.

use std::arch::x86_64::*;

use super::finish::{Cut, Steps, round};
use super::{GROUP, load};
use crate::kernels::blocks::{Numbers, channels, ordered};
use crate::kernels::scalar::{slopes, without_slopes};
use crate::kernels::{Depthwise, DepthwiseRun, Finish, Packed};
use crate::memory::Aligned;

/// Weights of a group for two taps, 16 bits each.
const PAIR_BYTES: usize = 2 * 2 * GROUP;

/// Weights as `[group][tap / 2][channel of the group][2 taps]` of 16 bits.
pub(super) fn pack(depthwise: &Depthwise) -> Packed {
    let (n_channels, n_taps) = (depthwise.n_channels, depthwise.side * depthwise.side);
    let n_groups = n_channels.div_ceil(GROUP);
    let mut weights: Vec<i8> = Vec::new();
    let mut order = Vec::new();
    for group in 0..n_groups {
        let of_group: Vec<usize> = channels(2 * group..2 * group + 2, 2).collect();
        for first_tap in (0..n_taps).step_by(2) {
            for &channel in &of_group {
                for tap in first_tap..first_tap + 2 {
                    let exists = tap < n_taps && channel < n_channels;
                    let weight = if exists { depthwise.weights[tap * n_channels + channel] } else { 0 };
                    weights.extend(i16::from(weight).to_le_bytes().map(u8::cast_signed));
                }
            }
        }
        order.extend(of_group);
    }
    Packed {
        n_out: n_channels,
        n_rows: depthwise.side,
        row_bytes: 0,
        n_blocks: n_groups,
        weights: Aligned::copied(&weights),
        bias: Aligned::copied(&ordered(&depthwise.bias, &order)),
        multipliers: Aligned::copied(&ordered(&depthwise.multipliers, &order)),
        slopes: slopes(&depthwise.finish).map(|s| Aligned::copied(&ordered(s, &order))),
        finish: without_slopes(&depthwise.finish),
    }
}

/// Computes a run.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run(packed: &Packed, run: &DepthwiseRun) {
    let Finish::Bytes { range, .. } = packed.finish else { unreachable!("depthwise gives bytes") };
    let steps = Steps::new(&packed.finish);
    let cut = Cut::new(range, steps.as_ref());
    let side = packed.n_rows;
    let n_taps = side * side;
    // Where each tap is; the last one's partner, whose weight is 0, is where that is.
    let mut taps = [(side - 1) * (run.src_row_bytes + run.pixel_bytes); 50];
    for (row, taps) in taps[..n_taps].chunks_mut(side).enumerate() {
        for (column, at) in taps.iter_mut().enumerate() {
            *at = row * run.src_row_bytes + column * run.pixel_bytes;
        }
    }
    for group in run.blocks.clone() {
        let weights = packed.weights[group * n_taps.div_ceil(2) * PAIR_BYTES..].as_ptr();
        let numbers = Numbers::new(packed, group * GROUP);
        let src = |pixel| run.src.wrapping_add(pixel * run.src_step_bytes + group * GROUP);
        let dst = |pixel| run.dst.wrapping_add(pixel * run.dst_step_bytes + group * GROUP);
        for first in (0..run.n_pixels).step_by(2) {
            // Two pixels, or one twice.
            let pixels = [first, (first + 1).min(run.n_pixels - 1)];
            // SAFETY: numbers are padded to whole groups.
            let low = unsafe { load(numbers.bias) };
            // SAFETY: numbers are padded to whole groups.
            let high = unsafe { load(numbers.bias.wrapping_add(8)) };
            let mut sums = [low, high, low, high];
            for (pair, at) in taps.as_chunks::<2>().0[..n_taps.div_ceil(2)].iter().enumerate() {
                let of_pair = weights.wrapping_add(pair * PAIR_BYTES);
                // SAFETY: packed with as many pairs.
                let low = unsafe { load(of_pair) };
                // SAFETY: packed with as many pairs.
                let high = unsafe { load(of_pair.wrapping_add(32)) };
                for (pixel, sums) in pixels.into_iter().zip(sums.as_chunks_mut::<2>().0) {
                    // SAFETY: the caller's promise: a tap.
                    let first = unsafe { widened(src(pixel).wrapping_add(at[0])) };
                    // SAFETY: the caller's promise: a tap.
                    let second = unsafe { widened(src(pixel).wrapping_add(at[1])) };
                    let products = _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), low);
                    sums[0] = _mm256_add_epi32(sums[0], products);
                    let products = _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), high);
                    sums[1] = _mm256_add_epi32(sums[1], products);
                }
            }
            for (at, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a group has two vectors.
                *sums = unsafe { round(&numbers, at % 2, *sums) };
            }
            let q = _mm256_permute4x64_epi64::<0b11_01_10_00>(cut.bytes(sums));
            let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            // SAFETY: the caller's promise: a group of a pixel.
            unsafe { _mm_storeu_si128(dst(pixels[0]).cast(), low) };
            // SAFETY: the caller's promise: a group of a pixel.
            unsafe { _mm_storeu_si128(dst(pixels[1]).cast(), high) };
        }
    }
}

/// 16 bytes as 16 bits each.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widened(src: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(src.cast()) })
}
