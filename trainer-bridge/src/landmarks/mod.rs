//! 68 landmarks of a face, from a crop with candor's margin.

mod sidecar;

pub use self::sidecar::{FILE, LandmarkError, of_dataset};

use candor::engine::{Engine, EngineError, Model, Normalisation, Picture};
use candor::geom::Rect;
use candor::resample::Resampler;
use image::RgbImage;

/// Points of a face.
pub const N_LANDMARKS: usize = 68;

/// x, y in px of the crop, pixel (0, 0) covering 0..1; iBUG order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47,
/// mouth 48-67.
pub type Landmarks = [[f32; 2]; N_LANDMARKS];

const ONNX: &[u8] = include_bytes!("../../../models/landmarks/landmarks.onnx");
const SIDE_PX: u32 = 112;
const NORMALISATION: Normalisation =
    Normalisation { mean: [122.782, 117.001, 104.298], std: [255.0, 255.0, 255.0] };
/// The square in the middle of a crop that the network sees, as a part of the crop's side. The network expects the face
/// to fill the picture; of a crop with 30 % margin this part gives landmarks that agree best with the detector's own
/// five and move least when the crop is moved (`examples/landmark_area.rs` measures both).
const SEEN: f32 = 0.8;

/// Finds landmarks. Clones share the weights.
#[derive(Clone)]
pub struct Landmarker {
    model: Model,
    resampler: Resampler,
}

impl Landmarker {
    /// Loads the built-in network.
    ///
    /// # Errors
    /// [`EngineError`] when the engine refuses it.
    pub fn new(engine: &Engine) -> Result<Self, EngineError> {
        let model = engine.load_as_declared("landmarks", ONNX)?.with_pixels(NORMALISATION)?;
        model.expect_outputs(&[&[1, 2 * N_LANDMARKS]])?;
        Ok(Landmarker { model, resampler: Resampler::default() })
    }

    /// The landmarks of the face in `crop`, a square that candor's cropper cut with 30 % margin. There is no test of
    /// whether it holds a face.
    ///
    /// # Errors
    /// [`EngineError`] when the network can't be run.
    pub fn find(&mut self, crop: &RgbImage) -> Result<Landmarks, EngineError> {
        self.find_in(crop, SEEN)
    }

    /// As [`Landmarker::find`], with the network seeing the middle `seen` of the crop's side.
    ///
    /// # Errors
    /// [`EngineError`] when the network can't be run.
    pub fn find_in(&mut self, crop: &RgbImage, seen: f32) -> Result<Landmarks, EngineError> {
        let (width, height) = (crop.width() as f32, crop.height() as f32);
        let side = width.max(height) * seen;
        let area = Rect { x: (width - side) / 2.0, y: (height - side) / 2.0, w: side, h: side };
        let face = self.resampler.area(crop, &area, SIDE_PX);
        let mut landmarks = [[0.0; 2]; N_LANDMARKS];
        self.model.run_each(&[Picture::Pixels(face.as_raw())], |_, outputs| {
            for (point, at) in landmarks.iter_mut().zip(outputs[0].chunks_exact(2)) {
                *point = [area.x + at[0] * side, area.y + at[1] * side];
            }
        })?;
        Ok(landmarks)
    }
}
