//! Steps 1 to 5 of the kernels' numbers for 16 channels of a pixel.

use std::arch::aarch64::{
    float32x4_t, uint8x16_t, uint8x16x4_t, vbslq_f32, vcltzq_f32, vcombine_s16, vcombine_u8, vcvtnq_s32_f32,
    vcvtq_f32_s32, vcvtq_f32_u32, vdupq_n_f32, vdupq_n_s16, vdupq_n_u8, vfmaq_n_f32, vget_low_u8,
    vget_low_u16, vld1q_f32, vld1q_u8_x4, vmaxq_u8, vminq_u8, vmovl_high_u8, vmovl_high_u16, vmovl_u8,
    vmovl_u16, vmulq_f32, vqaddq_s16, vqmovn_s32, vqmovun_s16, vqtbl4q_u8, vqtbx4q_u8, vst1q_f32, vst1q_u8,
    vsubq_u8,
};

use super::{BLOCK, Sums, load};
use crate::kernels::{Finish, Packed, Range8, Residual};

/// 16 numbers.
type Floats = [float32x4_t; BLOCK / 4];

/// Where a pixel goes, and its residual.
#[derive(Clone, Copy)]
pub(super) struct Pixel {
    pub(super) dst: *mut u8,
    pub(super) residual: *const u8,
}

impl Pixel {
    #[inline(always)]
    pub(super) fn moved(self, dst_bytes: usize, residual_bytes: usize) -> Self {
        let (dst, residual) = (self.dst.wrapping_add(dst_bytes), self.residual.wrapping_add(residual_bytes));
        Pixel { dst, residual }
    }
}

/// How one block's sums become bytes: steps 1 to 4.
#[derive(Clone, Copy)]
pub(super) struct Quantization<'a> {
    multipliers: &'a [f32; BLOCK],
    slopes: Option<&'a [f32; BLOCK]>,
    range: Range8,
    table: Option<&'a [u8; 256]>,
}

impl<'a> Quantization<'a> {
    /// Of a finish in bytes; the residual is not looked at.
    pub(super) fn of(packed: &'a Packed, block: usize) -> Option<Self> {
        let Finish::Bytes { range, table, .. } = &packed.finish else { return None };
        let slopes = packed.slopes.as_ref().map(|slopes| of_block(slopes, block));
        let multipliers = of_block(&packed.multipliers, block);
        Some(Quantization { multipliers, slopes, range: *range, table: table.as_deref() })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn bytes(&self, sums: &Sums) -> uint8x16_t {
        let mut v = scaled(sums, self.multipliers);
        if let Some(slopes) = self.slopes {
            for (v, slope) in v.iter_mut().zip(floats(slopes)) {
                *v = vbslq_f32(vcltzq_f32(*v), vmulq_f32(*v, slope), *v);
            }
        }
        let q = round(v, self.range);
        match self.table {
            Some(table) => look_up(table, q),
            None => q,
        }
    }
}

fn of_block(numbers: &[f32], block: usize) -> &[f32; BLOCK] {
    &numbers.as_chunks().0[block]
}

/// Writes one block's bytes of a pixel.
///
/// # Safety
/// `dst` is a pixel that has the block.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn write(dst: *mut u8, block: usize, bytes: uint8x16_t) {
    // SAFETY: the caller's.
    unsafe { vst1q_u8(dst.wrapping_add(block * BLOCK), bytes) };
}

/// Writes one block's `sums` of some `pixels`.
///
/// # Safety
/// Each `dst` and, where there is one, each `residual` is a pixel that has the block.
#[inline(never)]
#[target_feature(enable = "neon")]
pub(super) unsafe fn finish(packed: &Packed, block: usize, sums: &[Sums], pixels: &[Pixel]) {
    let quantization = Quantization::of(packed, block);
    for (sums, pixel) in sums.iter().zip(pixels) {
        if let (Some(quantization), Finish::Bytes { residual, .. }) = (quantization, &packed.finish) {
            let mut bytes = quantization.bytes(sums);
            if let Some(sum) = residual {
                // SAFETY: the block's bytes are the caller's to read.
                let other = unsafe { load(pixel.residual.wrapping_add(block * BLOCK)) };
                bytes = add(bytes, other, sum);
            }
            // SAFETY: the caller's.
            unsafe { write(pixel.dst, block, bytes) };
        } else {
            let dst = pixel.dst.cast::<f32>().wrapping_add(block * BLOCK);
            for (i, v) in scaled(sums, of_block(&packed.multipliers, block)).into_iter().enumerate() {
                // SAFETY: the block's floats are the caller's to write.
                unsafe { vst1q_f32(dst.wrapping_add(4 * i), v) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn floats(numbers: &[f32; BLOCK]) -> Floats {
    // SAFETY: 4 numbers at each quarter of 16.
    std::array::from_fn(|i| unsafe { vld1q_f32(numbers[4 * i..].as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon")]
fn scaled(sums: &Sums, multipliers: &[f32; BLOCK]) -> Floats {
    let mut v = floats(multipliers);
    for (v, &sum) in v.iter_mut().zip(sums) {
        *v = vmulq_f32(vcvtq_f32_s32(sum), *v);
    }
    v
}

/// [`Range8::round`] of 16 numbers. Saturation to i16 before zero is added changes nothing: what it cuts
/// off lies outside of any range.
#[inline]
#[target_feature(enable = "neon")]
fn round(v: Floats, range: Range8) -> uint8x16_t {
    let near = v.map(|v| vcvtnq_s32_f32(v));
    let zero = vdupq_n_s16(i16::from(range.zero));
    let low = vqaddq_s16(vcombine_s16(vqmovn_s32(near[0]), vqmovn_s32(near[1])), zero);
    let high = vqaddq_s16(vcombine_s16(vqmovn_s32(near[2]), vqmovn_s32(near[3])), zero);
    let q = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    vminq_u8(vmaxq_u8(q, vdupq_n_u8(range.min)), vdupq_n_u8(range.max))
}

#[inline]
#[target_feature(enable = "neon")]
fn look_up(table: &[u8; 256], q: uint8x16_t) -> uint8x16_t {
    let quarter = |i: usize| -> uint8x16x4_t {
        let quarter = &table[64 * i..][..64];
        // SAFETY: 64 bytes.
        unsafe { vld1q_u8_x4(quarter.as_ptr()) }
    };
    let beyond = |i: u8| vsubq_u8(q, vdupq_n_u8(64 * i));
    let mut found = vqtbl4q_u8(quarter(0), q);
    found = vqtbx4q_u8(found, quarter(1), beyond(1));
    found = vqtbx4q_u8(found, quarter(2), beyond(2));
    vqtbx4q_u8(found, quarter(3), beyond(3))
}

/// The sum of a residual and the convolution's bytes.
#[inline]
#[target_feature(enable = "neon")]
fn add(q: uint8x16_t, other: uint8x16_t, sum: &Residual) -> uint8x16_t {
    let (own, other) = (widened(q), widened(other));
    let fixed = vdupq_n_f32(sum.fixed);
    let t = std::array::from_fn(|i| {
        if sum.is_own_last {
            vfmaq_n_f32(vfmaq_n_f32(fixed, other[i], sum.other), own[i], sum.own)
        } else {
            vfmaq_n_f32(vfmaq_n_f32(fixed, own[i], sum.own), other[i], sum.other)
        }
    });
    // The zero point is in the sum.
    round(t, Range8 { zero: 0, ..sum.sum })
}

#[inline]
#[target_feature(enable = "neon")]
fn widened(q: uint8x16_t) -> Floats {
    let low = vmovl_u8(vget_low_u8(q));
    let high = vmovl_high_u8(q);
    [
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
        vcvtq_f32_u32(vmovl_high_u16(low)),
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
        vcvtq_f32_u32(vmovl_high_u16(high)),
    ]
}
