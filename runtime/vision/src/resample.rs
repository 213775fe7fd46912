//! Resizing: of any rectangle of an RGB picture to a square, also of one that leaves the picture; of a whole picture or plane.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::geom::Rect;

/// Resizes pictures; keeps its buffers between calls.
#[derive(Clone, Default)]
pub struct Resampler {
    resizer: Resizer,
    window: RgbImage,
}

impl Resampler {
    /// The pixels of `area` at `size_px` x `size_px`, by a triangle filter widened to the source pixels that
    /// one output pixel covers. Outside, the picture is mirrored at its edge, edge pixel not repeated. Black
    /// when the area is empty, not finite or further from the picture than three times its longer side.
    pub fn area(&mut self, picture: &RgbImage, area: &Rect, size_px: u32) -> RgbImage {
        let mut resized = RgbImage::default();
        self.area_into(picture, area, size_px, &mut resized);
        resized
    }

    /// As [`Resampler::area`], into a picture whose memory is used again.
    pub fn area_into(&mut self, picture: &RgbImage, area: &Rect, size_px: u32, resized: &mut RgbImage) {
        if resized.dimensions() != (size_px, size_px) {
            *resized = RgbImage::new(size_px, size_px);
        }
        if self.try_area(picture, area, resized).is_none() {
            resized.fill(0);
        }
    }

    /// Resizes all of `picture` to fill `resized`; `None` where one of them has no pixels.
    pub fn whole_into(&mut self, picture: &RgbImage, filter: Filter, resized: &mut RgbImage) -> Option<()> {
        if picture.is_empty() || resized.is_empty() {
            return None;
        }
        resize_into(&mut self.resizer, picture, &filter.options(), resized)
    }

    /// Fills `resized`; `None` where it is to be black.
    fn try_area(&mut self, picture: &RgbImage, area: &Rect, resized: &mut RgbImage) -> Option<()> {
        let (width, height) = picture.dimensions();
        if !area.is_finite() || area.w < 1.0 || area.h < 1.0 || width == 0 || height == 0 {
            return None;
        }
        // Beyond three pictures' width nothing but mirror images of mirror images would follow.
        #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
        let limit = 3.0 * width.max(height) as f32;
        if area.w > limit || area.h > limit || area.x.abs() > limit || area.y.abs() > limit {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded by `limit`")]
        let (x0, y0) = (area.x.floor() as i32, area.y.floor() as i32);
        #[expect(clippy::cast_possible_truncation, reason = "bounded by `limit`")]
        let (x1, y1) = (area.right().ceil() as i32, area.bottom().ceil() as i32);
        let inside = x0 >= 0 && y0 >= 0 && x1 <= width.cast_signed() && y1 <= height.cast_signed();
        let (source, left, top) = if inside {
            (picture, area.x, area.y)
        } else {
            fill_window(&mut self.window, picture, (x0, y0), (x1, y1));
            #[expect(clippy::cast_precision_loss, reason = "bounded by `limit`")]
            (&self.window, area.x - x0 as f32, area.y - y0 as f32)
        };
        let options = Filter::Triangle.options().crop(
            f64::from(left),
            f64::from(top),
            f64::from(area.w),
            f64::from(area.h),
        );
        resize_into(&mut self.resizer, source, &options, resized)
    }
}

/// How output pixels are weighed from those of the source that they cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All alike.
    Box,
    /// By a triangle, which is bilinear where the picture grows.
    Triangle,
}

impl Filter {
    fn options(self) -> ResizeOptions {
        let filter = match self {
            Filter::Box => FilterType::Box,
            Filter::Triangle => FilterType::Bilinear,
        };
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
    }
}

/// A plane of bytes, `from` (width, height) in pixels without padding, resized `to` by [`Filter::Triangle`]; `None`
/// where a size is 0 or `samples` has another number of bytes.
pub fn plane(samples: &[u8], from: (u32, u32), to: (u32, u32)) -> Option<Vec<u8>> {
    let n_bytes = |(width, height): (u32, u32)| width as usize * height as usize;
    if n_bytes(from) == 0 || n_bytes(to) == 0 || samples.len() != n_bytes(from) {
        return None;
    }
    let mut resized = vec![0; n_bytes(to)];
    let source = TypedImageRef::<U8>::from_buffer(from.0, from.1, samples).ok()?;
    let mut target = TypedImage::<U8>::from_buffer(to.0, to.1, &mut resized).ok()?;
    let options = Filter::Triangle.options();
    Resizer::new().resize_typed(&source, &mut target, Some(&options)).ok()?;
    Some(resized)
}

/// Resizes a part of `source` to fill `resized`; `None` when the resizer refuses the sizes.
fn resize_into(
    resizer: &mut Resizer,
    source: &RgbImage,
    options: &ResizeOptions,
    resized: &mut RgbImage,
) -> Option<()> {
    // Typed, so that the program holds code for no other kind of pixels.
    let from = TypedImageRef::<U8x3>::from_buffer(source.width(), source.height(), source.as_raw()).ok()?;
    let (width_px, height_px) = resized.dimensions();
    let mut to = TypedImage::<U8x3>::from_buffer(width_px, height_px, resized).ok()?;
    resizer.resize_typed(&from, &mut to, Some(options)).ok()
}

/// Copies the rectangle from `(x0, y0)` to `(x1, y1)`, parts of it outside the picture, to `window`.
fn fill_window(window: &mut RgbImage, picture: &RgbImage, (x0, y0): (i32, i32), (x1, y1): (i32, i32)) {
    let (width, height) = (x1.abs_diff(x0), y1.abs_diff(y0));
    let mut pixels = std::mem::take(window).into_raw();
    pixels.resize(3 * width as usize * height as usize, 0);
    *window = RgbImage::from_raw(width, height, pixels).unwrap_or_default();
    for (dy, row) in (0i32..).zip(window.rows_mut()) {
        for (dx, pixel) in (0i32..).zip(row) {
            let x = place(x0 + dx, picture.width());
            let y = place(y0 + dy, picture.height());
            *pixel = *picture.get_pixel(x, y);
        }
    }
}

/// The pixel of a line of `n` > 0 that stands at position `i`, mirrored into it.
fn place(i: i32, n: u32) -> u32 {
    let last = n.cast_signed() - 1;
    if last == 0 {
        return 0;
    }
    let phase = i.rem_euclid(2 * last);
    phase.min(2 * last - phase).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_pixels_is_not_resized() {
        let mut resampler = Resampler::default();
        let mut whole = |from: (u32, u32), to: (u32, u32)| {
            let picture = RgbImage::from_pixel(from.0, from.1, image::Rgb([7, 8, 9]));
            let mut resized = RgbImage::new(to.0, to.1);
            let outcome = resampler.whole_into(&picture, Filter::Box, &mut resized);
            outcome.map(|()| resized.pixels().all(|pixel| pixel.0 == [7, 8, 9]))
        };
        assert_eq!(whole((4, 6), (3, 2)), Some(true));
        assert_eq!(whole((0, 6), (3, 2)), None);
        assert_eq!(whole((4, 6), (3, 0)), None);
        assert_eq!(plane(&[5; 6], (2, 3), (4, 4)), Some(vec![5; 16]));
        for (n, from, to) in
            [(6, (0, 3), (4, 4)), (6, (2, 3), (4, 0)), (5, (2, 3), (4, 4)), (7, (2, 3), (4, 4))]
        {
            assert_eq!(plane(&vec![5; n], from, to), None, "{n} {from:?} {to:?}");
        }
    }

    #[test]
    fn mirror_matches_numpy_reflect() {
        // np.pad([0,1,2,3], 5, mode="reflect")
        let expected = [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2];
        let found: Vec<_> = (-5..9).map(|i| place(i, 4)).collect();
        assert_eq!(found, expected);
        assert_eq!(place(-3, 1), 0);
    }
}
