//! Depthwise convolutions: 64 channels of a line at a time. Bytes of four rows are interleaved, so that one
//! instruction sums the taps of a column.

use std::arch::x86_64::*;

use super::finish::{Cut, Rest, round, store};
use super::{GROUP, load};
use crate::kernels::blocks::{Numbers, ordered, unrolled};
use crate::kernels::scalar::{slopes, without_slopes};
use crate::kernels::{Depthwise, DepthwiseRun, Finish, Packed};
use crate::memory::Aligned;

/// Groups of 16 channels of a block, one a lane of 128 bits.
const GROUPS: usize = 4;

/// Weights of a block for up to four taps of a column.
const COLUMN_BYTES: usize = 4 * GROUP * GROUPS;

/// Weights as `[block][row / 4][column][channel of the block][4 rows]`. Where the last block has one or two
/// groups, its lanes repeat them, for as many pixels at a time.
pub(super) fn pack(depthwise: &Depthwise) -> Packed {
    let (n_channels, side) = (depthwise.n_channels, depthwise.side);
    let n_blocks = n_channels.div_ceil(GROUP * GROUPS);
    let mut weights = Vec::new();
    let mut order = Vec::new();
    for block in 0..n_blocks {
        let n_repeated = GROUPS / n_segments(n_groups(n_channels, block));
        let of_block: Vec<usize> = (0..GROUP * GROUPS)
            .map(|at| {
                // As interleaving places them: four channels of each lane, four times.
                let (vector, lane, i) = (at / GROUP, at / 4 % GROUPS, at % 4);
                (block * GROUPS + lane % n_repeated) * GROUP + 4 * vector + i
            })
            .collect();
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

/// Groups of a block that exist.
fn n_groups(n_channels: usize, block: usize) -> usize {
    (n_channels.div_ceil(GROUP) - block * GROUPS).min(GROUPS)
}

/// Parts of a line that a block of `n_groups` computes side by side.
fn n_segments(n_groups: usize) -> usize {
    GROUPS / n_groups
}

/// A block of a depthwise convolution and its run.
struct Job<'a> {
    run: &'a DepthwiseRun,
    /// First channel of the block, and its groups that exist.
    channel: usize,
    n_groups: usize,
    weights: *const i8,
    numbers: Numbers,
    cut: Cut,
}

/// Computes a run.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(packed: &Packed, run: &DepthwiseRun) {
    let Finish::Bytes { range, .. } = packed.finish else { unreachable!("depthwise gives bytes") };
    let rest = Rest::new(&packed.finish);
    let side = packed.n_rows;
    for block in run.blocks.clone() {
        let job = Job {
            run,
            channel: block * GROUPS * GROUP,
            n_groups: n_groups(packed.n_out, block),
            weights: packed.weights[block * side.div_ceil(4) * side * COLUMN_BYTES..].as_ptr(),
            numbers: Numbers::new(packed, block * GROUPS * GROUP),
            cut: Cut::new(range, &rest),
        };
        macro_rules! line_of {
            ($($side:literal $stride:literal $n_open:literal: $($n_segments:literal)*;)*) => {
                match (side, run.src_step_bytes / run.pixel_bytes, n_segments(job.n_groups)) {
                    // SAFETY: the caller's promise.
                    $($(($side, $stride, $n_segments) => unsafe {
                        line::<$side, $stride, $n_open, $n_segments>(&job);
                    },)*)*
                    // SAFETY: the caller's promise.
                    _ => unsafe { any_line(&job, side) },
                }
            };
        }
        line_of! {
            3 1 3: 1 2 4;
            3 2 2: 1 2 4;
            5 1 5: 1 2 4;
            5 2 3: 1 2 4;
        }
        let dst = |pixel| run.dst.wrapping_add(pixel * run.dst_step_bytes + job.channel);
        // SAFETY: the caller's promise: the groups that exist of each pixel.
        unsafe { rest.apply(run.n_pixels, job.n_groups, dst, |_| std::ptr::null()) };
    }
}

/// Computes a block of a line, in `SEGMENTS` parts side by side. Each column is read once and goes into the
/// sums of all pixels whose windows it is in, which are `OPEN`.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn line<const SIDE: usize, const STRIDE: usize, const OPEN: usize, const SEGMENTS: usize>(job: &Job) {
    let run = job.run;
    let n_pixels = run.n_pixels.div_ceil(SEGMENTS);
    let (mut src, mut dst) = ([run.src; SEGMENTS], [run.dst; SEGMENTS]);
    for segment in 0..SEGMENTS {
        // The last parts overlap where the line can't be divided.
        let first = (segment * n_pixels).min(run.n_pixels - n_pixels);
        src[segment] = run.src.wrapping_add(first * run.src_step_bytes + job.channel);
        dst[segment] = run.dst.wrapping_add(first * run.dst_step_bytes + job.channel);
    }
    let mut sums = [[_mm512_setzero_si512(); GROUPS]; OPEN];
    for sums in &mut sums {
        // SAFETY: numbers are padded to whole blocks.
        *sums = unsafe { vectors(job.numbers.bias) };
    }
    // Registers hold the weights of three columns, no more.
    let mut kept = [[_mm512_setzero_si512(); GROUPS]; 3];
    for (column, kept) in kept.iter_mut().enumerate() {
        // SAFETY: packed with at least as many columns.
        *kept = unsafe { vectors(job.weights.wrapping_add(column * COLUMN_BYTES)) };
    }
    macro_rules! add_column {
        ($turn:expr, $column:expr) => {
            unrolled!(set in 0 1, < SIDE.div_ceil(4) => {
                let src = src.map(|src| src.wrapping_add(4 * set * run.src_row_bytes));
                // SAFETY: the caller's promise: taps of every segment.
                let taps = unsafe { column::<SEGMENTS>(&src, run.src_row_bytes, (SIDE - 4 * set).min(4)) };
                unrolled!(open in 0 1 2 3 4, < OPEN => {
                    if $column >= open * STRIDE {
                        let sums = &mut sums[($turn + open) % OPEN];
                        let at = set * SIDE + $column - open * STRIDE;
                        let weights = if SIDE == 3 {
                            kept[at]
                        } else {
                            // SAFETY: packed with as many columns.
                            unsafe { vectors(job.weights.wrapping_add(at * COLUMN_BYTES)) }
                        };
                        for group in 0..GROUPS {
                            sums[group] = _mm512_dpbusd_epi32(sums[group], taps[group], weights[group]);
                        }
                    }
                });
            });
            for src in &mut src {
                *src = src.wrapping_add(run.pixel_bytes);
            }
        };
    }
    unrolled!(column in 0 1 2 3, < SIDE - STRIDE => {
        add_column!(0, column);
    });
    let mut n_left = n_pixels;
    'line: loop {
        unrolled!(turn in 0 1 2 3 4, < OPEN => {
            unrolled!(at in 0 1, < STRIDE => {
                add_column!(turn, SIDE - STRIDE + at);
            });
            let mut v = [_mm512_setzero_si512(); GROUPS];
            for group in 0..GROUPS {
                // SAFETY: numbers are padded to whole blocks.
                v[group] = unsafe { round(&job.numbers, group, sums[turn][group]) };
            }
            // SAFETY: numbers are padded to whole blocks.
            sums[turn] = unsafe { vectors(job.numbers.bias) };
            let q = job.cut.bytes(v);
            // SAFETY: the caller's promise: the groups that exist of every segment.
            unsafe { store_segments(&dst, q, job.n_groups) };
            for dst in &mut dst {
                *dst = dst.wrapping_add(run.dst_step_bytes);
            }
            n_left -= 1;
            if n_left == 0 {
                break 'line;
            }
        });
    }
}

/// Computes a block of a line, of any side and stride.
///
/// # Safety
/// As for `Kernels::depthwise`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn any_line(job: &Job, side: usize) {
    let run = job.run;
    for pixel in 0..run.n_pixels {
        let src = run.src.wrapping_add(pixel * run.src_step_bytes + job.channel);
        // SAFETY: numbers are padded to whole blocks.
        let mut v = unsafe { vectors(job.numbers.bias) };
        for at in 0..side.div_ceil(4) * side {
            let (first_row, tap) = (at / side * 4, at % side);
            let src = src.wrapping_add(first_row * run.src_row_bytes + tap * run.pixel_bytes);
            // SAFETY: the caller's promise: taps.
            let taps = unsafe { column(&[src], run.src_row_bytes, (side - first_row).min(4)) };
            // SAFETY: packed with as many columns.
            let weights = unsafe { vectors(job.weights.wrapping_add(at * COLUMN_BYTES)) };
            for group in 0..GROUPS {
                v[group] = _mm512_dpbusd_epi32(v[group], taps[group], weights[group]);
            }
        }
        for (group, v) in v.iter_mut().enumerate() {
            // SAFETY: numbers are padded to whole blocks.
            *v = unsafe { round(&job.numbers, group, *v) };
        }
        let dst = run.dst.wrapping_add(pixel * run.dst_step_bytes + job.channel);
        let q = job.cut.bytes(v);
        // SAFETY: the caller's promise: the groups that exist.
        unsafe { store(dst, q, job.n_groups) };
    }
}

/// A vector of each group.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn vectors<T>(from: *const T) -> [__m512i; GROUPS] {
    let mut found = [_mm512_setzero_si512(); GROUPS];
    for (group, found) in found.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *found = unsafe { load(from.wrapping_byte_add(group * 64)) };
    }
    found
}

/// The bytes of `n_rows` of a column of taps, up to 4, side by side: each lane's first four channels, then
/// the next four and so on.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn column<const SEGMENTS: usize>(
    src: &[*const u8; SEGMENTS],
    src_row_bytes: usize,
    n_rows: usize,
) -> [__m512i; GROUPS] {
    let mut rows = [_mm512_setzero_si512(); 4];
    for (row, bytes) in rows.iter_mut().enumerate().take(n_rows) {
        let src = src.map(|src| src.wrapping_add(row * src_row_bytes));
        // SAFETY: the caller's promise; a block's channels that don't exist are within the slack.
        *bytes = unsafe { load_segments(&src) };
    }
    let low = (_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpacklo_epi8(rows[2], rows[3]));
    let high = (_mm512_unpackhi_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[2], rows[3]));
    [
        _mm512_unpacklo_epi16(low.0, low.1),
        _mm512_unpackhi_epi16(low.0, low.1),
        _mm512_unpacklo_epi16(high.0, high.1),
        _mm512_unpackhi_epi16(high.0, high.1),
    ]
}

/// 64 bytes, as many of each segment.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn load_segments<const SEGMENTS: usize>(src: &[*const u8; SEGMENTS]) -> __m512i {
    if SEGMENTS == 1 {
        // SAFETY: the caller's promise.
        return unsafe { load(src[0]) };
    }
    if SEGMENTS == 2 {
        // SAFETY: the caller's promise.
        let low = unsafe { _mm256_loadu_si256(src[0].cast()) };
        // SAFETY: the caller's promise.
        let high = unsafe { _mm256_loadu_si256(src[1].cast()) };
        return _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    }
    let mut lanes = [_mm_setzero_si128(); SEGMENTS];
    for (lane, src) in lanes.iter_mut().zip(src) {
        // SAFETY: the caller's promise.
        *lane = unsafe { _mm_loadu_si128(src.cast()) };
    }
    let all = _mm512_castsi128_si512(lanes[0]);
    let all = _mm512_inserti32x4::<1>(all, lanes[1]);
    let all = _mm512_inserti32x4::<2>(all, lanes[2]);
    _mm512_inserti32x4::<3>(all, lanes[3])
}

/// Stores the groups of each segment.
///
/// # Safety
/// They are the caller's to write.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn store_segments<const SEGMENTS: usize>(dst: &[*mut u8; SEGMENTS], q: __m512i, n_groups: usize) {
    // SAFETY: the caller's promise.
    unsafe { store(dst[0], q, if SEGMENTS == 1 { n_groups } else { GROUPS / SEGMENTS }) };
    if SEGMENTS == 2 {
        let q = _mm512_castsi256_si512(_mm512_extracti64x4_epi64::<1>(q));
        // SAFETY: the caller's promise.
        unsafe { store(dst[1], q, 2) };
    }
    if SEGMENTS == 4 {
        let lanes = [
            _mm512_extracti32x4_epi32::<1>(q),
            _mm512_extracti32x4_epi32::<2>(q),
            _mm512_extracti32x4_epi32::<3>(q),
        ];
        for (lane, &dst) in lanes.into_iter().zip(&dst[1..]) {
            let lane = _mm512_castsi128_si512(lane);
            // SAFETY: the caller's promise.
            unsafe { store(dst, lane, 1) };
        }
    }
}
