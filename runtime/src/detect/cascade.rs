//! The cascade itself: pyramid -> P-Net -> R-Net -> O-Net -> detections.

use image::RgbImage;

use super::mosaic::{self, Patch, STEP_PX, WINDOW_PX};
use super::suppress::{Candidate, Overlap, suppress};
use super::{MAX_FACES, Settings};
use crate::engine::{EngineError, Model};
use crate::geom::{Detection, Point, Rect};
use crate::resample::{Filter, Outside, Resampler};

/// Side of a P-Net tile. Large enough that the overlap of patches costs little, small enough that
/// the activations of a tile stay in the second-level cache.
const TILE_PX: u32 = 128;
/// Windows that P-Net gives along a tile.
const TILE_WINDOWS: usize = ((TILE_PX - WINDOW_PX) / STEP_PX + 1) as usize;
/// Side of R-Net's input.
const RNET_PX: u32 = 24;
/// Side of O-Net's input.
const ONET_PX: u32 = 48;
/// Most windows that go from one network to the next, the strongest first: bounds the time of a
/// picture that is full of face-like texture.
const MAX_CANDIDATES: usize = 512;
/// How much larger than the picture's shorter side a face may be and still be found.
const LARGEST_FACE: f32 = 1.6;

/// The shift of a box's edges that a network asks for, in parts of the box's width and height.
type Offset = [f32; 4];

/// The MTCNN face detector; clones share the weights.
#[derive(Clone)]
pub struct Mtcnn {
    settings: Settings,
    pnet: Model,
    rnet: Model,
    onet: Model,
    resampler: Resampler,
}

impl Mtcnn {
    /// The detector with the networks that are built in: int8 MTCNN, see `models/mtcnn`.
    ///
    /// # Errors
    /// [`EngineError`] when a network can't be loaded.
    pub fn new(settings: Settings) -> Result<Self, EngineError> {
        Self::with_networks(
            settings,
            include_bytes!("../../../models/mtcnn/pnet.onnx"),
            include_bytes!("../../../models/mtcnn/rnet.onnx"),
            include_bytes!("../../../models/mtcnn/onet.onnx"),
        )
    }

    /// The detector with other weights, ONNX of the same inputs and outputs as `models/mtcnn`.
    ///
    /// # Errors
    /// [`EngineError`] when a network can't be loaded or has other outputs.
    pub fn with_networks(
        settings: Settings,
        pnet: &[u8],
        rnet: &[u8],
        onet: &[u8],
    ) -> Result<Self, EngineError> {
        let tile = TILE_PX as usize;
        let pnet = Model::load("P-Net", pnet, &[1, 3, tile, tile])?;
        pnet.expect_outputs(&[&[1, 1, TILE_WINDOWS, TILE_WINDOWS], &[1, 4, TILE_WINDOWS, TILE_WINDOWS]])?;
        let rnet = Model::load("R-Net", rnet, &[1, 3, RNET_PX as usize, RNET_PX as usize])?;
        rnet.expect_outputs(&[&[1, 1], &[1, 4]])?;
        let onet = Model::load("O-Net", onet, &[1, 3, ONET_PX as usize, ONET_PX as usize])?;
        onet.expect_outputs(&[&[1, 1], &[1, 4], &[1, 10]])?;
        Ok(Mtcnn { settings, pnet, rnet, onet, resampler: Resampler::default() })
    }

    /// The faces of an upright picture, most confident first, at most [`MAX_FACES`].
    ///
    /// # Errors
    /// [`EngineError`] when a network fails to run.
    pub fn detect(&mut self, picture: &RgbImage) -> Result<Vec<Detection>, EngineError> {
        let windows = self.propose(picture)?;
        let refined = self.refine(picture, &windows)?;
        self.locate(picture, &refined)
    }

    /// P-Net over the pyramid: windows that may hold a face, moved to where it seems to be.
    fn propose(&mut self, picture: &RgbImage) -> Result<Vec<Rect>, EngineError> {
        let levels = pyramid(picture.dimensions(), &self.settings);
        let pictures: Vec<RgbImage> =
            levels.iter().map(|level| render(&mut self.resampler, picture, level)).collect();
        let sizes: Vec<_> = pictures.iter().map(RgbImage::dimensions).collect();
        let (patches, n_tiles) = mosaic::pack(&sizes, TILE_PX);

        let mut per_level: Vec<Vec<Candidate<Offset>>> = vec![Vec::new(); levels.len()];
        let plane = (TILE_PX * TILE_PX) as usize;
        let mut pixels = vec![0f32; 3 * plane];
        for tile_idx in 0..n_tiles {
            let of_tile = || patches.iter().filter(|p| p.tile_idx == tile_idx);
            for patch in of_tile() {
                copy_patch(&pictures[patch.level_idx], patch, &mut pixels);
            }
            let outputs = self.pnet.run(&pixels)?;
            let (prob, offset) = (contiguous(&outputs[0]), contiguous(&outputs[1]));
            for patch in of_tile() {
                let found = &mut per_level[patch.level_idx];
                read_windows(
                    patch,
                    &levels[patch.level_idx],
                    prob,
                    offset,
                    self.settings.thresholds[0],
                    found,
                );
            }
        }
        let mut all = Vec::new();
        for mut found in per_level {
            keep_strongest(&mut found);
            suppress(&mut found, 0.5, Overlap::Union);
            all.append(&mut found);
        }
        keep_strongest(&mut all);
        suppress(&mut all, 0.7, Overlap::Union);
        Ok(all.iter().map(|c| shifted(&c.bbox, &c.extra).square(1.0)).collect())
    }

    /// R-Net on each window.
    fn refine(&mut self, picture: &RgbImage, windows: &[Rect]) -> Result<Vec<Rect>, EngineError> {
        let mut found = Vec::new();
        for window in windows {
            let outputs = look(&self.rnet, &mut self.resampler, picture, window, RNET_PX)?;
            let score = contiguous(&outputs[0])[0];
            if score > self.settings.thresholds[1] {
                let offset = first_four(contiguous(&outputs[1]));
                found.push(Candidate { bbox: *window, score, extra: offset });
            }
        }
        suppress(&mut found, 0.7, Overlap::Union);
        Ok(found.iter().map(|c| shifted(&c.bbox, &c.extra).square(1.0)).collect())
    }

    /// O-Net on each window: the final box, landmarks and confidence.
    fn locate(&mut self, picture: &RgbImage, windows: &[Rect]) -> Result<Vec<Detection>, EngineError> {
        let mut found = Vec::new();
        for window in windows {
            let outputs = look(&self.onet, &mut self.resampler, picture, window, ONET_PX)?;
            let score = contiguous(&outputs[0])[0];
            if score > self.settings.thresholds[2] {
                let bbox = shifted(window, &first_four(contiguous(&outputs[1])));
                let extra = landmarks(window, contiguous(&outputs[2]));
                found.push(Candidate { bbox, score, extra });
            }
        }
        suppress(&mut found, 0.7, Overlap::Smaller);
        found.retain(|c| c.score > self.settings.keep_above && c.bbox.is_finite());
        found.truncate(MAX_FACES);
        let to_detection =
            |c: &Candidate<[Point; 5]>| Detection { bbox: c.bbox, landmarks: c.extra, confidence: c.score };
        Ok(found.iter().map(to_detection).collect())
    }
}

/// One level of the pyramid: the picture with `pad_px` of its own pixels round it, scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// Size in pixels, even.
    size: (u32, u32),
    /// Level pixels per picture pixel, across and down.
    scale: (f32, f32),
    /// Picture pixels of surroundings on each side.
    pad_px: f32,
}

/// The levels for a picture of `width` x `height`: in level k P-Net's window is
/// `min_face_px / factor^k` wide. Goes on until the window is [`LARGEST_FACE`] times the shorter
/// side; there the picture gets surroundings, or a face that fills it would not fit into any window.
fn pyramid((width, height): (u32, u32), settings: &Settings) -> Vec<Level> {
    #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
    let (w, h) = (width as f32, height as f32);
    let shorter = w.min(h);
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let window = WINDOW_PX as f32;
    let mut levels = Vec::new();
    let mut face_px = settings.min_face_px.max(Settings::LEAST_FACE_PX);
    while face_px <= LARGEST_FACE * shorter {
        let pad_px = if face_px > 0.6 * shorter { 0.5 * face_px } else { 0.0 };
        let scale = window / face_px;
        let (full_w, full_h) = (w + 2.0 * pad_px, h + 2.0 * pad_px);
        let size = (even_at_least_window(full_w * scale), even_at_least_window(full_h * scale));
        #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
        let scale = (size.0 as f32 / full_w, size.1 as f32 / full_h);
        levels.push(Level { size, scale, pad_px });
        face_px /= settings.pyramid_factor;
    }
    levels
}

/// The nearest even number of pixels that holds a window. P-Net's pooling rounds odd sides up, which
/// a tile that goes on past the level's edge could not reproduce.
fn even_at_least_window(side: f32) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a picture's side")]
    let halves = (side / 2.0).round() as u32;
    (2 * halves).max(WINDOW_PX)
}

/// The picture as `level` shows it.
fn render(resampler: &mut Resampler, picture: &RgbImage, level: &Level) -> RgbImage {
    let (width, height) = level.size;
    if level.pad_px == 0.0 {
        return resampler.whole(picture, width, height, Filter::Area);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the level")]
    let pad = |scale: f32| (level.pad_px * scale).round() as u32;
    let (pad_x, pad_y) = (pad(level.scale.0), pad(level.scale.1));
    let (inner_w, inner_h) = (width - 2 * pad_x, height - 2 * pad_y);
    let inner = resampler.whole(picture, inner_w, inner_h, Filter::Area);
    RgbImage::from_fn(width, height, |x, y| {
        let near = |at: u32, pad: u32, n: u32| at.saturating_sub(pad).min(n - 1);
        *inner.get_pixel(near(x, pad_x, inner_w), near(y, pad_y, inner_h))
    })
}

/// Copies a patch of a level into the tile's three planes, as raw pixel values.
fn copy_patch(level: &RgbImage, patch: &Patch, tile: &mut [f32]) {
    let plane = (TILE_PX * TILE_PX) as usize;
    for dy in 0..patch.size.1 {
        for dx in 0..patch.size.0 {
            let pixel = level.get_pixel(patch.from.0 + dx, patch.from.1 + dy);
            let at = ((patch.at.1 + dy) * TILE_PX + patch.at.0 + dx) as usize;
            for (channel, &value) in pixel.0.iter().enumerate() {
                tile[channel * plane + at] = f32::from(value);
            }
        }
    }
}

/// Reads P-Net's outputs at the windows of one patch; `prob` is 1 x n x n, `offset` 4 x n x n.
fn read_windows(
    patch: &Patch,
    level: &Level,
    prob: &[f32],
    offset: &[f32],
    threshold: f32,
    found: &mut Vec<Candidate<Offset>>,
) {
    let windows = |length: u32| (length - WINDOW_PX) / STEP_PX + 1;
    for row in 0..windows(patch.size.1) {
        for column in 0..windows(patch.size.0) {
            let at = (patch.at.1 / STEP_PX + row) as usize * TILE_WINDOWS
                + (patch.at.0 / STEP_PX + column) as usize;
            let score = prob[at];
            if score <= threshold {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
            let (x, y) = ((patch.from.0 + column * STEP_PX) as f32, (patch.from.1 + row * STEP_PX) as f32);
            #[expect(clippy::cast_precision_loss, reason = "a small constant")]
            let window = WINDOW_PX as f32;
            let bbox = Rect {
                x: x / level.scale.0 - level.pad_px,
                y: y / level.scale.1 - level.pad_px,
                w: window / level.scale.0,
                h: window / level.scale.1,
            };
            let shift = std::array::from_fn(|i| offset[i * TILE_WINDOWS * TILE_WINDOWS + at]);
            found.push(Candidate { bbox, score, extra: shift });
        }
    }
}

/// Leaves the [`MAX_CANDIDATES`] highest scores.
fn keep_strongest(candidates: &mut Vec<Candidate<Offset>>) {
    if candidates.len() > MAX_CANDIDATES {
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.truncate(MAX_CANDIDATES);
    }
}

/// Runs a network on the pixels of one window.
fn look(
    network: &Model,
    resampler: &mut Resampler,
    picture: &RgbImage,
    window: &Rect,
    size_px: u32,
) -> Result<Vec<ndarray::ArrayD<f32>>, EngineError> {
    let crop = resampler.area(picture, window, size_px, Filter::Area, Outside::Nearest);
    let plane = (size_px * size_px) as usize;
    let mut pixels = vec![0f32; 3 * plane];
    for (at, pixel) in crop.pixels().enumerate() {
        for (channel, &value) in pixel.0.iter().enumerate() {
            pixels[channel * plane + at] = f32::from(value);
        }
    }
    network.run(&pixels)
}

/// The box with each edge moved by `offset` times its width or height.
fn shifted(bbox: &Rect, offset: &Offset) -> Rect {
    Rect::from_corners(
        bbox.x + offset[0] * bbox.w,
        bbox.y + offset[1] * bbox.h,
        bbox.right() + offset[2] * bbox.w,
        bbox.bottom() + offset[3] * bbox.h,
    )
}

/// O-Net's ten numbers, five x then five y in parts of the window, as points of the picture.
fn landmarks(window: &Rect, parts: &[f32]) -> [Point; 5] {
    std::array::from_fn(|i| Point {
        x: window.x + parts[i] * window.w,
        y: window.y + parts[i + 5] * window.h,
    })
}

fn first_four(values: &[f32]) -> Offset {
    std::array::from_fn(|i| values[i])
}

/// The values of an output in row-major order.
fn contiguous(output: &ndarray::ArrayD<f32>) -> &[f32] {
    output.as_slice().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pyramid_reaches_from_the_smallest_face_past_the_shorter_side() {
        let settings = Settings { min_face_px: 40.0, ..Settings::default() };
        let levels = pyramid((1920, 1080), &settings);
        assert!((levels[0].scale.0 - 0.3).abs() < 0.01, "{:?}", levels[0]);
        let largest = 12.0 / levels[levels.len() - 1].scale.0;
        assert!(largest > 1080.0 * 1.1, "{largest}");
        for level in &levels {
            assert!(level.size.0 % 2 == 0 && level.size.1 % 2 == 0, "{level:?}");
            assert!(level.size.0 >= 12 && level.size.1 >= 12, "{level:?}");
        }
    }

    #[test]
    fn tiny_pictures_have_no_level() {
        assert_eq!(pyramid((10, 10), &Settings::default()), []);
        assert_eq!(pyramid((0, 0), &Settings::default()), []);
    }
}
