//! Does the picture change as a whole from one frame to the next?

use crate::frame::{Frame, PixelFormat};

const COLUMNS: usize = 32;
const ROWS: usize = 18;
/// Samples per cell along each side.
const SAMPLES: usize = 2;
/// Difference of two thumbnails, relative to their contrast, above which there is a cut. Unrelated
/// pictures lie around 1.3, frames of one take a fifth of a second apart mostly below 0.3.
const CUT_DIFFERENCE: f32 = 0.6;
/// Contrast below which a picture counts as blank, in code values: its noise means nothing.
const BLANK_CONTRAST: f32 = 3.0;

/// Luma less its mean, so that a lamp or the camera's exposure is no cut.
type Thumbnail = [f32; COLUMNS * ROWS];

/// Finds the cuts of a film and the changes of a call's layout, by comparing each frame with the last.
///
/// It reads some two thousand samples of luma, so it can look at every frame, also at those that no
/// detector sees.
#[derive(Clone, Debug, Default)]
pub struct CutDetector {
    last: Option<Box<Thumbnail>>,
}

impl CutDetector {
    /// A detector that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when `frame` shows something else than the frame before it; false for the first one.
    ///
    /// A dissolve or a small tile that changes is none.
    pub fn is_cut(&mut self, frame: &Frame) -> bool {
        let now = thumbnail(frame);
        let Some(last) = &mut self.last else {
            self.last = Some(Box::new(now));
            return false;
        };
        let is_cut = difference(last, &now) > CUT_DIFFERENCE;
        **last = now;
        is_cut
    }
}

/// Mean difference over mean contrast.
fn difference(a: &Thumbnail, b: &Thumbnail) -> f32 {
    let contrast: f32 = a.iter().chain(b).map(|v| v.abs()).sum::<f32>() / 2.0;
    let change: f32 = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
    change / contrast.max(BLANK_CONTRAST * (COLUMNS * ROWS) as f32)
}

fn thumbnail(frame: &Frame) -> Thumbnail {
    let mut cells: Thumbnail = std::array::from_fn(|cell| {
        let (row, column) = (cell / COLUMNS, cell % COLUMNS);
        let mut sum = 0;
        for j in 0..SAMPLES {
            for i in 0..SAMPLES {
                sum += u32::from(sample(frame, column * SAMPLES + i, row * SAMPLES + j));
            }
        }
        sum as f32 / (SAMPLES * SAMPLES) as f32
    });
    let mean = cells.iter().sum::<f32>() / cells.len() as f32;
    cells.iter_mut().for_each(|cell| *cell -= mean);
    cells
}

/// Luma, or green, of the stored picture at a place of the sampling grid; 0 where the plane lacks it.
fn sample(frame: &Frame, column: usize, row: usize) -> u8 {
    let n_pixels = |px: u32| usize::try_from(px).unwrap_or(0);
    let x = (2 * column + 1) * n_pixels(frame.width_px) / (2 * COLUMNS * SAMPLES);
    let y = (2 * row + 1) * n_pixels(frame.height_px) / (2 * ROWS * SAMPLES);
    let Some(plane) = frame.planes.first() else { return 0 };
    let offset = match frame.format {
        PixelFormat::Rgb24 => 3 * x + 1,
        PixelFormat::I420 | PixelFormat::I422 | PixelFormat::I444 | PixelFormat::Gray => x,
    };
    plane.samples.get(y * plane.stride_bytes + offset).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ColorMatrix, ColorRange, Plane, Rotation};

    const WIDTH: usize = 160;
    const HEIGHT: usize = 90;

    fn frame(format: PixelFormat, n_channels: usize, luma: impl Fn(usize, usize) -> u8) -> Frame {
        let stride_bytes = WIDTH * n_channels + 7;
        let mut samples = vec![0; stride_bytes * HEIGHT];
        for y in 0..HEIGHT {
            for x in 0..WIDTH * n_channels {
                samples[y * stride_bytes + x] = luma(x / n_channels, y);
            }
        }
        Frame {
            width_px: u32::try_from(WIDTH).unwrap(),
            height_px: u32::try_from(HEIGHT).unwrap(),
            format,
            planes: vec![Plane { samples, stride_bytes }],
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            rotation: Rotation::None,
            pts_ns: 0,
            frame_idx: 0,
        }
    }

    fn gray(luma: impl Fn(usize, usize) -> u8) -> Frame {
        frame(PixelFormat::Gray, 1, luma)
    }

    fn blobs(x: usize, y: usize) -> u8 {
        u8::try_from(40 + (x / 20 * 53 + y / 15 * 91) % 160).unwrap()
    }

    #[test]
    fn other_pictures_are_cuts_and_the_same_one_is_none() {
        let mut cuts = CutDetector::new();
        let shots = [
            gray(blobs),
            gray(blobs),
            gray(|x, y| blobs(y, x)),
            gray(|x, y| blobs(y, x) + 30),
            gray(|x, y| blobs(y + 1, x + 1) + 30),
            gray(|x, y| blobs(x + 60, y + 40)),
        ];
        let found = shots.each_ref().map(|frame| cuts.is_cut(frame));
        assert_eq!(found, [false, false, true, false, false, true]);
    }

    #[test]
    fn layouts_of_a_call_are_cuts() {
        let tile = |k: usize, x: usize, y: usize| blobs(x + k * 37, y + k * 53);
        let grid = gray(|x, y| tile(x / 80 + y / 45 * 2, x % 80 * 2, y % 45 * 2));
        let speaker = gray(|x, y| if x < 120 { tile(2, x, y) } else { tile(y / 23, x, y) });
        let mut cuts = CutDetector::new();
        assert!(!cuts.is_cut(&grid) && cuts.is_cut(&speaker) && cuts.is_cut(&grid));
    }

    #[test]
    fn rgb_is_read_and_noise_on_black_is_no_cut() {
        let mut cuts = CutDetector::new();
        assert!(!cuts.is_cut(&frame(PixelFormat::Rgb24, 3, blobs)));
        assert!(!cuts.is_cut(&gray(blobs)));
        let noise = |seed: usize| gray(move |x, y| u8::try_from((x * 7 + y * 13 + seed) % 3).unwrap());
        assert!(cuts.is_cut(&noise(0)));
        assert!(!cuts.is_cut(&noise(1)));
    }

    #[test]
    fn planes_that_lack_samples_do_no_harm() {
        let mut broken = gray(blobs);
        broken.planes[0].samples.truncate(100);
        assert!(!CutDetector::new().is_cut(&broken));
        broken.planes.clear();
        assert!(!CutDetector::new().is_cut(&broken));
    }
}
