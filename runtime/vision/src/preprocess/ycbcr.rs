//! Rows of Y'CbCr to R'G'B': by the crate `yuv` where it has vector code, else by the same arithmetic here.
//!
//! Without vectors the crate rounds each sum once instead of each product, and a frame's bytes would depend on the processor.

use yuv::{YuvError, YuvPlanarImage, YuvRange, YuvStandardMatrix};

use crate::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane};

/// Converts rows `first_row..first_row + n_rows` of a frame of three checked planes into `rgb`, tightly packed;
/// `first_row` is even.
///
/// # Errors
/// What the crate `yuv` finds wrong.
pub(super) fn convert_rows(
    frame: &Frame,
    planes: [&Plane; 3],
    (first_row, n_rows): (usize, usize),
    rgb: &mut [u8],
) -> Result<(), YuvError> {
    if has_vectors() {
        by_vectors(frame, planes, (first_row, n_rows), rgb)
    } else {
        by_scalars(frame, planes, (first_row, n_rows), rgb);
        Ok(())
    }
}

/// Whether `yuv` has vector code for this processor that rounds as [`Conversion`] does. With SSE alone it leaves the end of
/// a row to its scalar code, which doesn't.
fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_vectors = is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_vectors = cfg!(target_arch = "aarch64");
    has_vectors
}

fn by_vectors(
    frame: &Frame,
    [y, u, v]: [&Plane; 3],
    (first_row, n_rows): (usize, usize),
    rgb: &mut [u8],
) -> Result<(), YuvError> {
    let matrix = match frame.matrix {
        ColorMatrix::Bt601 => YuvStandardMatrix::Bt601,
        ColorMatrix::Bt709 => YuvStandardMatrix::Bt709,
        ColorMatrix::Bt2020 => YuvStandardMatrix::Bt2020,
    };
    let range = match frame.range {
        ColorRange::Limited => YuvRange::Limited,
        ColorRange::Full => YuvRange::Full,
    };
    let first_chroma_row = first_row / rows_sharing_chroma(frame.format);
    let (width, height) = (frame.width_px, to_u32(n_rows));
    let planar = YuvPlanarImage {
        y_plane: rows_from(y, first_row),
        y_stride: to_u32(y.stride_bytes),
        u_plane: rows_from(u, first_chroma_row),
        u_stride: to_u32(u.stride_bytes),
        v_plane: rows_from(v, first_chroma_row),
        v_stride: to_u32(v.stride_bytes),
        width,
        height,
    };
    match frame.format {
        PixelFormat::I420 => yuv::yuv420_to_rgb(&planar, rgb, width * 3, range, matrix),
        PixelFormat::I422 => yuv::yuv422_to_rgb(&planar, rgb, width * 3, range, matrix),
        _ => yuv::yuv444_to_rgb(&planar, rgb, width * 3, range, matrix),
    }
}

fn by_scalars(frame: &Frame, [y, u, v]: [&Plane; 3], (first_row, n_rows): (usize, usize), rgb: &mut [u8]) {
    let conversion = Conversion::new(frame.matrix, frame.range);
    let width = frame.width_px as usize;
    let n_down = rows_sharing_chroma(frame.format);
    let n_across = if frame.format == PixelFormat::I444 { 1 } else { 2 };
    for (row, rgb) in (first_row..first_row + n_rows).zip(rgb.chunks_exact_mut(width * 3)) {
        let luma = &rows_from(y, row)[..width];
        conversion.row(luma, (rows_from(u, row / n_down), rows_from(v, row / n_down)), n_across, rgb);
    }
}

fn rows_sharing_chroma(format: PixelFormat) -> usize {
    if format == PixelFormat::I420 { 2 } else { 1 }
}

fn rows_from(plane: &Plane, first_row: usize) -> &[u8] {
    &plane.samples[first_row * plane.stride_bytes..]
}

/// Sizes were checked to fit.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bits behind the point of the factors.
const FACTOR_BITS: u32 = 13;

/// The matrix from Y'CbCr to R'G'B' and the range of its codes (ITU-T H.273, 8.3), each factor with [`FACTOR_BITS`].
struct Conversion {
    black: u8,
    luma: i32,
    cr_to_red: i32,
    cr_to_green: i32,
    cb_to_green: i32,
    cb_to_blue: i32,
}

impl Conversion {
    fn new(matrix: ColorMatrix, range: ColorRange) -> Self {
        let (kr, kb) = match matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
            ColorMatrix::Bt2020 => (0.2627, 0.0593),
        };
        let kg = 1.0 - kr - kb;
        let (black, luma_span, chroma_span) = match range {
            ColorRange::Limited => (16, 219.0, 224.0),
            ColorRange::Full => (0, 255.0, 255.0),
        };
        #[allow(clippy::cast_possible_truncation, reason = "factors are below 3")]
        let factor =
            |factor: f64, span: f64| (factor * 255.0 / span * f64::from(1 << FACTOR_BITS)).round() as i32;
        Self {
            black,
            luma: factor(1.0, luma_span),
            cr_to_red: factor(2.0 * (1.0 - kr), chroma_span),
            cr_to_green: factor(2.0 * (1.0 - kr) * kr / kg, chroma_span),
            cb_to_green: factor(2.0 * (1.0 - kb) * kb / kg, chroma_span),
            cb_to_blue: factor(2.0 * (1.0 - kb), chroma_span),
        }
    }

    /// Converts a row of `luma` codes to as many pixels of `rgb`. Each code of `cb` and `cr` holds for `n_shared` pixels
    /// of the row, the last one perhaps for fewer.
    fn row(&self, luma: &[u8], (cb, cr): (&[u8], &[u8]), n_shared: usize, rgb: &mut [u8]) {
        let (pixels, _) = rgb.as_chunks_mut::<3>();
        let shared = luma.chunks(n_shared).zip(pixels.chunks_mut(n_shared));
        for ((luma, pixels), (&cb, &cr)) in shared.zip(cb.iter().zip(cr)) {
            let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
            let red = product(cr, self.cr_to_red);
            let green = product(cr, self.cr_to_green) + product(cb, self.cb_to_green);
            let blue = product(cb, self.cb_to_blue);
            for (&luma, pixel) in luma.iter().zip(pixels) {
                let luma = product(i32::from(luma.saturating_sub(self.black)), self.luma);
                *pixel = [level(luma + red), level(luma - green), level(luma + blue)];
            }
        }
    }
}

/// Rounded to whole levels, halves upwards.
fn product(code: i32, factor: i32) -> i32 {
    (code * factor + (1 << (FACTOR_BITS - 1))) >> FACTOR_BITS
}

fn level(sum: i32) -> u8 {
    u8::try_from(sum.max(0)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const MATRICES: [ColorMatrix; 3] = [ColorMatrix::Bt601, ColorMatrix::Bt709, ColorMatrix::Bt2020];
    const RANGES: [ColorRange; 2] = [ColorRange::Limited, ColorRange::Full];

    fn assert_same_bytes(frame: &Frame, first_row: usize) {
        let (width, n_rows) = (frame.width_px as usize, frame.height_px as usize - first_row);
        let (mut scalars, mut vectors) = (vec![0; width * n_rows * 3], vec![0; width * n_rows * 3]);
        let [y, cb, cr] = &frame.planes[..] else { panic!("{} planes", frame.planes.len()) };
        by_scalars(frame, [y, cb, cr], (first_row, n_rows), &mut scalars);
        by_vectors(frame, [y, cb, cr], (first_row, n_rows), &mut vectors).unwrap();
        let (format, matrix, range) = (frame.format, frame.matrix, frame.range);
        let place = scalars.iter().zip(&vectors).position(|(scalar, vector)| scalar != vector);
        assert_eq!(place, None, "{format:?} {matrix:?} {range:?}, {width}x{n_rows} from row {first_row}");
    }

    fn matrices_and_ranges() -> impl Iterator<Item = (ColorMatrix, ColorRange)> {
        if !has_vectors() {
            println!("nothing to compare with on this processor");
        }
        let all = MATRICES.into_iter().flat_map(|matrix| RANGES.map(|range| (matrix, range)));
        all.filter(|_| has_vectors())
    }

    #[test]
    fn every_code_gives_the_bytes_of_vectors() {
        let codes: Vec<u8> = (0..=255).collect();
        // Luma changes along a row, Cb from row to row, Cr from frame to frame.
        let luma = codes.repeat(256);
        let cb: Vec<u8> = codes.iter().flat_map(|&cb| [cb; 256]).collect();
        for (matrix, range) in matrices_and_ranges() {
            for cr in 0..=255 {
                let planes = [luma.clone(), cb.clone(), vec![cr; 256 * 256]]
                    .map(|samples| Plane { samples, stride_bytes: 256 })
                    .into();
                let format = PixelFormat::I444;
                let (width_px, height_px) = (256, 256);
                let frame = Frame { width_px, height_px, format, planes, matrix, range, ..Frame::default() };
                assert_same_bytes(&frame, 0);
            }
        }
    }

    #[test]
    fn shared_chroma_and_odd_sizes_give_the_bytes_of_vectors() {
        let mut seed = 1u32;
        let mut noise = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_be_bytes()[0]
        };
        for (matrix, range) in matrices_and_ranges() {
            for format in [PixelFormat::I420, PixelFormat::I422, PixelFormat::I444] {
                for (width_px, height_px) in [(1, 1), (2, 2), (7, 3), (16, 5), (31, 4), (33, 7), (67, 9)] {
                    let plane = |(n_rows, row_bytes): (usize, usize)| {
                        let stride_bytes = row_bytes + 3;
                        Plane { samples: (0..stride_bytes * n_rows).map(|_| noise()).collect(), stride_bytes }
                    };
                    let planes = format.plane_sizes(width_px, height_px).into_iter().map(plane).collect();
                    let frame =
                        Frame { width_px, height_px, format, planes, matrix, range, ..Frame::default() };
                    for first_row in (0..height_px as usize).step_by(2) {
                        assert_same_bytes(&frame, first_row);
                    }
                }
            }
        }
    }
}
