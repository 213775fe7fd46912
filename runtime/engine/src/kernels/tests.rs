//! Every instruction set against the scalar specification, over shapes around the lane counts.
//!
//! Set `CANDOR_TEST_SEED` to repeat a run; the seed is printed.
#![allow(unsafe_code, reason = "calls kernels on buffers that hold what they read and write")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "random numbers"
)]

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::scalar::Scalar;
use super::{
    Conv, ConvRun, Depthwise, DepthwiseRun, Finish, Kernels, Lines, Range8, Residual, SLACK_BYTES,
    pixel_bytes,
};

/// The kernels that this processor can run, without the specification.
fn candidates() -> Vec<&'static dyn Kernels> {
    super::available().into_iter().filter(|k| k.name() != Scalar.name()).collect()
}

/// Bytes that end where the memory ends: what reads or writes past them crashes.
struct Guarded {
    pages: *mut std::ffi::c_void,
    len: usize,
}

impl Guarded {
    /// A multiple of every page size.
    const PAGE: usize = 1 << 16;

    fn zeros(len: usize) -> Self {
        let n_bytes = len.next_multiple_of(Self::PAGE);
        let (read_write, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping wherever there is room.
        let pages =
            unsafe { mmap_anonymous(std::ptr::null_mut(), n_bytes + Self::PAGE, read_write, private) };
        let pages = pages.expect("map pages");
        let guard = pages.wrapping_byte_add(n_bytes);
        // SAFETY: the mapping's last page, which nothing refers to.
        unsafe { mprotect(guard, Self::PAGE, MprotectFlags::empty()) }.expect("guard a page");
        Guarded { pages, len }
    }

    fn start(&self) -> *mut u8 {
        self.pages.wrapping_byte_add(self.len.next_multiple_of(Self::PAGE) - self.len).cast()
    }
}

impl std::ops::Deref for Guarded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, `len` bytes before the guard, for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl std::ops::DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let n_bytes = self.len.next_multiple_of(Self::PAGE) + Self::PAGE;
        // SAFETY: the whole mapping, which nothing refers to any more.
        unsafe { munmap(self.pages, n_bytes) }.expect("unmap");
    }
}

/// SplitMix64 (Steele et al., 2014).
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let given = std::env::var("CANDOR_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or(20_261_125);
        println!("seed {seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn byte(&mut self) -> u8 {
        // Extremes often: that is where kernels saturate.
        if self.chance(30) { self.one_of(&[0, 255, 128, 127]) } else { self.next() as u8 }
    }

    fn weight(&mut self) -> i8 {
        if self.chance(30) { self.one_of(&[127, -127]) } else { (self.below(255) as i32 - 127) as i8 }
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn range(&mut self) -> Range8 {
        let (a, b) = (self.byte(), self.byte());
        let zero = self.byte();
        if self.chance(50) {
            Range8 { zero, min: 0, max: 255 }
        } else {
            Range8 { zero, min: a.min(b), max: a.max(b) }
        }
    }

    /// Multipliers that spread the sums of `n_taps` taps over the bytes; some make exact ties likely.
    fn multipliers(&mut self, n: usize, n_taps: usize) -> Vec<f32> {
        let usual = 1.0 / (40.0 * (n_taps as f32).sqrt().max(1.0));
        let ties = self.chance(25);
        (0..n).map(|_| if ties { 0.015_625 } else { usual * (0.2 + 2.0 * self.unit()) }).collect()
    }

    fn finish(&mut self, n_out: usize, may_add: bool) -> Finish {
        if may_add && self.chance(15) {
            return Finish::Floats;
        }
        let range = self.range();
        let slopes = self.chance(30).then(|| (0..n_out).map(|_| self.unit() * 3.0 - 1.5).collect());
        let table = self.chance(30).then(|| Box::new(std::array::from_fn(|_| self.byte())));
        let residual = (may_add && table.is_none() && self.chance(40)).then(|| Residual {
            own: self.one_of(&[0.5, 1.0, 0.731]),
            other: self.one_of(&[0.5, 1.0, 1.213]),
            fixed: self.unit() * 400.0 - 200.0,
            is_own_last: self.chance(50),
            sum: self.range(),
        });
        Finish::Bytes { range, slopes, table, residual }
    }
}

/// A random convolution with its run's geometry, in order to print it.
#[derive(Debug)]
struct Case {
    n_in: usize,
    n_out: usize,
    side: usize,
    stride: usize,
    height: usize,
    width: usize,
    border_px: usize,
}

fn conv_of(case: &Case, random: &mut Random, may_add: bool) -> Conv {
    let pixel = if case.n_in <= 4 { 4 } else { pixel_bytes(case.n_in) };
    let row_bytes =
        if case.side == 1 && pixel > 4 { case.n_in.next_multiple_of(4) } else { case.side * pixel };
    let mut weights = vec![0; case.n_out * case.side * row_bytes];
    for (at, w) in weights.iter_mut().enumerate() {
        if at % row_bytes % pixel < case.n_in {
            *w = random.weight();
        }
    }
    let n_taps = case.side * case.side * case.n_in;
    Conv {
        n_out: case.n_out,
        n_rows: case.side,
        row_bytes,
        weights,
        bias: (0..case.n_out).map(|_| random.below(200_000) as i32 - 100_000).collect(),
        multipliers: random.multipliers(case.n_out, n_taps),
        finish: random.finish(case.n_out, may_add),
    }
}

/// Runs a convolution over a whole picture and gives the output's existing channels, pixel by pixel, and
/// checks that nothing else was written than the pixels' own bytes.
fn run_conv(kernels: &dyn Kernels, case: &Case, conv: &Conv, src: &Guarded, residual: &Guarded) -> Vec<u8> {
    let packed = kernels.pack_conv(conv);
    let pixel = if case.n_in <= 4 { 4 } else { pixel_bytes(case.n_in) };
    let src_line = pixel * ((case.width - 1) * case.stride + case.side);
    let element = if matches!(conv.finish, Finish::Floats) { 4 } else { 1 };
    let out_pixel = pixel_bytes(case.n_out) * element;
    // A line of the output has a border that must stay as it is.
    let out_line = out_pixel * (case.width + case.border_px);
    let mut dst = Guarded::zeros(out_line * case.height);
    dst.fill(0xa5);
    let is_flat = case.side == 1 && case.stride == 1;
    let n_runs = if is_flat { 1 } else { case.height };
    let middle = packed.n_blocks / 2;
    for run_idx in 0..n_runs {
        for blocks in [0..middle, middle..packed.n_blocks] {
            let run = ConvRun {
                src: src.as_ptr().wrapping_add(run_idx * case.stride * src_line),
                src_step_bytes: case.stride * pixel,
                src_row_bytes: src_line,
                n_pixels: if is_flat { case.width * case.height } else { case.width },
                column: 0,
                width: case.width,
                dst: Lines {
                    at: dst.as_mut_ptr().wrapping_add(run_idx * out_line),
                    step_bytes: out_pixel,
                    line_bytes: out_line,
                },
                residual: Some(Lines {
                    at: residual.as_ptr().wrapping_add(run_idx * case.width * pixel_bytes(case.n_out)),
                    step_bytes: pixel_bytes(case.n_out),
                    line_bytes: case.width * pixel_bytes(case.n_out),
                }),
                blocks,
            };
            // SAFETY: the buffers hold every pixel of the run, the source with slack.
            unsafe { kernels.conv(&packed, &run) };
        }
    }
    let mut found = Vec::new();
    for (y, line) in dst.chunks(out_line).enumerate() {
        for x in 0..case.width {
            found.extend_from_slice(&line[x * out_pixel..][..case.n_out * element]);
        }
        let border = &line[case.width * out_pixel..];
        assert!(border.iter().all(|&b| b == 0xa5), "{}: border written in line {y}", kernels.name());
    }
    found
}

fn bytes(random: &mut Random, n: usize) -> Guarded {
    let mut made = Guarded::zeros(n);
    made.iter_mut().for_each(|b| *b = random.byte());
    made
}

fn check_conv(case: &Case, random: &mut Random) {
    let conv = conv_of(case, random, true);
    let pixel = if case.n_in <= 4 { 4 } else { pixel_bytes(case.n_in) };
    let lines = (case.height - 1) * case.stride + case.side;
    let columns = (case.width - 1) * case.stride + case.side;
    let src = bytes(random, lines * columns * pixel + SLACK_BYTES);
    let residual = bytes(random, case.height * case.width * pixel_bytes(case.n_out));
    let expected = run_conv(&Scalar, case, &conv, &src, &residual);
    for kernels in candidates() {
        let found = run_conv(kernels, case, &conv, &src, &residual);
        let n_wrong = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(
            n_wrong,
            0,
            "{}: of {} bytes, {case:?}, {:?}",
            kernels.name(),
            expected.len(),
            conv.finish
        );
    }
}

#[test]
fn pointwise_convolutions_of_all_instruction_sets_agree() {
    let mut random = Random::seeded();
    for n_in in (1..=40).chain([63, 64, 65, 96, 112, 144, 200, 500, 1152]) {
        for n_out in [1, 2, 8, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 80, 96, 112, 129, 150]
        {
            if random.chance(25) {
                let (height, width) = (1 + random.below(4), 1 + random.below(15));
                let case =
                    Case { n_in, n_out, side: 1, stride: 1, height, width, border_px: random.below(3) };
                check_conv(&case, &mut random);
            }
        }
    }
}

#[test]
fn square_convolutions_of_all_instruction_sets_agree() {
    let mut random = Random::seeded();
    for n_in in [1, 2, 3, 4, 5, 10, 16, 17, 28, 32, 48, 64] {
        for side in [1, 2, 3, 5, 7] {
            for stride in [1, 2] {
                let n_out = random.one_of(&[1, 10, 16, 28, 32, 48, 64, 66, 128]);
                let (height, width) = (1 + random.below(3), 1 + random.below(30));
                let case = Case { n_in, n_out, side, stride, height, width, border_px: random.below(3) };
                check_conv(&case, &mut random);
            }
        }
    }
}

/// Sums of the largest size: 16-bit intermediate sums of two products must not saturate.
#[test]
fn extreme_products_do_not_saturate() {
    let mut random = Random::seeded();
    for (byte, weight) in [(255, 127), (255, -127), (0, -127), (128, 127), (127, -127)] {
        let case = Case { n_in: 32, n_out: 33, side: 3, stride: 1, height: 2, width: 9, border_px: 0 };
        let mut conv = conv_of(&case, &mut random, false);
        conv.weights.fill(weight);
        conv.bias.fill(0);
        conv.multipliers.fill(1.0 / 65_536.0);
        conv.finish = Finish::Floats;
        let mut src = Guarded::zeros((2 + 2) * (9 + 2) * 32 + SLACK_BYTES);
        src.fill(byte);
        let residual = Guarded::zeros(2 * 9 * 48);
        let expected = run_conv(&Scalar, &case, &conv, &src, &residual);
        for kernels in candidates() {
            assert!(
                run_conv(kernels, &case, &conv, &src, &residual) == expected,
                "{}: {byte} {weight}",
                kernels.name()
            );
        }
    }
}

fn run_depthwise(kernels: &dyn Kernels, case: &Case, depthwise: &Depthwise, src: &Guarded) -> Vec<u8> {
    let packed = kernels.pack_depthwise(depthwise);
    let pixel = pixel_bytes(case.n_in);
    let src_line = pixel * ((case.width - 1) * case.stride + case.side);
    // Lines have a border that must stay as it is, but for the last one.
    let mut dst = Guarded::zeros(pixel * ((case.width + 1) * case.height - 1));
    dst.fill(0xa5);
    let middle = packed.n_blocks / 2;
    for y in 0..case.height {
        for blocks in [0..middle, middle..packed.n_blocks] {
            let run = DepthwiseRun {
                src: src.as_ptr().wrapping_add(y * case.stride * src_line),
                pixel_bytes: pixel,
                src_step_bytes: case.stride * pixel,
                src_row_bytes: src_line,
                n_pixels: case.width,
                dst: dst.as_mut_ptr().wrapping_add(y * pixel * (case.width + 1)),
                dst_step_bytes: pixel,
                blocks,
            };
            // SAFETY: the buffers hold every pixel of the line, the source with slack.
            unsafe { kernels.depthwise(&packed, &run) };
        }
    }
    let mut found = Vec::new();
    for line in dst.chunks(pixel * (case.width + 1)) {
        for x in 0..case.width {
            found.extend_from_slice(&line[x * pixel..][..case.n_in]);
        }
        let border = &line[case.width * pixel..];
        assert!(border.iter().all(|&b| b == 0xa5), "{}: border written", kernels.name());
    }
    found
}

#[test]
fn depthwise_convolutions_of_all_instruction_sets_agree() {
    let mut random = Random::seeded();
    for n_channels in (1..=34).chain([47, 48, 49, 64, 80, 96, 144, 240]) {
        for side in [1, 2, 3, 4, 5, 7] {
            for stride in [1, 2] {
                let (height, width) = (1 + random.below(3), 1 + random.below(20));
                let case =
                    Case { n_in: n_channels, n_out: n_channels, side, stride, height, width, border_px: 1 };
                let depthwise = Depthwise {
                    n_channels,
                    side,
                    weights: (0..side * side * n_channels).map(|_| random.weight()).collect(),
                    bias: (0..n_channels).map(|_| random.below(20_000) as i32 - 10_000).collect(),
                    multipliers: random.multipliers(n_channels, side * side),
                    finish: random.finish(n_channels, false),
                };
                let lines = (height - 1) * stride + side;
                let columns = (width - 1) * stride + side;
                let src = bytes(&mut random, lines * columns * pixel_bytes(n_channels) + SLACK_BYTES);
                let expected = run_depthwise(&Scalar, &case, &depthwise, &src);
                for kernels in candidates() {
                    let found = run_depthwise(kernels, &case, &depthwise, &src);
                    let n_wrong = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
                    let name = kernels.name();
                    assert_eq!(
                        n_wrong,
                        0,
                        "{name}: of {} bytes, {case:?}, {:?}",
                        expected.len(),
                        depthwise.finish
                    );
                }
            }
        }
    }
}

/// The rounding itself against its definition in exact arithmetic.
#[test]
fn rounding_is_to_the_nearest_byte_ties_to_even() {
    let range = Range8 { zero: 3, min: 1, max: 250 };
    for (v, expected) in
        [(0.5, 3), (1.5, 5), (-0.5, 3), (-1.5, 1), (-9.0, 1), (246.5, 249), (247.6, 250), (1e9, 250)]
    {
        assert_eq!(range.round(v), expected, "{v}");
    }
}
