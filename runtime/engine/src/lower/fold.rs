//! What is done to steps once all are known: steps that can be part of a convolution become that, steps
//! that nothing needs go, and tensors get the borders that their readers look at.

use std::collections::HashSet;

use crate::kernels::{Finish, Residual};
use crate::steps::{Step, Tensor, TensorId, Work};

/// Folds tables and sums into the convolutions before them.
pub(super) fn fold(steps: &mut Vec<Step>) {
    drop_unread(steps);
    let mut idx = 0;
    while idx < steps.len() {
        let is_folded = match &steps[idx].work {
            Work::Table { .. } => fold_table(steps, idx),
            Work::Add { .. } => fold_sum(steps, idx),
            _ => false,
        };
        if !is_folded {
            idx += 1;
        }
    }
}

/// Gives each tensor the border that its readers look at.
pub(super) fn widen(tensors: &mut [Tensor], steps: &[Step]) {
    for step in steps {
        let window = match &step.work {
            Work::Conv { window, .. } | Work::Depthwise { window, .. } => window,
            _ => continue,
        };
        let Some(target) = step.target else { continue };
        let size = (tensors[target].height, tensors[target].width);
        let source = &mut tensors[step.sources[0]];
        let needed = window.border((source.height, source.width), size);
        let border = &mut source.border;
        border.top = border.top.max(needed.top);
        border.left = border.left.max(needed.left);
        border.bottom = border.bottom.max(needed.bottom);
        border.right = border.right.max(needed.right);
    }
}

fn drop_unread(steps: &mut Vec<Step>) {
    let mut read: HashSet<TensorId> = HashSet::new();
    let mut kept: Vec<bool> = steps
        .iter()
        .rev()
        .map(|step| {
            let is_read = step.target.is_none_or(|target| read.contains(&target));
            read.extend(step.sources.iter().filter(|_| is_read));
            is_read
        })
        .collect();
    steps.retain(|_| kept.pop().unwrap_or(true));
}

/// The step that makes a tensor, when only one step reads it and both are of one region.
fn sole_maker(steps: &[Step], tensor: TensorId, reader: usize) -> Option<usize> {
    let n_readers: usize =
        steps.iter().map(|s| s.sources.iter().filter(|&&source| source == tensor).count()).sum();
    let maker = steps.iter().position(|s| s.target == Some(tensor))?;
    (n_readers == 1 && steps[maker].region == steps[reader].region).then_some(maker)
}

fn fold_table(steps: &mut Vec<Step>, idx: usize) -> bool {
    let Some(maker) = sole_maker(steps, steps[idx].sources[0], idx) else { return false };
    let target = steps[idx].target;
    let Work::Table { table: later } = steps[idx].work.clone() else { return false };
    match &mut steps[maker].work {
        Work::Conv { packed, .. } | Work::Depthwise { packed, .. } => {
            let Finish::Bytes { table, residual: None, .. } = &mut packed.finish else { return false };
            *table = Some(match table.take() {
                Some(earlier) => Box::new(earlier.map(|q| later[usize::from(q)])),
                None => later,
            });
        }
        Work::Table { table } => **table = table.map(|q| later[usize::from(q)]),
        _ => return false,
    }
    steps[maker].target = target;
    steps.remove(idx);
    true
}

fn fold_sum(steps: &mut Vec<Step>, idx: usize) -> bool {
    let Work::Add { sum } = steps[idx].work else { return false };
    let [a, b] = steps[idx].sources[..] else { return false };
    // Of two convolutions the later one takes the sum, so that the other operand is there.
    let swapped = Residual { own: sum.other, other: sum.own, is_own_last: !sum.is_own_last, ..sum };
    let mut options: Vec<_> = [(a, b, sum), (b, a, swapped)]
        .into_iter()
        .filter_map(|(conv, rest, sum)| Some((sole_maker(steps, conv, idx)?, rest, sum)))
        .collect();
    options.sort_by_key(|(maker, ..)| std::cmp::Reverse(*maker));
    for (maker, rest, sum) in options {
        let target = steps[idx].target;
        let Work::Conv { packed, .. } = &mut steps[maker].work else { continue };
        let Finish::Bytes { table: None, residual, .. } = &mut packed.finish else { continue };
        if residual.is_some() {
            continue;
        }
        *residual = Some(sum);
        steps[maker].target = target;
        steps[maker].sources.push(rest);
        // It may have to wait for the other operand.
        let mut conv = steps.remove(maker);
        conv.name = format!("{} + {}", conv.name, steps[idx - 1].name);
        steps[idx - 1] = conv;
        return true;
    }
    false
}
