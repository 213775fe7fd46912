//! The cascade itself: pyramid -> P-Net -> R-Net -> O-Net -> detections.

use candor_engine::{Engine, EngineError, Model, Picture};
use heapless::Vec as FixedVec;
use image::RgbImage;
use ndarray::ArrayView3;

use super::cells::{CellMeans, Part, Window};
use super::mosaic::{self, Patch, STEP_PX, WINDOW_PX};
use super::suppress::{Candidate, Overlap, strongest_first, suppress};
use super::{MAX_FACES, Settings};
use crate::geom::{Detection, Point, Rect};

/// Side of a P-Net tile. Large enough that the overlap of patches costs little, small enough that
/// the activations of a tile stay in the second-level cache.
const TILE_PX: u32 = 128;
/// Tiles, and windows of R-Net and O-Net, that are held at the same time: enough for every thread.
const TILES_AT_ONCE: usize = 8;
const WINDOWS_AT_ONCE: usize = 32;
/// Windows that P-Net gives along a tile.
const TILE_WINDOWS: usize = ((TILE_PX - WINDOW_PX) / STEP_PX + 1) as usize;
/// Side of R-Net's input.
const RNET_PX: u32 = 24;
/// Side of O-Net's input.
const ONET_PX: u32 = 48;
/// Most windows that go from one network to the next, the strongest first: bounds the time of a
/// picture that is full of face-like texture.
const MAX_CANDIDATES: usize = 512;
/// Windows of a level whose memory is kept for the next picture; a large one full of texture has more.
const MAX_KEPT: usize = 1 << 15;
/// Share of a window that may lie outside the picture and simply be left out, as the networks' published
/// pipeline does; what is left is then stretched to the networks' square. Stretched further a face loses its
/// shape, so a window that reaches out more shows the picture's edge pixels repeated instead.
const MOST_CLIPPED: f32 = 0.1;
/// How much larger than the picture's longer side a window may be: what is larger shows nothing but edges.
const LARGEST_WINDOW: f32 = 3.0;

/// The shift of a box's edges that a network asks for, in parts of the box's width and height.
type Offset = [f32; 4];

/// The MTCNN face detector; clones share the weights.
#[derive(Clone)]
pub struct Mtcnn {
    settings: Settings,
    pnet: Model,
    rnet: Model,
    onet: Model,
    memory: Memory,
}

/// What a search works on, kept for the next one: memory is taken only where there is more to work on than ever before.
#[derive(Clone, Default)]
struct Memory {
    tiling: Tiling,
    means: CellMeans,
    inputs: Inputs,
    of_levels: Vec<Vec<Candidate<Offset>>>,
    proposed: Vec<Candidate<Offset>>,
    refined: Vec<Candidate<Rect>>,
    located: Vec<Candidate<[Point; 5]>>,
    windows: Vec<Rect>,
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
            include_bytes!("../../../../models/mtcnn/pnet.onnx"),
            include_bytes!("../../../../models/mtcnn/rnet.onnx"),
            include_bytes!("../../../../models/mtcnn/onet.onnx"),
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
        let pnet = engine.load("P-Net", pnet, &[1, 3, tile, tile])?;
        pnet.expect_outputs(&[&[1, 1, TILE_WINDOWS, TILE_WINDOWS], &[1, 4, TILE_WINDOWS, TILE_WINDOWS]])?;
        let rnet = engine.load("R-Net", rnet, &[1, 3, RNET_PX as usize, RNET_PX as usize])?;
        rnet.expect_outputs(&[&[1, 1], &[1, 4]])?;
        let onet = engine.load("O-Net", onet, &[1, 3, ONET_PX as usize, ONET_PX as usize])?;
        onet.expect_outputs(&[&[1, 1], &[1, 4], &[1, 10]])?;
        Ok(Mtcnn { settings, pnet, rnet, onet, memory: Memory::default() })
    }

    /// The faces of an upright picture, most confident first.
    ///
    /// # Errors
    /// [`EngineError`] when a network fails to run.
    pub fn detect(&mut self, picture: &RgbImage) -> Result<FixedVec<Detection, MAX_FACES>, EngineError> {
        self.propose(picture)?;
        self.refine(picture)?;
        self.locate(picture)
    }

    /// P-Net over the pyramid: windows that may hold a face, moved to where it seems to be.
    ///
    /// # Errors
    /// [`EngineError`] when the network fails to run.
    pub fn propose(&mut self, picture: &RgbImage) -> Result<&[Rect], EngineError> {
        let Mtcnn { settings, pnet, memory, .. } = self;
        let Memory { tiling, means, inputs, of_levels, proposed, windows, .. } = memory;
        tiling.fit(picture.dimensions(), settings);
        let Tiling { levels, patches, n_tiles, .. } = &*tiling;
        of_levels.resize_with(levels.len(), Vec::new);
        of_levels.iter_mut().for_each(Vec::clear);
        let side = TILE_PX as usize;
        for first_idx in (0..*n_tiles).step_by(TILES_AT_ONCE) {
            let n_here = TILES_AT_ONCE.min(n_tiles - first_idx);
            let tiles = inputs.planes(n_here, side);
            for patch in patches.iter().filter(|p| (first_idx..first_idx + n_here).contains(&p.tile_idx)) {
                let part = Part {
                    grid: levels[patch.level_idx].size,
                    from: patch.from,
                    size: patch.size,
                    at: patch.at.1 as usize * side + patch.at.0 as usize,
                    stride: side,
                };
                means.write(picture, &Window::whole(picture), &part, &mut tiles[patch.tile_idx - first_idx]);
            }
            let pictures: FixedVec<Picture, TILES_AT_ONCE> = inputs.pictures().collect();
            let threshold = settings.thresholds[0];
            pnet.run_each(&pictures, |idx, outputs| {
                let shape = |n_channels| (n_channels, TILE_WINDOWS, TILE_WINDOWS);
                let views = (
                    ArrayView3::from_shape(shape(1), &outputs[0]),
                    ArrayView3::from_shape(shape(4), &outputs[1]),
                );
                // The outputs' shapes were checked when the network was loaded.
                let (Ok(prob), Ok(offset)) = views else { return };
                for patch in patches.iter().filter(|p| p.tile_idx == first_idx + idx) {
                    let (scale, found) = (levels[patch.level_idx].scale, &mut of_levels[patch.level_idx]);
                    read_windows(patch, scale, (prob, offset), threshold, found);
                }
            })?;
        }
        proposed.clear();
        for found in of_levels {
            keep_strongest(found);
            suppress(found, 0.5, Overlap::Union);
            proposed.append(found);
            found.shrink_to(MAX_KEPT);
        }
        keep_strongest(proposed);
        suppress(proposed, 0.7, Overlap::Union);
        windows.clear();
        windows.extend(proposed.iter().map(|c| from_published(&shifted(&c.bbox, &c.extra).square(1.0))));
        Ok(windows)
    }

    /// R-Net on each window.
    fn refine(&mut self, picture: &RgbImage) -> Result<(), EngineError> {
        let Memory { means, inputs, refined, windows, .. } = &mut self.memory;
        let threshold = self.settings.thresholds[1];
        refined.clear();
        look(&mut self.rnet, (means, inputs), picture, windows.iter(), RNET_PX, |window, outputs| {
            let score = outputs[0][0];
            if score > threshold {
                let moved = shifted(window, &first_four(&outputs[1]));
                refined.push(Candidate::new(to_published(window), score, moved));
            }
        })?;
        suppress(refined, 0.7, Overlap::Union);
        windows.clear();
        windows.extend(refined.iter().map(|c| c.extra.square(1.0)));
        Ok(())
    }

    /// O-Net on each window: the final box, landmarks and confidence.
    fn locate(&mut self, picture: &RgbImage) -> Result<FixedVec<Detection, MAX_FACES>, EngineError> {
        let Memory { means, inputs, located, windows, .. } = &mut self.memory;
        let threshold = self.settings.thresholds[2];
        located.clear();
        // Of equal scores, and near 1 they are equal, the last window's stays as in the published pipeline.
        look(&mut self.onet, (means, inputs), picture, windows.iter().rev(), ONET_PX, |window, outputs| {
            let score = outputs[0][0];
            if score > threshold {
                let bbox = shifted(window, &first_four(&outputs[1]));
                located.push(Candidate::new(bbox, score, landmarks(window, &outputs[2])));
            }
        })?;
        suppress(located, 0.7, Overlap::Smaller);
        let is_face = |c: &&Candidate<[Point; 5]>| c.score > self.settings.keep_above && c.bbox.is_finite();
        let to_detection =
            |c: &Candidate<[Point; 5]>| Detection { bbox: c.bbox, landmarks: c.extra, confidence: c.score };
        Ok(located.iter().filter(is_face).take(MAX_FACES).map(to_detection).collect())
    }
}

/// Networks' inputs that are held at the same time.
#[derive(Clone, Default)]
struct Inputs {
    values: Vec<Vec<f32>>,
    n_used: usize,
}

impl Inputs {
    /// Three planes of `side` x `side` for each of `n` pictures, to be written.
    fn planes(&mut self, n: usize, side: usize) -> &mut [Vec<f32>] {
        if self.values.len() < n {
            self.values.resize_with(n, Vec::new);
        }
        self.n_used = n;
        let used = &mut self.values[..n];
        used.iter_mut().for_each(|values| values.resize(3 * side * side, 0.0));
        used
    }

    /// What was written.
    fn pictures(&self) -> impl Iterator<Item = Picture<'_>> {
        self.values[..self.n_used].iter().map(|values| Picture::Floats(values))
    }
}

/// How the pyramid of pictures of one size lies in tiles.
#[derive(Clone, Default)]
struct Tiling {
    picture_px: (u32, u32),
    levels: Vec<Level>,
    patches: Vec<Patch>,
    n_tiles: usize,
}

impl Tiling {
    /// Makes it that of pictures of `size` pixels.
    fn fit(&mut self, size: (u32, u32), settings: &Settings) {
        if self.picture_px != size {
            let levels = pyramid(size, settings);
            let sizes: Vec<_> = levels.iter().map(Level::even_size).collect();
            let (patches, n_tiles) = mosaic::pack(&sizes, TILE_PX);
            *self = Tiling { picture_px: size, levels, patches, n_tiles };
        }
    }
}

/// One level of the pyramid: the picture scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// Level pixels per picture pixel.
    scale: f64,
    /// Width and height.
    size: (u32, u32),
}

impl Level {
    /// Width and height rounded up to even, the last pixels repeated: P-Net's pooling keeps a last odd pixel,
    /// which a tile that goes on past the level's edge could not reproduce otherwise.
    fn even_size(&self) -> (u32, u32) {
        (self.size.0.next_multiple_of(2), self.size.1.next_multiple_of(2))
    }
}

/// The levels for a picture of `width` x `height`: in level k P-Net's window is `min_face_px / factor^k`
/// wide, at most the picture's shorter side.
fn pyramid((width, height): (u32, u32), settings: &Settings) -> Vec<Level> {
    let (w, h) = (f64::from(width), f64::from(height));
    let shorter = w.min(h);
    let mut levels = Vec::new();
    let mut scale = f64::from(WINDOW_PX) / f64::from(settings.min_face_px.max(Settings::LEAST_FACE_PX));
    while shorter * scale >= f64::from(WINDOW_PX) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a picture's side"
        )]
        let scaled = |side: f64| (side * scale + 1.0) as u32;
        levels.push(Level { scale, size: (scaled(w), scaled(h)) });
        scale *= f64::from(settings.pyramid_factor);
    }
    levels
}

/// Reads P-Net's outputs at the windows of one patch: P(face), 1 x n x n, and offsets, 4 x n x n.
fn read_windows(
    patch: &Patch,
    scale: f64,
    (prob, offset): (ArrayView3<f32>, ArrayView3<f32>),
    threshold: f32,
    found: &mut Vec<Candidate<Offset>>,
) {
    let windows = |length: u32| (length - WINDOW_PX) / STEP_PX + 1;
    for row in 0..windows(patch.size.1) {
        for column in 0..windows(patch.size.0) {
            let (y, x) = ((patch.at.1 / STEP_PX + row) as usize, (patch.at.0 / STEP_PX + column) as usize);
            let score = prob[[0, y, x]];
            if score < threshold {
                continue;
            }
            let bbox = window_box(scale, patch.from.0 + column * STEP_PX, patch.from.1 + row * STEP_PX);
            let shift = std::array::from_fn(|edge| offset[[edge, y, x]]);
            found.push(Candidate::new(bbox, score, shift));
        }
    }
}

/// The published box of P-Net's window that begins at (x, y) of the level of `scale`, in whole pixels of the
/// picture.
fn window_box(scale: f64, x: u32, y: u32) -> Rect {
    #[expect(clippy::cast_possible_truncation, reason = "sides are far below 2^24")]
    let edge = |at: u32| (f64::from(at) / scale).floor() as f32;
    Rect::from_corners(edge(x + 1), edge(y + 1), edge(x + WINDOW_PX), edge(y + WINDOW_PX))
}

/// A published box as a rectangle of the picture. The networks were trained with pixels that count from 1,
/// and with boxes whose corners are their first and last pixels.
fn from_published(bbox: &Rect) -> Rect {
    Rect { x: bbox.x - 1.0, y: bbox.y - 1.0, w: bbox.w + 1.0, h: bbox.h + 1.0 }
}

/// The inverse of [`from_published`]. P-Net's offsets and the first two networks' suppression go by the
/// published box, which is a pixel less wide and high.
fn to_published(bbox: &Rect) -> Rect {
    Rect { x: bbox.x + 1.0, y: bbox.y + 1.0, w: bbox.w - 1.0, h: bbox.h - 1.0 }
}

/// Leaves the [`MAX_CANDIDATES`] highest scores.
fn keep_strongest(candidates: &mut Vec<Candidate<Offset>>) {
    if candidates.len() > MAX_CANDIDATES {
        strongest_first(candidates);
        candidates.truncate(MAX_CANDIDATES);
    }
}

/// Runs a network on the pixels of each window that has some.
fn look<'a>(
    network: &mut Model,
    (means, inputs): (&mut CellMeans, &mut Inputs),
    picture: &RgbImage,
    windows: impl Iterator<Item = &'a Rect>,
    size_px: u32,
    mut each: impl FnMut(&Rect, &[Vec<f32>]),
) -> Result<(), EngineError> {
    let (size, stride) = ((size_px, size_px), size_px as usize);
    let part = Part { grid: size, from: (0, 0), size, at: 0, stride };
    let mut visible = windows.filter_map(|w| Some((w, pixels_of(w, picture.dimensions())?)));
    loop {
        let some: FixedVec<(&Rect, Window), WINDOWS_AT_ONCE> =
            visible.by_ref().take(WINDOWS_AT_ONCE).collect();
        if some.is_empty() {
            return Ok(());
        }
        for ((_, window), input) in some.iter().zip(inputs.planes(some.len(), stride)) {
            means.write(picture, window, &part, input);
        }
        let pictures: FixedVec<Picture, WINDOWS_AT_ONCE> = inputs.pictures().collect();
        network.run_each(&pictures, |idx, outputs| each(some[idx].0, outputs))?;
    }
}

/// The whole pixels of a window, within a picture of `width` x `height` unless too much of it lies outside;
/// `None` when it shows no pixel of the picture.
fn pixels_of(window: &Rect, (width, height): (u32, u32)) -> Option<Window> {
    #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
    let largest = LARGEST_WINDOW * width.max(height) as f32;
    if !window.is_finite() || window.w > largest || window.h > largest {
        return None;
    }
    // Published corners are cut to whole pixels towards 0. The cast saturates, and what is far off is not shown.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let edge = |at: f32| at.trunc().clamp(-1e8, 1e8) as i32;
    let all = Window {
        left: edge(window.x + 1.0) - 1,
        top: edge(window.y + 1.0) - 1,
        right: edge(window.right()),
        bottom: edge(window.bottom()),
    };
    let inside = Window {
        left: all.left.max(0),
        top: all.top.max(0),
        right: all.right.min(width.cast_signed()),
        bottom: all.bottom.min(height.cast_signed()),
    };
    if inside.left >= inside.right || inside.top >= inside.bottom {
        return None;
    }
    let area = |w: &Window| f64::from(w.width()) * f64::from(w.height());
    let is_clipped = area(&inside) >= (1.0 - f64::from(MOST_CLIPPED)) * area(&all);
    Some(if is_clipped { inside } else { all })
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
    fn the_pyramid_reaches_from_the_smallest_face_to_the_shorter_side() {
        let settings = Settings { min_face_px: 40.0, ..Settings::default() };
        let levels = pyramid((1920, 1080), &settings);
        assert!((levels[0].scale - 0.3).abs() < 1e-6, "{:?}", levels[0]);
        let largest = 12.0 / levels[levels.len() - 1].scale;
        assert!((1080.0 * 0.709..=1080.0).contains(&largest), "{largest}");
        for level in &levels {
            let (width, height) = level.even_size();
            assert!(width % 2 == 0 && height % 2 == 0, "{level:?}");
            assert!(width >= WINDOW_PX && height >= WINDOW_PX, "{level:?}");
        }
    }

    #[test]
    fn windows_are_cut_to_whole_pixels_and_clipped_only_a_little() {
        let window = |x0, y0, x1, y1| pixels_of(&Rect::from_corners(x0, y0, x1, y1), (100, 80));
        let pixels = |left, top, right, bottom| Some(Window { left, top, right, bottom });
        assert_eq!(window(10.7, 20.2, 30.9, 40.0), pixels(10, 20, 30, 40));
        assert_eq!(window(-2.5, 0.0, 47.5, 50.0), pixels(0, 0, 47, 50));
        assert_eq!(window(-10.0, 0.0, 40.0, 50.0), pixels(-10, 0, 40, 50));
        assert_eq!(window(100.0, 0.0, 150.0, 50.0), None);
        assert_eq!(window(10.0, 10.0, 10.5, 50.0), None);
        assert_eq!(window(-200.0, -200.0, 200.0, 200.0), None);
        assert_eq!(window(f32::NAN, 0.0, 40.0, 50.0), None);
    }

    #[test]
    fn published_boxes_and_back() {
        let bbox = Rect::from_corners(10.0, 20.0, 31.0, 44.0);
        assert_eq!(from_published(&to_published(&bbox)), bbox);
        assert_eq!(window_box(0.3, 0, 2), Rect::from_corners(3.0, 10.0, 40.0, 46.0));
    }

    #[test]
    fn tiny_pictures_have_no_level() {
        assert_eq!(pyramid((10, 10), &Settings::default()), []);
        assert_eq!(pyramid((0, 0), &Settings::default()), []);
    }
}
