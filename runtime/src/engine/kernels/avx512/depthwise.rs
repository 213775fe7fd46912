//! Depthwise convolutions: 64 channels of a few pixels of a line at a time. Bytes of four rows are
//! interleaved, so that one instruction sums the taps of a column.

use std::arch::x86_64::*;

use super::finish::{Cut, Numbers, Rest, round, store};
use super::{GROUP, load};
use crate::engine::kernels::blocks::{channels, ordered};
use crate::engine::kernels::scalar::{slopes, without_slopes};
use crate::engine::kernels::{Depthwise, DepthwiseRun, Finish, Packed, Range8};
use crate::engine::memory::Aligned;

/// Groups of 16 channels of a block.
const GROUPS: usize = 4;

/// Weights as `[block][row / 4][column][channel of the block][4 rows]`.
pub(super) fn pack(depthwise: &Depthwise) -> Packed {
    let (n_channels, side) = (depthwise.n_channels, depthwise.side);
    let n_blocks = n_channels.div_ceil(GROUP * GROUPS);
    let mut weights = Vec::new();
    let mut order = Vec::new();
    for block in 0..n_blocks {
        let of_block: Vec<usize> = channels(block * GROUPS..(block + 1) * GROUPS, 4).collect();
        for first_row in (0..side).step_by(4) {
            for column in 0..side {
                for &channel in &of_block {
                    weights.extend((first_row..first_row + 4).map(|row| {
                        let exists = row < side && channel < n_channels;
                        if exists {
                            depthwise.weights[(row * side + column) * n_channels + channel]
                        } else {
                            0
                        }
                    }));
                }
            }
        }
        order.extend(of_block);
    }
    Packed {
        n_out: n_channels,
        n_rows: side,
        row_bytes: 0,
        n_blocks,
        weights: Aligned::copied(&weights),
        bias: Aligned::copied(&ordered(&depthwise.bias, &order)),
        multipliers: Aligned::copied(&ordered(&depthwise.multipliers, &order)),
        slopes: slopes(&depthwise.finish).map(|s| Aligned::copied(&ordered(s, &order))),
        finish: without_slopes(&depthwise.finish),
    }
}

/// A block of a depthwise convolution and its run.
struct Job<'a> {
    weights: *const i8,
    numbers: Numbers,
    pixel_bytes: usize,
    src_row_bytes: usize,
    dst_step_bytes: usize,
    /// Groups of the block that exist.
    n_groups: usize,
    range: Range8,
    rest: Rest<'a>,
}

/// Computes a run.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(packed: &Packed, run: &DepthwiseRun) {
    let Finish::Bytes { range, .. } = packed.finish else { unreachable!("depthwise gives bytes") };
    let side = packed.n_rows;
    let n_weights = side.div_ceil(4) * side * 4 * GROUP * GROUPS;
    for block in run.blocks.clone() {
        let channel = block * GROUPS * GROUP;
        let job = Job {
            weights: packed.weights[block * n_weights..].as_ptr(),
            numbers: Numbers::new(packed, block * GROUPS),
            pixel_bytes: run.pixel_bytes,
            src_row_bytes: run.src_row_bytes,
            dst_step_bytes: run.dst_step_bytes,
            n_groups: (packed.n_out - channel).div_ceil(GROUP).min(GROUPS),
            range,
            rest: Rest::new(&packed.finish),
        };
        let stride = run.src_step_bytes / run.pixel_bytes;
        let most = if (side == 3 || side == 5) && (stride == 1 || stride == 2) { 4 } else { 1 };
        let mut done = 0;
        for left in (1..=run.n_pixels.div_ceil(most)).rev() {
            let n_pixels = (run.n_pixels - done).div_ceil(left);
            let src = run.src.wrapping_add(done * run.src_step_bytes + channel);
            let dst = run.dst.wrapping_add(done * run.dst_step_bytes + channel);
            macro_rules! tile_of {
                ($($side:literal $stride:literal: $($n_pixels:literal)*;)*) => {
                    match (side, stride, n_pixels) {
                        // SAFETY: the caller's promise.
                        $($(($side, $stride, $n_pixels) => unsafe {
                            tile::<$side, $stride, $n_pixels>(&job, src, dst);
                        },)*)*
                        // SAFETY: the caller's promise.
                        (1, ..) => unsafe { tile::<1, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (2, ..) => unsafe { tile::<2, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (3, ..) => unsafe { tile::<3, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (4, ..) => unsafe { tile::<4, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (5, ..) => unsafe { tile::<5, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (6, ..) => unsafe { tile::<6, 1, 1>(&job, src, dst) },
                        // SAFETY: the caller's promise.
                        (7, ..) => unsafe { tile::<7, 1, 1>(&job, src, dst) },
                        _ => unreachable!("sides are 1 to 7"),
                    }
                };
            }
            tile_of! {
                3 1: 1 2 3 4;
                3 2: 1 2 3 4;
                5 1: 1 2 3 4;
                5 2: 1 2 3 4;
            }
            done += n_pixels;
        }
    }
}

/// Computes a block of `PIXELS` pixels.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const SIDE: usize, const STRIDE: usize, const PIXELS: usize>(
    job: &Job,
    src: *const u8,
    dst: *mut u8,
) {
    let mut sums = [[_mm512_setzero_si512(); GROUPS]; PIXELS];
    for group in 0..GROUPS {
        // SAFETY: numbers are padded to whole blocks.
        let bias = unsafe { load(job.numbers.bias.wrapping_add(group * GROUP)) };
        for sums in &mut sums {
            sums[group] = bias;
        }
    }
    for first_row in (0..SIDE).step_by(4) {
        let weights = job.weights.wrapping_add(first_row / 4 * SIDE * 4 * GROUP * GROUPS);
        for column in 0..(PIXELS - 1) * STRIDE + SIDE {
            let mut rows = [_mm512_setzero_si512(); 4];
            for (row, bytes) in rows.iter_mut().enumerate().take(SIDE - first_row) {
                let from = src.wrapping_add((first_row + row) * job.src_row_bytes + column * job.pixel_bytes);
                // SAFETY: the caller's promise: a tap; channels past the block are within the slack.
                *bytes = unsafe { load(from) };
            }
            let taps = interleaved(rows);
            for (pixel, sums) in sums.iter_mut().enumerate() {
                let Some(tap) = column.checked_sub(pixel * STRIDE).filter(|&tap| tap < SIDE) else {
                    continue;
                };
                for group in 0..GROUPS {
                    // SAFETY: packed with as many columns of each group.
                    let weights = unsafe { load(weights.wrapping_add((tap * GROUPS + group) * 4 * GROUP)) };
                    sums[group] = _mm512_dpbusd_epi32(sums[group], taps[group], weights);
                }
            }
        }
    }
    // SAFETY: numbers are padded to whole blocks.
    let multipliers = unsafe { job.numbers.multipliers::<GROUPS>() };
    // SAFETY: numbers are padded to whole blocks.
    let slopes = unsafe { job.numbers.slopes::<GROUPS>() };
    let cut = Cut::new(job.range);
    let mut at = [dst; PIXELS];
    for pixel in 0..PIXELS {
        at[pixel] = dst.wrapping_add(pixel * job.dst_step_bytes);
        let mut v = [_mm512_setzero_si512(); GROUPS];
        for group in 0..GROUPS {
            v[group] = round(sums[pixel][group], multipliers[group], slopes.map(|s| s[group]));
        }
        // SAFETY: the caller's promise: the groups that exist of a pixel.
        unsafe { store(at[pixel], cut.bytes(v), job.n_groups) };
    }
    // SAFETY: the caller's promise: the groups that exist of each pixel.
    unsafe { job.rest.apply(&at, &[], 0, job.n_groups) };
}

/// The bytes of four rows side by side, in the order of `channels`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(rows: [__m512i; 4]) -> [__m512i; GROUPS] {
    let low = (_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpacklo_epi8(rows[2], rows[3]));
    let high = (_mm512_unpackhi_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[2], rows[3]));
    [
        _mm512_unpacklo_epi16(low.0, low.1),
        _mm512_unpackhi_epi16(low.0, low.1),
        _mm512_unpacklo_epi16(high.0, high.1),
        _mm512_unpackhi_epi16(high.0, high.1),
    ]
}
