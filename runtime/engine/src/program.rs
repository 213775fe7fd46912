//! A region: steps that follow one another on bytes, with the memory that they share.
//!
//! All activations live in one arena, whose places are given out once, at load: tensors that aren't alive
//! at the same time share theirs. Running allocates nothing.

use std::sync::Arc;

use super::kernels::{Kernels, Range8, SLACK_BYTES};
use super::memory::{Aligned, LINE_BYTES};
use super::steps::{Step, Tensor, TensorId, Work};

/// A float that a region takes or gives: a value of the graph with its shape for one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

impl Port {
    fn given(name: &str, n_channels: usize, t: &Tensor, is_flat: bool) -> Self {
        let shape =
            if is_flat { vec![n_channels * t.height * t.width] } else { vec![n_channels, t.height, t.width] };
        Port { name: name.to_owned(), shape }
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A region of a network, ready to run.
pub(super) struct Program {
    pub(super) kernels: &'static dyn Kernels,
    pub(super) steps: Vec<Step>,
    pub(super) tensors: Arc<[Tensor]>,
    /// Where each tensor starts in the arena; unused for tensors of other regions.
    offsets: Vec<usize>,
    arena_bytes: usize,
    /// Floats that come in, in the order of the region's inputs.
    pub(super) inputs: Vec<Port>,
    /// Tensors that come in from regions before, after the floats.
    pub(super) taken: Vec<TensorId>,
    /// Floats that go out, in the order of the region's outputs.
    pub(super) outputs: Vec<Port>,
    /// Tensors that go out to regions after, after the floats.
    #[cfg_attr(not(feature = "float"), expect(dead_code, reason = "read by what runs in float"))]
    pub(super) given: Vec<TensorId>,
}

/// What one run of a region needs besides the region.
#[derive(Clone)]
pub(super) struct Scratch {
    pub(super) arena: Aligned<u8>,
    /// A value for each of [`Program::outputs`].
    pub(super) outputs: Vec<Vec<f32>>,
    /// One for each channel of the widest tensor that a mean is taken of.
    pub(super) sums: Vec<i32>,
}

impl Program {
    /// Plans the memory of `steps`, all of one region. `given` are tensors that later regions read.
    pub(super) fn new(
        kernels: &'static dyn Kernels,
        tensors: Arc<[Tensor]>,
        steps: Vec<Step>,
        given: Vec<TensorId>,
    ) -> Self {
        let made = |t: TensorId| steps.iter().any(|s| s.target == Some(t));
        let mut taken: Vec<TensorId> = Vec::new();
        let mut inputs: Vec<Port> = Vec::new();
        let mut outputs: Vec<Port> = Vec::new();
        for step in &steps {
            for &source in &step.sources {
                if !made(source) && !taken.contains(&source) {
                    taken.push(source);
                }
            }
            let source = step.sources.first().map(|&t| &tensors[t]);
            match (&step.work, step.target, source) {
                (Work::Quantize { name, .. }, Some(target), _) => {
                    let t = &tensors[target];
                    let port = Port { name: name.clone(), shape: vec![t.n_channels, t.height, t.width] };
                    if !inputs.contains(&port) {
                        inputs.push(port);
                    }
                }
                (Work::Dequantize { name, is_flat }, _, Some(t)) => {
                    outputs.push(Port::given(name, t.n_channels, t, *is_flat));
                }
                (Work::Emit { name, part, is_flat }, _, Some(t)) => {
                    outputs.push(Port::given(name, part.n_channels, t, *is_flat));
                }
                _ => {}
            }
        }
        let (offsets, arena_bytes) = places(&tensors, &steps, &taken, &given);
        Program { kernels, steps, tensors, offsets, arena_bytes, inputs, taken, outputs, given }
    }

    /// Fresh memory for runs.
    pub(super) fn scratch(&self) -> Scratch {
        let means = self.steps.iter().filter(|s| matches!(s.work, Work::Mean { .. }));
        let widest = means.flat_map(|s| &s.sources).map(|&t| self.tensors[t].pixel_bytes).max().unwrap_or(0);
        Scratch {
            arena: Aligned::zeros(self.arena_bytes),
            outputs: self.outputs.iter().map(|port| vec![0.0; port.len()]).collect(),
            sums: vec![0; widest],
        }
    }

    /// Scale and range of the bytes of the inputs; `None` where they aren't all the same.
    pub(super) fn input_numbers(&self) -> Option<(f32, Range8)> {
        let mut numbers = self.steps.iter().filter_map(|s| match s.work {
            Work::Quantize { scale, range, .. } => Some((scale, range)),
            _ => None,
        });
        let first = numbers.next()?;
        numbers.all(|other| other == first).then_some(first)
    }

    /// Bytes of the arena, and of the packed weights.
    pub(super) fn n_bytes(&self) -> (usize, usize) {
        let packed = self.steps.iter().map(|s| match &s.work {
            Work::Conv { packed, .. } | Work::Depthwise { packed, .. } => packed.n_bytes(),
            _ => 0,
        });
        (self.arena_bytes, packed.sum())
    }

    /// Where a tensor starts in the arena, and its length.
    pub(super) fn place(&self, tensor: TensorId) -> std::ops::Range<usize> {
        self.offsets[tensor]..self.offsets[tensor] + self.tensors[tensor].n_bytes()
    }
}

/// Gives each tensor a place: the largest first, each at the lowest offset where nothing lies that is alive
/// at the same time.
fn places(tensors: &[Tensor], steps: &[Step], taken: &[TensorId], given: &[TensorId]) -> (Vec<usize>, usize) {
    // First and last step of each tensor's life.
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; tensors.len()];
    for (idx, step) in steps.iter().enumerate() {
        for &t in step.target.iter().chain(&step.sources) {
            let (first, _) = lives[t].unwrap_or((idx, idx));
            lives[t] = Some((first, idx));
        }
    }
    for &t in taken {
        lives[t] = lives[t].map(|(_, last)| (0, last));
    }
    for &t in given {
        lives[t] = lives[t].map(|(first, _)| (first, steps.len()));
    }
    let mut order: Vec<TensorId> = (0..tensors.len()).filter(|&t| lives[t].is_some()).collect();
    order.sort_by_key(|&t| std::cmp::Reverse(tensors[t].n_bytes()));
    let mut offsets = vec![0; tensors.len()];
    let mut placed: Vec<TensorId> = Vec::new();
    let mut arena_bytes = 0;
    for &t in &order {
        let Some((first, last)) = lives[t] else { continue };
        let size = room(&tensors[t]);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&other| lives[other].is_some_and(|(start, end)| start <= last && first <= end))
            .map(|&other| (offsets[other], offsets[other] + room(&tensors[other])))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + size <= start {
                break;
            }
            at = at.max(end);
        }
        offsets[t] = at;
        arena_bytes = arena_bytes.max(at + size);
        placed.push(t);
    }
    (offsets, arena_bytes + SLACK_BYTES)
}

/// Bytes of a tensor's place, with what kernels may read past its end.
fn room(tensor: &Tensor) -> usize {
    (tensor.n_bytes() + SLACK_BYTES).next_multiple_of(LINE_BYTES)
}
