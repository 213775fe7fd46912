//! One crop -> its score, and where it comes from.

mod heat;

use heapless::Vec as FixedVec;
use image::RgbImage;

use crate::bundle::{Calibration, Manifest};
use crate::engine::{Engine, EngineError, Model, Normalisation, Picture};

pub use self::heat::{Explainer, HeatMap};

/// Crops that are given to the network at once: enough for any team of threads.
const AT_ONCE: usize = 64;

/// The bundle's network with what belongs to it; clones share the weights.
#[derive(Clone)]
pub struct Classifier {
    model: Model,
    size_px: u32,
    score: Calibration,
}

impl Classifier {
    /// Loads the network `onnx` that `manifest` describes: input 1 x 3 x size x size, output 1 x 2
    /// logits, real then fake.
    ///
    /// # Errors
    /// [`EngineError`] when the network can't be loaded or has another shape.
    pub fn new(engine: &Engine, manifest: &Manifest, onnx: &[u8]) -> Result<Self, EngineError> {
        let side = manifest.input.size_px as usize;
        let model = engine.load(&manifest.id, onnx, &[1, 3, side, side])?;
        model.expect_outputs(&[&[1, 2]])?;
        let normalisation = Normalisation { mean: manifest.input.mean, std: manifest.input.std };
        let model = model.with_pixels(normalisation)?;
        Ok(Classifier { model, size_px: manifest.input.size_px, score: manifest.score.clone() })
    }

    /// Bytes of weights and activations, where the engine knows.
    pub fn memory_bytes(&self) -> Option<usize> {
        self.model.memory_bytes().map(|(activations, weights)| activations + weights)
    }

    /// The logits (real, fake) of crops of the bundle's input size, in their order.
    ///
    /// # Errors
    /// [`EngineError`] when a crop has another size or the network fails.
    pub fn logits(&mut self, crops: &[&RgbImage]) -> Result<Vec<[f32; 2]>, EngineError> {
        let mut found = Vec::with_capacity(crops.len());
        each_logits(&mut self.model, self.size_px, crops, |logits| found.push(logits))?;
        Ok(found)
    }

    /// Gives `each` the calibrated P(fake) of crops of the bundle's input size, 0..=1, in their order; NaN where the network
    /// gives no number.
    ///
    /// # Errors
    /// As [`Classifier::logits`].
    pub fn scores(&mut self, crops: &[&RgbImage], mut each: impl FnMut(f32)) -> Result<(), EngineError> {
        let Classifier { model, size_px, score } = self;
        each_logits(model, *size_px, crops, |logits| each(calibrated(logits, score)))
    }

    /// The calibrated P(fake) of one crop.
    ///
    /// # Errors
    /// As [`Classifier::logits`].
    pub fn score(&mut self, crop: &RgbImage) -> Result<f32, EngineError> {
        let mut score = f32::NAN;
        self.scores(&[crop], |found| score = found)?;
        Ok(score)
    }
}

/// Gives `each` the logits (real, fake) of crops of `side` x `side` pixels, in their order.
fn each_logits(
    model: &mut Model,
    side: u32,
    crops: &[&RgbImage],
    mut each: impl FnMut([f32; 2]),
) -> Result<(), EngineError> {
    for crop in crops {
        checked_size(crop, side, model.name())?;
    }
    for some in crops.chunks(AT_ONCE) {
        let pixels: FixedVec<Picture, AT_ONCE> =
            some.iter().map(|crop| Picture::Pixels(crop.as_raw())).collect();
        model.run_each(&pixels, |_, outputs| each([outputs[0][0], outputs[0][1]]))?;
    }
    Ok(())
}

/// Refuses a crop that isn't `side` x `side`.
fn checked_size(crop: &RgbImage, side: u32, network: &str) -> Result<(), EngineError> {
    if crop.dimensions() == (side, side) {
        return Ok(());
    }
    Err(EngineError::Shape {
        network: network.to_owned(),
        tensor: "crop".into(),
        expected: vec![side as usize, side as usize],
        found: vec![crop.height() as usize, crop.width() as usize],
    })
}

/// The score of one crop's logits, 0..=1; NaN where a logit is none: sigmoid((fake - real) / temperature + bias),
/// Guo et al., "On Calibration of Modern Neural Networks", 2017 (Platt's form for two classes).
pub fn calibrated([real, fake]: [f32; 2], score: &Calibration) -> f32 {
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
