"""Write an int8 QDQ network as ncnn's .param and .bin, with the same i8 weights.

    python tests/peers/ncnn_files.py MODEL.onnx OUT.param OUT.bin

ncnn's activations are i8 without a zero point, so each gets the scale that covers its range; sums, SiLU, gates and means
are ncnn's own, in float, and a convolution whose output only convolutions read hands on i8, which is what ncnn's
quantization tool makes too. Format: ncnn's docs/developer-guide/operators.md, param-and-model-file-structure.md.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import qdq

MAGIC, INT8_TAG = 7767517, 0x000D4B38
ADD, MUL, MEAN_POOL = 0, 2, 1
INT8, INT8_ON = 1, 101


def to_i8(tensor):
    """Return ncnn's scale of an activation: i8 = scale x value."""
    reach = max(tensor.zero_point, 255 - tensor.zero_point) * tensor.scale
    return np.float32(127 / reach)


class Writer:
    """Collects layers and weights. A blob that several layers read is split first, as ncnn asks."""

    def __init__(self, network):
        self.network = network
        self.readers = Counter(tensor.name for op in network.ops for tensor in op.inputs)
        self.kinds = {}
        for op in network.ops:
            for tensor in op.inputs:
                self.kinds.setdefault(tensor.name, set()).add(op.kind)
        self.copies, self.layers, self.blobs, self.binary = {}, [], 0, bytearray()
        channels, height, width = network.input.shape[1:]
        self.layer("Input", "input", [], ["input"], f"0={width} 1={height} 2={channels}")
        self.offer("input")

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
        elif op.kind == "Flatten":
            self.layer("Flatten", name, inputs, [name], "")
        else:
            raise NotImplementedError(op.kind)
        self.offer(name)

    def parametric(self, op, inputs):
        """Add a convolution or dense layer and its numbers."""
        name, n_out, source = op.output.name, len(op.weight), op.inputs[0]
        hands_on = op.kind == "Conv" and self.kinds.get(name) == {"Conv"}
        parameters = [f"0={n_out}"]
        if op.kind == "Conv":
            (kernel, _), (stride, _) = op.attributes["kernel_shape"], op.attributes["strides"]
            top, left, bottom, right = op.attributes["pads"]
            parameters += [f"1={kernel} 3={stride} 4={left} 15={right} 14={top} 16={bottom} 5=1 6={op.weight.size}"]
            parameters += [f"8={INT8_ON if hands_on else INT8}"]
        else:
            parameters += [f"1=1 2={op.weight.size} 8={INT8}"]
        if op.output.zero_point == 0:
            is_relu6 = op.output.scale * 255 < 6.1 and op.kind == "Conv"
            parameters += ["9=3 -23310=2,0.0,6.0" if is_relu6 else "9=1"]
        grouped = op.kind == "Conv" and op.attributes["group"] > 1
        parameters += [f"7={op.attributes['group']}"] if grouped else []
        kind = {"Conv": "ConvolutionDepthWise" if grouped else "Convolution", "Gemm": "InnerProduct"}[op.kind]
        self.layer(kind, name, inputs, [name], " ".join(parameters))
        padding = bytes(-op.weight.size % 4)
        bias = op.bias * (op.weight_scale.astype(np.float64) * source.scale)
        scales = [1 / op.weight_scale, [to_i8(source)], *([[to_i8(op.output)]] if hands_on else [])]
        self.binary += np.uint32(INT8_TAG).tobytes() + op.weight.tobytes() + padding + np.float32(bias).tobytes()
        self.binary += b"".join(np.float32(scale).tobytes() for scale in scales)


def convert(source, param, binary):
    """Write the network in the ONNX file `source`; the output blob is called as in the ONNX graph."""
    network = qdq.read(source)
    writer = Writer(network)
    for op in network.ops:
        writer.add(op)
    param.write_text("\n".join([str(MAGIC), f"{len(writer.layers)} {writer.blobs}", *writer.layers]) + "\n")
    binary.write_bytes(writer.binary)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:4]))
