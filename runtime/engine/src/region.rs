//! A region as an op of tract's plan, for networks of which a part runs in float.

use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::model::ParsingContext;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::expand;

use super::pb;
use super::program::{Program, Scratch};
use super::run::Input;

/// The ONNX operator that stands for a region.
pub(super) const OPERATOR: &str = "CandorRegion";
/// Its attribute: which one.
pub(super) const INDEX: &str = "index";

/// The ONNX node of region `idx`.
pub(super) fn node(idx: usize, program: &Program) -> pb::NodeProto {
    let tensor = |t: &usize| format!("region tensor {t}");
    let floats = |ports: &[super::program::Port]| ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let mut input = floats(&program.inputs);
    input.extend(program.taken.iter().map(tensor));
    let mut output = floats(&program.outputs);
    output.extend(program.given.iter().map(tensor));
    let index = pb::AttributeProto {
        name: INDEX.into(),
        r#type: pb::INT,
        i: i64::try_from(idx).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let name = format!("region {idx}");
    pb::NodeProto {
        input,
        output,
        name,
        op_type: OPERATOR.into(),
        attribute: vec![index],
        ..Default::default()
    }
}

/// Reads a region's node: its program is one of those that are [`LOADING`].
pub(super) fn parse(
    _context: &ParsingContext<'_>,
    node: &tract_onnx::pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let idx = node.get_attr::<i64>(INDEX)?;
    let programs = LOADING.with_borrow(Clone::clone);
    let program = usize::try_from(idx).ok().and_then(|idx| programs.get(idx).cloned());
    let program = program.with_context(|| format!("{OPERATOR} {idx}: not made by this engine"))?;
    Ok((expand(RegionNode { program: Region::new(program) }), vec![]))
}

thread_local! {
    /// The regions of the network that this thread is loading: tract's parsers are plain functions.
    static LOADING: std::cell::RefCell<Vec<Arc<Program>>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs `parse` with the programs that nodes of regions stand for; lets go of them even when it panics.
pub(super) fn with_programs<T>(programs: &[Arc<Program>], parse: impl FnOnce() -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            LOADING.take();
        }
    }
    let _done = Done;
    LOADING.set(programs.to_vec());
    parse()
}

/// A region's program with memory for its runs.
#[derive(Clone)]
struct Region {
    program: Arc<Program>,
    /// Scratch of runs that have ended.
    spare: Arc<Mutex<Vec<Scratch>>>,
}

impl Region {
    fn new(program: Arc<Program>) -> Self {
        Region { program, spare: Arc::default() }
    }

    /// Shapes and types of what comes out, for one picture.
    fn outputs(&self) -> impl Iterator<Item = (DatumType, Vec<usize>)> + '_ {
        let floats = self.program.outputs.iter().map(|port| (f32::datum_type(), port.shape.clone()));
        floats
            .chain(self.program.given.iter().map(|&t| (u8::datum_type(), vec![self.program.place(t).len()])))
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region of {} steps", self.program.steps.len())
    }
}

impl PartialEq for Region {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.program, &other.program)
    }
}

impl Eq for Region {}

#[derive(Clone, Debug)]
struct RegionNode {
    program: Region,
}

impl Expansion for RegionNode {
    fn name(&self) -> StaticName {
        OPERATOR.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.program.outputs().count())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, self.program.outputs().count())?;
        for (output, (datum_type, _)) in outputs.iter().zip(self.program.outputs()) {
            solver.equals(&output.datum_type, datum_type)?;
        }
        let first = inputs.first().context("a region without an input")?;
        solver.given(&first.shape[0], move |solver, n_pictures| {
            for (output, (_, shape)) in outputs.iter().zip(self.program.outputs()) {
                let mut dims = tvec![n_pictures.clone()];
                dims.extend(shape.iter().map(|d| d.to_dim()));
                solver.equals(&output.shape, dims)?;
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.program.clone(), inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}

impl Op for Region {
    fn name(&self) -> StaticName {
        OPERATOR.into()
    }

    op_as_typed_op!();
}

impl EvalOp for Region {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let program = &*self.program;
        let n_pictures = inputs.first().context("a region without an input")?.shape()[0];
        let (floats, taken) = inputs.split_at(program.inputs.len());
        let floats: Vec<&[f32]> =
            floats.iter().map(|v| v.try_as_plain_ram()?.as_slice::<f32>()).collect::<TractResult<_>>()?;
        let taken: Vec<&[u8]> =
            taken.iter().map(|v| v.try_as_plain_ram()?.as_slice::<u8>()).collect::<TractResult<_>>()?;
        for (values, port) in floats.iter().zip(&program.inputs) {
            ensure!(
                values.len() == n_pictures * port.len(),
                "{}: expected shape {:?}",
                port.name,
                port.shape
            );
        }
        let lock = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_else(|| program.scratch());
        let mut given: Vec<Vec<f32>> = program.outputs.iter().map(|_| Vec::new()).collect();
        let mut given_bytes: Vec<Vec<u8>> = program.given.iter().map(|_| Vec::new()).collect();
        for picture in 0..n_pictures {
            for (bytes, &tensor) in taken.iter().zip(&program.taken) {
                let place = program.place(tensor);
                let n_bytes = place.len();
                scratch.arena[place].copy_from_slice(&bytes[picture * n_bytes..][..n_bytes]);
            }
            let floats: Vec<&[f32]> = floats
                .iter()
                .zip(&program.inputs)
                .map(|(values, port)| &values[picture * port.len()..][..port.len()])
                .collect();
            program.run(&mut scratch, Input::Floats(&floats), None, &|_| ());
            for (to, values) in given.iter_mut().zip(&scratch.outputs) {
                to.extend_from_slice(values);
            }
            for (to, &tensor) in given_bytes.iter_mut().zip(&program.given) {
                to.extend_from_slice(&scratch.arena[program.place(tensor)]);
            }
        }
        lock().push(scratch);
        let shapes = self.outputs().map(|(_, shape)| [&[n_pictures], shape.as_slice()].concat());
        let floats = given.iter().map(|v| tensor1(v)).chain(given_bytes.iter().map(|v| tensor1(v)));
        floats.zip(shapes).map(|(t, shape)| Ok(t.into_shape(&shape)?.into_tvalue())).collect()
    }
}

impl TypedOp for Region {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let n_pictures = inputs.first().context("a region without an input")?.shape[0].clone();
        let fact = |(datum_type, shape): (DatumType, Vec<usize>)| {
            let mut dims = tvec![n_pictures.clone()];
            dims.extend(shape.iter().map(|d| d.to_dim()));
            datum_type.fact(&*dims)
        };
        Ok(self.outputs().map(fact).collect())
    }

    as_op!();
}
