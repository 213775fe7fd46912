//! Convolutions: tiles of a few pixels by 1 to 4 vectors of 16 output channels.

use std::arch::x86_64::*;

use super::finish::{Cut, Rest, floats, round, store};
use super::{GROUP, load};
use crate::kernels::blocks::{self, Blocks, Numbers, unrolled};
use crate::kernels::{Conv, ConvRun, Finish, Packed, Range8, Tile};

/// Most groups of 16 channels of a block. A tile of 6 pixels by 4 loads the least for each product.
const MOST_GROUPS: usize = 4;

pub(super) fn pack(conv: &Conv) -> Packed {
    blocks::pack_conv(conv, Blocks::new(conv.n_out, GROUP, MOST_GROUPS), (1, 4), 4)
}

/// A block of a convolution and its run.
struct Job<'a> {
    weights: *const i8,
    numbers: Numbers,
    n_rows: usize,
    row_bytes: usize,
    src_step_bytes: usize,
    src_row_bytes: usize,
    /// First channel of the block.
    channel: usize,
    /// Not for floats.
    range: Option<Range8>,
    rest: Rest<'a>,
}

/// Computes a run.
///
/// # Safety
/// As for `Kernels::conv`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(packed: &Packed, run: &ConvRun) {
    let blocks = Blocks::new(packed.n_out, GROUP, MOST_GROUPS);
    let n_taps = packed.n_rows * packed.row_bytes;
    for block in run.blocks.clone() {
        let groups = blocks.groups(block);
        let job = Job {
            weights: packed.weights[groups.start * GROUP * n_taps..].as_ptr(),
            numbers: Numbers::new(packed, groups.start * GROUP),
            n_rows: packed.n_rows,
            row_bytes: packed.row_bytes,
            src_step_bytes: run.src_step_bytes,
            src_row_bytes: run.src_row_bytes,
            channel: groups.start * GROUP,
            range: match &packed.finish {
                Finish::Bytes { range, .. } => Some(*range),
                Finish::Floats => None,
            },
            rest: Rest::new(&packed.finish),
        };
        let n_groups = groups.len();
        run.tiles([16, 12, 8, 6][n_groups - 1], |pixels| {
            macro_rules! tile_of {
                ($($n_groups:literal: $($n_pixels:literal)*;)*) => {
                    match (n_groups, pixels.n_pixels) {
                        // SAFETY: the caller's promise.
                        $($(($n_groups, $n_pixels) => unsafe {
                            tile::<$n_pixels, $n_groups>(&job, pixels);
                        },)*)*
                        _ => unreachable!("no such tile"),
                    }
                };
            }
            tile_of! {
                1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16;
                2: 1 2 3 4 5 6 7 8 9 10 11 12;
                3: 1 2 3 4 5 6 7 8;
                4: 1 2 3 4 5 6;
            }
        });
    }
}

/// Computes `PIXELS` by `GROUPS` vectors.
///
/// # Safety
/// As for `Kernels::conv`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const PIXELS: usize, const GROUPS: usize>(job: &Job, pixels: &Tile) {
    let mut sums = [[_mm512_setzero_si512(); GROUPS]; PIXELS];
    for group in 0..GROUPS {
        // SAFETY: numbers are padded to whole groups.
        let bias = unsafe { load(job.numbers.bias.wrapping_add(group * GROUP)) };
        for sums in &mut sums {
            sums[group] = bias;
        }
    }
    let mut weights = job.weights;
    for row in 0..job.n_rows {
        let row = pixels.src.wrapping_add(row * job.src_row_bytes);
        for four in 0..job.row_bytes / 4 {
            let mut four_taps = [_mm512_setzero_si512(); GROUPS];
            for taps in &mut four_taps {
                // SAFETY: packed with as many taps of each group.
                *taps = unsafe { load(weights) };
                weights = weights.wrapping_add(64);
            }
            unrolled!(pixel in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15, < PIXELS => {
                let from = row.wrapping_add(pixel * job.src_step_bytes + 4 * four);
                // SAFETY: the caller's promise: 4 bytes of a row of taps.
                let bytes = _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() });
                for (sum, &taps) in sums[pixel].iter_mut().zip(&four_taps) {
                    *sum = _mm512_dpbusd_epi32(*sum, bytes, taps);
                }
            });
        }
    }
    match job.range {
        // SAFETY: the caller's promise.
        Some(range) => unsafe { finish(job, pixels, range, &sums) },
        None => {
            // A copy, so that only this path keeps sums in memory.
            let sums = sums;
            for (sums, dst) in sums.iter().zip(pixels.dst) {
                // SAFETY: the caller's promise.
                unsafe { floats(sums, &job.numbers, dst.cast::<f32>().wrapping_add(job.channel)) };
            }
        }
    }
}

/// Turns sums to bytes.
///
/// # Safety
/// As for `Kernels::conv`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn finish<const PIXELS: usize, const GROUPS: usize>(
    job: &Job,
    pixels: &Tile,
    range: Range8,
    sums: &[[__m512i; GROUPS]; PIXELS],
) {
    let cut = Cut::new(range, &job.rest);
    // Four vectors are packed to one of bytes: of four pixels, two or one.
    let n_together = [4, 2, 1, 1][GROUPS - 1];
    unrolled!(pack in 0 1 2 3 4 5 6 7, < PIXELS.div_ceil(n_together) => {
        let first = pack * n_together;
        let mut v = [_mm512_setzero_si512(); 4];
        for (at, v) in v.iter_mut().enumerate() {
            let (pixel, group) = (first + at / GROUPS, at % GROUPS);
            if at < n_together * GROUPS && pixel < PIXELS {
                // SAFETY: a block has as many groups.
                *v = unsafe { round(&job.numbers, group, sums[pixel][group]) };
            }
        }
        let q = cut.bytes(v);
        let dst = |at: usize| pixels.dst[first + at].wrapping_add(job.channel);
        match GROUPS {
            1 => {
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                let q = _mm512_permutexvar_epi32(order, q);
                // SAFETY: the caller's promise: a group of a pixel.
                unsafe { store(dst(0), q, 1) };
                if first + 1 < PIXELS {
                    let q = _mm512_castsi128_si512(_mm512_extracti32x4_epi32::<1>(q));
                    // SAFETY: the caller's promise: a group of a pixel.
                    unsafe { store(dst(1), q, 1) };
                }
                if first + 2 < PIXELS {
                    let q = _mm512_castsi128_si512(_mm512_extracti32x4_epi32::<2>(q));
                    // SAFETY: the caller's promise: a group of a pixel.
                    unsafe { store(dst(2), q, 1) };
                }
                if first + 3 < PIXELS {
                    let q = _mm512_castsi128_si512(_mm512_extracti32x4_epi32::<3>(q));
                    // SAFETY: the caller's promise: a group of a pixel.
                    unsafe { store(dst(3), q, 1) };
                }
            }
            2 => {
                let q = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), q);
                // SAFETY: the caller's promise: two groups of a pixel.
                unsafe { store(dst(0), q, 2) };
                if first + 1 < PIXELS {
                    let q = _mm512_castsi256_si512(_mm512_extracti64x4_epi64::<1>(q));
                    // SAFETY: the caller's promise: two groups of a pixel.
                    unsafe { store(dst(1), q, 2) };
                }
            }
            3 => {
                let order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
                let q = _mm512_permutexvar_epi32(order, q);
                // SAFETY: the caller's promise: three groups of a pixel.
                unsafe { store(dst(0), q, 3) };
            }
            // SAFETY: the caller's promise: four groups of a pixel.
            _ => unsafe { store(dst(0), q, 4) },
        }
    });
    // SAFETY: the caller's promise: the block's groups of each pixel.
    unsafe {
        job.rest.apply(
            PIXELS,
            GROUPS,
            |pixel| pixels.dst[pixel].wrapping_add(job.channel),
            |pixel| pixels.residual[pixel].wrapping_add(job.channel),
        );
    };
}
