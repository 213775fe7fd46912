//! From sums to bytes or floats.

use std::arch::x86_64::*;

use super::{GROUP, load_ps};
use crate::kernels::blocks::Numbers;
use crate::kernels::{Finish, Range8, Residual};

/// Steps 1 and 2 of the numbers and the rounding of 3 for the sums of a vector.
///
/// # Safety
/// There is such a vector.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn round(numbers: &Numbers, vector: usize, sums: __m256i) -> __m256i {
    // SAFETY: the caller's promise; numbers are padded to whole groups.
    let multiplier = unsafe { load_ps(numbers.multipliers.wrapping_add(vector * 8)) };
    let mut v = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), multiplier);
    if !numbers.slopes.is_null() {
        // SAFETY: the caller's promise; numbers are padded to whole groups.
        let slope = unsafe { load_ps(numbers.slopes.wrapping_add(vector * 8)) };
        let is_negative = _mm256_cmp_ps::<_CMP_LT_OQ>(v, _mm256_setzero_ps());
        v = _mm256_blendv_ps(v, _mm256_mul_ps(v, slope), is_negative);
    }
    _mm256_cvtps_epi32(v)
}

/// A table in 16 rows of 16, each of them xor the one before in its half, so that a sum of looked up rows is
/// the last one's entry.
pub(super) struct Steps([[u8; 16]; 16]);

impl Steps {
    pub(super) fn new(finish: &Finish) -> Option<Self> {
        let Finish::Bytes { table: Some(table), .. } = finish else { return None };
        let mut rows = [[0; 16]; 16];
        for (at, row) in rows.iter_mut().enumerate() {
            for (i, step) in row.iter_mut().enumerate() {
                let entry = 16 * at + i;
                *step = table[entry] ^ if at % 8 == 0 { 0 } else { table[entry - 16] };
            }
        }
        Some(Steps(rows))
    }

    /// The bytes' entries.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn entries(&self, q: __m256i) -> __m256i {
        let mut halves = [_mm256_setzero_si256(); 2];
        let mut at = q;
        for (half, rows) in halves.iter_mut().zip(self.0.as_chunks::<8>().0) {
            for row in rows {
                // SAFETY: 16 bytes.
                let row = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
                // Rows after the byte's own give 0: their places are negative.
                let steps = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row), at);
                *half = _mm256_xor_si256(*half, steps);
                at = _mm256_sub_epi8(at, _mm256_set1_epi8(16));
            }
        }
        _mm256_blendv_epi8(halves[0], halves[1], q)
    }
}

/// A [`Range8`] in every lane, and a table.
#[derive(Clone, Copy)]
pub(super) struct Cut<'a> {
    zero: __m256i,
    min: __m256i,
    max: __m256i,
    steps: Option<&'a Steps>,
}

impl<'a> Cut<'a> {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new(range: Range8, steps: Option<&'a Steps>) -> Self {
        Cut {
            steps,
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
        let q = _mm256_min_epu8(_mm256_max_epu8(q, self.min), self.max);
        self.steps.map_or(q, |steps| steps.entries(q))
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
        let (dst, half) = (dst.wrapping_add(4 * vector), _mm256_castps256_ps128(v));
        // SAFETY: the caller's promise: the channel is within the block.
        unsafe { _mm_storeu_ps(dst, half) };
        let (dst, half) = (dst.wrapping_add(4 * sums.len()), _mm256_extractf128_ps::<1>(v));
        // SAFETY: the caller's promise: the channel is within the block.
        unsafe { _mm_storeu_ps(dst, half) };
    }
}

/// Step 5 of the numbers, which is done to the bytes of a few pixels that the others have left.
#[derive(Clone, Copy)]
pub(super) struct Rest(Option<Residual>);

impl Rest {
    pub(super) fn new(finish: &Finish) -> Self {
        Rest(match finish {
            Finish::Bytes { residual: Some(residual), .. } => Some(*residual),
            Finish::Bytes { .. } | Finish::Floats => None,
        })
    }

    /// Applies it to a block of `n_groups` groups of some pixels.
    ///
    /// # Safety
    /// The block is the caller's to read and to write in `dst`, and with a residual to read in `residual`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn apply(
        &self,
        n_pixels: usize,
        n_groups: usize,
        dst: impl Fn(usize) -> *mut u8,
        residual: impl Fn(usize) -> *const u8,
    ) {
        if let Some(sum) = self.0 {
            // SAFETY: the caller's promise.
            unsafe { add(sum, n_pixels, n_groups, dst, residual) };
        }
    }
}

/// Adds residuals to bytes.
///
/// # Safety
/// As for [`Rest::apply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn add(
    residual: Residual,
    n_pixels: usize,
    n_groups: usize,
    dst: impl Fn(usize) -> *mut u8,
    other: impl Fn(usize) -> *const u8,
) {
    let (own_scale, other_scale) = (_mm256_set1_ps(residual.own), _mm256_set1_ps(residual.other));
    let fixed = _mm256_set1_ps(residual.fixed);
    let float = |q: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q));
    let sum = |q: __m128i, r: __m128i| {
        let (q, r) = (float(q), float(r));
        let t = if residual.is_own_last {
            _mm256_fmadd_ps(q, own_scale, _mm256_fmadd_ps(r, other_scale, fixed))
        } else {
            _mm256_fmadd_ps(r, other_scale, _mm256_fmadd_ps(q, own_scale, fixed))
        };
        _mm256_cvtps_epi32(t)
    };
    // The zero point is in the sum.
    let cut = Cut::new(Range8 { zero: 0, ..residual.sum }, None);
    for pixel in 0..n_pixels {
        for group in 0..n_groups {
            let dst = dst(pixel).wrapping_add(group * GROUP);
            // SAFETY: the caller's promise.
            let q = unsafe { _mm_loadu_si128(dst.cast()) };
            // SAFETY: the caller's promise.
            let r = unsafe { _mm_loadu_si128(other(pixel).wrapping_add(group * GROUP).cast()) };
            let low = sum(q, r);
            let high = sum(_mm_srli_si128::<8>(q), _mm_srli_si128::<8>(r));
            let q = cut.bytes([low, high, low, high]);
            // 4 bytes of the lower half, 4 of the upper one, twice, in each lane.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let q = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(q, order));
            // SAFETY: the caller's promise.
            unsafe { _mm_storeu_si128(dst.cast(), q) };
        }
    }
}
