"""What the classifiers' graphs share: layers, activations and 8-bit steps between them, in float or int8.

The same calls write both kinds. In float, a step is nothing but a name in `steps`: a tensor whose range the int8 kind
needs. In int8 the graph is QDQ, as onnxruntime.quantization writes it: a step is QuantizeLinear -> DequantizeLinear to
u8, one scale and zero point per tensor; weights are i8, one scale per output channel, |w| <= 127; biases are i32 with
the scale input x weight. ReLU and ReLU6 have no node of their own in int8: the step after the layer begins at zero and
ends where the activation does. SiLU has no step between its Sigmoid and its Mul, so that it is a function of one byte.
"""

import numpy as np
from graph import Graph, least_weight_scale, quantize_bias, quantize_per_channel

HIDDEN, N_CLASSES, IMAGENET_CLASSES = 1024, 2, 1000
# (byte - mean) / std, so that the first step gives back the byte.
MEAN, STD = 127, 128
INPUT_STEP = {"scale": 1 / STD, "zero_point": MEAN}


class Builder:
    """Adds layers to a graph; `side_px` is the side of the square that the flow has reached.

    `steps` names the tensors that int8 rounds to 8 bits.
    `weights` has `layer(name, shape)` -> (weight, bias) in float64. `calibration` is what
    `ranges.calibrate` gives; without it the graph is in float. Tensors are [N,C,H,W].
    """

    def __init__(self, name, weights, side_px, calibration=None):
        self.name = name
        self.graph = Graph("classifier")
        self.weights = weights
        self.input_px = self.side_px = side_px
        self.calibration = calibration
        self.n_classes = N_CLASSES
        self.steps = []
        self.step_of = {}

    def step(self, source, name=None, like=None):
        """Let `source` go on in 8 bits.

        `name` is the float graph's tensor whose range counts, when it isn't `source`; `like` is an earlier step's
        output whose scale is right here too.
        """
        name = name or source
        if self.calibration is None:
            self.steps += [] if like else [name]
            return source
        numbers = self.step_of[like] if like else self.calibration["activations"][name]
        stepped = self.graph.quantized(source, f"{name}.q", **numbers)
        self.step_of[stepped] = numbers
        return stepped

    def input(self):
        """Return the flow that the graph's `input` starts."""
        if self.calibration is None:
            return "input"
        stepped = self.graph.quantized("input", "input.q", **INPUT_STEP)
        self.step_of[stepped] = INPUT_STEP
        return stepped

    def parameters(self, source, name, shape):
        """Add a layer's weight and bias for the flow `source` and return their names."""
        weight, bias = self.weights.layer(name, shape)
        if self.calibration is None:
            weight_name = self.graph.constant(f"{name}.weight", np.float32(weight))
            return [weight_name, self.graph.constant(f"{name}.bias", np.float32(bias))]
        input_scale = self.step_of[source]["scale"]
        integers, scale = quantize_per_channel(weight, least_weight_scale(bias, input_scale))
        bias_scale = np.float32(input_scale) * scale
        weight_name = self.graph.dequantized(f"{name}.weight", integers, scale)
        return [weight_name, self.graph.dequantized(f"{name}.bias", quantize_bias(bias, bias_scale), bias_scale)]

    def pads(self, kernel_px, stride):
        """Return (before, after) for one axis and move the side past the layer."""
        self.side_px = -(-self.side_px // stride)
        return kernel_px // 2, kernel_px // 2

    def convolution(self, source, name, n_out, n_in, kernel_px=1, stride=1, groups=1):
        """Add a square convolution."""
        before, after = self.pads(kernel_px, stride)
        return self.graph.node(
            "Conv",
            [source, *self.parameters(source, name, (n_out, n_in // groups, kernel_px, kernel_px))],
            name,
            kernel_shape=[kernel_px] * 2,
            strides=[stride] * 2,
            pads=[before, before, after, after],
            group=groups,
        )

    def dense(self, source, name, n_out, n_in, output=None):
        """Add a fully connected layer over [N,n_in]."""
        parameters = self.parameters(source, name, (n_out, n_in))
        return self.graph.node("Gemm", [source, *parameters], output or name, transB=1)

    def relu(self, source):
        """Add ReLU and its step."""
        if self.calibration is None:
            self.graph.node("Relu", [source], f"{source}.relu")
        return self.activated(source, f"{source}.relu")

    def relu6(self, source):
        """Add min(max(x, 0), 6) and its step."""
        if self.calibration is None:
            limits = [self.graph.constant(f"{source}.{limit}", np.float32(limit)) for limit in (0, 6)]
            self.graph.node("Clip", [source, *limits], f"{source}.relu6")
        return self.activated(source, f"{source}.relu6")

    def activated(self, source, name):
        """Step over an activation called `name` that int8 leaves to the step's bounds."""
        return self.step(name if self.calibration is None else source, name)

    def silu(self, source):
        """Add x sigmoid(x) with steps before and after."""
        source_step = self.step(source)
        gate = self.graph.node("Sigmoid", [source_step], f"{source}.sigmoid")
        return self.step(self.graph.node("Mul", [source_step, gate], f"{source}.silu"))

    def max_pool(self, source, name, kernel_px, stride):
        """Add a max pool and its step, which is the source's."""
        before, after = self.pads(kernel_px, stride)
        pads = {"pads": [before, before, after, after], "strides": [stride] * 2}
        pooled = self.graph.node("MaxPool", [source], name, kernel_shape=[kernel_px] * 2, **pads)
        return self.step(pooled, like=source)

    def mean(self, source, name):
        """Add the mean over the picture, [N,C,1,1], and its step."""
        return self.step(self.graph.node("GlobalAveragePool", [source], name))

    def head(self, source, n_features, imagenet=False):
        """Add mean -> dense -> ReLU -> dense, or one layer of ImageNet's classes; the `logits` stay in float."""
        mean = self.mean(source, "pool")
        flow = self.step(self.graph.node("Flatten", [mean], "flat", axis=1), like=mean)
        if imagenet:
            self.n_classes = IMAGENET_CLASSES
            self.dense(flow, "imagenet", self.n_classes, n_features, "logits")
        else:
            flow = self.relu(self.dense(flow, "hidden", HIDDEN, n_features))
            self.dense(flow, "classes", self.n_classes, HIDDEN, "logits")

    def model(self, batch="N"):
        """Return the checked ModelProto; `batch` is the input's first axis, a number or a symbol."""
        kind = "float" if self.calibration is None else "int8 QDQ"
        shapes = {"input": [batch, 3, self.input_px, self.input_px]}, {"logits": [batch, self.n_classes]}
        return self.graph.model(*shapes, f"{self.name}, {self.input_px} px, {kind}")
