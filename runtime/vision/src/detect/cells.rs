//! Shrinks a window of a picture to a grid of cells, the networks' inputs: each cell is the unweighted mean
//! of every pixel that it touches.
//!
//! The networks' published pipeline resizes this way ("adaptive average pooling"), and which of two nearly
//! equal windows survives suppression hangs on the last digits, so another filter gives other boxes.

use std::ops::{AddAssign, Range};

use image::RgbImage;

/// Most rows of bytes whose sum fits 16 bits.
const MAX_ROWS_U16: usize = 257;

/// A rectangle of whole pixels, `left..right` by `top..bottom`, not empty; may reach outside the picture,
/// whose edge pixels then repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Window {
    /// All of `picture`.
    pub(super) fn whole(picture: &RgbImage) -> Self {
        let (width, height) = picture.dimensions();
        Window { left: 0, top: 0, right: width.cast_signed(), bottom: height.cast_signed() }
    }

    pub(super) fn width(&self) -> u32 {
        self.left.abs_diff(self.right)
    }

    pub(super) fn height(&self) -> u32 {
        self.top.abs_diff(self.bottom)
    }
}

/// A part of a window's grid of cells and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Columns and rows of the whole grid.
    pub(super) grid: (u32, u32),
    /// First column and row of the part.
    pub(super) from: (u32, u32),
    /// Columns and rows of the part; those past the grid's end repeat its last.
    pub(super) size: (u32, u32),
    /// Where in each plane the part's first cell goes.
    pub(super) at: usize,
    /// Distance of a plane's rows.
    pub(super) stride: usize,
}

/// Averages cells; keeps its buffers between calls.
#[derive(Clone, Default)]
pub(super) struct CellMeans {
    columns: Vec<Range<usize>>,
    narrow: Vec<u16>,
    wide: Vec<u32>,
}

impl CellMeans {
    /// Writes the means of `part` of `window`'s grid into the three planes of `planes`, R, G, B, 0..=255.
    /// The picture is not empty.
    pub(super) fn write(&mut self, picture: &RgbImage, window: &Window, part: &Part, planes: &mut [f32]) {
        let CellMeans { columns, narrow, wide } = self;
        columns.clear();
        columns.extend((0..part.size.0).map(|x| span(part.from.0 + x, part.grid.0, window.width())));
        let most_rows = window.height().div_ceil(part.grid.1) as usize + 1;
        if most_rows <= MAX_ROWS_U16 {
            write_part(narrow, columns, picture, window, part, planes);
        } else {
            write_part(wide, columns, picture, window, part, planes);
        }
    }
}

/// The pixels that cell `idx` of `n_cells` touches on a side of `length`.
fn span(idx: u32, n_cells: u32, length: u32) -> Range<usize> {
    let (idx, n_cells, length) = (u64::from(idx.min(n_cells - 1)), u64::from(n_cells), u64::from(length));
    let start = idx * length / n_cells;
    let end = ((idx + 1) * length).div_ceil(n_cells);
    // At most the side, which came as u32.
    usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0)
}

/// Writes the means of a part whose columns of cells touch the pixels `columns`.
fn write_part<T>(
    sums: &mut Vec<T>,
    columns: &[Range<usize>],
    picture: &RgbImage,
    window: &Window,
    part: &Part,
    planes: &mut [f32],
) where
    T: Copy + Default + AddAssign + From<u8>,
    u32: From<T>,
{
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return };
    let touched = first.start..last.end;
    let plane_len = planes.len() / 3;
    for y in 0..part.size.1 {
        let rows = span(part.from.1 + y, part.grid.1, window.height());
        sum_rows(sums, picture, window, &touched, rows.clone());
        let at = part.at + y as usize * part.stride;
        for (x, column) in columns.iter().enumerate() {
            let cell = &sums[3 * (column.start - touched.start)..3 * (column.end - touched.start)];
            let mut total = [0u32; 3];
            for pixel in cell.as_chunks::<3>().0 {
                for (total, &sum) in total.iter_mut().zip(pixel) {
                    *total += u32::from(sum);
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "a mean needs no more digits than f32 has")]
            for (channel, total) in total.into_iter().enumerate() {
                planes[channel * plane_len + at + x] = total as f32 / (rows.len() * column.len()) as f32;
            }
        }
    }
}

/// Sums each of the `columns` over the `rows`, both counted from the window's corner, into `sums`: R, G, B of
/// the first column, then of the next.
fn sum_rows<T: Copy + Default + AddAssign + From<u8>>(
    sums: &mut Vec<T>,
    picture: &RgbImage,
    window: &Window,
    columns: &Range<usize>,
    rows: Range<usize>,
) {
    let place =
        |at: usize, origin: i32, n: u32| at.saturating_add_signed(origin as isize).min(n as usize - 1);
    let from = place(columns.start, window.left, picture.width());
    let to = place(columns.end - 1, window.left, picture.width()) + 1;
    let n_before = (window.left.min(0).unsigned_abs() as usize).saturating_sub(columns.start);
    let n_before = n_before.min(columns.len() - (to - from));
    let seen = 3 * n_before..3 * (n_before + to - from);

    sums.clear();
    sums.resize(3 * columns.len(), T::default());
    for row in rows {
        let start = place(row, window.top, picture.height()) * picture.width() as usize;
        let pixels = &picture.as_raw()[3 * (start + from)..3 * (start + to)];
        for (sum, &value) in sums[seen.clone()].iter_mut().zip(pixels) {
            *sum += T::from(value);
        }
    }
    for at in (0..seen.start).rev() {
        sums[at] = sums[at + 3];
    }
    for at in seen.end..sums.len() {
        sums[at] = sums[at - 3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The mean of the pixels that one cell touches, pixel by pixel.
    fn naive(picture: &RgbImage, window: &Window, grid: (u32, u32), cell: (u32, u32)) -> [f32; 3] {
        let span = |idx: u32, n: u32, length: u32| {
            let idx = idx.min(n - 1);
            idx * length / n..((idx + 1) * length).div_ceil(n)
        };
        let (columns, rows) = (span(cell.0, grid.0, window.width()), span(cell.1, grid.1, window.height()));
        let place = |at: u32, origin: i32, n: u32| {
            (at.cast_signed() + origin).clamp(0, n.cast_signed() - 1).cast_unsigned()
        };
        let mut total = [0f64; 3];
        for y in rows.clone() {
            for x in columns.clone() {
                let (x, y) = (place(x, window.left, picture.width()), place(y, window.top, picture.height()));
                for (total, &value) in total.iter_mut().zip(&picture.get_pixel(x, y).0) {
                    *total += f64::from(value);
                }
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a mean of bytes")]
        total.map(|total| (total / (rows.len() * columns.len()) as f64) as f32)
    }

    fn check(picture: &RgbImage, window: &Window, part: &Part) {
        let plane_len = part.at + part.stride * part.size.1 as usize;
        let mut planes = vec![-1.0; 3 * plane_len];
        CellMeans::default().write(picture, window, part, &mut planes);
        for y in 0..part.size.1 {
            for x in 0..part.size.0 {
                let expected = naive(picture, window, part.grid, (part.from.0 + x, part.from.1 + y));
                let at = part.at + y as usize * part.stride + x as usize;
                for (channel, expected) in expected.into_iter().enumerate() {
                    let found = planes[channel * plane_len + at];
                    assert!((found - expected).abs() < 1e-3, "({x}, {y}): {found} against {expected}");
                }
            }
        }
        let n_written = planes.iter().filter(|v| **v >= 0.0).count();
        assert_eq!(n_written, 3 * (part.size.0 * part.size.1) as usize);
    }

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut state = 7u32;
        RgbImage::from_fn(width, height, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb([state.to_be_bytes()[0], state.to_be_bytes()[1], 255])
        })
    }

    proptest! {
        #[test]
        fn every_cell_is_the_mean_of_the_pixels_it_touches(
            side in (1u32..40, 1u32..40),
            corner in (-60i32..60, -60i32..60),
            length in (1u32..90, 1u32..90),
            grid in (1u32..30, 1u32..30),
            from in (0.0f32..1.0, 0.0f32..1.0),
            size in (1u32..12, 1u32..12),
        ) {
            let window = Window {
                left: corner.0,
                top: corner.1,
                right: corner.0 + length.0.cast_signed(),
                bottom: corner.1 + length.1.cast_signed(),
            };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than the grid")]
            let from = ((from.0 * grid.0 as f32) as u32, (from.1 * grid.1 as f32) as u32);
            check(&noise(side.0, side.1), &window, &Part { grid, from, size, at: 5, stride: 13 });
        }
    }

    #[test]
    fn tall_cells_do_not_overflow() {
        for height in [257, 258, 600] {
            let white = RgbImage::from_pixel(3, height, image::Rgb([255; 3]));
            let part = Part { grid: (2, 1), from: (0, 0), size: (2, 1), at: 0, stride: 2 };
            check(&white, &Window::whole(&white), &part);
        }
    }
}
