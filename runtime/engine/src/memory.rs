//! Memory that starts at a cache line: packed weights, and the arena that activations live in.
#![allow(unsafe_code, reason = "views of aligned storage as numbers")]

use std::marker::PhantomData;

/// One cache line, also the widest vector of any kernel.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([u8; LINE_BYTES]);

/// Bytes of a cache line.
pub(super) const LINE_BYTES: usize = 64;

/// Numbers that may be made of any bytes.
pub(super) trait Number: Copy + 'static {}
impl Number for u8 {}
impl Number for i8 {}
impl Number for i16 {}
impl Number for i32 {}
impl Number for f32 {}

/// A fixed number of `T` that starts at a cache line; a whole line may be read from the start of any
/// element.
#[derive(Clone, Debug)]
pub(super) struct Aligned<T> {
    lines: Box<[Line]>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Number> Aligned<T> {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let n_lines = (len * size_of::<T>()).div_ceil(LINE_BYTES) + 1;
        Aligned { lines: vec![Line([0; LINE_BYTES]); n_lines].into(), len, of: PhantomData }
    }

    /// A copy of `values`.
    pub(super) fn copied(values: &[T]) -> Self {
        let mut made = Self::zeros(values.len());
        made.copy_from_slice(values);
        made
    }

    /// Bytes that it takes.
    pub(super) fn n_bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }
}

impl<T: Number> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` T's of initialised bytes, `Number`s take any bytes, and
        // lines are aligned more strictly than any of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Number> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
