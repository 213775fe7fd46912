//! Neural networks: ONNX bytes in, a [`Model`] that runs out. The only place that names tract.

#[cfg_attr(not(test), expect(dead_code, reason = "the loader that feeds the kernels comes next"))]
mod kernels;
#[cfg_attr(not(test), expect(dead_code, reason = "the kernels use it"))]
mod memory;
mod prelu;

use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::ops::expandable::expand;

/// Why a network could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The bytes are no network that this engine runs.
    #[error("network {network}: {step}: {cause}")]
    Load {
        /// The network's name.
        network: String,
        /// What was being done.
        step: &'static str,
        /// The loader's reason.
        cause: String,
    },
    /// A tensor has the wrong shape.
    #[error("network {network}: {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The network's name.
        network: String,
        /// The tensor's name.
        tensor: String,
        /// The shape that was asked for.
        expected: Vec<usize>,
        /// The shape that is there.
        found: Vec<usize>,
    },
    /// Running failed.
    #[error("network {network}: run: {cause}")]
    Run {
        /// The network's name.
        network: String,
        /// The reason.
        cause: String,
    },
}

/// A network with a fixed input shape, ready to run; cheap to share between threads.
#[derive(Clone)]
pub struct Model {
    name: String,
    plan: Arc<TypedRunnableModel>,
    input_shape: Vec<usize>,
    output_shapes: Vec<Vec<usize>>,
}

impl Model {
    /// Loads ONNX bytes for one input of `input_shape` (NCHW, f32).
    ///
    /// # Errors
    /// [`EngineError::Load`] when the bytes are no network that the engine runs at that shape.
    pub fn load(name: &str, onnx: &[u8], input_shape: &[usize]) -> Result<Self, EngineError> {
        let failed = |step: &'static str| {
            move |cause: TractError| EngineError::Load {
                network: name.to_owned(),
                step,
                cause: format!("{cause:#}"),
            }
        };
        let mut bytes = onnx;
        let mut loader = tract_onnx::onnx();
        loader.op_register.insert("PRelu", |_, _| Ok((expand(prelu::PRelu), vec![])));
        let graph = loader
            .model_for_read(&mut bytes)
            .and_then(|m| m.with_input_fact(0, f32::fact(input_shape).into()))
            .map_err(failed("parse"))?;
        let typed = graph.into_optimized().map_err(failed("optimize"))?;
        let output_shapes = (0..typed.outputs.len())
            .map(|i| {
                let fact = typed.output_fact(i)?;
                let shape = fact.shape.as_concrete().map(<[usize]>::to_vec);
                shape.ok_or_else(|| {
                    TractError::msg(format!("output {i} has no fixed shape: {:?}", fact.shape))
                })
            })
            .collect::<TractResult<Vec<_>>>()
            .map_err(failed("infer output shapes"))?;
        let plan = typed.into_runnable().map_err(failed("plan"))?;
        Ok(Model { name: name.to_owned(), plan, input_shape: input_shape.to_vec(), output_shapes })
    }

    /// The network's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the input, NCHW.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// Shapes of the outputs, in the file's order.
    pub fn output_shapes(&self) -> &[Vec<usize>] {
        &self.output_shapes
    }

    /// Checks that the outputs have the `expected` shapes, in order.
    ///
    /// # Errors
    /// [`EngineError::Shape`] for the first that differs.
    pub fn expect_outputs(&self, expected: &[&[usize]]) -> Result<(), EngineError> {
        let differs = |tensor: String, expected: &[usize], found: &[usize]| EngineError::Shape {
            network: self.name.clone(),
            tensor,
            expected: expected.to_vec(),
            found: found.to_vec(),
        };
        if self.output_shapes.len() != expected.len() {
            return Err(differs("number of outputs".into(), &[expected.len()], &[self.output_shapes.len()]));
        }
        for (i, (want, have)) in expected.iter().zip(&self.output_shapes).enumerate() {
            if want != have {
                return Err(differs(format!("output {i}"), want, have));
            }
        }
        Ok(())
    }

    /// Runs the network on one input, row-major f32 of [`Model::input_shape`]; gives one array per
    /// output.
    ///
    /// # Errors
    /// [`EngineError`] when `input` has the wrong number of values or an op fails.
    pub fn run(&self, input: &[f32]) -> Result<Vec<ArrayD<f32>>, EngineError> {
        if input.len() != self.input_shape.iter().product::<usize>() {
            return Err(EngineError::Shape {
                network: self.name.clone(),
                tensor: "input".into(),
                expected: self.input_shape.clone(),
                found: vec![input.len()],
            });
        }
        let failed =
            |cause: TractError| EngineError::Run { network: self.name.clone(), cause: format!("{cause:#}") };
        let tensor = Tensor::from_shape(&self.input_shape, input).map_err(failed)?;
        let outputs = self.plan.run(tvec!(tensor.into())).map_err(failed)?;
        outputs
            .iter()
            .map(|out| {
                let view = out.to_plain_array_view::<f32>()?;
                Ok(view.to_owned().into_shape_with_order(IxDyn(out.shape()))?)
            })
            .collect::<TractResult<_>>()
            .map_err(failed)
    }
}
