//! Pixels that aren't square, and making them so.

use crate::frame::{PixelFormat, Plane};
use crate::resample;
use crate::source::h264::Picture;

/// Pixels stretched by more than this are taken for a mistake in the file.
const MAX_STRETCH: u32 = 4;

/// The size of a `width_px` by `height_px` picture with square pixels: never smaller than it is.
/// `pixel_aspect` is a pixel's width over its height.
pub(super) fn size_px(width_px: u32, height_px: u32, pixel_aspect: Option<(u32, u32)>) -> (u32, u32) {
    let Some((across, down)) = pixel_aspect.filter(|&(across, down)| across > 0 && down > 0) else {
        return (width_px, height_px);
    };
    let stretch = |size_px: u32, by: u32, over: u32| {
        let (by, over) = (u64::from(by), u64::from(over));
        u32::try_from((u64::from(size_px) * by + over / 2) / over).unwrap_or(u32::MAX)
    };
    if across > down.saturating_mul(MAX_STRETCH) || down > across.saturating_mul(MAX_STRETCH) {
        (width_px, height_px)
    } else if across > down {
        (stretch(width_px, across, down), height_px)
    } else {
        (width_px, stretch(height_px, down, across))
    }
}

/// Resamples a picture to square pixels, bilinear; one that has them already stays as it is.
pub(super) fn make_square(picture: Picture, pixel_aspect: Option<(u32, u32)>) -> Picture {
    let (width_px, height_px) = size_px(picture.width_px, picture.height_px, pixel_aspect);
    if (width_px, height_px) == (picture.width_px, picture.height_px) {
        return picture;
    }
    let size = |plane_idx: usize, width_px: u32, height_px: u32| match picture.format {
        PixelFormat::I420 if plane_idx > 0 => (width_px.div_ceil(2), height_px.div_ceil(2)),
        PixelFormat::I422 if plane_idx > 0 => (width_px.div_ceil(2), height_px),
        _ => (width_px, height_px),
    };
    let mut planes = Vec::with_capacity(picture.planes.len());
    for (plane_idx, plane) in picture.planes.iter().enumerate() {
        let from = size(plane_idx, picture.width_px, picture.height_px);
        let to = size(plane_idx, width_px, height_px);
        let Some(samples) = resample::plane(&plane.samples, from, to) else { return picture };
        planes.push(Plane { samples, stride_bytes: to.0 as usize });
    }
    Picture { width_px, height_px, planes, ..picture }
}
