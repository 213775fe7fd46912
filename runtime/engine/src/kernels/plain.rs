//! Steps without products of matrices: plain loops, which [`vectorised`] compiles for an instruction set.
//!
//! Numbers are those of the module above: each f32 operation is rounded on its own, which a compiler may
//! not change, so every instruction set gives the same bytes.
#![allow(unsafe_code, reason = "reads and writes what a step points to")]

use super::{Range8, Residual};

/// dst = round((x - x_zero) * (gate - gate_zero) * multiplier).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gating {
    pub(crate) multiplier: f32,
    pub(crate) x_zero: u8,
    pub(crate) gate_zero: u8,
    pub(crate) range: Range8,
}

/// dst = the sum of a, as a convolution's bytes, and b.
///
/// # Safety
/// `a`, `b` and `dst` are `n_bytes` bytes to read and to write.
#[inline(always)]
pub(crate) unsafe fn add(numbers: &Residual, a: *const u8, b: *const u8, dst: *mut u8, n_bytes: usize) {
    // SAFETY: the caller's promise.
    let a = unsafe { std::slice::from_raw_parts(a, n_bytes) };
    // SAFETY: the caller's promise.
    let b = unsafe { std::slice::from_raw_parts(b, n_bytes) };
    // SAFETY: the caller's promise; no tensor is its own sum.
    let dst = unsafe { std::slice::from_raw_parts_mut(dst, n_bytes) };
    for ((dst, &a), &b) in dst.iter_mut().zip(a).zip(b) {
        *dst = numbers.add(a, b);
    }
}

/// Multiplies `n_pixels` pixels that follow one another by one pixel.
///
/// # Safety
/// `x` and `dst` are `n_pixels` times `pixel_bytes` bytes to read and to write, `gate` is one pixel.
#[inline(always)]
pub(crate) unsafe fn gate(
    numbers: &Gating,
    (x, gate): (*const u8, *const u8),
    dst: *mut u8,
    n_pixels: usize,
    pixel_bytes: usize,
) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts(x, n_pixels * pixel_bytes) };
    // SAFETY: the caller's promise.
    let gate = unsafe { std::slice::from_raw_parts(gate, pixel_bytes) };
    // SAFETY: the caller's promise; no tensor is its own product.
    let dst = unsafe { std::slice::from_raw_parts_mut(dst, n_pixels * pixel_bytes) };
    let (x_zero, gate_zero) = (i32::from(numbers.x_zero), i32::from(numbers.gate_zero));
    for (dst, x) in dst.chunks_exact_mut(pixel_bytes).zip(x.chunks_exact(pixel_bytes)) {
        // One length for all three, so that the loop needs no checks.
        let (x, gate) = (&x[..dst.len()], &gate[..dst.len()]);
        for ((dst, &x), &gate) in dst.iter_mut().zip(x).zip(gate) {
            let product = (i32::from(x) - x_zero) * (i32::from(gate) - gate_zero);
            #[expect(clippy::cast_precision_loss, reason = "below 2^17")]
            let v = product as f32 * numbers.multiplier;
            *dst = numbers.range.round(v);
        }
    }
}

/// Adds some channels of `n_pixels` pixels, which are `pixel_bytes` apart, to `sums`, one a channel.
///
/// # Safety
/// `x` is the first pixel's first of these channels; of each pixel, `sums.len()` bytes are to read.
#[inline(always)]
pub(crate) unsafe fn sum(x: *const u8, pixel_bytes: usize, n_pixels: usize, sums: &mut [i32]) {
    /// Channels whose sums stay in registers while the pixels pass by.
    const BLOCK: usize = 64;
    for (idx, sums) in sums.chunks_mut(BLOCK).enumerate() {
        let x = x.wrapping_add(idx * BLOCK);
        let mut block = [0i32; BLOCK];
        for pixel in 0..n_pixels {
            let from = x.wrapping_add(pixel * pixel_bytes);
            if sums.len() == BLOCK {
                // SAFETY: the caller's promise; a length that is known makes vectors of the loop.
                let pixel = unsafe { std::slice::from_raw_parts(from, BLOCK) };
                block.iter_mut().zip(pixel).for_each(|(sum, &q)| *sum += i32::from(q));
            } else {
                // SAFETY: the caller's promise.
                let pixel = unsafe { std::slice::from_raw_parts(from, sums.len()) };
                block.iter_mut().zip(pixel).for_each(|(sum, &q)| *sum += i32::from(q));
            }
        }
        sums.iter_mut().zip(block).for_each(|(sum, part)| *sum += part);
    }
}

/// dst = the larger of dst and x, byte by byte.
///
/// # Safety
/// `x` and `dst` are `n_bytes` bytes to read and to write.
#[inline(always)]
pub(crate) unsafe fn max(x: *const u8, dst: *mut u8, n_bytes: usize) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts(x, n_bytes) };
    // SAFETY: the caller's promise; no tensor is its own pool.
    let dst = unsafe { std::slice::from_raw_parts_mut(dst, n_bytes) };
    for (dst, &x) in dst.iter_mut().zip(x) {
        *dst = (*dst).max(x);
    }
}

/// dst = round(x / scale) of 1 to 4 planes, side by side in pixels of 4 bytes.
///
/// # Safety
/// `planes` are `n_pixels` values each, `dst` is 4 times as many bytes to write, from a multiple of 4 on.
#[inline(always)]
pub(crate) unsafe fn quantize4(
    scale: f32,
    range: Range8,
    planes: &[*const f32],
    dst: *mut u8,
    n_pixels: usize,
) {
    // SAFETY: the caller's promise.
    let plane = |idx: usize| unsafe { std::slice::from_raw_parts(planes[idx], n_pixels) };
    // SAFETY: the caller's promise.
    let dst = unsafe { std::slice::from_raw_parts_mut(dst.cast::<u32>(), n_pixels) };
    let byte = |x: f32| u32::from(range.round(x / scale));
    if planes.len() == 3 {
        let (red, green, blue) = (plane(0), plane(1), plane(2));
        for (((dst, &r), &g), &b) in dst.iter_mut().zip(red).zip(green).zip(blue) {
            *dst = (byte(r) | byte(g) << 8 | byte(b) << 16).to_le();
        }
        return;
    }
    dst.fill(0);
    for channel in 0..planes.len().min(4) {
        for (dst, &x) in dst.iter_mut().zip(plane(channel)) {
            *dst |= (byte(x) << (8 * channel)).to_le();
        }
    }
}

/// The trait's methods of plain loops, compiled for target features; none for those of every processor.
macro_rules! vectorised {
    ($($feature:literal),*) => {
        unsafe fn add(
            &self,
            numbers: &$crate::kernels::Residual,
            a: *const u8,
            b: *const u8,
            dst: *mut u8,
            n_bytes: usize,
        ) {
            $(#[target_feature(enable = $feature)])*
            unsafe fn inner(
                numbers: &$crate::kernels::Residual,
                a: *const u8,
                b: *const u8,
                dst: *mut u8,
                n_bytes: usize,
            ) {
                // SAFETY: passed on.
                unsafe { $crate::kernels::plain::add(numbers, a, b, dst, n_bytes) }
            }
            // SAFETY: passed on; the processor has the features, as `Kernels` asks of its callers.
            unsafe { inner(numbers, a, b, dst, n_bytes) }
        }

        unsafe fn gate(
            &self,
            numbers: &$crate::kernels::plain::Gating,
            sources: (*const u8, *const u8),
            dst: *mut u8,
            n_pixels: usize,
            pixel_bytes: usize,
        ) {
            $(#[target_feature(enable = $feature)])*
            unsafe fn inner(
                numbers: &$crate::kernels::plain::Gating,
                sources: (*const u8, *const u8),
                dst: *mut u8,
                n_pixels: usize,
                pixel_bytes: usize,
            ) {
                // SAFETY: passed on.
                unsafe { $crate::kernels::plain::gate(numbers, sources, dst, n_pixels, pixel_bytes) }
            }
            // SAFETY: passed on; the processor has the features, as `Kernels` asks of its callers.
            unsafe { inner(numbers, sources, dst, n_pixels, pixel_bytes) }
        }

        unsafe fn sum(&self, x: *const u8, pixel_bytes: usize, n_pixels: usize, sums: &mut [i32]) {
            $(#[target_feature(enable = $feature)])*
            unsafe fn inner(x: *const u8, pixel_bytes: usize, n_pixels: usize, sums: &mut [i32]) {
                // SAFETY: passed on.
                unsafe { $crate::kernels::plain::sum(x, pixel_bytes, n_pixels, sums) }
            }
            // SAFETY: passed on; the processor has the features, as `Kernels` asks of its callers.
            unsafe { inner(x, pixel_bytes, n_pixels, sums) }
        }

        unsafe fn max(&self, x: *const u8, dst: *mut u8, n_bytes: usize) {
            $(#[target_feature(enable = $feature)])*
            unsafe fn inner(x: *const u8, dst: *mut u8, n_bytes: usize) {
                // SAFETY: passed on.
                unsafe { $crate::kernels::plain::max(x, dst, n_bytes) }
            }
            // SAFETY: passed on; the processor has the features, as `Kernels` asks of its callers.
            unsafe { inner(x, dst, n_bytes) }
        }

        unsafe fn quantize4(
            &self,
            scale: f32,
            range: $crate::kernels::Range8,
            planes: &[*const f32],
            dst: *mut u8,
            n_pixels: usize,
        ) {
            $(#[target_feature(enable = $feature)])*
            unsafe fn inner(
                scale: f32,
                range: $crate::kernels::Range8,
                planes: &[*const f32],
                dst: *mut u8,
                n_pixels: usize,
            ) {
                // SAFETY: passed on.
                unsafe { $crate::kernels::plain::quantize4(scale, range, planes, dst, n_pixels) }
            }
            // SAFETY: passed on; the processor has the features, as `Kernels` asks of its callers.
            unsafe { inner(scale, range, planes, dst, n_pixels) }
        }
    };
}
pub(crate) use vectorised;
