//! A face's pixels with margin, at the size a network wants. Training and serving both use this.

use image::RgbImage;

use crate::geom::Rect;
use crate::resample::Resampler;

/// Cuts face crops; keeps its buffers between calls.
#[derive(Default)]
pub struct Cropper {
    resampler: Resampler,
}

impl Cropper {
    /// The crop of `bbox` in `picture`: the square round the box's centre whose side is the box's
    /// longer side grown by `margin` (0.3 = 30 %), resized to `size_px` x `size_px`, u8 RGB.
    ///
    /// Where the square leaves the picture, the picture is mirrored at its edge (reflection without
    /// repeating the edge pixel, as in OpenCV's `BORDER_REFLECT_101`), so that no artificial border
    /// enters the crop. Resampling is a triangle filter widened to the source pixels that one output
    /// pixel covers, so that shrinking does not alias.
    ///
    /// A box that is empty or not finite gives a black crop.
    pub fn crop(&mut self, picture: &RgbImage, bbox: &Rect, margin: f32, size_px: u32) -> RgbImage {
        let mut crop = RgbImage::default();
        self.crop_into(picture, bbox, margin, size_px, &mut crop);
        crop
    }

    /// As [`Cropper::crop`], into a picture whose memory is used again.
    pub fn crop_into(
        &mut self,
        picture: &RgbImage,
        bbox: &Rect,
        margin: f32,
        size_px: u32,
        crop: &mut RgbImage,
    ) {
        self.resampler.area_into(picture, &bbox.square(1.0 + margin), size_px, crop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose pixel at (x, y) is (x, y, 7).
    fn coordinates(width: u32, height: u32) -> RgbImage {
        #[expect(clippy::cast_possible_truncation, reason = "test pictures are under 256 px")]
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn a_crop_at_scale_one_is_a_copy() {
        let picture = coordinates(100, 80);
        let bbox = Rect { x: 30.0, y: 20.0, w: 20.0, h: 20.0 };
        let crop = Cropper::default().crop(&picture, &bbox, 0.0, 20);
        for (x, y, pixel) in crop.enumerate_pixels() {
            assert_eq!(pixel, picture.get_pixel(x + 30, y + 20));
        }
    }

    #[test]
    fn margin_grows_the_longer_side_about_the_centre() {
        let picture = coordinates(200, 200);
        // Longer side 40 grown by half is 60: x from 70 to 130, y from 50 to 110.
        let bbox = Rect { x: 90.0, y: 60.0, w: 20.0, h: 40.0 };
        let crop = Cropper::default().crop(&picture, &bbox, 0.5, 60);
        assert_eq!(crop.get_pixel(0, 0).0, [70, 50, 7]);
        assert_eq!(crop.get_pixel(59, 59).0, [129, 109, 7]);
    }

    #[test]
    fn edges_are_mirrored() {
        let picture = coordinates(50, 50);
        let bbox = Rect { x: -10.0, y: 35.0, w: 20.0, h: 20.0 };
        let crop = Cropper::default().crop(&picture, &bbox, 0.0, 20);
        assert_eq!(crop.get_pixel(0, 0).0, [10, 35, 7]);
        assert_eq!(crop.get_pixel(10, 14).0, [0, 49, 7]);
        assert_eq!(crop.get_pixel(19, 19).0, [9, 44, 7]);
    }

    #[test]
    fn nonsense_boxes_give_a_black_crop() {
        let picture = coordinates(50, 50);
        for bbox in [
            Rect::default(),
            Rect { x: f32::NAN, y: 0.0, w: 10.0, h: 10.0 },
            Rect { x: 0.0, y: 0.0, w: 1e9, h: 1e9 },
            Rect { x: -1e9, y: 0.0, w: 10.0, h: 10.0 },
        ] {
            let crop = Cropper::default().crop(&picture, &bbox, 0.3, 16);
            assert_eq!(crop, RgbImage::new(16, 16), "{bbox:?}");
        }
    }
}
