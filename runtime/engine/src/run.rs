//! Running a region's steps, alone or as a team: every member goes through all steps, does its part of
//! each, and waits for the others before the next.
#![allow(unsafe_code, reason = "threads write to different places of one arena")]

use super::kernels::plain::Gating;
use super::kernels::{ConvRun, DepthwiseRun, LANES, Lines, Packed};
use super::numbers::{sigmoid, softmax};
use super::program::{Program, Scratch};
use super::steps::{Function, MAX_SOFTMAX, Part, Step, Tensor, TensorId, Window, Work};
use super::team::{Member, Team};

/// Where a region's one picture comes from.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// f32 NCHW of each of the region's inputs.
    Floats(&'a [&'a [f32]]),
    /// u8 RGB pixels, row by row, of the region's only input, with a table for each channel.
    Pixels(&'a [u8], &'a [[u8; 256]; 3]),
}

/// Called by the first member after each step.
pub(super) type Progress<'a> = &'a (dyn Fn(Seen<'_>) + Sync);

/// A run after a step.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Which step.
    pub(super) idx: usize,
    run: &'a Run<'a>,
}

impl Seen<'_> {
    /// The channels of the step's tensor, NCHW; none where it makes no bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let step = &self.run.program.steps[self.idx];
        let Some(target) = step.target else { return Vec::new() };
        let (t, origin) = self.run.tensor(target);
        let mut bytes = Vec::with_capacity(t.n_channels * t.height * t.width);
        for channel in 0..t.n_channels {
            for y in 0..t.height {
                for x in 0..t.width {
                    let at = y * t.line_bytes() + x * t.pixel_bytes + channel;
                    // SAFETY: inside the tensor; no member writes to it before the next step.
                    bytes.push(unsafe { origin.wrapping_add(at).read() });
                }
            }
        }
        bytes
    }
}

/// What all members see of a run.
struct Run<'a> {
    program: &'a Program,
    input: Input<'a>,
    arena: *mut u8,
    outputs: *mut Vec<f32>,
    sums: *mut i32,
}

// SAFETY: members write to different places of what the pointers lead to, see the steps below, and the
// team's barrier lies between a write and another member's read.
unsafe impl Sync for Run<'_> {}

impl Program {
    /// Runs all steps. Inputs have the lengths of [`Program::inputs`], the tensors taken from other regions
    /// are in the arena; the outputs are in `scratch` afterwards.
    pub(super) fn run(
        &self,
        scratch: &mut Scratch,
        input: Input<'_>,
        team: Option<&Team>,
        progress: Progress<'_>,
    ) {
        let n_members = team.map_or(1, Team::n_members);
        let run = Run {
            program: self,
            input,
            arena: scratch.arena.as_mut_ptr(),
            outputs: scratch.outputs.as_mut_ptr(),
            sums: scratch.sums.as_mut_ptr(),
        };
        let run = &run;
        let work = |member: Member<'_>| {
            for (idx, step) in run.program.steps.iter().enumerate() {
                run.step(step, member);
                member.wait();
                if member.idx == 0 {
                    progress(Seen { idx, run });
                }
            }
        };
        match team {
            Some(team) if n_members > 1 => team.run(&work),
            _ => work(Member::alone()),
        }
    }
}

impl Run<'_> {
    fn tensor(&self, id: TensorId) -> (&Tensor, *mut u8) {
        let tensor = &self.program.tensors[id];
        (tensor, self.arena.wrapping_add(self.program.place(id).start + tensor.origin_bytes()))
    }

    /// A member's part of a step.
    fn step(&self, step: &Step, member: Member<'_>) {
        if let Some(target) = step.target
            && member.idx == 0
        {
            self.fill_border(target);
        }
        let source = |idx: usize| self.tensor(step.sources[idx]);
        match (&step.work, step.target) {
            (Work::Quantize { name, scale, range }, Some(target)) => {
                let (tensor, dst) = self.tensor(target);
                let input_idx = self.program.inputs.iter().position(|p| p.name == *name).unwrap_or(0);
                match self.input {
                    Input::Floats(floats) => {
                        self.quantize(tensor, dst, floats[input_idx], *scale, *range, member);
                    }
                    Input::Pixels(pixels, tables) => look_up_pixels(tensor, dst, pixels, tables, member),
                }
            }
            (Work::Conv { packed, window }, Some(target)) => self.conv(step, packed, window, target, member),
            (Work::Depthwise { packed, window }, Some(target)) => {
                self.depthwise(step, packed, window, target, member);
            }
            (Work::Add { sum }, Some(target)) => {
                let ((a, a_at), (b, b_at), (t, dst)) = (source(0), source(1), self.tensor(target));
                for y in member.share(t.height) {
                    let n_bytes = t.width * t.pixel_bytes;
                    let a = a_at.wrapping_add(y * a.line_bytes());
                    let b = b_at.wrapping_add(y * b.line_bytes());
                    // SAFETY: a line of each tensor, which all have the same width and pixels.
                    unsafe {
                        self.program.kernels.add(sum, a, b, dst.wrapping_add(y * t.line_bytes()), n_bytes);
                    }
                }
            }
            (Work::Gate { multiplier, range }, Some(target)) => {
                let ((x, x_at), (gate, gate_at), (t, dst)) = (source(0), source(1), self.tensor(target));
                let (x_zero, gate_zero) = (x.zero, gate.zero);
                let numbers = Gating { multiplier: *multiplier, x_zero, gate_zero, range: *range };
                for y in member.share(t.height) {
                    let x_line = x_at.wrapping_add(y * x.line_bytes());
                    let line = dst.wrapping_add(y * t.line_bytes());
                    // SAFETY: a line of x and of the target, which have the same width and pixels, and the
                    // gate's one pixel.
                    unsafe {
                        self.program.kernels.gate(&numbers, (x_line, gate_at), line, t.width, t.pixel_bytes);
                    }
                }
            }
            (Work::Mean { multiplier, range }, Some(target)) => {
                let ((x, x_at), (_, dst)) = (source(0), self.tensor(target));
                // A vector of channels is the least that a member takes.
                let vectors = member.share(x.pixel_bytes.div_ceil(LANES));
                let first = vectors.start * LANES;
                let n_channels = (vectors.end * LANES).min(x.pixel_bytes) - first;
                // SAFETY: there is a sum for each channel, and no other member has these.
                let sums =
                    unsafe { std::slice::from_raw_parts_mut(self.sums.wrapping_add(first), n_channels) };
                sums.fill(0);
                for y in 0..x.height {
                    let line = x_at.wrapping_add(y * x.line_bytes() + first);
                    // SAFETY: these channels of a line of x.
                    unsafe { self.program.kernels.sum(line, x.pixel_bytes, x.width, sums) };
                }
                #[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "below 2^23")]
                let zeros = (x.height * x.width) as i32 * i32::from(x.zero);
                for (channel, sum) in (first..).zip(sums) {
                    #[expect(clippy::cast_precision_loss, reason = "rounds to nearest even, as defined")]
                    let v = (*sum - zeros) as f32 * multiplier;
                    // SAFETY: a pixel of the target has as many bytes as one of x.
                    unsafe { dst.wrapping_add(channel).write(range.round(v)) };
                }
            }
            (Work::Max { window }, Some(target)) => self.max(source(0), self.tensor(target), window, member),
            (Work::Table { table }, Some(target)) => {
                let ((x, x_at), (t, dst)) = (source(0), self.tensor(target));
                for y in member.share(t.height) {
                    for at in 0..t.width * t.pixel_bytes {
                        let from = x_at.wrapping_add(y * x.line_bytes() + at);
                        // SAFETY: a line of x, whose width and pixels are the target's.
                        let q = unsafe { from.read() };
                        // SAFETY: a line of the target, which no other member writes.
                        unsafe { dst.wrapping_add(y * t.line_bytes() + at).write(table[usize::from(q)]) };
                    }
                }
            }
            (Work::Dequantize { name, .. }, None) if member.idx == 0 => {
                let (x, x_at) = source(0);
                self.give(name, x, x.n_channels, |y, x_idx, channel| {
                    let from = x_at.wrapping_add(y * x.line_bytes() + x_idx * x.pixel_bytes + channel);
                    // SAFETY: a channel of a pixel of x.
                    let q = unsafe { from.read() };
                    (f32::from(q) - f32::from(x.zero)) * x.scale
                });
            }
            (Work::Emit { name, part, .. }, None) if member.idx == 0 => {
                let (x, x_at) = source(0);
                self.emit(name, part, x, x_at);
            }
            _ => {}
        }
    }

    /// Writes the zero point round a tensor.
    fn fill_border(&self, target: TensorId) {
        let (t, origin) = self.tensor(target);
        let border = t.border;
        if border.top + border.left + border.bottom + border.right == 0 {
            return;
        }
        let line = t.line_bytes();
        let start = origin.wrapping_sub(t.origin_bytes());
        let fill = |at: usize, n_bytes: usize| {
            // SAFETY: the border is inside the tensor's place, and the other members write what is inside it.
            unsafe { start.wrapping_add(at).write_bytes(t.zero, n_bytes) };
        };
        fill(0, border.top * line);
        fill((border.top + t.height) * line, border.bottom * line);
        for y in border.top..border.top + t.height {
            fill(y * line, border.left * t.pixel_bytes);
            fill(y * line + (border.left + t.width) * t.pixel_bytes, border.right * t.pixel_bytes);
        }
    }

    fn quantize(
        &self,
        t: &Tensor,
        dst: *mut u8,
        floats: &[f32],
        scale: f32,
        range: super::kernels::Range8,
        member: Member<'_>,
    ) {
        let plane = t.height * t.width;
        for y in member.share(t.height) {
            let line = dst.wrapping_add(y * t.line_bytes());
            if t.pixel_bytes == 4 {
                let mut planes = [std::ptr::null(); 4];
                for (channel, start) in planes.iter_mut().enumerate().take(t.n_channels) {
                    *start = floats[channel * plane + y * t.width..][..t.width].as_ptr();
                }
                let planes = &planes[..t.n_channels];
                // SAFETY: a line of each plane, checked just now, and of the target.
                unsafe { self.program.kernels.quantize4(scale, range, planes, line, t.width) };
                continue;
            }
            for x in 0..t.width {
                for channel in 0..t.n_channels {
                    let q = range.round(floats[channel * plane + y * t.width + x] / scale);
                    // SAFETY: a channel of a pixel of the target's line, which no other member writes.
                    unsafe { line.wrapping_add(x * t.pixel_bytes + channel).write(q) };
                }
            }
        }
    }

    fn conv(&self, step: &Step, packed: &Packed, window: &Window, target: TensorId, member: Member<'_>) {
        let ((x, x_at), (t, dst)) = (self.tensor(step.sources[0]), self.tensor(target));
        let residual = step.sources.get(1).map(|&id| self.tensor(id));
        // Pixels that follow one another in the source as well can be taken as one line.
        let is_flat = window.rows * window.columns * window.stride == 1 && x.is_dense();
        let n_pixels = t.height * t.width;
        // A member takes some of the lines, or all lines of some blocks: whichever shares out better.
        let n_lines = if is_flat { (n_pixels / 4).max(1) } else { t.height };
        let largest = |n: usize| n.div_ceil(member.n_members) * member.n_members * 1000 / n.max(1);
        let by_blocks = member.n_members > 1 && largest(packed.n_blocks) < largest(n_lines);
        let (pixels, blocks) = if by_blocks {
            (0..n_pixels, member.share(packed.n_blocks))
        } else if is_flat {
            (member.share(n_pixels), 0..packed.n_blocks)
        } else {
            let lines = member.share(t.height);
            (lines.start * t.width..lines.end * t.width, 0..packed.n_blocks)
        };
        let mut start = pixels.start;
        while start < pixels.end && !blocks.is_empty() {
            let (y, column) = (start / t.width, start % t.width);
            let n_pixels = if is_flat { pixels.end - start } else { t.width };
            let src = if is_flat {
                x_at.wrapping_add(start * x.pixel_bytes)
            } else {
                x_at.wrapping_add(y * window.stride * x.line_bytes())
                    .wrapping_sub(window.top * x.line_bytes() + window.left * x.pixel_bytes)
            };
            let place = |t: &Tensor| y * t.line_bytes() + column * t.pixel_bytes;
            let run = ConvRun {
                src,
                src_step_bytes: window.stride * x.pixel_bytes,
                src_row_bytes: x.line_bytes(),
                n_pixels,
                column,
                width: t.width,
                dst: Lines {
                    at: dst.wrapping_add(place(t)),
                    step_bytes: t.pixel_bytes,
                    line_bytes: t.line_bytes(),
                },
                residual: residual.map(|(r, at)| Lines {
                    at: at.wrapping_add(place(r)).cast_const(),
                    step_bytes: r.pixel_bytes,
                    line_bytes: r.line_bytes(),
                }),
                blocks: blocks.clone(),
            };
            // SAFETY: the loader gave the source the border that the window looks at, the residual has the
            // target's size, and no other member has these pixels and blocks.
            unsafe { self.program.kernels.conv(packed, &run) };
            start += n_pixels;
        }
    }

    fn depthwise(&self, step: &Step, packed: &Packed, window: &Window, target: TensorId, member: Member<'_>) {
        let ((x, x_at), (t, dst)) = (self.tensor(step.sources[0]), self.tensor(target));
        let by_blocks = member.n_members > 1 && t.height < 4 * member.n_members;
        let (lines, blocks) = if by_blocks {
            (0..t.height, member.share(packed.n_blocks))
        } else {
            (member.share(t.height), 0..packed.n_blocks)
        };
        for y in lines {
            let run = DepthwiseRun {
                src: x_at
                    .wrapping_add(y * window.stride * x.line_bytes())
                    .wrapping_sub(window.top * x.line_bytes() + window.left * x.pixel_bytes),
                pixel_bytes: x.pixel_bytes,
                src_step_bytes: window.stride * x.pixel_bytes,
                src_row_bytes: x.line_bytes(),
                n_pixels: t.width,
                dst: dst.wrapping_add(y * t.line_bytes()),
                dst_step_bytes: t.pixel_bytes,
                blocks: blocks.clone(),
            };
            // SAFETY: the loader gave the source the border that the window looks at, and no other member
            // has these lines and blocks.
            unsafe { self.program.kernels.depthwise(packed, &run) };
        }
    }

    fn max(
        &self,
        (x, x_at): (&Tensor, *mut u8),
        (t, dst): (&Tensor, *mut u8),
        window: &Window,
        member: Member<'_>,
    ) {
        // A window's rows or columns inside the picture.
        let inside = |at: usize, side: usize, before: usize, n: usize| {
            (at * window.stride).saturating_sub(before)
                ..(at * window.stride + side).saturating_sub(before).min(n)
        };
        for y in member.share(t.height) {
            for column in 0..t.width {
                let to = dst.wrapping_add(y * t.line_bytes() + column * t.pixel_bytes);
                // SAFETY: a pixel of the target, which no other member writes.
                unsafe { to.write_bytes(0, t.pixel_bytes) };
                for row in inside(y, window.rows, window.top, x.height) {
                    for at in inside(column, window.columns, window.left, x.width) {
                        let from = x_at.wrapping_add(row * x.line_bytes() + at * x.pixel_bytes);
                        // SAFETY: a pixel of x, and of the target, which has the same channels.
                        unsafe { self.program.kernels.max(from, to, t.pixel_bytes) };
                    }
                }
            }
        }
    }

    /// Writes the region's output `name`, NCHW, of values by line, column and channel.
    fn give(&self, name: &str, x: &Tensor, n_channels: usize, value: impl Fn(usize, usize, usize) -> f32) {
        let Some(idx) = self.program.outputs.iter().position(|p| p.name == name) else { return };
        // SAFETY: only the first member writes outputs, each step its own.
        let output = unsafe { &mut *self.outputs.wrapping_add(idx) };
        let mut values = output.iter_mut();
        for channel in 0..n_channels {
            for y in 0..x.height {
                for (column, to) in (0..x.width).zip(&mut values) {
                    *to = value(y, column, channel);
                }
            }
        }
    }

    fn emit(&self, name: &str, part: &Part, x: &Tensor, x_at: *mut u8) {
        let float = |y: usize, column: usize, channel: usize| {
            let pixel = x_at.wrapping_add(y * x.line_bytes() + column * x.pixel_bytes).cast::<f32>();
            // SAFETY: a channel of a pixel of x, whose pixels are aligned f32.
            unsafe { pixel.wrapping_add(part.from + channel).read() }
        };
        match part.function {
            Function::None => self.give(name, x, part.n_channels, float),
            Function::Sigmoid => self.give(name, x, part.n_channels, |y, c, k| sigmoid(float(y, c, k))),
            Function::Softmax => {
                self.give(name, x, part.n_channels, float);
                let Some(idx) = self.program.outputs.iter().position(|p| p.name == name) else { return };
                // SAFETY: only the first member writes outputs.
                let output = unsafe { &mut *self.outputs.wrapping_add(idx) };
                let n_pixels = x.height * x.width;
                let mut pixel = [0.0; MAX_SOFTMAX];
                let pixel = &mut pixel[..part.n_channels.min(MAX_SOFTMAX)];
                for at in 0..n_pixels {
                    for (channel, v) in pixel.iter_mut().enumerate() {
                        *v = output[channel * n_pixels + at];
                    }
                    softmax(pixel);
                    for (channel, v) in pixel.iter().enumerate() {
                        output[channel * n_pixels + at] = *v;
                    }
                }
            }
        }
    }
}

/// Pixels through their channels' tables.
fn look_up_pixels(t: &Tensor, dst: *mut u8, pixels: &[u8], tables: &[[u8; 256]; 3], member: Member<'_>) {
    for y in member.share(t.height) {
        let line = dst.wrapping_add(y * t.line_bytes());
        for (x, rgb) in pixels[y * t.width * 3..][..t.width * 3].chunks_exact(3).enumerate() {
            for channel in 0..3 {
                let q = tables[channel][usize::from(rgb[channel])];
                // SAFETY: a channel of a pixel of the target's line, which no other member writes.
                unsafe { line.wrapping_add(x * t.pixel_bytes + channel).write(q) };
            }
        }
    }
}
