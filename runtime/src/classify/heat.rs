//! Where a crop looks fake: what each place adds to its score.
//!
//! Behind its last map of features a network takes the mean over the map and goes on with dense layers. Near that mean
//! these are linear, so the logits are sums over the map's cells, and each cell's share says where they come from: class
//! activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016), carried through the
//! hidden layers by their slope, which for such a network is what Grad-CAM computes (Selvaraju et al., 2017). It takes
//! no pass backwards through the network, and the map comes from the bytes that scores come from.

use image::RgbImage;

use super::checked_size;
use crate::bundle::{Bundle, Calibration, Input};
use crate::engine::{Engine, EngineError, Head, Model, Normalisation, Picture};
use crate::geom::Rect;
use crate::resample::Resampler;

/// The crop is seen moved by so many half cells, each way.
const SHIFTS: [i8; 3] = [-1, 0, 1];
/// Of a point and its neighbours in a line, how much counts: the binomial weights.
const SMOOTHING: [f64; 3] = [0.25, 0.5, 0.25];

/// What each place of a crop adds to its score.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Points of a line and of a column. Point i stands at i / (n_points - 1) of the crop's side.
    pub n_points: usize,
    /// Row by row: the calibrated log odds of "fake" if the whole crop looked like this place. Above 0 it speaks for
    /// fake, below 0 for real; about the mean over the crop is what the crop's own score says.
    pub log_odds: Vec<f32>,
}

impl HeatMap {
    /// The largest value and where it stands: x, y from 0 to 1 of the crop's side. The first of equal ones.
    pub fn peak(&self) -> (f32, [f32; 2]) {
        let mut peak = (0, f32::NEG_INFINITY);
        for (idx, &value) in self.log_odds.iter().enumerate() {
            if value > peak.1 {
                peak = (idx, value);
            }
        }
        (peak.1, [self.part(peak.0 % self.n_points), self.part(peak.0 / self.n_points)])
    }

    #[expect(clippy::cast_precision_loss, reason = "a few dozen points")]
    fn part(&self, idx: usize) -> f32 {
        idx as f32 / (self.n_points - 1).max(1) as f32
    }

    /// The value at x, y from 0 to 1 of the crop's side, by bilinear interpolation.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let last = self.n_points - 1;
        #[expect(clippy::cast_precision_loss, reason = "a few dozen points")]
        let [x, y] = [x, y].map(|v| v.clamp(0.0, 1.0) * last as f32);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=last")]
        let (left, top) = (x as usize, y as usize);
        #[expect(clippy::cast_precision_loss, reason = "a few dozen points")]
        let (right_part, lower_part) = (x - left as f32, y - top as f32);
        let value = |x: usize, y: usize| self.log_odds[y.min(last) * self.n_points + x.min(last)];
        let line = |y: usize| value(left, y) + (value(left + 1, y) - value(left, y)) * right_part;
        line(top) + (line(top + 1) - line(top)) * lower_part
    }
}

/// A bundle's classifier, loaded so that it can be asked where a crop looks fake; clones share the weights.
#[derive(Clone)]
pub struct Explainer {
    /// Crop -> map of features.
    features: Model,
    head: Head,
    size_px: u32,
    score: Calibration,
    resampler: Resampler,
}

impl Explainer {
    /// Loads the network `onnx`, called `name`, whose crops are fed as `input` says and whose logits, real then fake,
    /// are read by `score`.
    ///
    /// # Errors
    /// [`EngineError`] when the network can't be loaded, or isn't of the form that [`Engine::load_split`] takes.
    pub fn new(
        engine: &Engine,
        name: &str,
        input: &Input,
        score: &Calibration,
        onnx: &[u8],
    ) -> Result<Self, EngineError> {
        let side = input.size_px as usize;
        let (features, head) = engine.load_split(name, onnx, &[1, 3, side, side])?;
        let [1, n_channels, height, width] = features.output_shapes()[0][..] else {
            return Err(EngineError::Shape {
                network: name.to_owned(),
                tensor: "map of features".to_owned(),
                expected: vec![1, head.n_channels(), 0, 0],
                found: features.output_shapes()[0].clone(),
            });
        };
        if height != width || head.n_logits() != 2 {
            return Err(EngineError::Shape {
                network: name.to_owned(),
                tensor: "map of features, and logits".to_owned(),
                expected: vec![n_channels, height, height, 2],
                found: vec![n_channels, height, width, head.n_logits()],
            });
        }
        let normalisation = Normalisation { mean: input.mean, std: input.std };
        let features = features.with_pixels(normalisation)?;
        let (size_px, score) = (input.size_px, score.clone());
        Ok(Explainer { features, head, size_px, score, resampler: Resampler::default() })
    }

    /// Loads the classifier of `bundle`.
    ///
    /// # Errors
    /// As [`Explainer::new`].
    pub fn of(engine: &Engine, bundle: &Bundle) -> Result<Self, EngineError> {
        let manifest = bundle.manifest();
        Self::new(engine, &manifest.id, &manifest.input, &manifest.score, bundle.model())
    }

    /// Where `crop`, of the bundle's input size, looks fake. The network runs nine times: on the crop moved by half a
    /// cell of its map each way, which doubles the map's resolution. Same bytes with any kernels and any threads.
    ///
    /// # Errors
    /// [`EngineError`] when the crop has another size or the network fails.
    pub fn heat_map(&mut self, crop: &RgbImage) -> Result<HeatMap, EngineError> {
        checked_size(crop, self.size_px, self.features.name())?;
        let n_cells = self.features.output_shapes()[0][2];
        #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
        let (side, half_cell) = (self.size_px as f32, (self.size_px as f32 / n_cells as f32 / 2.0).round());
        let shifts: Vec<(i8, i8)> = SHIFTS.iter().flat_map(|&y| SHIFTS.map(|x| (y, x))).collect();
        let moved: Vec<RgbImage> = shifts
            .iter()
            .map(|&(y, x)| {
                let area =
                    Rect { x: f32::from(x) * half_cell, y: f32::from(y) * half_cell, w: side, h: side };
                self.resampler.area(crop, &area, self.size_px)
            })
            .collect();
        let pictures: Vec<Picture> = moved.iter().map(|picture| Picture::Pixels(picture.as_raw())).collect();
        let n_points = 2 * n_cells + 1;
        let (mut sums, mut counts) = (vec![0.0; n_points * n_points], vec![0u8; n_points * n_points]);
        let (head, score) = (&self.head, &self.score);
        self.features.run_each(&pictures, |idx, outputs| {
            // Cell i of a crop that isn't moved has its middle at point 2 i + 1.
            let place = |cell: usize, shift: i8| (2 * cell + 1).saturating_add_signed(isize::from(shift));
            let (shift_y, shift_x) = shifts[idx];
            for (cell, value) in cells(&outputs[0], head, score).into_iter().enumerate() {
                let at = place(cell / n_cells, shift_y) * n_points + place(cell % n_cells, shift_x);
                sums[at] += value;
                counts[at] += 1;
            }
        })?;
        sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum /= f64::from(n));
        #[expect(clippy::cast_possible_truncation, reason = "log odds are f32")]
        let log_odds = smoothed(&sums, n_points).into_iter().map(|v| v as f32).collect();
        Ok(HeatMap { n_points, log_odds })
    }
}

/// The log odds that each cell of a map, [channels][cells], speaks for; their mean is the log odds of the map's mean.
fn cells(map: &[f32], head: &Head, score: &Calibration) -> Vec<f64> {
    let n_cells = map.len() / head.n_channels();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred cells")]
    let n = n_cells as f64;
    let mean = |channel: &[f32]| channel.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let means: Vec<f64> = map.chunks_exact(n_cells).map(mean).collect();
    let slope = head.difference(&means, 1, 0);
    let mut cells = vec![slope.constant; n_cells];
    for (channel, weight) in map.chunks_exact(n_cells).zip(&slope.weights) {
        cells.iter_mut().zip(channel).for_each(|(sum, &v)| *sum += weight * f64::from(v));
    }
    let (temperature, bias) = (f64::from(score.temperature), f64::from(score.bias));
    cells.iter_mut().for_each(|v| *v = *v / temperature + bias);
    cells
}

/// Each point with its neighbours by [`SMOOTHING`] in both directions; points beyond the edge are as those on it.
fn smoothed(values: &[f64], n: usize) -> Vec<f64> {
    let pass = |values: &[f64], step: usize, place: fn(usize, usize) -> usize| -> Vec<f64> {
        let one = |at: usize| {
            let i = place(at, n);
            let before = if i > 0 { at - step } else { at };
            let after = if i + 1 < n { at + step } else { at };
            SMOOTHING[0] * values[before] + SMOOTHING[1] * values[at] + SMOOTHING[2] * values[after]
        };
        (0..values.len()).map(one).collect()
    };
    pass(&pass(values, 1, |at, n| at % n), n, |at, n| at / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_of_known_values() {
        let point = [0.0, 0.0, 0.0, 0.0, 16.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(smoothed(&point, 3), [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0]);
        let corner = [16.0, 0.0, 0.0, 0.0];
        assert_eq!(smoothed(&corner, 2), [9.0, 3.0, 3.0, 1.0]);
    }

    #[test]
    fn a_map_is_read_between_its_points() {
        let map = HeatMap { n_points: 2, log_odds: vec![0.0, 1.0, 2.0, 7.0] };
        assert_eq!(map.at(0.0, 0.0), 0.0);
        assert_eq!(map.at(1.0, 1.0), 7.0);
        assert_eq!(map.at(0.5, 0.0), 0.5);
        assert_eq!(map.at(0.5, 0.5), 2.5);
        assert_eq!(map.at(9.0, -9.0), 1.0);
        assert_eq!(map.peak(), (7.0, [1.0, 1.0]));
    }
}
