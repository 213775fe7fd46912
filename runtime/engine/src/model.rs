//! A network that runs: its inputs, its outputs and what can be seen of it.

use std::sync::{Arc, Mutex, PoisonError};

use super::program::{Program, Scratch};
use super::run::{self, Input};
use super::team::{self, Team};
use super::{Engine, EngineError, float, steps};

/// How bytes of pixels become a network's input: `(byte - mean) / std`, in units of 0..=255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Of red, green and blue.
    pub mean: [f32; 3],
    /// Of red, green and blue; > 0.
    pub std: [f32; 3],
}

impl Normalisation {
    /// Bytes as they are.
    pub const NONE: Normalisation = Normalisation { mean: [0.0; 3], std: [1.0; 3] };

    fn of(&self, channel: usize, byte: u8) -> f32 {
        (f32::from(byte) - self.mean[channel]) / self.std[channel]
    }
}

/// One picture for a network.
#[derive(Clone, Copy, Debug)]
pub enum Picture<'a> {
    /// The input's values, row-major.
    Floats(&'a [f32]),
    /// u8 RGB, row by row; see [`Model::with_pixels`].
    Pixels(&'a [u8]),
}

impl Picture<'_> {
    fn len(&self) -> usize {
        match self {
            Picture::Floats(values) => values.len(),
            Picture::Pixels(bytes) => bytes.len(),
        }
    }
}

/// One op of a network, in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The name of its ONNX node.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// Whether it computes on bytes; the others are f32.
    pub is_int8: bool,
}

/// What a step of a network made, see [`Model::trace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// What it does.
    pub kind: &'static str,
    /// Whether it is a convolution and nothing more: no table, no sum.
    pub is_plain: bool,
    /// The value of the graph that it made; empty for an output.
    pub tensor: String,
    /// The values that it read.
    pub sources: Vec<String>,
    /// The value's bytes, NCHW.
    pub bytes: Vec<u8>,
}

/// A network with a fixed input shape, ready to run. Clones share the weights; each has its own memory.
#[derive(Clone)]
pub struct Model {
    network: Arc<Network>,
    team: Option<Arc<Team>>,
    /// One for each picture that runs at the same time; the first is there from the start.
    scratches: Vec<Scratch>,
    /// The outputs of the last run, row-major.
    outputs: Vec<Vec<f32>>,
    pixels: Option<PixelInput>,
}

/// A network's input as pixels: a table for each channel.
#[derive(Clone)]
struct PixelInput {
    normalisation: Normalisation,
    tables: Arc<[[u8; 256]; 3]>,
}

/// What clones of a model share.
pub(super) struct Network {
    pub(super) name: String,
    pub(super) input_shape: Vec<usize>,
    pub(super) output_shapes: Vec<Vec<usize>>,
    pub(super) body: Body,
}

/// How a network runs.
pub(super) enum Body {
    /// Bytes from the input to the outputs; which of the region's outputs each output is.
    Region { program: Program, outputs: Vec<usize> },
    /// Regions between ops of tract's.
    #[cfg_attr(not(feature = "float"), expect(dead_code, reason = "made by what runs in float"))]
    Plan { plan: float::Plan, ops: Vec<Op> },
}

impl Model {
    pub(super) fn new(engine: &Engine, network: Network) -> Self {
        let scratches = match &network.body {
            Body::Region { program, .. } => vec![program.scratch()],
            Body::Plan { .. } => Vec::new(),
        };
        let outputs = network.output_shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
        Model { network: Arc::new(network), team: engine.team.clone(), scratches, outputs, pixels: None }
    }

    /// The network's name, for messages.
    pub fn name(&self) -> &str {
        &self.network.name
    }

    /// Shape of the input, NCHW.
    pub fn input_shape(&self) -> &[usize] {
        &self.network.input_shape
    }

    /// Shapes of the outputs, in the file's order.
    pub fn output_shapes(&self) -> &[Vec<usize>] {
        &self.network.output_shapes
    }

    /// Every op of the network.
    pub fn ops(&self) -> Vec<Op> {
        match &self.network.body {
            Body::Region { program, .. } => ops_of(program).collect(),
            Body::Plan { ops, .. } => ops.clone(),
        }
    }

    /// Bytes of activations of a run, and of weights; `None` for a network of which a part runs in float.
    pub fn memory_bytes(&self) -> Option<(usize, usize)> {
        match &self.network.body {
            Body::Region { program, .. } => Some(program.n_bytes()),
            Body::Plan { .. } => None,
        }
    }

    /// Checks that the outputs have the `expected` shapes, in order.
    ///
    /// # Errors
    /// [`EngineError::Shape`] for the first that differs.
    pub fn expect_outputs(&self, expected: &[&[usize]]) -> Result<(), EngineError> {
        let shapes = self.output_shapes();
        if shapes.len() != expected.len() {
            return Err(self.differs("number of outputs", &[expected.len()], &[shapes.len()]));
        }
        for (i, (want, have)) in expected.iter().zip(shapes).enumerate() {
            if want != have {
                return Err(self.differs(&format!("output {i}"), want, have));
            }
        }
        Ok(())
    }

    /// Makes [`Picture::Pixels`] possible: the input is [1, 3, height, width].
    ///
    /// # Errors
    /// [`EngineError::Shape`] when it isn't, [`EngineError::Load`] when it is quantized in more than one way.
    pub fn with_pixels(mut self, normalisation: Normalisation) -> Result<Self, EngineError> {
        let [1, 3, _, _] = self.network.input_shape[..] else {
            return Err(self.differs("input of pixels", &[1, 3], self.input_shape()));
        };
        let mut tables = [[0; 256]; 3];
        if let Body::Region { program, .. } = &self.network.body {
            let (scale, range) = program.input_numbers().ok_or_else(|| EngineError::Load {
                network: self.network.name.clone(),
                step: "input of pixels",
                cause: "it is quantized in more than one way".into(),
            })?;
            for (channel, table) in tables.iter_mut().enumerate() {
                for (byte, q) in (0..=255).zip(table.iter_mut()) {
                    *q = range.round(normalisation.of(channel, byte) / scale);
                }
            }
        }
        self.pixels = Some(PixelInput { normalisation, tables: Arc::new(tables) });
        Ok(self)
    }

    /// Runs the network on one input, row-major f32 of [`Model::input_shape`]; gives the outputs, row-major
    /// of [`Model::output_shapes`].
    ///
    /// # Errors
    /// [`EngineError`] when `input` has the wrong number of values or an op fails.
    pub fn run(&mut self, input: &[f32]) -> Result<&[Vec<f32>], EngineError> {
        self.run_watched(input, &|_| ())
    }

    /// Like [`Model::run`]; `progress` is called after each of [`Model::ops`] of a network of bytes alone,
    /// and must not run a network of the same engine.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_watched(
        &mut self,
        input: &[f32],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<&[Vec<f32>], EngineError> {
        self.run_seen(input, &|seen| progress(seen.idx))
    }

    /// Like [`Model::run`] on the caller's thread, and gives the bytes of every tensor on the way; empty for
    /// a network of which a part runs in float.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn trace(&mut self, input: &[f32]) -> Result<Vec<Traced>, EngineError> {
        let team = self.team.take();
        let bytes = Mutex::new(Vec::new());
        let outcome = self.run_seen(input, &|seen| {
            bytes.lock().unwrap_or_else(PoisonError::into_inner).push(seen.bytes());
        });
        let outcome = outcome.map(|_| ());
        self.team = team;
        outcome?;
        let Body::Region { program, .. } = &self.network.body else { return Ok(Vec::new()) };
        let bytes = bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let name = |tensor: usize| program.tensors[tensor].name.clone();
        let traced = program.steps.iter().zip(bytes).map(|(step, bytes)| Traced {
            kind: step.work.kind(),
            is_plain: step.work.is_plain(),
            tensor: step.target.map_or_else(String::new, name),
            sources: step.sources.iter().map(|&t| name(t)).collect(),
            bytes,
        });
        Ok(traced.collect())
    }

    fn run_seen(&mut self, input: &[f32], progress: run::Progress<'_>) -> Result<&[Vec<f32>], EngineError> {
        if input.len() != self.network.input_shape.iter().product::<usize>() {
            return Err(self.differs("input", self.input_shape(), &[input.len()]));
        }
        let network = Arc::clone(&self.network);
        match &network.body {
            Body::Region { program, outputs } => {
                let n_pictures = network.input_shape[0];
                for picture in 0..n_pictures {
                    let n_values = input.len() / n_pictures;
                    let floats = &input[picture * n_values..][..n_values];
                    let scratch = &mut self.scratches[0];
                    program.run(scratch, Input::Floats(&[floats]), self.team.as_deref(), progress);
                    for (to, &idx) in self.outputs.iter_mut().zip(outputs) {
                        let values = &scratch.outputs[idx];
                        to[picture * values.len()..][..values.len()].copy_from_slice(values);
                    }
                }
            }
            Body::Plan { plan, .. } => float::run(&network, plan, input, &mut self.outputs)?,
        }
        Ok(&self.outputs)
    }

    /// Runs the network on pictures, as many at a time as there are threads; what is left over, and a
    /// single picture, is shared among the threads. A network of which a part runs in float takes them one
    /// by one. `each` gets a picture's number and its outputs, in order. The network's input is one picture.
    ///
    /// # Errors
    /// [`EngineError`] when a picture has the wrong number of values, before any has run, or for the first
    /// that fails.
    pub fn run_each(
        &mut self,
        pictures: &[Picture<'_>],
        mut each: impl FnMut(usize, &[Vec<f32>]),
    ) -> Result<(), EngineError> {
        let n_values = self.network.input_shape.iter().product::<usize>();
        if let Some(wrong) = pictures.iter().find(|p| p.len() != n_values) {
            return Err(self.differs("picture", self.input_shape(), &[wrong.len()]));
        }
        let pixels = self.pixels.clone();
        let needs_pixels = pictures.iter().any(|p| matches!(p, Picture::Pixels(_)));
        if self.network.input_shape[0] != 1 {
            return Err(self.differs("input of pictures", &[1], self.input_shape()));
        }
        if needs_pixels && pixels.is_none() {
            let cause = "expected floats: nothing says how pixels become them".into();
            return Err(EngineError::Run { network: self.network.name.clone(), cause });
        }
        let network = Arc::clone(&self.network);
        let Body::Region { program, outputs } = &network.body else {
            for (idx, picture) in pictures.iter().enumerate() {
                match (picture, &pixels) {
                    (Picture::Pixels(bytes), Some(PixelInput { normalisation, .. })) => {
                        let plane = n_values / 3;
                        let float =
                            |at: usize| normalisation.of(at / plane, bytes[at % plane * 3 + at / plane]);
                        let floats: Vec<f32> = (0..n_values).map(float).collect();
                        each(idx, self.run(&floats)?);
                    }
                    (Picture::Floats(floats), _) => each(idx, self.run(floats)?),
                    (Picture::Pixels(_), None) => {}
                }
            }
            return Ok(());
        };
        let tables = pixels.as_ref().map(|p| &*p.tables);
        let n_members = self.team.as_ref().map_or(1, |team| team.n_members());
        let n_at_once = if pictures.len() >= n_members { n_members } else { 1 };
        while self.scratches.len() < n_at_once {
            self.scratches.push(program.scratch());
        }
        let mut first = 0;
        while first < pictures.len() {
            let n_running = if pictures.len() - first >= n_at_once { n_at_once } else { 1 };
            let running = &pictures[first..first + n_running];
            match &self.team {
                Some(team) if n_running > 1 => {
                    run_side_by_side(program, team, &mut self.scratches, running, tables);
                }
                _ => run_one(program, &mut self.scratches[0], running[0], tables, self.team.as_deref()),
            }
            for (at, scratch) in self.scratches[..n_running].iter().enumerate() {
                for (to, &idx) in self.outputs.iter_mut().zip(outputs) {
                    to.copy_from_slice(&scratch.outputs[idx]);
                }
                each(first + at, &self.outputs);
            }
            first += n_running;
        }
        Ok(())
    }

    fn differs(&self, tensor: &str, expected: &[usize], found: &[usize]) -> EngineError {
        EngineError::Shape {
            network: self.network.name.clone(),
            tensor: tensor.to_owned(),
            expected: expected.to_vec(),
            found: found.to_vec(),
        }
    }
}

/// Runs one picture; one of pixels has tables.
fn run_one(
    program: &Program,
    scratch: &mut Scratch,
    picture: Picture<'_>,
    tables: Option<&[[u8; 256]; 3]>,
    team: Option<&Team>,
) {
    match (picture, tables) {
        (Picture::Floats(floats), _) => program.run(scratch, Input::Floats(&[floats]), team, &|_| ()),
        (Picture::Pixels(bytes), Some(tables)) => {
            program.run(scratch, Input::Pixels(bytes, tables), team, &|_| ());
        }
        (Picture::Pixels(_), None) => {}
    }
}

/// Each member of the team runs one picture.
fn run_side_by_side(
    program: &Program,
    team: &Team,
    scratches: &mut [Scratch],
    pictures: &[Picture<'_>],
    tables: Option<&[[u8; 256]; 3]>,
) {
    let mut slots = scratches.iter_mut().map(Mutex::new);
    let slots: [Option<Mutex<&mut Scratch>>; team::MAX_MEMBERS as usize] =
        std::array::from_fn(|_| slots.next());
    team.run(&|member| {
        let slot = slots.get(member.idx).and_then(Option::as_ref);
        if let (Some(slot), Some(picture)) = (slot, pictures.get(member.idx)) {
            let mut scratch = slot.lock().unwrap_or_else(PoisonError::into_inner);
            run_one(program, &mut scratch, *picture, tables, None);
        }
    });
}

/// The ops of a region.
pub(super) fn ops_of(program: &Program) -> impl Iterator<Item = Op> + '_ {
    program.steps.iter().map(|step| Op {
        name: step.name.clone(),
        kind: step.work.kind().to_owned(),
        is_int8: !matches!(step.work, steps::Work::Emit { .. }),
    })
}
