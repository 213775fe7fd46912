//! The cascade itself: pyramid -> P-Net -> R-Net -> O-Net -> detections.

use image::RgbImage;

use super::mosaic::{self, Patch, STEP_PX, WINDOW_PX};
use super::suppress::{Candidate, Overlap, suppress};
use super::{MAX_FACES, Settings};
use crate::engine::{Engine, EngineError, Model, Normalisation};
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
    pub fn new(engine: &Engine, settings: Settings) -> Result<Self, EngineError> {
        Self::with_networks(
            engine,
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
        engine: &Engine,
        settings: Settings,
        pnet: &[u8],
        rnet: &[u8],
        onet: &[u8],
    ) -> Result<Self, EngineError> {
        let tile = TILE_PX as usize;
        let load = |name: &str, onnx: &[u8], side: usize| {
            engine.load(name, onnx, &[1, 3, side, side])?.with_pixels(Normalisation::NONE)
        };
        let pnet = load("P-Net", pnet, tile)?;
        pnet.expect_outputs(&[&[1, 1, TILE_WINDOWS, TILE_WINDOWS], &[1, 4, TILE_WINDOWS, TILE_WINDOWS]])?;
        let rnet = load("R-Net", rnet, RNET_PX as usize)?;
        rnet.expect_outputs(&[&[1, 1], &[1, 4]])?;
        let onet = load("O-Net", onet, ONET_PX as usize)?;
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
    ///
    /// # Errors
    /// [`EngineError`] when the network fails to run.
    pub fn propose(&mut self, picture: &RgbImage) -> Result<Vec<Rect>, EngineError> {
        let levels = pyramid(picture.dimensions(), &self.settings);
        let inner: Vec<RgbImage> = levels
            .iter()
            .map(|level| self.resampler.whole(picture, level.inner.0, level.inner.1, Filter::Area))
            .collect();
        let sizes: Vec<_> = levels.iter().map(Level::size).collect();
        let (patches, n_tiles) = mosaic::pack(&sizes, TILE_PX);

        let mut tiles = vec![RgbImage::new(TILE_PX, TILE_PX); n_tiles];
        for patch in &patches {
            let level_idx = patch.level_idx;
            copy_patch(&inner[level_idx], levels[level_idx].margin_px, patch, &mut tiles[patch.tile_idx]);
        }
        let pixels: Vec<&[u8]> = tiles.iter().map(|tile| tile.as_raw().as_slice()).collect();
        let mut per_level: Vec<Vec<Candidate<Offset>>> = vec![Vec::new(); levels.len()];
        let threshold = self.settings.thresholds[0];
        self.pnet.run_pixels_each(&pixels, |tile_idx, outputs| {
            let (prob, offset) = (&outputs[0], &outputs[1]);
            for patch in patches.iter().filter(|p| p.tile_idx == tile_idx) {
                let found = &mut per_level[patch.level_idx];
                read_windows(patch, &levels[patch.level_idx], prob, offset, threshold, found);
            }
        })?;
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
        let threshold = self.settings.thresholds[1];
        look(&mut self.rnet, &mut self.resampler, picture, windows, RNET_PX, |window, outputs| {
            let score = outputs[0][0];
            if score > threshold {
                found.push(Candidate { bbox: *window, score, extra: first_four(&outputs[1]) });
            }
        })?;
        suppress(&mut found, 0.7, Overlap::Union);
        Ok(found.iter().map(|c| shifted(&c.bbox, &c.extra).square(1.0)).collect())
    }

    /// O-Net on each window: the final box, landmarks and confidence.
    fn locate(&mut self, picture: &RgbImage, windows: &[Rect]) -> Result<Vec<Detection>, EngineError> {
        let mut found = Vec::new();
        let threshold = self.settings.thresholds[2];
        look(&mut self.onet, &mut self.resampler, picture, windows, ONET_PX, |window, outputs| {
            let score = outputs[0][0];
            if score > threshold {
                let bbox = shifted(window, &first_four(&outputs[1]));
                found.push(Candidate { bbox, score, extra: landmarks(window, &outputs[2]) });
            }
        })?;
        suppress(&mut found, 0.7, Overlap::Smaller);
        found.retain(|c| c.score > self.settings.keep_above && c.bbox.is_finite());
        found.truncate(MAX_FACES);
        let to_detection =
            |c: &Candidate<[Point; 5]>| Detection { bbox: c.bbox, landmarks: c.extra, confidence: c.score };
        Ok(found.iter().map(to_detection).collect())
    }
}

/// One level of the pyramid: the picture scaled, with its edge pixels repeated round it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// Level pixels per picture pixel.
    scale: f32,
    /// Size of the scaled picture.
    inner: (u32, u32),
    /// Level pixels of surroundings on the left and at the top, even; not fewer on the other sides.
    margin_px: u32,
}

impl Level {
    /// Width and height with the surroundings. Even: P-Net's pooling rounds odd sides up, which a tile
    /// that goes on past the level's edge could not reproduce.
    fn size(&self) -> (u32, u32) {
        let side = |inner: u32| (inner + 2 * self.margin_px).next_multiple_of(2);
        (side(self.inner.0), side(self.inner.1))
    }
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
        let scale = window / face_px;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a picture's side"
        )]
        let scaled = |side: f32| (side * scale) as u32 + 1;
        let margin_px = if face_px > 0.6 * shorter { WINDOW_PX / 2 } else { 0 };
        levels.push(Level { scale, inner: (scaled(w), scaled(h)), margin_px });
        face_px /= settings.pyramid_factor;
    }
    levels
}

/// Copies a patch of a level into the tile; `inner` is the scaled picture of the level.
fn copy_patch(inner: &RgbImage, margin_px: u32, patch: &Patch, tile: &mut RgbImage) {
    let near = |at: u32, n: u32| at.saturating_sub(margin_px).min(n - 1);
    for dy in 0..patch.size.1 {
        let y = near(patch.from.1 + dy, inner.height());
        for dx in 0..patch.size.0 {
            let pixel = inner.get_pixel(near(patch.from.0 + dx, inner.width()), y);
            tile.put_pixel(patch.at.0 + dx, patch.at.1 + dy, *pixel);
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
            let bbox = window_box(level, patch.from.0 + column * STEP_PX, patch.from.1 + row * STEP_PX);
            let shift = std::array::from_fn(|i| offset[i * TILE_WINDOWS * TILE_WINDOWS + at]);
            found.push(Candidate { bbox, score, extra: shift });
        }
    }
}

/// The box, in the picture, that P-Net's offsets refer to when its window begins at (x, y) of `level`.
/// As the networks were trained, pixels count from 1 and the first one of a window is no part of it.
fn window_box(level: &Level, x: u32, y: u32) -> Rect {
    #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
    let edge = |at: u32, within: u32| ((at + within) as f32 - level.margin_px as f32) / level.scale;
    Rect::from_corners(edge(x, 1) - 1.0, edge(y, 1) - 1.0, edge(x, WINDOW_PX), edge(y, WINDOW_PX))
}

/// Leaves the [`MAX_CANDIDATES`] highest scores.
fn keep_strongest(candidates: &mut Vec<Candidate<Offset>>) {
    if candidates.len() > MAX_CANDIDATES {
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.truncate(MAX_CANDIDATES);
    }
}

/// Runs a network on the pixels of each window.
fn look(
    network: &mut Model,
    resampler: &mut Resampler,
    picture: &RgbImage,
    windows: &[Rect],
    size_px: u32,
    mut each: impl FnMut(&Rect, &[Vec<f32>]),
) -> Result<(), EngineError> {
    let mut crop = |window: &Rect| resampler.area(picture, window, size_px, Filter::Area, Outside::Nearest);
    let crops: Vec<RgbImage> = windows.iter().map(&mut crop).collect();
    let pixels: Vec<&[u8]> = crops.iter().map(|crop| crop.as_raw().as_slice()).collect();
    network.run_pixels_each(&pixels, |idx, outputs| each(&windows[idx], outputs))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pyramid_reaches_from_the_smallest_face_past_the_shorter_side() {
        let settings = Settings { min_face_px: 40.0, ..Settings::default() };
        let levels = pyramid((1920, 1080), &settings);
        assert!((levels[0].scale - 0.3).abs() < 1e-6, "{:?}", levels[0]);
        let largest = 12.0 / levels[levels.len() - 1].scale;
        assert!(largest > 1080.0 * 1.1, "{largest}");
        for level in &levels {
            let (width, height) = level.size();
            assert!(width % 2 == 0 && height % 2 == 0, "{level:?}");
            assert!(width >= WINDOW_PX && height >= WINDOW_PX, "{level:?}");
        }
    }

    #[test]
    fn tiny_pictures_have_no_level() {
        assert_eq!(pyramid((10, 10), &Settings::default()), []);
        assert_eq!(pyramid((0, 0), &Settings::default()), []);
    }
}
