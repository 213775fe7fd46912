//! Cores with SDOT: each lane of a sum takes four products at once.

use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_s8, vzip1q_s8, vzip2q_s8};
use std::arch::asm;

use super::finish::Quantization;
use super::{
    BLOCK, ConvOrder, Sums, TILE, Taps, finish, load, load_signed, load_weights, pack_depthwise, quarters,
    signed,
};
use crate::kernels::{Conv, ConvRun, Depthwise, DepthwiseRun, Kernels, Packed};

/// Kernels for cores with dot products of bytes.
pub(crate) struct NeonDotprod;

/// Taps of a channel that lie side by side in the packed weights: one SDOT lane.
const GROUP: usize = 4;
/// Taps that are loaded at a time.
const STEP: usize = 16;

impl Kernels for NeonDotprod {
    fn name(&self) -> &'static str {
        "neon-dotprod"
    }

    fn pack_conv(&self, conv: &Conv) -> Packed {
        // [row][group][channel][GROUP]
        let order = ConvOrder::<GROUP> { is_signed: true };
        order.pack(conv, |row_bytes, channel, row, byte| (row * row_bytes + byte) * BLOCK + channel * GROUP)
    }

    unsafe fn conv(&self, packed: &Packed, run: &ConvRun) {
        // SAFETY: the caller's.
        unsafe { conv(packed, run) };
    }

    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed {
        pack_columns(depthwise)
    }

    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun) {
        // SAFETY: the caller's.
        unsafe { depthwise(packed, run) };
    }
}

/// Adds the products of four bytes of `weights` and the four of `bytes` at `LANE` to each sum.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot_lane<const LANE: usize>(sum: &mut int32x4_t, weights: int8x16_t, bytes: int8x16_t) {
    // SAFETY: reads and writes its operands only; this function has the instruction set.
    unsafe {
        asm!("sdot {sum:v}.4s, {weights:v}.16b, {bytes:v}.4b[{lane}]", sum = inout(vreg) *sum,
             weights = in(vreg) weights, bytes = in(vreg) bytes, lane = const LANE,
             options(pure, nomem, nostack, preserves_flags));
    }
}

/// Adds the products of four bytes of `a` and four of `b` to each sum.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot(sum: &mut int32x4_t, a: int8x16_t, b: int8x16_t) {
    // SAFETY: as in `dot_lane`.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
}

/// # Safety
/// See [`Kernels`].
#[target_feature(enable = "dotprod")]
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
/// The windows, to whole steps, and the weights are the caller's to read.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn sums<const N: usize>(taps: &Taps, windows: [*const u8; N]) -> [Sums; N] {
    let mut sums = [taps.bias; N];
    let mut weights = taps.weights;
    for row in 0..taps.n_rows {
        let mut src = windows.map(|w| w.wrapping_add(row * taps.src_row_bytes));
        for _ in 0..taps.row_bytes / STEP {
            // SAFETY: a step of each window's row.
            let bytes = unsafe { load_signed(src) };
            // SAFETY: the step's weights, here and below.
            weights = unsafe { group::<N, 0>(&mut sums, weights, bytes) };
            // SAFETY: as above.
            weights = unsafe { group::<N, 1>(&mut sums, weights, bytes) };
            // SAFETY: as above.
            weights = unsafe { group::<N, 2>(&mut sums, weights, bytes) };
            // SAFETY: as above.
            weights = unsafe { group::<N, 3>(&mut sums, weights, bytes) };
            src = src.map(|at| at.wrapping_add(STEP));
        }
        let n_groups = taps.row_bytes % STEP / GROUP;
        if n_groups > 0 {
            // SAFETY: rounded up to a step, less than the slack.
            let bytes = unsafe { load_signed(src) };
            // SAFETY: the groups' weights, here and below.
            weights = unsafe { group::<N, 0>(&mut sums, weights, bytes) };
            if n_groups > 1 {
                // SAFETY: as above.
                weights = unsafe { group::<N, 1>(&mut sums, weights, bytes) };
            }
            if n_groups > 2 {
                // SAFETY: as above.
                weights = unsafe { group::<N, 2>(&mut sums, weights, bytes) };
            }
        }
    }
    sums
}

/// Adds four taps of all 16 channels; gives the next weights.
///
/// # Safety
/// The four taps' weights are the caller's to read.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn group<const N: usize, const LANE: usize>(
    sums: &mut [Sums; N],
    weights: *const i8,
    bytes: [int8x16_t; N],
) -> *const i8 {
    for quarter in 0..BLOCK / 4 {
        // SAFETY: the caller's.
        let w = unsafe { load_weights(weights.wrapping_add(quarter * 16)) };
        for (sums, bytes) in sums.iter_mut().zip(bytes) {
            dot_lane::<LANE>(&mut sums[quarter], w, bytes);
        }
    }
    weights.wrapping_add(GROUP * BLOCK)
}

/// Rows of taps that are summed at a time: one SDOT lane.
const ROWS: usize = 4;
/// Input columns that are kept at a time.
const COLUMNS: usize = 40;
/// A block's bytes of one column under `ROWS` rows: `[channel][row]`.
type Column = [int8x16_t; BLOCK / 4];

/// `[column][rows / ROWS][channel][ROWS]`
pub(super) fn pack_columns(depthwise: &Depthwise) -> Packed {
    let n_bands = depthwise.side.div_ceil(ROWS);
    pack_depthwise(depthwise, depthwise.side * n_bands * ROWS * BLOCK, |row, column, channel| {
        ((column * n_bands + row / ROWS) * BLOCK + channel) * ROWS + row % ROWS
    })
}

/// Depthwise convolution of what [`pack_columns`] packed: the rows of each input column are interleaved
/// once, then serve all output pixels whose windows have it.
///
/// # Safety
/// See [`Kernels`].
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn depthwise(packed: &Packed, run: &DepthwiseRun) {
    let stride = run.src_step_bytes / run.pixel_bytes;
    match (packed.n_rows, stride) {
        // SAFETY: the caller's.
        (3, 1) => unsafe { lines::<3, 1, 1>(packed, run, stride) },
        // SAFETY: the caller's.
        (3, 2) => unsafe { lines::<3, 1, 2>(packed, run, stride) },
        // SAFETY: the caller's.
        (5, 1) => unsafe { lines::<10, 2, 1>(packed, run, stride) },
        // SAFETY: the caller's.
        (5, 2) => unsafe { lines::<10, 2, 2>(packed, run, stride) },
        // SAFETY: the caller's.
        (side, _) if side <= ROWS => unsafe { lines::<7, 1, 0>(packed, run, stride) },
        // SAFETY: the caller's.
        _ => unsafe { lines::<14, 2, 0>(packed, run, stride) },
    }
}

/// Windows of `TAPS / BANDS` columns of `BANDS` times `ROWS` rows, `STRIDE` apart; with 0 they may be
/// smaller and `stride` apart.
///
/// # Safety
/// See [`Kernels`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn lines<const TAPS: usize, const BANDS: usize, const STRIDE: usize>(
    packed: &Packed,
    run: &DepthwiseRun,
    stride: usize,
) {
    let (side, stride) = if STRIDE == 0 { (packed.n_rows, stride) } else { (TAPS / BANDS, STRIDE) };
    let mut columns = [[[vdupq_n_s8(0); BLOCK / 4]; BANDS]; COLUMNS];
    let most = (COLUMNS - TAPS / BANDS) / stride + 1;
    for block in run.blocks.clone() {
        let Some(quantization) = Quantization::of(packed, block) else { unreachable!("no floats") };
        let weights = packed.weights[block * side * BANDS * ROWS * BLOCK..].as_ptr();
        let bias = quarters(&packed.bias, block);
        // 0 for columns that a smaller window lacks.
        let mut w = [[vdupq_n_s8(0); TAPS]; BLOCK / 4];
        for (quarter, w) in w.iter_mut().enumerate() {
            for (tap, w) in w.iter_mut().enumerate().take(side * BANDS) {
                // SAFETY: the taps' weights of the block.
                *w = unsafe { load_weights(weights.wrapping_add(tap * ROWS * BLOCK + quarter * 16)) };
            }
        }
        let mut done = 0;
        while done < run.n_pixels {
            let n_pixels = most.min(run.n_pixels - done);
            let mut src = run.src.wrapping_add(done * run.src_step_bytes + block * BLOCK);
            for column in columns.iter_mut().take((n_pixels - 1) * stride + side) {
                for (band, column) in column.iter_mut().enumerate() {
                    let first = band * ROWS;
                    let at = src.wrapping_add(first * run.src_row_bytes);
                    // SAFETY: the block's bytes under the column's rows.
                    *column = unsafe { interleave(at, run.src_row_bytes, (side - first).min(ROWS)) };
                }
                src = src.wrapping_add(run.pixel_bytes);
            }
            let mut window = columns.as_ptr().cast::<i8>();
            for pixel in done..done + n_pixels {
                let mut sums = bias;
                for (quarter, (sum, w)) in sums.iter_mut().zip(&w).enumerate() {
                    for (tap, &w) in w.iter().enumerate() {
                        let column = window.wrapping_add(tap * size_of::<Column>() + quarter * 16);
                        // SAFETY: `most` windows have no more than `COLUMNS` columns.
                        dot(sum, unsafe { load_weights(column) }, w);
                    }
                }
                window = window.wrapping_add(stride * BANDS * size_of::<Column>());
                let dst = run.dst.wrapping_add(pixel * run.dst_step_bytes);
                let bytes = quantization.bytes(&sums);
                // SAFETY: the run's pixels are the caller's.
                unsafe { finish::write(dst, block, bytes) };
            }
            done += n_pixels;
        }
    }
}

/// 16 channels of `n_rows` rows, 0 for those that are missing.
///
/// # Safety
/// 16 bytes of each row are the caller's to read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn interleave(at: *const u8, row_bytes: usize, n_rows: usize) -> Column {
    let mut rows = [vdupq_n_s8(0); ROWS];
    for (i, row) in rows.iter_mut().enumerate().take(n_rows) {
        // SAFETY: the caller's.
        *row = signed(unsafe { load(at.wrapping_add(i * row_bytes)) });
    }
    let even = [vzip1q_s8(rows[0], rows[2]), vzip2q_s8(rows[0], rows[2])];
    let odd = [vzip1q_s8(rows[1], rows[3]), vzip2q_s8(rows[1], rows[3])];
    [
        vzip1q_s8(even[0], odd[0]),
        vzip2q_s8(even[0], odd[0]),
        vzip1q_s8(even[1], odd[1]),
        vzip2q_s8(even[1], odd[1]),
    ]
}
