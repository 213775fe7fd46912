//! Y'CbCr and grey frames to upright RGB.

use image::RgbImage;

use super::ycbcr;
use crate::frame::{ColorRange, Frame, PixelFormat, Rotation};

/// Rows that are converted before they are turned: even, because 4:2:0 shares chroma between two rows,
/// and few enough that they stay in a small cache.
const STRIP_ROWS: usize = 16;

/// A frame whose planes don't hold what its size and format promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {frame_idx} to RGB: expected {expected}, found {found}")]
pub struct ColorError {
    /// The frame.
    pub frame_idx: u64,
    /// What its planes should hold.
    pub expected: String,
    /// What they hold.
    pub found: String,
}

/// The upright picture of `frame`: width and height of [`Frame::upright_size_px`], 8-bit RGB.
///
/// # Errors
/// As [`to_rgb_into`].
pub fn to_rgb(frame: &Frame) -> Result<RgbImage, ColorError> {
    let mut rgb = RgbImage::default();
    to_rgb_into(frame, &mut rgb)?;
    Ok(rgb)
}

/// Puts the upright picture of `frame` into `rgb`, whose memory is used again.
///
/// Matrix and range are the frame's (ITU-T H.273), at most 1.5 of 255 off; each chroma sample holds
/// for all pixels of its block, with no interpolation between blocks.
///
/// # Errors
/// [`ColorError`] when the planes are too few or too short for the frame's size.
pub fn to_rgb_into(frame: &Frame, rgb: &mut RgbImage) -> Result<(), ColorError> {
    check_planes(frame)?;
    let (width_px, height_px) = frame.upright_size_px();
    let (w, h) = (frame.width_px as usize, frame.height_px as usize);
    let mut pixels = std::mem::take(rgb).into_raw();
    pixels.resize(w * h * 3, 0);
    if frame.rotation == Rotation::None {
        convert_rows(frame, 0, h, &mut pixels)?;
    } else {
        let mut strip = vec![0; w * STRIP_ROWS.min(h) * 3];
        for first_row in (0..h).step_by(STRIP_ROWS) {
            let n_rows = STRIP_ROWS.min(h - first_row);
            let strip = &mut strip[..w * n_rows * 3];
            convert_rows(frame, first_row, n_rows, strip)?;
            turn_rows(frame.rotation, strip, first_row, (w, h), &mut pixels);
        }
    }
    if let Some(converted) = RgbImage::from_raw(width_px, height_px, pixels) {
        *rgb = converted;
    }
    Ok(())
}

fn check_planes(frame: &Frame) -> Result<(), ColorError> {
    let fault = |expected, found| Err(ColorError { frame_idx: frame.frame_idx, expected, found });
    let sizes = frame.format.plane_sizes(frame.width_px, frame.height_px);
    if frame.width_px == 0 || frame.height_px == 0 {
        return fault("at least one pixel".to_owned(), format!("{}x{}", frame.width_px, frame.height_px));
    }
    if frame.planes.len() != sizes.len() {
        return fault(format!("{} planes", sizes.len()), format!("{}", frame.planes.len()));
    }
    for (plane_idx, (plane, (n_rows, row_bytes))) in frame.planes.iter().zip(sizes).enumerate() {
        let n_needed = plane.stride_bytes.checked_mul(n_rows - 1).and_then(|n| n.checked_add(row_bytes));
        let is_whole = n_needed.is_some_and(|n_needed| plane.samples.len() >= n_needed);
        if plane.stride_bytes < row_bytes || !is_whole || u32::try_from(plane.stride_bytes).is_err() {
            let expected = format!("{n_rows} rows of {row_bytes} bytes in plane {plane_idx}");
            let found = format!("{} bytes, {} a row", plane.samples.len(), plane.stride_bytes);
            return fault(expected, found);
        }
    }
    Ok(())
}

/// Converts rows `first_row..first_row + n_rows` into `out`, tightly packed; `first_row` is even.
fn convert_rows(frame: &Frame, first_row: usize, n_rows: usize, out: &mut [u8]) -> Result<(), ColorError> {
    let converted = match (frame.format, &frame.planes[..]) {
        (PixelFormat::Rgb24, [plane]) => {
            let row_bytes = frame.width_px as usize * 3;
            let rows = plane.samples[first_row * plane.stride_bytes..].chunks(plane.stride_bytes);
            out.chunks_exact_mut(row_bytes)
                .zip(rows)
                .for_each(|(to, from)| to.copy_from_slice(&from[..row_bytes]));
            Ok(())
        }
        (PixelFormat::Gray, [y]) => {
            let rows = y.samples[first_row * y.stride_bytes..].chunks(y.stride_bytes);
            let levels = gray_levels(frame.range);
            for (to, from) in out.chunks_exact_mut(frame.width_px as usize * 3).zip(rows) {
                to.chunks_exact_mut(3).zip(from).for_each(|(to, luma)| to.fill(levels[usize::from(*luma)]));
            }
            Ok(())
        }
        (_, [y, u, v]) => ycbcr::convert_rows(frame, [y, u, v], (first_row, n_rows), out),
        _ => Ok(()),
    };
    converted.map_err(|cause| ColorError {
        frame_idx: frame.frame_idx,
        expected: "planes that can be converted".to_owned(),
        found: cause.to_string(),
    })
}

/// The grey level of every code of luma.
fn gray_levels(range: ColorRange) -> [u8; 256] {
    std::array::from_fn(|code| {
        let level = match range {
            ColorRange::Limited => ((code.clamp(16, 235) - 16) * 255 + 109) / 219,
            ColorRange::Full => code,
        };
        u8::try_from(level).unwrap_or(u8::MAX)
    })
}

/// Writes `strip`, the stored rows from `first_row` on, to where they stand in the upright picture.
fn turn_rows(rotation: Rotation, strip: &[u8], first_row: usize, (w, h): (usize, usize), upright: &mut [u8]) {
    let (strip, _) = strip.as_chunks::<3>();
    let (upright, _) = upright.as_chunks_mut::<3>();
    let n_rows = strip.len() / w;
    match rotation {
        Rotation::None => upright[first_row * w..][..strip.len()].copy_from_slice(strip),
        Rotation::Cw180 => {
            let end = (h - first_row) * w;
            upright[end - strip.len()..end]
                .iter_mut()
                .zip(strip.iter().rev())
                .for_each(|(to, from)| *to = *from);
        }
        // Stored row y becomes column h - 1 - y.
        Rotation::Cw90 => {
            let last = h - first_row;
            for (x, line) in upright.chunks_exact_mut(h).enumerate() {
                let column = strip[x..].iter().step_by(w);
                line[last - n_rows..last].iter_mut().rev().zip(column).for_each(|(to, from)| *to = *from);
            }
        }
        // Stored column x becomes row w - 1 - x.
        Rotation::Cw270 => {
            for (x, line) in upright.chunks_exact_mut(h).rev().enumerate() {
                let column = strip[x..].iter().step_by(w);
                line[first_row..first_row + n_rows].iter_mut().zip(column).for_each(|(to, from)| *to = *from);
            }
        }
    }
}
