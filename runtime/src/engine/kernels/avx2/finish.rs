//! From sums to bytes or floats.

use std::arch::x86_64::*;

use super::{GROUP, load_ps};
use crate::engine::kernels::{Finish, Packed, Range8, Residual};

/// The per-channel numbers of a block.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) bias: *const i32,
    multipliers: *const f32,
    /// Null where there are none.
    slopes: *const f32,
}

impl Numbers {
    /// Those from `group` on.
    pub(super) fn new(packed: &Packed, group: usize) -> Self {
        let slopes = packed.slopes.as_ref().map_or(std::ptr::null(), |s| s[group * GROUP..].as_ptr());
        Numbers {
            bias: packed.bias[group * GROUP..].as_ptr(),
            multipliers: packed.multipliers[group * GROUP..].as_ptr(),
            slopes,
        }
    }

    /// Steps 1 and 2 of the numbers and the rounding of 3 for the sums of a vector.
    ///
    /// # Safety
    /// There is such a vector.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn round(&self, vector: usize, sums: __m256i) -> __m256i {
        // SAFETY: the caller's promise; numbers are padded to whole groups.
        let multiplier = unsafe { load_ps(self.multipliers.wrapping_add(vector * 8)) };
        let mut v = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), multiplier);
        if !self.slopes.is_null() {
            // SAFETY: the caller's promise; numbers are padded to whole groups.
            let slope = unsafe { load_ps(self.slopes.wrapping_add(vector * 8)) };
            let is_negative = _mm256_cmp_ps::<_CMP_LT_OQ>(v, _mm256_setzero_ps());
            v = _mm256_blendv_ps(v, _mm256_mul_ps(v, slope), is_negative);
        }
        _mm256_cvtps_epi32(v)
    }
}

/// A [`Range8`] in every lane.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    zero: __m256i,
    min: __m256i,
    max: __m256i,
}

impl Cut {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new(range: Range8) -> Self {
        Cut {
            zero: _mm256_set1_epi16(i16::from(range.zero)),
            min: _mm256_set1_epi8(range.min.cast_signed()),
            max: _mm256_set1_epi8(range.max.cast_signed()),
        }
    }

    /// Rounded values of four vectors to bytes: 4 bytes of each in turn, for each lane of 128 bits. The
    /// saturation on the way is as good as clamping: it only moves values that are beyond both limits.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn bytes(&self, v: [__m256i; 4]) -> __m256i {
        let low = _mm256_adds_epi16(_mm256_packs_epi32(v[0], v[1]), self.zero);
        let high = _mm256_adds_epi16(_mm256_packs_epi32(v[2], v[3]), self.zero);
        let q = _mm256_packus_epi16(low, high);
        _mm256_min_epu8(_mm256_max_epu8(q, self.min), self.max)
    }
}

/// Puts the sums of a pixel out as floats.
///
/// # Safety
/// `numbers` and `dst` have all of the vectors.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn floats(sums: &[__m256i], numbers: &Numbers, dst: *mut f32) {
    for (vector, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let multiplier = unsafe { load_ps(numbers.multipliers.wrapping_add(vector * 8)) };
        let v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), multiplier);
        // The order that blocks are packed in.
        let low = dst.wrapping_add(4 * vector);
        // SAFETY: the caller's promise: the channel is within the block.
        unsafe { _mm_storeu_ps(low, _mm256_castps256_ps128(v)) };
        let high = low.wrapping_add(4 * sums.len());
        // SAFETY: the caller's promise: the channel is within the block.
        unsafe { _mm_storeu_ps(high, _mm256_extractf128_ps::<1>(v)) };
    }
}

/// Steps 4 and 5 of the numbers, which are done to the bytes of a few pixels that step 3 has left.
#[derive(Clone, Copy)]
pub(super) enum Rest<'a> {
    None,
    Table(&'a [u8; 256]),
    Residual(Range8, Residual),
}

impl<'a> Rest<'a> {
    pub(super) fn new(finish: &'a Finish) -> Self {
        match finish {
            Finish::Bytes { table: Some(table), .. } => Rest::Table(table),
            Finish::Bytes { range, residual: Some(residual), .. } => Rest::Residual(*range, *residual),
            Finish::Bytes { .. } | Finish::Floats => Rest::None,
        }
    }

    /// Applies it to a block of `n_groups` groups of some pixels.
    ///
    /// # Safety
    /// The block is the caller's to read and to write in `dst`, and with a residual to read in `residual`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn apply(
        &self,
        n_pixels: usize,
        n_groups: usize,
        dst: impl Fn(usize) -> *mut u8,
        residual: impl Fn(usize) -> *const u8,
    ) {
        match self {
            Rest::None => {}
            Rest::Table(table) => {
                for pixel in 0..n_pixels {
                    for at in 0..n_groups * GROUP {
                        // SAFETY: the caller's promise.
                        unsafe { look_up(table, dst(pixel).wrapping_add(at)) };
                    }
                }
            }
            Rest::Residual(own, sum) => {
                // SAFETY: the caller's promise.
                unsafe { add(*own, *sum, n_pixels, n_groups, dst, residual) };
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
#[target_feature(enable = "avx2")]
unsafe fn add(
    own: Range8,
    residual: Residual,
    n_pixels: usize,
    n_groups: usize,
    dst: impl Fn(usize) -> *mut u8,
    other: impl Fn(usize) -> *const u8,
) {
    let scaled = |q: __m128i, zero: __m256i, scale: __m256| {
        let shifted = _mm256_sub_epi32(_mm256_cvtepu8_epi32(q), zero);
        _mm256_mul_ps(_mm256_cvtepi32_ps(shifted), scale)
    };
    let own_zero = _mm256_set1_epi32(i32::from(own.zero));
    let other_zero = _mm256_set1_epi32(i32::from(residual.other_zero));
    let (own_scale, other_scale) = (_mm256_set1_ps(residual.own), _mm256_set1_ps(residual.other));
    let cut = Cut::new(residual.sum);
    for pixel in 0..n_pixels {
        for group in 0..n_groups {
            let dst = dst(pixel).wrapping_add(group * GROUP);
            // SAFETY: the caller's promise.
            let q = unsafe { _mm_loadu_si128(dst.cast()) };
            // SAFETY: the caller's promise.
            let r = unsafe { _mm_loadu_si128(other(pixel).wrapping_add(group * GROUP).cast()) };
            let low = _mm256_add_ps(scaled(q, own_zero, own_scale), scaled(r, other_zero, other_scale));
            let (q, r) = (_mm_srli_si128::<8>(q), _mm_srli_si128::<8>(r));
            let high = _mm256_add_ps(scaled(q, own_zero, own_scale), scaled(r, other_zero, other_scale));
            let (low, high) = (_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
            let q = cut.bytes([low, high, low, high]);
            // 4 bytes of the lower half, 4 of the upper one, twice, in each lane.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let q = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(q, order));
            // SAFETY: the caller's promise.
            unsafe { _mm_storeu_si128(dst.cast(), q) };
        }
    }
}
