"""A thin builder over onnx's protobuf types: nodes in order, initializers by name, checked at the end."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# 13 is the first opset with per-channel DequantizeLinear, and every engine in use reads it.
OPSET = 13
IR_VERSION = 8


class Graph:
    """Collects nodes and initializers. Names are given by the caller, so the bytes depend on nothing else."""

    def __init__(self, name):
        self.name = name
        self.nodes = []
        self.initializers = []

    def constant(self, name, array):
        """Add an initializer and return its name."""
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, op, inputs, output, **attributes):
        """Add a node named after its first output and return `output` (a name, or a list of names)."""
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return output

    def dequantized(self, name, integers, scale):
        """Add i8 or i32 `integers` with one scale per entry of axis 0; return the name of the float they stand for."""
        kind = {"int8": "i8", "int32": "i32"}[integers.dtype.name]
        inputs = [self.constant(f"{name}.{kind}", integers), self.constant(f"{name}.scale", np.float32(scale))]
        inputs.append(self.constant(f"{name}.zero", np.zeros(len(scale), integers.dtype)))
        return self.node("DequantizeLinear", inputs, name, axis=0)

    def quantized(self, source, name, scale, zero_point):
        """Add QuantizeLinear -> DequantizeLinear to u8 and return the output's name."""
        step = [self.constant(f"{name}.scale", np.float32(scale)), self.constant(f"{name}.zero", np.uint8(zero_point))]
        self.node("QuantizeLinear", [source, *step], f"{name}.u8")
        return self.node("DequantizeLinear", [f"{name}.u8", *step], f"{name}.f32")

    def model(self, inputs, outputs, doc):
        """Return the checked ModelProto. `inputs` and `outputs` map names to shapes (int or symbol per axis)."""
        value_infos = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
            for values in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, self.name, *value_infos, initializer=self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="candor",
            doc_string=doc,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def save(model, path):
    """Write a model so that equal models give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def quantize_per_channel(weight, least_scale=0.0):
    """Return (i8 weights, float32 scales) with one symmetric scale per output channel (axis 0), |w| <= 127.

    -128 is left out so that a kernel may add two products in 16 bits. `least_scale`, one number or one per channel, is
    where a channel of tiny weights stops: see `least_weight_scale`.
    """
    peak = np.maximum(np.abs(weight.reshape(len(weight), -1)).max(axis=1), 127 * np.asarray(least_scale))
    scale = np.where(peak > 0, peak / 127, 1.0).astype(np.float32)
    columns = scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / columns), -127, 127).astype(np.int8), scale


def least_weight_scale(bias, input_scale):
    """Return per channel the weight scale below which the bias, in steps of both scales, takes more than 28 bits.

    Pretrained networks have dead channels, whose weights are next to nothing beside the bias; with it, the sum must stay
    far from the ends of an i32.
    """
    return np.abs(bias) / (input_scale * 2.0**28)


def quantize_bias(bias, scale):
    """Return float biases as i32 in steps of `scale`, one per entry."""
    limit = 2**31 - 1
    return np.clip(np.rint(bias / scale.astype(np.float64)), -limit, limit).astype(np.int32)
