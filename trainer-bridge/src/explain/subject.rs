//! A network that is asked where crops look fake, by candor's own code.

use std::fs;
use std::path::{Path, PathBuf};

use candor::bundle::{Bundle, BundleError, Calibration, Input};
use candor::classify::{Explainer, HeatMap, calibrated};
use candor::engine::{Engine, EngineError, Model, Normalisation, Picture};
use candor::resample::Resampler;
use image::RgbImage;
use prost::Message as _;

use crate::export::onnx;
use crate::model::fitted;

/// Why a network can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The file can't be read.
    #[error("{path}: reading: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// It isn't what this program writes.
    #[error(
        "{path}: expected an ONNX file with `input` in its metadata, as `export` and `quantize` write: {cause}"
    )]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The folder is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// candor doesn't run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A classifier with its heat maps.
pub struct Subject {
    model: Model,
    explainer: Explainer,
    score: Calibration,
    size_px: u32,
    resampler: Resampler,
}

impl Subject {
    /// Loads an ONNX file of `export` or `quantize`, read with temperature 1 and no bias; or a bundle's folder.
    ///
    /// # Errors
    /// [`SubjectError`].
    pub fn open(path: &Path, engine: &Engine) -> Result<Self, SubjectError> {
        if path.is_dir() {
            let bundle = Bundle::open(path)?;
            let manifest = bundle.manifest();
            return Self::load(engine, &manifest.id, &manifest.input, &manifest.score, bundle.model());
        }
        let bytes = fs::read(path).map_err(|cause| SubjectError::Io { path: path.to_owned(), cause })?;
        let fails = |cause: String| SubjectError::Metadata { path: path.to_owned(), cause };
        let file = onnx::Model::decode(&bytes[..]).map_err(|error| fails(error.to_string()))?;
        let property = file.metadata_props.iter().find(|property| property.key == "input");
        let json = property.ok_or_else(|| fails("found none".to_owned()))?;
        let input: Input = serde_json::from_str(&json.value).map_err(|error| fails(error.to_string()))?;
        let score = Calibration { temperature: 1.0, bias: 0.0 };
        Self::load(engine, &path.display().to_string(), &input, &score, &bytes)
    }

    fn load(
        engine: &Engine,
        name: &str,
        input: &Input,
        score: &Calibration,
        bytes: &[u8],
    ) -> Result<Self, SubjectError> {
        let side = input.size_px as usize;
        let normalisation = Normalisation { mean: input.mean, std: input.std };
        let model = engine.load(name, bytes, &[1, 3, side, side])?.with_pixels(normalisation)?;
        model.expect_outputs(&[&[1, 2]])?;
        let explainer = Explainer::new(engine, name, input, score, bytes)?;
        let resampler = Resampler::default();
        Ok(Subject { model, explainer, score: score.clone(), size_px: input.size_px, resampler })
    }

    /// A crop's score and its heat map; crops of another size are brought to the network's.
    ///
    /// # Errors
    /// [`SubjectError::Engine`].
    pub fn look(&mut self, crop: &RgbImage) -> Result<(f32, HeatMap), SubjectError> {
        let crop = fitted(crop, self.size_px, &mut self.resampler);
        let mut score = f32::NAN;
        self.model.run_each(&[Picture::Pixels(crop.as_raw())], |_, outputs| {
            score = calibrated([outputs[0][0], outputs[0][1]], &self.score);
        })?;
        Ok((score, self.explainer.heat_map(&crop)?))
    }
}
