//! PReLU as one pass: out = x where x > 0, slope * x elsewhere (He et al., "Delving Deep into
//! Rectifiers", 2015). The loader's own translation is three passes over broadcast arrays.

use tract_onnx::tract_hir::internal::*;

/// The translation of ONNX's `PRelu`: input NCHW f32, slopes [C, 1, 1].
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct PRelu;

impl Expansion for PRelu {
    fn name(&self) -> StaticName {
        "PRelu".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)?;
        Ok(())
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        let is_nchw_f32 = fact.rank() == 4 && fact.datum_type == f32::datum_type();
        ensure!(is_nchw_f32, "PRelu {name}: expected a 4-dimensional f32 input, found {fact:?}");
        let slopes = model.outlet_fact(inputs[1])?.konst.clone();
        let slopes = slopes.with_context(|| format!("PRelu {name}: expected constant slopes"))?;
        let n_slopes = slopes.len();
        ensure!(
            fact.shape[1] == n_slopes.to_dim() && slopes.shape().first() == Some(&n_slopes),
            "PRelu {name}: expected a slope per channel of {:?}, found shape {:?}",
            fact.shape,
            slopes.shape()
        );
        let slopes = slopes.to_plain_array_view::<f32>()?.iter().map(|v| v.to_bits()).collect();
        model.wire_node(name, ChannelPRelu { slope_bits: slopes }, &inputs[..1])
    }
}

/// The op in the plan; slopes as bits, so that it can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ChannelPRelu {
    slope_bits: Vec<u32>,
}

impl Op for ChannelPRelu {
    fn name(&self) -> StaticName {
        "ChannelPRelu".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ChannelPRelu {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let n_pixels = input.shape()[2..].iter().product::<usize>();
        let mut values = input.into_tensor();
        let mut plain = values.try_as_plain_ram_mut()?;
        let planes = plain.as_slice_mut::<f32>()?.chunks_exact_mut(n_pixels.max(1));
        for (plane, bits) in planes.zip(self.slope_bits.iter().cycle()) {
            let slope = f32::from_bits(*bits);
            for value in plane {
                *value = if *value > 0.0 { *value } else { slope * *value };
            }
        }
        Ok(tvec!(values.into_tvalue()))
    }
}

impl TypedOp for ChannelPRelu {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::datum_type().fact(inputs[0].shape.clone())))
    }

    as_op!();
}
