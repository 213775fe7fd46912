//! AVX-512 with VNNI: four products a lane and instruction; the table by VBMI where the processor has it.
#![allow(unsafe_code, reason = "reads and writes what a run points to")]

mod conv;
mod depthwise;
mod finish;

use std::arch::x86_64::*;

use super::{Conv, ConvRun, Depthwise, DepthwiseRun, Kernels, Packed};

/// Kernels for processors that [`Avx512::is_detected`] accepts.
pub(crate) struct Avx512;

/// Channels of a vector of sums.
const GROUP: usize = 16;

impl Avx512 {
    /// Whether this processor runs them.
    pub(crate) fn is_detected() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
    }
}

impl Kernels for Avx512 {
    fn name(&self) -> &'static str {
        "avx512-vnni"
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

    super::plain::vectorised!("fma", "avx512f", "avx512bw", "avx512vl", "avx512dq");
}

/// 64 bytes of any numbers.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<T>(from: *const T) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// 16 floats.
///
/// # Safety
/// They are the caller's to read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_ps(from: *const f32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(from) }
}
