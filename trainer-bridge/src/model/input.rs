//! Crops to a network's input.

use candor::geom::Rect;
use candor::resample::Resampler;
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::Spec;

/// Normalised input of a batch: f32 [N,3,S,S] on `device`, (u8 - mean) / std per channel, channels last in memory.
///
/// # Panics
/// When a picture isn't `spec.size_px()` square, or there is none.
pub fn input(pictures: &[&RgbImage], spec: &Spec, device: Device) -> Tensor {
    let size_px = spec.size_px() as usize;
    let mut bytes = Vec::with_capacity(pictures.len() * size_px * size_px * 3);
    for picture in pictures {
        let found = (picture.width() as usize, picture.height() as usize);
        assert_eq!(found, (size_px, size_px), "a crop isn't of the network's size");
        bytes.extend_from_slice(picture.as_raw());
    }
    let side = i64::from(spec.size_px());
    let n_pictures = i64::try_from(pictures.len()).unwrap_or(i64::MAX);
    let batch = Tensor::from_data_size(&bytes, &[n_pictures, side, side, 3], Kind::Uint8);
    let per_channel = |values: &[f32; 3]| Tensor::from_slice(values).to_device(device);
    let batch = batch.to_device(device).to_kind(Kind::Float);
    ((batch - per_channel(&spec.input.mean)) / per_channel(&spec.input.std)).permute([0, 3, 1, 2])
}

/// The picture at `size_px` x `size_px`, as candor resizes; a whole frame is squeezed to a square.
pub fn fitted(picture: &RgbImage, size_px: u32, resampler: &mut Resampler) -> RgbImage {
    let (width_px, height_px) = picture.dimensions();
    if (width_px, height_px) == (size_px, size_px) {
        return picture.clone();
    }
    let whole = Rect { x: 0.0, y: 0.0, w: width_px as f32, h: height_px as f32 };
    resampler.area(picture, &whole, size_px)
}
