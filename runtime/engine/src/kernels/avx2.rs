//! AVX2, without the saturation of its byte products.
#![allow(unsafe_code, reason = "reads and writes what a run points to")]

mod conv;
mod depthwise;
mod finish;

use std::arch::x86_64::*;

use super::{Conv, ConvRun, Depthwise, DepthwiseRun, Kernels, Packed};

/// Kernels for processors that [`Avx2::is_detected`] accepts.
pub(crate) struct Avx2;

/// Channels of a group, which takes two vectors of sums.
const GROUP: usize = 16;

impl Avx2 {
    /// Whether this processor runs them.
    pub(crate) fn is_detected() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
}

impl Kernels for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn pack_conv(&self, conv: &Conv) -> Packed {
        conv::pack(conv)
    }

    unsafe fn conv(&self, packed: &Packed, run: &ConvRun) {
        // SAFETY: the caller's promise of `Kernels`.
        unsafe { conv::run(packed, run) };
    }

    fn pack_depthwise(&self, depthwise: &Depthwise) -> Packed {
        depthwise::pack(depthwise)
    }

    unsafe fn depthwise(&self, packed: &Packed, run: &DepthwiseRun) {
        // SAFETY: the caller's promise of `Kernels`.
        unsafe { depthwise::run(packed, run) };
    }

    super::plain::vectorised!("avx2", "fma");
}

/// 32 bytes of any numbers.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<T>(from: *const T) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// 8 floats.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_ps(from: *const f32) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_ps(from) }
}
