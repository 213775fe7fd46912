//! One crop -> its score.

use image::RgbImage;

use crate::bundle::{Calibration, Input, Manifest};
use crate::engine::{EngineError, Model};

/// The bundle's network with what belongs to it; clones share the weights.
#[derive(Clone)]
pub struct Classifier {
    model: Model,
    input: Input,
    score: Calibration,
    tensor: Vec<f32>,
}

impl Classifier {
    /// Loads the network `onnx` that `manifest` describes: input 1 x 3 x size x size, output 1 x 2
    /// logits, real then fake.
    ///
    /// # Errors
    /// [`EngineError`] when the network can't be loaded or has another shape.
    pub fn new(manifest: &Manifest, onnx: &[u8]) -> Result<Self, EngineError> {
        let side = manifest.input.size_px as usize;
        let model = Model::load(&manifest.id, onnx, &[1, 3, side, side])?;
        model.expect_outputs(&[&[1, 2]])?;
        let tensor = vec![0.0; 3 * side * side];
        Ok(Classifier { model, input: manifest.input.clone(), score: manifest.score.clone(), tensor })
    }

    /// The logits (real, fake) of a crop of the bundle's input size.
    ///
    /// # Errors
    /// [`EngineError`] when the crop has another size or the network fails.
    pub fn logits(&mut self, crop: &RgbImage) -> Result<[f32; 2], EngineError> {
        let side = self.input.size_px;
        if crop.dimensions() != (side, side) {
            return Err(EngineError::Shape {
                network: self.model.name().to_owned(),
                tensor: "crop".into(),
                expected: vec![side as usize, side as usize],
                found: vec![crop.height() as usize, crop.width() as usize],
            });
        }
        let plane = self.tensor.len() / 3;
        for (at, pixel) in crop.pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                let normalised = (f32::from(value) - self.input.mean[channel]) / self.input.std[channel];
                self.tensor[channel * plane + at] = normalised;
            }
        }
        let outputs = self.model.run(&self.tensor)?;
        let logits = outputs[0].as_slice().unwrap_or(&[]);
        Ok([logits[0], logits[1]])
    }

    /// The calibrated P(fake) of a crop, 0..=1; NaN when the network gives no number.
    ///
    /// # Errors
    /// As [`Classifier::logits`].
    pub fn score(&mut self, crop: &RgbImage) -> Result<f32, EngineError> {
        Ok(calibrated(self.logits(crop)?, &self.score))
    }
}

/// sigmoid((fake - real) / temperature + bias), Guo et al., "On Calibration of Modern Neural
/// Networks", 2017 (Platt's form for two classes).
fn calibrated([real, fake]: [f32; 2], score: &Calibration) -> f32 {
    let z = (fake - real) / score.temperature + score.bias;
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_of_known_values() {
        let plain = Calibration { temperature: 1.0, bias: 0.0 };
        assert_eq!(calibrated([0.3, 0.3], &plain), 0.5);
        assert!((calibrated([0.0, 1.0], &plain) - 0.731_058_6).abs() < 1e-6);
        let cool = Calibration { temperature: 2.0, bias: 0.5 };
        assert!((calibrated([1.0, 2.0], &cool) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(calibrated([0.0, 1e9], &plain), 1.0);
        assert_eq!(calibrated([1e9, 0.0], &plain), 0.0);
        assert!(calibrated([f32::NAN, 0.0], &plain).is_nan());
    }
}
