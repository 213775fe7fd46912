//! A network in libtorch: its variables, and a walk over its description.

use tch::nn::{Init, Path};
use tch::{Device, Kind, Tensor, no_grad};

use super::Spec;
use super::description::{Convolution, Description, Layer, Op};
use super::spec::Padding;

/// Variables' groups: `Optimizer::set_lr_group` tells them apart.
const BACKBONE_GROUP: usize = 0;
const HEAD_GROUP: usize = 1;

/// Which batch normalisations use and move their running statistics as in inference while the network trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormMode {
    /// None: all use the batch's statistics.
    #[default]
    Batch,
    /// Those of frozen blocks.
    FrozenBlocks,
    /// All: running statistics stay as they are.
    Running,
}

/// What a layer multiplies and adds.
#[derive(Debug)]
struct Parameters {
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<Norm>,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

/// A classifier that trains and infers.
///
/// Its variables live in the `VarStore` whose root it was made with, under the layers' names: `blocks.3.expand.weight`,
/// `blocks.3.expand.norm.running_var`, `hidden.bias`. The backbone's are in group 0, the head's in group 1. Randomness, of
/// first weights and of dropout, is libtorch's: [`tch::manual_seed`] before.
#[derive(Debug)]
pub struct Network {
    spec: Spec,
    description: Description,
    parameters: Vec<Option<Parameters>>,
    /// For each layer, the last one that reads it.
    last_reader: Vec<usize>,
    n_frozen_blocks: usize,
    norm_mode: NormMode,
    /// Kind that convolutions compute in, when it isn't that of the variables.
    convolution_kind: Option<Kind>,
}

impl Network {
    /// Creates the variables of `spec` under `root` with random weights.
    ///
    /// Source of the weights' distribution: He et al., "Delving Deep into Rectifiers" (2015), fan out, for
    /// convolutions; libtorch's own for dense layers.
    pub fn new(root: &Path, spec: &Spec) -> Self {
        let description = Description::new(spec);
        let parameters = description.layers.iter().map(|layer| {
            let is_head = layer.block_idx == description.n_blocks;
            let path = root.set_group(if is_head { HEAD_GROUP } else { BACKBONE_GROUP });
            Parameters::new(&layer.name.split('.').fold(path, |path, part| path.sub(part)), &layer.op)
        });
        Network::with_parameters(spec, parameters.collect(), description)
    }

    fn with_parameters(spec: &Spec, parameters: Vec<Option<Parameters>>, description: Description) -> Self {
        let mut last_reader = vec![description.layers.len(); description.layers.len()];
        for (idx, layer) in description.layers.iter().enumerate() {
            for &input in &layer.inputs {
                last_reader[input] = idx;
            }
        }
        Network {
            spec: spec.clone(),
            description,
            parameters,
            last_reader,
            n_frozen_blocks: 0,
            norm_mode: NormMode::Batch,
            convolution_kind: None,
        }
    }

    /// What the network was made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its layers.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Number of the backbone's blocks that [`Network::freeze_below`] counts: the stem, each residual block, and
    /// EfficientNet's last convolution.
    pub fn n_blocks(&self) -> usize {
        self.description.n_blocks
    }

    /// F, the length of the pooled features.
    pub fn n_features(&self) -> i64 {
        self.description.n_features
    }

    /// Lets blocks from `block_idx` on and the head learn, and the ones before not: 0 frees all, `n_blocks()` leaves
    /// the head.
    ///
    /// `Optimizer::zero_grad` must follow, or an optimizer goes on with the gradients that frozen variables have: with it
    /// they have none and are skipped, weight decay and all.
    pub fn freeze_below(&mut self, block_idx: usize) {
        self.n_frozen_blocks = block_idx;
        for (layer, parameters) in self.description.layers.iter().zip(&mut self.parameters) {
            for variable in parameters.iter_mut().flat_map(Parameters::trained) {
                let _ = variable.set_requires_grad(layer.block_idx >= block_idx);
            }
        }
    }

    /// Chooses which batch normalisations stay as in inference while training.
    pub fn set_norm_mode(&mut self, mode: NormMode) {
        self.norm_mode = mode;
    }

    /// Mixed precision on any device: convolutions compute in `kind` (`BFloat16` needs no scaling of the loss) and what lies
    /// between them is kept in it; variables, their gradients, statistics and the head stay in their own kind. `None`
    /// is one kind for all.
    pub fn set_convolution_kind(&mut self, kind: Option<Kind>) {
        self.convolution_kind = kind;
    }

    /// Logits [N,2] (real, fake) of f32 `input` [N,3,S,S]; S needn't be the spec's. `train` turns on dropout and the
    /// batch's statistics.
    pub fn forward_t(&self, input: &Tensor, train: bool) -> Tensor {
        self.run(input, train, self.description.layers.len() - 1)
    }

    /// Pooled features [N,F] of f32 `input` [N,3,S,S].
    pub fn features_t(&self, input: &Tensor, train: bool) -> Tensor {
        self.run(input, train, self.description.features_idx)
    }

    fn run(&self, input: &Tensor, train: bool, wanted: usize) -> Tensor {
        let mut outputs: Vec<Option<Tensor>> = Vec::with_capacity(wanted + 1);
        for (idx, layer) in self.description.layers[..=wanted].iter().enumerate() {
            let output = match layer.inputs[..] {
                [] => input.shallow_clone(),
                [source] => self.layer(idx, present(&outputs, source), None, train),
                [source, other, ..] => {
                    self.layer(idx, present(&outputs, source), Some(present(&outputs, other)), train)
                }
            };
            for &source in &layer.inputs {
                if self.last_reader[source] == idx {
                    outputs[source] = None;
                }
            }
            outputs.push(Some(output));
        }
        outputs.pop().flatten().unwrap_or_else(|| unreachable!("the wanted layer was the last to run"))
    }

    fn layer(&self, idx: usize, first: &Tensor, other: Option<&Tensor>, train: bool) -> Tensor {
        let layer = &self.description.layers[idx];
        let other = || other.unwrap_or_else(|| unreachable!("{} has two inputs", layer.name));
        let parameters =
            || self.parameters[idx].as_ref().unwrap_or_else(|| unreachable!("{} has weights", layer.name));
        match &layer.op {
            Op::Input => first.shallow_clone(),
            Op::Convolution(convolution) => self.convolution(layer, convolution, parameters(), first, train),
            // In place: their gradients need only the output, and nobody else reads the input.
            Op::Relu => { first.shallow_clone() }.relu_(),
            Op::Relu6 => { first.shallow_clone() }.relu6_(),
            Op::Silu => first.silu(),
            Op::Sigmoid => first.sigmoid(),
            Op::MaxPool { kernel_px, stride } => {
                first.max_pool2d([*kernel_px; 2], [*stride; 2], [kernel_px / 2; 2], [1; 2], false)
            }
            Op::Mean => first.mean_dim([2i64, 3].as_slice(), true, None),
            Op::Flatten => {
                // The head is in its variables' kind.
                let head = self.parameters.last().and_then(Option::as_ref);
                first.flatten(1, -1).to_kind(head.map_or(Kind::Float, |dense| dense.weight.kind()))
            }
            Op::Multiply => first * other(),
            Op::Add => first + other(),
            Op::DropConnect(probability) if train => drop_connect(first, *probability),
            Op::Dropout(probability) => first.dropout(*probability, train),
            Op::DropConnect(_) => first.shallow_clone(),
            Op::Dense { .. } => first.linear(&parameters().weight, parameters().bias.as_ref()),
        }
    }

    fn convolution(
        &self,
        layer: &Layer,
        op: &Convolution,
        parameters: &Parameters,
        input: &Tensor,
        train: bool,
    ) -> Tensor {
        let (_, _, height_px, width_px) =
            input.size4().unwrap_or_else(|_| unreachable!("pictures are [N,C,H,W]"));
        let (rows, columns) = (op.pads(height_px), op.pads(width_px));
        let excess = [columns.1 - columns.0, rows.1 - rows.0];
        let own = parameters.weight.kind();
        // On CPUs, oneDNN's gradients of depthwise bf16 kernels take several times as long as f32's.
        let is_slow = op.groups > 1 && train && input.device() == Device::Cpu;
        let kind = self.convolution_kind.filter(|_| !is_slow).unwrap_or(own);
        let cast = |tensor: &Tensor| tensor.to_kind(kind);
        let padded = (excess != [0; 2]).then(|| input.constant_pad_nd([0, excess[0], 0, excess[1]]));
        let flow = cast(padded.as_ref().unwrap_or(input)).conv2d(
            &cast(&parameters.weight),
            parameters.bias.as_ref().map(cast),
            [op.stride; 2],
            [rows.0, columns.0],
            [1; 2],
            op.groups,
        );
        let Some(norm) = &parameters.norm else { return flow };
        let stays = match self.norm_mode {
            NormMode::Batch => false,
            NormMode::FrozenBlocks => layer.block_idx < self.n_frozen_blocks,
            NormMode::Running => true,
        };
        flow.batch_norm(
            Some(&norm.weight),
            Some(&norm.bias),
            Some(&norm.running_mean),
            Some(&norm.running_var),
            train && !stays,
            self.spec.batch_norm_momentum,
            self.spec.batch_norm_epsilon,
            true,
        )
    }

    /// The same network for inference, its weights copied and batch normalisation folded into the convolutions.
    pub fn folded(&self) -> Network {
        let epsilon = self.spec.batch_norm_epsilon;
        let fold = |parameters: &Option<Parameters>| parameters.as_ref().map(|p| p.folded(epsilon));
        let parameters = no_grad(|| self.parameters.iter().map(fold).collect());
        Network::with_parameters(&self.spec, parameters, self.description.clone())
    }

    /// Weight and bias of a layer of a [`Network::folded`] network, f32; `None` for a layer that has none.
    pub fn weight_and_bias(&self, layer_idx: usize) -> Option<(&Tensor, &Tensor)> {
        let parameters = self.parameters[layer_idx].as_ref()?;
        parameters.bias.as_ref().map(|bias| (&parameters.weight, bias))
    }
}

fn present(outputs: &[Option<Tensor>], idx: usize) -> &Tensor {
    outputs[idx].as_ref().unwrap_or_else(|| unreachable!("layers read earlier ones that are still needed"))
}

/// Zero for a picture with `probability`, else input / (1 - probability).
fn drop_connect(input: &Tensor, probability: f64) -> Tensor {
    let kept = Tensor::empty([input.size()[0], 1, 1, 1], (input.kind(), input.device()));
    let kept = { kept }.bernoulli_float_(1.0 - probability);
    input * (kept / (1.0 - probability))
}

impl Convolution {
    /// Pixels (before, after) one axis of `side_px`.
    pub fn pads(&self, side_px: i64) -> (i64, i64) {
        match self.padding {
            Padding::Symmetric => (self.kernel_px / 2, self.kernel_px / 2),
            Padding::Same => {
                let n_steps = (side_px + self.stride - 1) / self.stride - 1;
                let total = (n_steps * self.stride + self.kernel_px - side_px).max(0);
                (total / 2, total - total / 2)
            }
        }
    }

    /// Shape of the weight.
    pub fn weight_shape(&self) -> [i64; 4] {
        [self.n_out, self.n_in / self.groups, self.kernel_px, self.kernel_px]
    }
}

impl Parameters {
    fn new(path: &Path, op: &Op) -> Option<Self> {
        match op {
            Op::Convolution(op) => {
                let fan_out = op.kernel_px * op.kernel_px * op.n_out / op.groups;
                let weights = Init::Randn { mean: 0.0, stdev: (2.0 / fan_out as f64).sqrt() };
                let weight = path.var("weight", &op.weight_shape(), weights);
                let (bias, norm) = if op.has_norm {
                    (None, Some(Norm::new(&path.sub("norm"), op.n_out)))
                } else {
                    (Some(path.var("bias", &[op.n_out], Init::Const(0.0))), None)
                };
                Some(Parameters { weight, bias, norm })
            }
            &Op::Dense { n_in, n_out } => {
                let bound = 1.0 / (n_in as f64).sqrt();
                let uniform = Init::Uniform { lo: -bound, up: bound };
                let weight = path.var("weight", &[n_out, n_in], uniform);
                Some(Parameters { weight, bias: Some(path.var("bias", &[n_out], uniform)), norm: None })
            }
            _ => None,
        }
    }

    /// What gradients move.
    fn trained(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let norm = self.norm.iter_mut().flat_map(|norm| [&mut norm.weight, &mut norm.bias]);
        std::iter::once(&mut self.weight).chain(self.bias.as_mut()).chain(norm)
    }

    fn folded(&self, epsilon: f64) -> Self {
        let Some(norm) = &self.norm else {
            let bias = self.bias.as_ref().map(|bias| bias.detach().copy());
            return Parameters { weight: self.weight.detach().copy(), bias, norm: None };
        };
        let [weight, gain, bias, mean, variance] =
            [&self.weight, &norm.weight, &norm.bias, &norm.running_mean, &norm.running_var]
                .map(|tensor| tensor.detach().to_kind(Kind::Double));
        let gain = gain / (variance + epsilon).sqrt();
        let bias = (bias - mean * &gain).to_kind(Kind::Float);
        let weight = (weight * gain.reshape([-1, 1, 1, 1])).to_kind(Kind::Float);
        Parameters { weight, bias: Some(bias), norm: None }
    }
}

impl Norm {
    fn new(path: &Path, n_channels: i64) -> Self {
        let variable = |name, value| path.var(name, &[n_channels], Init::Const(value));
        Norm {
            weight: variable("weight", 1.0),
            bias: variable("bias", 0.0),
            running_mean: path.zeros_no_train("running_mean", &[n_channels]),
            running_var: path.ones_no_train("running_var", &[n_channels]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_connect_drops_whole_pictures_and_keeps_the_mean() {
        const N_PICTURES: i64 = 4096;
        let ones = Tensor::ones([N_PICTURES, 3, 2, 2], (Kind::Float, Device::Cpu));
        let dropped = drop_connect(&ones, 0.25).reshape([N_PICTURES, 12]);
        let first = dropped.narrow(1, 0, 1);
        assert_eq!(first.expand_as(&dropped), dropped, "a picture is kept in part");
        let n_kept = f64::try_from(first.count_nonzero(None)).unwrap();
        // Five standard deviations of the binomial distribution.
        assert!((n_kept - 3072.0).abs() < 5.0 * (4096.0f64 * 0.25 * 0.75).sqrt(), "{n_kept}");
        let scaled = first.max();
        assert!((f64::try_from(scaled).unwrap() - 1.0 / 0.75).abs() < 1e-6);
    }
}
