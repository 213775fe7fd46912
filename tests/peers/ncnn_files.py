"""Write an int8 QDQ network as ncnn's .param and .bin, with the same i8 weights, or in float.

ncnn's activations are i8 without a zero point, so each gets the scale that covers its range; sums, SiLU, gates and means
are ncnn's own, in float, and a convolution whose output only convolutions read hands on i8, which is what ncnn's
quantization tool makes too. Format: ncnn's docs/developer-guide/operators.md, param-and-model-file-structure.md.
"""

from collections import Counter

import numpy as np
import qdq

MAGIC, INT8_TAG, FLOAT_TAG = 7767517, 0x000D4B38, 0
ADD, MUL, MAX_POOL, MEAN_POOL = 0, 2, 0, 1
INT8, INT8_ON = 1, 101


def to_i8(tensor):
    """Return ncnn's scale of an activation: i8 = scale x value."""
    reach = max(tensor.zero_point, 255 - tensor.zero_point) * tensor.scale
    return np.float32(127 / reach)


class Writer:
    """Collects layers and weights; `is_float` leaves everything in f32. A blob that several layers read is split first,
    as ncnn asks."""

    def __init__(self, network, is_float):
        self.is_float = is_float
        self.readers = Counter(tensor.name for op in network.ops for tensor in op.inputs)
        self.kinds = {}
        for op in network.ops:
            for tensor in op.inputs:
                self.kinds.setdefault(tensor.name, set()).add(op.kind)
        self.copies, self.layers, self.blobs, self.binary = {}, [], 0, bytearray()
        channels, height, width = network.input.shape[1:]
        self.layer("Input", network.input.name, [], [network.input.name], f"0={width} 1={height} 2={channels}")
        self.offer(network.input.name)

    def layer(self, kind, name, inputs, outputs, parameters):
        """Add a layer that reads and writes these blobs."""
        blobs = " ".join([*inputs, *outputs])
        self.layers.append(f"{kind} {name} {len(inputs)} {len(outputs)} {blobs} {parameters}".rstrip())
        self.blobs += len(outputs)

    def offer(self, name):
        """Let the ops that read `name` take it, each a copy of its own."""
        self.copies[name] = [name]
        if self.readers[name] > 1:
            self.copies[name] = [f"{name}.{k}" for k in range(self.readers[name])]
            self.layer("Split", f"{name}.split", [name], self.copies[name], "")

    def add(self, op):
        """Add one op of the network."""
        name = op.output.name
        inputs = [self.copies[tensor.name].pop() for tensor in op.inputs]
        if op.kind in ("Conv", "Gemm"):
            self.parametric(op, inputs)
        elif op.kind in ("Add", "Mul"):
            self.layer("BinaryOp", name, inputs, [name], f"0={ADD if op.kind == 'Add' else MUL}")
            if op.output.zero_point == 0 and op.kind == "Add":
                raise NotImplementedError("ReLU after a sum")
        elif op.kind == "Sigmoid":
            self.layer("Sigmoid", name, inputs, [name], "")
        elif op.kind == "GlobalAveragePool":
            self.layer("Pooling", f"{name}.mean", inputs, [f"{name}.flat"], f"0={MEAN_POOL} 4=1")
            self.layer("Reshape", name, [f"{name}.flat"], [name], f"0=1 1=1 2={op.output.shape[1]}")
        elif op.kind == "MaxPool":
            # Without more parameters a partial last window counts, as with ONNX's pads at the end.
            parameters = f"0={MAX_POOL} 1={op.attributes['kernel_shape'][0]} 2={op.attributes['strides'][0]}"
            self.layer("Pooling", name, inputs, [name], parameters)
        elif op.kind == "PRelu":
            self.layer("PReLU", name, inputs, [name], f"0={len(op.weight)}")
            self.binary += np.float32(op.weight).tobytes()
        elif op.kind == "Flatten":
            self.layer("Flatten", name, inputs, [name], "")
        else:
            raise NotImplementedError(op.kind)
        self.offer(name)

    def parametric(self, op, inputs):
        """Add a convolution or dense layer and its numbers."""
        name, n_out, source = op.output.name, len(op.weight), op.inputs[0]
        hands_on = not self.is_float and op.kind == "Conv" and self.kinds.get(name) == {"Conv"}
        parameters = [f"0={n_out}"]
        if op.kind == "Conv":
            kernel, stride = op.weight.shape[-1], op.attributes["strides"][0]
            top, left, bottom, right = op.attributes["pads"]
            parameters += [f"1={kernel} 3={stride} 4={left} 15={right} 14={top} 16={bottom} 5=1 6={op.weight.size}"]
        else:
            parameters += [f"1=1 2={op.weight.size}"]
        if not self.is_float:
            parameters += [f"8={INT8_ON if hands_on else INT8}"]
        if op.output.zero_point == 0:
            is_relu6 = op.output.scale * 255 < 6.1 and op.kind == "Conv"
            parameters += ["9=3 -23310=2,0.0,6.0" if is_relu6 else "9=1"]
        grouped = op.kind == "Conv" and op.attributes["group"] > 1
        parameters += [f"7={op.attributes['group']}"] if grouped else []
        kind = {"Conv": "ConvolutionDepthWise" if grouped else "Convolution", "Gemm": "InnerProduct"}[op.kind]
        self.layer(kind, name, inputs, [name], " ".join(parameters))
        weight, bias = qdq.float_parameters(op)
        if self.is_float:
            self.binary += np.uint32(FLOAT_TAG).tobytes() + weight.tobytes() + bias.tobytes()
            return
        padding = bytes(-op.weight.size % 4)
        scales = [1 / op.weight_scale, [to_i8(source)], *([[to_i8(op.output)]] if hands_on else [])]
        self.binary += np.uint32(INT8_TAG).tobytes() + op.weight.tobytes() + padding + bias.tobytes()
        self.binary += b"".join(np.float32(scale).tobytes() for scale in scales)


def convert(source, param, binary, is_float=False):
    """Write the network in the ONNX file `source`; the output blob is called as in the ONNX graph."""
    network = qdq.read(source)
    writer = Writer(network, is_float)
    for op in network.ops:
        writer.add(op)
    param.write_text("\n".join([str(MAGIC), f"{len(writer.layers)} {writer.blobs}", *writer.layers]) + "\n")
    binary.write_bytes(writer.binary)

