//! The order in which the x86 kernels keep weights and per-channel numbers: blocks of 1 to 4 groups of
//! channels, in the order that the packing instructions undo.

use std::ops::Range;

use super::scalar::{slopes, without_slopes};
use super::{Conv, Packed};
use crate::memory::Aligned;

/// How groups of channels are shared out among blocks: as evenly as can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    n_groups: usize,
    n_blocks: usize,
}

impl Blocks {
    /// Groups of `lanes` channels in blocks of at most `most` groups.
    pub(super) fn new(n_channels: usize, lanes: usize, most: usize) -> Self {
        let n_groups = n_channels.div_ceil(lanes);
        Blocks { n_groups, n_blocks: n_groups.div_ceil(most) }
    }

    pub(super) fn n_groups(&self) -> usize {
        self.n_groups
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// A block's groups.
    #[inline(always)]
    pub(super) fn groups(&self, block: usize) -> Range<usize> {
        let (each, more) = (self.n_groups / self.n_blocks, self.n_groups % self.n_blocks);
        let first = block * each + block.min(more);
        first..first + each + usize::from(block < more)
    }
}

/// The channels of a block of vectors of `n_lanes` times 4 sums, in the order that packing four vectors to
/// bytes, lane by lane, turns into the channels' own.
pub(super) fn channels(vectors: Range<usize>, n_lanes: usize) -> impl Iterator<Item = usize> {
    let (first, n_vectors) = (vectors.start * n_lanes * 4, vectors.len());
    (0..n_vectors * n_lanes * 4).map(move |at| {
        let (vector, lane, i) = (at / (4 * n_lanes), at / 4 % n_lanes, at % 4);
        first + 4 * (n_vectors * lane + vector) + i
    })
}

/// The per-channel numbers of a block.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) bias: *const i32,
    pub(super) multipliers: *const f32,
    /// Null where there are none.
    pub(super) slopes: *const f32,
}

impl Numbers {
    /// Those from the packed number `first` on.
    pub(super) fn new(packed: &Packed, first: usize) -> Self {
        let slopes = packed.slopes.as_ref().map_or(std::ptr::null(), |s| s[first..].as_ptr());
        Numbers {
            bias: packed.bias[first..].as_ptr(),
            multipliers: packed.multipliers[first..].as_ptr(),
            slopes,
        }
    }
}

/// `values` in the order of `channels`, 0 where there is none.
pub(super) fn ordered<T: Copy + Default>(values: &[T], channels: &[usize]) -> Vec<T> {
    channels.iter().map(|&channel| values.get(channel).copied().unwrap_or_default()).collect()
}

/// Packs a convolution for vectors of `n_lanes` times 4 sums, of which a group takes `group_vectors`: weights
/// as `[block][row][row_bytes / n_taps][channel of the block][n_taps]`, where `n_taps` is 2 or 4.
pub(super) fn pack_conv(
    conv: &Conv,
    blocks: Blocks,
    (group_vectors, n_lanes): (usize, usize),
    n_taps: usize,
) -> Packed {
    let n_channels = blocks.n_groups() * group_vectors * n_lanes * 4;
    let mut weights = Aligned::zeros(n_channels * conv.n_rows * conv.row_bytes);
    let mut order = Vec::with_capacity(n_channels);
    let mut taps = weights.chunks_exact_mut(n_taps);
    for block in 0..blocks.n_blocks() {
        let groups = blocks.groups(block);
        let vectors = groups.start * group_vectors..groups.end * group_vectors;
        let of_block: Vec<usize> = channels(vectors, n_lanes).collect();
        for row in 0..conv.n_rows {
            for at in (0..conv.row_bytes).step_by(n_taps) {
                for (&channel, taps) in of_block.iter().zip(&mut taps) {
                    if channel < conv.n_out {
                        let from = (channel * conv.n_rows + row) * conv.row_bytes + at;
                        taps.copy_from_slice(&conv.weights[from..from + n_taps]);
                    }
                }
            }
        }
        order.extend(of_block);
    }
    Packed {
        n_out: conv.n_out,
        n_rows: conv.n_rows,
        row_bytes: conv.row_bytes,
        n_blocks: blocks.n_blocks(),
        weights,
        bias: Aligned::copied(&ordered(&conv.bias, &order)),
        multipliers: Aligned::copied(&ordered(&conv.multipliers, &order)),
        slopes: slopes(&conv.finish).map(|s| Aligned::copied(&ordered(s, &order))),
        finish: without_slopes(&conv.finish),
    }
}

/// `body` for each of the numbers that is below `n`, which is known when compiled, written out: the compiler
/// unrolls loops over many vectors too late to keep the vectors in registers.
macro_rules! unrolled {
    ($index:ident in $($at:literal)*, < $n:expr => $body:block) => {
        $(if $at < $n {
            let $index: usize = $at;
            $body
        })*
    };
}
pub(super) use unrolled;
