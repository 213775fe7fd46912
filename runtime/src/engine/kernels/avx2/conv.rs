//! Convolutions: tiles of a few pixels by 2 or 4 vectors of 8 output channels.

use std::arch::x86_64::*;

use super::finish::{Cut, Numbers, Rest, Steps, floats};
use super::{GROUP, load};
use crate::engine::kernels::blocks::{self, Blocks, unrolled};
use crate::engine::kernels::{Conv, ConvRun, Finish, Packed, Range8, Tile};

/// Most groups of a block: tiles of 3 pixels by 4 vectors, or of 6 by 2, leave four registers.
const MOST_GROUPS: usize = 2;

/// The input's bytes are taken as signed ones, q - 128, so the bias has 128 times the sum of the weights.
pub(super) fn pack(conv: &Conv) -> Packed {
    let mut shifted = conv.clone();
    let n_taps = conv.n_rows * conv.row_bytes;
    for (bias, weights) in shifted.bias.iter_mut().zip(conv.weights.chunks(n_taps)) {
        let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
        *bias = bias.wrapping_add(sum.wrapping_mul(128));
    }
    blocks::pack_conv(&shifted, Blocks::new(conv.n_out, GROUP, MOST_GROUPS), 2, 2)
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
    steps: Option<&'a Steps>,
    rest: Rest,
}

/// Computes a run.
///
/// # Safety
/// As for `Kernels::conv`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run(packed: &Packed, run: &ConvRun) {
    let blocks = Blocks::new(packed.n_out, GROUP, MOST_GROUPS);
    let n_taps = packed.n_rows * packed.row_bytes;
    let steps = Steps::new(&packed.finish);
    for block in run.blocks.clone() {
        let groups = blocks.groups(block);
        let job = Job {
            weights: packed.weights[groups.start * GROUP * n_taps..].as_ptr(),
            numbers: Numbers::new(packed, groups.start),
            n_rows: packed.n_rows,
            row_bytes: packed.row_bytes,
            src_step_bytes: run.src_step_bytes,
            src_row_bytes: run.src_row_bytes,
            channel: groups.start * GROUP,
            range: match &packed.finish {
                Finish::Bytes { range, .. } => Some(*range),
                Finish::Floats => None,
            },
            steps: steps.as_ref(),
            rest: Rest::new(&packed.finish),
        };
        let n_vectors = groups.len() * 2;
        run.tiles(12 / n_vectors, |pixels| {
            macro_rules! tile_of {
                ($($n_vectors:literal: $($n_pixels:literal)*;)*) => {
                    match (n_vectors, pixels.n_pixels) {
                        // SAFETY: the caller's promise.
                        $($(($n_vectors, $n_pixels) => unsafe {
                            tile::<$n_pixels, $n_vectors>(&job, pixels);
                        },)*)*
                        _ => unreachable!("no such tile"),
                    }
                };
            }
            tile_of! {
                2: 1 2 3 4 5 6;
                4: 1 2 3;
            }
        });
    }
}

/// Computes `PIXELS` by `VECTORS` vectors.
///
/// # Safety
/// As for `Kernels::conv`.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn tile<const PIXELS: usize, const VECTORS: usize>(job: &Job, pixels: &Tile) {
    let mut sums = [[_mm256_setzero_si256(); VECTORS]; PIXELS];
    for vector in 0..VECTORS {
        // SAFETY: numbers are padded to whole groups.
        let bias = unsafe { load(job.numbers.bias.wrapping_add(vector * 8)) };
        for sums in &mut sums {
            sums[vector] = bias;
        }
    }
    let mut weights = job.weights;
    for row in 0..job.n_rows {
        let row = pixels.src.wrapping_add(row * job.src_row_bytes);
        for four in 0..job.row_bytes / 4 {
            unrolled!(pixel in 0 1 2 3 4 5, < PIXELS => {
                let from = row.wrapping_add(pixel * job.src_step_bytes + 4 * four);
                // SAFETY: the caller's promise: 4 bytes of a row of taps.
                let bytes = _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() });
                let bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
                // At most 128, so that two products stay within 16 bits: 2 * 128 * 127.
                let size = _mm256_abs_epi8(bytes);
                for (vector, sum) in sums[pixel].iter_mut().enumerate() {
                    // SAFETY: packed with as many taps of each vector.
                    let taps = unsafe { load(weights.wrapping_add(32 * vector)) };
                    let products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(taps, bytes));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
                }
            });
            weights = weights.wrapping_add(32 * VECTORS);
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
#[target_feature(enable = "avx2")]
unsafe fn finish<const PIXELS: usize, const VECTORS: usize>(
    job: &Job,
    pixels: &Tile,
    range: Range8,
    sums: &[[__m256i; VECTORS]; PIXELS],
) {
    let cut = Cut::new(range, job.steps);
    // Four vectors are packed to one of bytes: of two pixels or of one.
    let n_together = 4 / VECTORS;
    unrolled!(pack in 0 1 2, < PIXELS.div_ceil(n_together) => {
        let first = pack * n_together;
        let mut v = [_mm256_setzero_si256(); 4];
        for (at, v) in v.iter_mut().enumerate() {
            let (pixel, vector) = (first + at / VECTORS, at % VECTORS);
            if pixel < PIXELS {
                // SAFETY: a block has as many vectors.
                *v = unsafe { job.numbers.round(vector, sums[pixel][vector]) };
            }
        }
        let q = cut.bytes(v);
        let dst = |at: usize| pixels.dst[first + at].wrapping_add(job.channel);
        if VECTORS == 4 {
            // SAFETY: the caller's promise: two groups of a pixel.
            unsafe { _mm256_storeu_si256(dst(0).cast(), q) };
        } else {
            let q = _mm256_permute4x64_epi64::<0b11_01_10_00>(q);
            let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            // SAFETY: the caller's promise: a group of a pixel.
            unsafe { _mm_storeu_si128(dst(0).cast(), low) };
            if first + 1 < PIXELS {
                // SAFETY: the caller's promise: a group of a pixel.
                unsafe { _mm_storeu_si128(dst(1).cast(), high) };
            }
        }
    });
    // SAFETY: the caller's promise: the block's groups of each pixel.
    unsafe {
        job.rest.apply(
            PIXELS,
            VECTORS / 2,
            |pixel| pixels.dst[pixel].wrapping_add(job.channel),
            |pixel| pixels.residual[pixel].wrapping_add(job.channel),
        );
    };
}
