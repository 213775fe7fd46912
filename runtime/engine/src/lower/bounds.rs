//! How much a network may be.

use super::Refusal;
use crate::steps::{Step, Tensor, Work};

/// Most bytes of one tensor, of all tensors together, of all packed weights, and of all outputs' f32.
pub(super) const MAX_TENSOR_BYTES: usize = 1 << 28;
pub(super) const MAX_BYTES: usize = 1 << 30;

/// Output channels that kernels may fill up to.
pub(super) const MOST_PACKED: usize = 64;

/// Most pixels of a mean, so that their sum fits into an i32.
pub(super) const MAX_MEAN_PIXELS: usize = 1 << 23;

/// Most channels of a tensor.
pub(super) const MAX_CHANNELS: usize = 1 << 20;

/// Most products of a run: ten times the largest network that is of use, seconds at worst.
pub(crate) const MAX_MACS: u64 = 1 << 36;

/// Most nodes in a row that are functions of bytes and are wanted as floats after all.
pub(super) const MAX_DEPTH: usize = 64;

/// Largest scale of a sum's operand over the sum's, so that kernels may convert before they clamp.
pub(super) const MOST_RATIO: f32 = 65_536.0;

/// Refuses steps that take too much memory or work.
pub(super) fn check(tensors: &[Tensor], steps: &[Step], n_pictures: usize) -> Result<(), Refusal> {
    let total = tensors.iter().try_fold(0usize, |sum, t| sum.checked_add(t.n_bytes()));
    if total.is_none_or(|n| n > MAX_BYTES) {
        return Err(format!("its tensors take more than {MAX_BYTES} bytes"));
    }
    let given = steps.iter().filter(|s| s.target.is_none()).map(|s| given_bytes(tensors, s));
    if given.fold(0usize, usize::saturating_add) > MAX_BYTES {
        return Err(format!("its outputs take more than {MAX_BYTES} bytes"));
    }
    let n_macs = steps.iter().map(|s| macs(tensors, s)).fold(0u64, u64::saturating_add);
    let n_macs = n_macs.saturating_mul(n_pictures as u64);
    if n_macs > MAX_MACS {
        return Err(format!("a run of {n_macs} products, expected at most {MAX_MACS}"));
    }
    Ok(())
}

/// Bytes of the f32 that a step gives.
fn given_bytes(tensors: &[Tensor], step: &Step) -> usize {
    step.sources.iter().map(|&t| 4 * tensors[t].height * tensors[t].width * tensors[t].n_channels).sum()
}

/// About how many products a step takes.
fn macs(tensors: &[Tensor], step: &Step) -> u64 {
    let Some(target) = step.target.map(|t| &tensors[t]) else { return 0 };
    let per_pixel = match &step.work {
        Work::Conv { packed, .. } | Work::Depthwise { packed, .. } => packed.weights.len(),
        Work::Max { window } => {
            let source = &tensors[step.sources[0]];
            window.rows.min(source.height) * window.columns.min(source.width) * target.pixel_bytes
        }
        _ => target.pixel_bytes,
    };
    (per_pixel as u64).saturating_mul((target.height * target.width) as u64)
}
