"""Read an int8 QDQ network, as models/network.py writes it, into a list of integer ops for other engines' formats."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

# Steps of what the ONNX file leaves in float: a Sigmoid inside SiLU, and the last layer.
SIGMOID_STEP, LOGITS_STEP = (1 / 256, 0), (16 / 255, 128)
# Of convolutions and pools.
DEFAULTS = {"strides": [1, 1], "pads": [0] * 4, "group": 1}


@dataclass
class Tensor:
    """An activation: NCHW shape, u8 scale and zero point."""

    name: str
    shape: list
    scale: float
    zero_point: int


@dataclass
class Op:
    """One op over tensors. `weight` i8 [O,I,...] with `weight_scale` [O] and i32 `bias` [O] for Conv and Gemm, the f32
    slopes [C] for PRelu."""

    kind: str
    inputs: list
    output: Tensor
    attributes: dict
    weight: np.ndarray = None
    weight_scale: np.ndarray = None
    bias: np.ndarray = None


@dataclass
class Network:
    """Ops in order, from the float graph input's tensor to the last op's output."""

    input: Tensor
    ops: list = field(default_factory=list)

    @property
    def output(self):
        return self.ops[-1].output


def float_parameters(op):
    """Return the weight and bias of a Conv or Gemm as f32."""
    scale = op.weight_scale.astype(np.float64)
    weight = op.weight * scale.reshape(-1, *[1] * (op.weight.ndim - 1))
    return np.float32(weight), np.float32(op.bias * (scale * op.inputs[0].scale))


def read(path):
    """Return the `Network` in an ONNX file of batch 1; of the detector's networks, the part before the heads' Split."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    infos = [*graph.input, *graph.output, *graph.value_info]
    shapes = {info.name: [axis.dim_value for axis in info.type.tensor_type.shape.dim] for info in infos}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    steps = {node.input[0]: tuple(constants[name].item() for name in node.input[1:3]) for node in quantizers}
    tensors, weights, network = {}, {}, None
    for node in graph.node:
        source, target = node.input[0], node.output[0]
        if node.op_type == "Split":
            break
        if node.op_type == "QuantizeLinear":
            if source == graph.input[0].name:
                network = Network(Tensor(source, shapes[source], *steps[source]))
                tensors[source] = network.input
            tensors[target] = tensors[source]
        elif node.op_type == "DequantizeLinear":
            if source in constants:
                weights[target] = (constants[source], constants[node.input[1]])
            else:
                tensors[target] = tensors[source]
        else:
            default = SIGMOID_STEP if node.op_type == "Sigmoid" else LOGITS_STEP
            output = Tensor(target, shapes[target], *steps.get(target, default))
            attributes = DEFAULTS | {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            op = Op(node.op_type, [tensors[name] for name in node.input if name in tensors], output, attributes)
            if node.op_type in ("Conv", "Gemm"):
                (op.weight, op.weight_scale), (op.bias, _) = (weights[name] for name in node.input[1:3])
            if node.op_type == "PRelu":
                op.weight = constants[node.input[1]].ravel()
            tensors[target] = output
            network.ops.append(op)
    return network
