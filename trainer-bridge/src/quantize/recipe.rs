//! All methods one after the other; after each stage the state can be kept, and gone on from.

use std::collections::HashMap;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::equalize::{Equalized, equalize};
use super::float::{Float, Parameters};
use super::int8::{Int8, Layer};
use super::numbers::{Integers, Step, WeightRange};
use super::ranges::{self, Method};
use super::refine::{self, refine};
use super::sqnr::{self, Row};
use super::{adaround, qat, rounded};

/// Which methods, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How tensors' ranges are chosen.
    pub ranges: Method,
    /// How weights' scales are chosen.
    pub weights: WeightRange,
    /// Cross-layer equalization.
    pub equalize: bool,
    /// Correction of each channel's mean.
    pub bias_correction: bool,
    /// Steps of AdaRound for each layer; 0 rounds to the nearest.
    pub adaround_steps: u32,
    /// Output pixels that AdaRound samples of each layer, at least one of each crop.
    pub adaround_pixels: usize,
    /// Batches of quantization-aware training; 0 for none.
    pub qat_steps: usize,
    /// Learning rate of it.
    pub qat_learning_rate: f64,
    /// Share of the labels in its loss.
    pub qat_labels: f64,
    /// A layer whose own ratio is below this stays in float, dB.
    pub float_below_db: f64,
    /// At most so many do.
    pub most_float_layers: usize,
    /// Of all that is random.
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            ranges: Method::Mse,
            weights: WeightRange::Mse,
            equalize: false,
            bias_correction: true,
            adaround_steps: 500,
            adaround_pixels: 2048,
            qat_steps: 0,
            qat_learning_rate: 1e-5,
            qat_labels: 0.0,
            float_below_db: 8.0,
            most_float_layers: 4,
            seed: 0,
        }
    }
}

/// Normalised crops for each use.
#[derive(Debug)]
pub struct Crops {
    /// Ranges and factors come from all of them.
    pub calibration: Vec<Tensor>,
    /// Layers are refined on so many of the first batches of them, which are held in memory with all they become.
    pub n_refining: usize,
    /// With their classes, for training.
    pub training: Vec<(Tensor, Tensor)>,
    /// Validation's: they decide which layers stay in float and whether training is kept; nothing else rests on them.
    pub checks: Vec<Tensor>,
}

/// How far quantizing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing is done.
    Start,
    /// Channels are equalized.
    Equalized,
    /// Every number is rounded to the nearest.
    Rounded,
    /// Layers are refined one after the other.
    Refined,
    /// The network has been trained.
    Trained,
    /// Layers that need it are in float again.
    Widened,
}

/// A network on its way.
#[derive(Debug)]
pub struct State {
    /// How far it is.
    pub stage: Stage,
    /// The float network, equalized or not.
    pub float: Float,
    /// The int8 network, from [`Stage::Rounded`] on.
    pub int8: Option<Int8>,
}

/// What is told on the way.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins that has so many parts.
    Begins(Stage, usize),
    /// One part is done.
    Part,
    /// Equalizing has done something.
    Equalized(Equalized),
    /// A batch of training had this loss.
    Loss(f64),
    /// Training has ended.
    Trained(qat::Trained),
    /// A stage has ended: now its state can be kept.
    Ended(&'a State),
}

/// Takes a network, whose input has the step `input`, through the stages that it hasn't been through, and measures it.
///
/// # Errors
/// What `tell` gives.
pub fn run<E>(
    recipe: &Recipe,
    input: Step,
    crops: &Crops,
    mut state: State,
    mut tell: impl FnMut(Event<'_>) -> Result<(), E>,
) -> Result<(State, Vec<Row>), E> {
    let seed = i64::from_ne_bytes(recipe.seed.to_ne_bytes());
    let end = |state: &mut State, stage: Stage, tell: &mut dyn FnMut(Event<'_>) -> Result<(), E>| {
        state.stage = stage;
        tell(Event::Ended(state))
    };
    if state.stage < Stage::Equalized {
        if recipe.equalize {
            tell(Event::Begins(Stage::Equalized, 1))?;
            let done = equalize(&mut state.float, &crops.calibration);
            tell(Event::Equalized(done))?;
        }
        end(&mut state, Stage::Equalized, &mut tell)?;
    }
    if state.stage < Stage::Rounded {
        tell(Event::Begins(Stage::Rounded, crops.calibration.len()))?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let values = ranges::observe(&state.float, &crops.calibration, &mut rng, || {
            let _ = tell(Event::Part);
        });
        let steps = ranges::steps(&state.float, &values, recipe.ranges, input);
        state.int8 = Some(rounded(&state.float, steps, recipe.weights));
        end(&mut state, Stage::Rounded, &mut tell)?;
    }
    let mut int8 = state.int8.take().unwrap_or_else(|| unreachable!("rounded networks have integers"));
    if state.stage < Stage::Refined {
        if recipe.bias_correction || recipe.adaround_steps > 0 {
            tell(Event::Begins(Stage::Refined, state.float.plan.nodes.len()))?;
            tch::manual_seed(seed);
            let adaround =
                adaround::Settings { n_steps: recipe.adaround_steps, n_pixels: recipe.adaround_pixels };
            let settings = refine::Settings {
                weights: recipe.weights,
                adaround: (recipe.adaround_steps > 0).then_some(adaround),
                bias_correction: recipe.bias_correction,
            };
            let batches = &crops.calibration[..crops.n_refining.min(crops.calibration.len())];
            refine(&state.float, &mut int8, batches, settings, || {
                let _ = tell(Event::Part);
            });
        }
        state.int8 = Some(int8);
        end(&mut state, Stage::Refined, &mut tell)?;
        int8 = state.int8.take().unwrap_or_else(|| unreachable!("it was just put there"));
    }
    if state.stage < Stage::Trained {
        if recipe.qat_steps > 0 {
            tell(Event::Begins(Stage::Trained, recipe.qat_steps))?;
            let settings = qat::Settings {
                n_steps: recipe.qat_steps,
                learning_rate: recipe.qat_learning_rate,
                labels: recipe.qat_labels,
                seed: recipe.seed,
            };
            let trained =
                qat::train(&state.float, &mut int8, &crops.training, &crops.checks, settings, |loss| {
                    let _ = tell(Event::Loss(loss));
                });
            tell(Event::Trained(trained))?;
        }
        state.int8 = Some(int8);
        end(&mut state, Stage::Trained, &mut tell)?;
        int8 = state.int8.take().unwrap_or_else(|| unreachable!("it was just put there"));
    }
    tell(Event::Begins(Stage::Widened, crops.checks.len()))?;
    let mut rows = sqnr::measure(&state.float, &int8, &crops.checks, || {
        let _ = tell(Event::Part);
    });
    if state.stage < Stage::Widened {
        let limits = (recipe.float_below_db, recipe.most_float_layers);
        rows = sqnr::widen(&state.float, &mut int8, &crops.checks, rows, limits);
        state.int8 = Some(int8);
        end(&mut state, Stage::Widened, &mut tell)?;
    } else {
        state.int8 = Some(int8);
    }
    Ok((state, rows))
}

impl State {
    /// A float network that nothing has been done to.
    pub fn start(float: Float) -> Self {
        State { stage: Stage::Start, float, int8: None }
    }

    /// Every number by name, for a file.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut named = Vec::new();
        let mut add = |name: String, tensor: &Tensor| named.push((name, tensor.detach().contiguous()));
        for (idx, parameters) in self.float.parameters.iter().enumerate() {
            if let Some(Parameters { weight, bias }) = parameters {
                add(format!("float.{idx}.weight"), weight);
                add(format!("float.{idx}.bias"), bias);
            }
        }
        let Some(int8) = &self.int8 else { return named };
        for (idx, layer) in int8.layers.iter().enumerate() {
            match layer {
                None => {}
                Some(Layer::Int8(Integers { weight, scale, bias })) => {
                    add(format!("int8.{idx}.weight"), weight);
                    add(format!("int8.{idx}.scale"), scale);
                    add(format!("int8.{idx}.bias"), bias);
                }
                Some(Layer::Float { weight, bias }) => {
                    add(format!("wide.{idx}.weight"), weight);
                    add(format!("wide.{idx}.bias"), bias);
                }
            }
        }
        named
    }

    /// The state of which `tensors` and `steps` were kept at `stage`, over the nodes of `float`; `None` where something is
    /// missing.
    pub fn restored(
        float: &Float,
        stage: Stage,
        mut tensors: HashMap<String, Tensor>,
        steps: Option<Vec<Step>>,
    ) -> Option<Self> {
        let plan = float.plan.clone();
        let mut take = |kind: &str, idx: usize, what: &str| tensors.remove(&format!("{kind}.{idx}.{what}"));
        let mut parameters = Vec::new();
        let mut layers = Vec::new();
        for (idx, node) in plan.nodes.iter().enumerate() {
            if !node.is_product() {
                parameters.push(None);
                layers.push(None);
                continue;
            }
            parameters.push(Some(Parameters {
                weight: take("float", idx, "weight")?,
                bias: take("float", idx, "bias")?,
            }));
            if steps.is_none() {
                continue;
            }
            layers.push(Some(match take("int8", idx, "weight") {
                Some(weight) => {
                    let (scale, bias) = (take("int8", idx, "scale")?, take("int8", idx, "bias")?);
                    Layer::Int8(Integers { weight, scale, bias })
                }
                None => {
                    Layer::Float { weight: take("wide", idx, "weight")?, bias: take("wide", idx, "bias")? }
                }
            }));
        }
        let int8 = match steps {
            Some(steps) if steps.len() == plan.nodes.len() => {
                Some(Int8 { plan: plan.clone(), steps, layers })
            }
            Some(_) => return None,
            None => None,
        };
        Some(State { stage, float: Float { plan, parameters }, int8 })
    }
}
