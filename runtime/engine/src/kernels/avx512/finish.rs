//! From sums to bytes or floats.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{GROUP, load, load_ps};
use crate::kernels::blocks::Numbers;
use crate::kernels::{Finish, Range8, Residual};

/// Steps 1 and 2 of the numbers and the rounding of 3 for the sums of a group. The factors are read each
/// time: they would only push sums out of registers.
///
/// # Safety
/// There is such a group.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round(numbers: &Numbers, group: usize, sums: __m512i) -> __m512i {
    // SAFETY: the caller's promise; numbers are padded to whole groups.
    let multiplier = unsafe { load_ps(numbers.multipliers.wrapping_add(group * GROUP)) };
    let mut v = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), multiplier);
    if !numbers.slopes.is_null() {
        // SAFETY: the caller's promise; numbers are padded to whole groups.
        let slope = unsafe { load_ps(numbers.slopes.wrapping_add(group * GROUP)) };
        let is_negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(v, _mm512_setzero_ps());
        v = _mm512_mask_mul_ps(v, is_negative, v, slope);
    }
    _mm512_cvtps_epi32(v)
}

/// A [`Range8`] in every lane, and a table where the processor looks up vectors.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    zero: __m512i,
    min: __m512i,
    max: __m512i,
    /// Null where there is none, or no VBMI.
    table: *const u8,
}

impl Cut {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn new(range: Range8, rest: &Rest) -> Self {
        Cut {
            zero: _mm512_set1_epi16(i16::from(range.zero)),
            min: _mm512_set1_epi8(range.min.cast_signed()),
            max: _mm512_set1_epi8(range.max.cast_signed()),
            table: if let Rest::TableVbmi(table) = rest { table.as_ptr() } else { std::ptr::null() },
        }
    }

    /// Rounded values of four vectors to bytes: 4 bytes of each in turn, for each lane of 128 bits. The
    /// saturation on the way is as good as clamping: it only moves values that are beyond both limits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn bytes(&self, v: [__m512i; 4]) -> __m512i {
        let low = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), self.zero);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), self.zero);
        let q = _mm512_packus_epi16(low, high);
        let q = _mm512_min_epu8(_mm512_max_epu8(q, self.min), self.max);
        if self.table.is_null() {
            return q;
        }
        // SAFETY: `new` has set it to a table of `Rest::TableVbmi`.
        unsafe { look_up_vector(self.table, q) }
    }
}

/// The bytes' entries.
///
/// # Safety
/// The table has 256 entries; the processor has VBMI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn look_up_vector(table: *const u8, q: __m512i) -> __m512i {
    let (mut low, mut high) = (q, q);
    // SAFETY: the caller's promise.
    let first = unsafe { load(table) };
    // SAFETY: the caller's promise.
    let third = unsafe { load(table.wrapping_add(128)) };
    // Not the intrinsic: it is for functions that all processors with AVX-512 could not run.
    // SAFETY: reads 64 bytes at half of the table; the processor has the instruction.
    unsafe {
        asm!(
            "vpermi2b {low}, {first}, zmmword ptr [{table} + 64]",
            "vpermi2b {high}, {third}, zmmword ptr [{table} + 192]",
            low = inout(zmm_reg) low,
            high = inout(zmm_reg) high,
            first = in(zmm_reg) first,
            third = in(zmm_reg) third,
            table = in(reg) table,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(q), low, high)
}

/// Puts the sums of a pixel, `[group][GROUP]`, out as floats.
///
/// # Safety
/// `numbers` and `dst` have all of the groups.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn floats(sums: &[__m512i], numbers: &Numbers, dst: *mut f32) {
    for (group, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let multiplier = unsafe { load_ps(numbers.multipliers.wrapping_add(group * GROUP)) };
        let v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), multiplier);
        let lanes = [
            _mm512_extractf32x4_ps::<0>(v),
            _mm512_extractf32x4_ps::<1>(v),
            _mm512_extractf32x4_ps::<2>(v),
            _mm512_extractf32x4_ps::<3>(v),
        ];
        for (lane, v) in lanes.into_iter().enumerate() {
            // The order that blocks are packed in.
            let channel = 4 * (sums.len() * lane + group);
            // SAFETY: the caller's promise: the channel is within the block.
            unsafe { _mm_storeu_ps(dst.wrapping_add(channel), v) };
        }
    }
}

/// Stores the first `n_groups` groups of 16 bytes.
///
/// # Safety
/// They are the caller's to write.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn store(dst: *mut u8, q: __m512i, n_groups: usize) {
    let half = _mm512_castsi512_si256(q);
    if n_groups == 4 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(dst.cast(), q) };
        return;
    }
    if n_groups == 1 {
        let quarter = _mm256_castsi256_si128(half);
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(dst.cast(), quarter) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { _mm256_storeu_si256(dst.cast(), half) };
    if n_groups == 3 {
        let last = _mm512_extracti32x4_epi32::<2>(q);
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(dst.wrapping_add(32).cast(), last) };
    }
}

/// Steps 4 and 5 of the numbers, which are done to the bytes of a few pixels that step 3 has left.
#[derive(Clone, Copy)]
pub(super) enum Rest<'a> {
    None,
    Table(&'a [u8; 256]),
    TableVbmi(&'a [u8; 256]),
    Residual(Residual),
}

impl<'a> Rest<'a> {
    pub(super) fn new(finish: &'a Finish) -> Self {
        match finish {
            Finish::Bytes { table: Some(table), .. } => {
                if is_x86_feature_detected!("avx512vbmi") {
                    Rest::TableVbmi(table)
                } else {
                    Rest::Table(table)
                }
            }
            Finish::Bytes { residual: Some(residual), .. } => Rest::Residual(*residual),
            Finish::Bytes { .. } | Finish::Floats => Rest::None,
        }
    }

    /// Applies it to a block of `n_groups` groups of some pixels.
    ///
    /// # Safety
    /// The block is the caller's to read and to write in `dst`, and with a residual to read in `residual`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(super) unsafe fn apply(
        &self,
        n_pixels: usize,
        n_groups: usize,
        dst: impl Fn(usize) -> *mut u8,
        residual: impl Fn(usize) -> *const u8,
    ) {
        match self {
            // `Cut` has looked up vectors.
            Rest::None | Rest::TableVbmi(_) => {}
            Rest::Table(table) => {
                for pixel in 0..n_pixels {
                    for at in 0..n_groups * GROUP {
                        // SAFETY: the caller's promise.
                        unsafe { look_up(table, dst(pixel).wrapping_add(at)) };
                    }
                }
            }
            Rest::Residual(sum) => {
                // SAFETY: the caller's promise.
                unsafe { add(*sum, n_pixels, n_groups, dst, residual) };
            }
        }
    }
}

/// Replaces a byte by its entry.
///
/// # Safety
/// It is the caller's.
#[inline]
unsafe fn look_up(table: &[u8; 256], q: *mut u8) {
    // SAFETY: the caller's promise.
    let entry = table[usize::from(unsafe { q.read() })];
    // SAFETY: the caller's promise.
    unsafe { q.write(entry) };
}

/// Adds residuals to bytes.
///
/// # Safety
/// As for [`Rest::apply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn add(
    residual: Residual,
    n_pixels: usize,
    n_groups: usize,
    dst: impl Fn(usize) -> *mut u8,
    other: impl Fn(usize) -> *const u8,
) {
    let float = |q: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q));
    let (own_scale, other_scale) = (_mm512_set1_ps(residual.own), _mm512_set1_ps(residual.other));
    let fixed = _mm512_set1_ps(residual.fixed);
    let (min, max) =
        (_mm512_set1_epi32(i32::from(residual.sum.min)), _mm512_set1_epi32(i32::from(residual.sum.max)));
    for pixel in 0..n_pixels {
        for group in 0..n_groups {
            let dst = dst(pixel).wrapping_add(group * GROUP);
            // SAFETY: the caller's promise.
            let q = unsafe { _mm_loadu_si128(dst.cast()) };
            // SAFETY: the caller's promise.
            let r = unsafe { _mm_loadu_si128(other(pixel).wrapping_add(group * GROUP).cast()) };
            let (q, r) = (float(q), float(r));
            let t = if residual.is_own_last {
                _mm512_fmadd_ps(q, own_scale, _mm512_fmadd_ps(r, other_scale, fixed))
            } else {
                _mm512_fmadd_ps(r, other_scale, _mm512_fmadd_ps(q, own_scale, fixed))
            };
            let t = _mm512_cvtps_epi32(t);
            let t = _mm512_min_epi32(_mm512_max_epi32(t, min), max);
            let q = _mm512_cvtepi32_epi8(t);
            // SAFETY: the caller's promise.
            unsafe { _mm_storeu_si128(dst.cast(), q) };
        }
    }
}
