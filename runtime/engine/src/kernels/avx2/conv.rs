//! Convolutions: tiles of a few pixels by 2 vectors of 8 output channels.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::finish::{Cut, Rest, Steps, floats, round};
use super::{GROUP, load};
use crate::kernels::blocks::{self, Blocks, Numbers, unrolled};
use crate::kernels::scalar::Scalar;
use crate::kernels::{Conv, ConvRun, Finish, Kernels as _, Packed, Range8, Tile};

/// Groups of a block: tiles of 6 pixels by its 2 vectors leave four registers.
const MOST_GROUPS: usize = 1;
/// Vectors of a block.
const VECTORS: usize = 2;
/// Most output pixels of a tile.
const MOST_PIXELS: usize = 6;
/// Most taps of a convolution; the scalar kernel has those with more.
const MOST_TAPS: usize = 8192;
/// The bytes under the taps of a tile's pixels, 16 bits each, and room to write whole vectors.
type Wide = [[u16; MOST_TAPS + 16]; MOST_PIXELS];

pub(super) fn pack(conv: &Conv) -> Packed {
    if conv.n_rows * conv.row_bytes > MOST_TAPS {
        return Scalar.pack_conv(conv);
    }
    blocks::pack_conv(conv, Blocks::new(conv.n_out, GROUP, MOST_GROUPS), (VECTORS, 2), 2)
}

/// What all blocks of a run share.
struct Job<'a> {
    packed: &'a Packed,
    n_taps: usize,
    /// Not for floats.
    range: Option<Range8>,
    steps: Option<&'a Steps>,
    rest: Rest,
}

/// Computes a run: tile by tile, all blocks of it, so that its bytes are widened once.
///
/// # Safety
/// As for `Kernels::conv`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run(packed: &Packed, run: &ConvRun) {
    let n_taps = packed.n_rows * packed.row_bytes;
    if n_taps > MOST_TAPS {
        // SAFETY: the caller's promise; packed by the same.
        return unsafe { Scalar.conv(packed, run) };
    }
    let steps = Steps::new(&packed.finish);
    let range = match &packed.finish {
        Finish::Bytes { range, .. } => Some(*range),
        Finish::Floats => None,
    };
    let job = Job { packed, n_taps, range, steps: steps.as_ref(), rest: Rest::new(&packed.finish) };
    let mut wide = MaybeUninit::<Wide>::uninit();
    run.tiles(MOST_PIXELS, |pixels| {
        for pixel in 0..pixels.n_pixels {
            let to = wide.as_mut_ptr().cast::<[u16; MOST_TAPS + 16]>().wrapping_add(pixel).cast::<u16>();
            let window = pixels.src.wrapping_add(pixel * run.src_step_bytes);
            for row in 0..packed.n_rows {
                let src = window.wrapping_add(row * run.src_row_bytes);
                let to = to.wrapping_add(row * packed.row_bytes);
                // SAFETY: the caller's promise: a row of taps and slack; and the room of its pixel.
                unsafe { widen(src, to, packed.row_bytes) };
            }
        }
        for block in run.blocks.clone() {
            macro_rules! tile_of {
                ($($n_pixels:literal)*) => {
                    match pixels.n_pixels {
                        // SAFETY: the caller's promise; as many pixels were widened.
                        $($n_pixels => unsafe { tile::<$n_pixels>(&job, block, pixels, wide.as_ptr().cast()) },)*
                        _ => unreachable!("no such tile"),
                    }
                };
            }
            tile_of!(1 2 3 4 5 6);
        }
    });
}

/// Writes `n_bytes` bytes as 16 bits each, and up to 15 more.
///
/// # Safety
/// The caller's to read and to write.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen(src: *const u8, to: *mut u16, n_bytes: usize) {
    for at in (0..n_bytes).step_by(16) {
        // SAFETY: the caller's promise.
        let bytes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(src.wrapping_add(at).cast()) });
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(to.wrapping_add(at).cast(), bytes) };
    }
}

/// Computes a block of `PIXELS`. Products of 16 bits are exact, unlike AVX2's of bytes, and take fewer
/// instructions than bytes made signed.
///
/// # Safety
/// As for `Kernels::conv`; the pixels' bytes are in `wide`.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn tile<const PIXELS: usize>(
    job: &Job,
    block: usize,
    pixels: &Tile,
    wide: *const [u16; MOST_TAPS + 16],
) {
    let numbers = Numbers::new(job.packed, block * GROUP);
    let mut sums = [[_mm256_setzero_si256(); VECTORS]; PIXELS];
    for vector in 0..VECTORS {
        // SAFETY: numbers are padded to whole groups.
        let bias = unsafe { load(numbers.bias.wrapping_add(vector * 8)) };
        for sums in &mut sums {
            sums[vector] = bias;
        }
    }
    let weights = job.packed.weights[block * GROUP * job.n_taps..].as_ptr();
    for pair in 0..job.n_taps / 2 {
        let mut taps = [_mm256_setzero_si256(); VECTORS];
        for (vector, taps) in taps.iter_mut().enumerate() {
            let from = weights.wrapping_add(16 * (VECTORS * pair + vector));
            // SAFETY: packed with as many taps of each vector.
            *taps = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(from.cast()) });
        }
        unrolled!(pixel in 0 1 2 3 4 5, < PIXELS => {
            let from = wide.wrapping_add(pixel).cast::<i32>().wrapping_add(pair);
            // SAFETY: two of the pixel's widened bytes.
            let two = _mm256_set1_epi32(unsafe { from.read_unaligned() });
            for (sum, &taps) in sums[pixel].iter_mut().zip(&taps) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(two, taps));
            }
        });
    }
    let channel = block * GROUP;
    match job.range {
        // SAFETY: the caller's promise.
        Some(range) => unsafe { finish(job, &numbers, channel, pixels, range, &sums) },
        None => {
            // A copy, so that only this path keeps sums in memory.
            let sums = sums;
            for (sums, dst) in sums.iter().zip(pixels.dst) {
                // SAFETY: the caller's promise.
                unsafe { floats(sums, &numbers, dst.cast::<f32>().wrapping_add(channel)) };
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
unsafe fn finish<const PIXELS: usize>(
    job: &Job,
    numbers: &Numbers,
    channel: usize,
    pixels: &Tile,
    range: Range8,
    sums: &[[__m256i; VECTORS]; PIXELS],
) {
    let cut = Cut::new(range, job.steps);
    // Four vectors are packed to one of bytes: those of two pixels.
    unrolled!(pack in 0 1 2, < PIXELS.div_ceil(2) => {
        let first = 2 * pack;
        let mut v = [_mm256_setzero_si256(); 4];
        for (at, v) in v.iter_mut().enumerate() {
            let (pixel, vector) = (first + at / VECTORS, at % VECTORS);
            if pixel < PIXELS {
                // SAFETY: a block has as many vectors.
                *v = unsafe { round(numbers, vector, sums[pixel][vector]) };
            }
        }
        let q = _mm256_permute4x64_epi64::<0b11_01_10_00>(cut.bytes(v));
        let dst = |at: usize| pixels.dst[first + at].wrapping_add(channel);
        let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
        // SAFETY: the caller's promise: a group of a pixel.
        unsafe { _mm_storeu_si128(dst(0).cast(), low) };
        if first + 1 < PIXELS {
            // SAFETY: the caller's promise: a group of a pixel.
            unsafe { _mm_storeu_si128(dst(1).cast(), high) };
        }
    });
    // SAFETY: the caller's promise: the block's group of each pixel.
    unsafe {
        job.rest.apply(
            PIXELS,
            MOST_GROUPS,
            |pixel| pixels.dst[pixel].wrapping_add(channel),
            |pixel| pixels.residual[pixel].wrapping_add(channel),
        );
    };
}
