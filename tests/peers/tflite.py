"""Write an int8 QDQ network as a TFLite file with the same integers, shifted by 128 from u8 to i8.

    python tests/peers/tflite.py MODEL.onnx OUT.tflite

The file takes f32 [1,S,S,3] and gives f32 logits. All paddings become "SAME": the same sums for the Lite family, and the
same number of them, shifted by a pixel, where the network pads symmetrically. Schema: tensorflow/lite/schema.fbs.
"""

import sys
from pathlib import Path

import flatbuffers
import numpy as np
import qdq
from ai_edge_litert import schema_py_generated as schema

# Builtin op and the version that knows i8.
OPS = {
    "Add": (schema.BuiltinOperator.ADD, 2),
    "Conv": (schema.BuiltinOperator.CONV_2D, 3),
    "Depthwise": (schema.BuiltinOperator.DEPTHWISE_CONV_2D, 3),
    "Dequantize": (schema.BuiltinOperator.DEQUANTIZE, 2),
    "Flatten": (schema.BuiltinOperator.RESHAPE, 1),
    "Gemm": (schema.BuiltinOperator.FULLY_CONNECTED, 4),
    "GlobalAveragePool": (schema.BuiltinOperator.MEAN, 2),
    "MaxPool": (schema.BuiltinOperator.MAX_POOL_2D, 2),
    "Mul": (schema.BuiltinOperator.MUL, 2),
    "Quantize": (schema.BuiltinOperator.QUANTIZE, 1),
    "Sigmoid": (schema.BuiltinOperator.LOGISTIC, 2),
}
LAST_OP_OF_ONE_BYTE = 127


class Writer:
    """Collects buffers, tensors and operators."""

    def __init__(self):
        self.buffers = [schema.BufferT()]
        self.tensors, self.operators, self.codes, self.index = [], [], [], {}

    def tensor(self, name, shape, kind, scale=None, zero_point=None, axis=0, values=None):
        """Add a tensor and return its index; `values` makes it a constant."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scale is not None:
            steps = schema.QuantizationParametersT()
            steps.scale, steps.zeroPoint = np.atleast_1d(np.float32(scale)), np.atleast_1d(np.int64(zero_point))
            steps.quantizedDimension = axis
            tensor.quantization = steps
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def activation(self, tensor):
        """Return the index of an activation, added when it is new; [N,C,H,W] becomes [N,H,W,C]."""
        if tensor.name not in self.index:
            shape = [tensor.shape[k] for k in (0, 2, 3, 1)] if len(tensor.shape) == 4 else tensor.shape
            steps = {"scale": tensor.scale, "zero_point": tensor.zero_point - 128}
            self.index[tensor.name] = self.tensor(tensor.name, shape, schema.TensorType.INT8, **steps)
        return self.index[tensor.name]

    def operator(self, kind, inputs, output, options=None):
        """Add an operator; `options` is a (type name, object)."""
        code, version = OPS[kind]
        known = [(c.builtinCode, c.version) for c in self.codes]
        if (code, version) not in known:
            added = schema.OperatorCodeT()
            added.builtinCode, added.version = code, version
            added.deprecatedBuiltinCode = min(code, LAST_OP_OF_ONE_BYTE)
            self.codes.append(added)
            known.append((code, version))
        operator = schema.OperatorT()
        operator.opcodeIndex = known.index((code, version))
        operator.inputs, operator.outputs = list(inputs), [output]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options[0])
            operator.builtinOptions = options[1]
        self.operators.append(operator)

    def parameters(self, op, weight, axis):
        """Add a layer's weight, whose output channels lie along `axis`, and bias; return their indices."""
        n_out = len(op.weight_scale)
        name, zeros = op.output.name, np.zeros(n_out, np.int64)
        bias_scale = np.float32(op.inputs[0].scale) * op.weight_scale
        return [
            self.tensor(f"{name}.w", weight.shape, schema.TensorType.INT8, op.weight_scale, zeros, axis, weight),
            self.tensor(f"{name}.b", [n_out], schema.TensorType.INT32, bias_scale, zeros, 0, op.bias),
        ]

    def windowed(self, options, op):
        """Fill in stride and padding."""
        options.padding = schema.Padding.SAME
        options.strideH, options.strideW = op.attributes["strides"]
        return options

    def add(self, op):
        """Add one op of the network."""
        inputs, output = [self.activation(tensor) for tensor in op.inputs], self.activation(op.output)
        kind, options = op.kind, None
        if kind == "Conv" and op.attributes["group"] > 1:
            kind, options = "Depthwise", ("DepthwiseConv2DOptions", self.windowed(schema.DepthwiseConv2DOptionsT(), op))
            options[1].depthMultiplier = 1
            options[1].dilationHFactor = options[1].dilationWFactor = 1
            inputs += self.parameters(op, op.weight.transpose(1, 2, 3, 0), 3)
        elif kind == "Conv":
            options = ("Conv2DOptions", self.windowed(schema.Conv2DOptionsT(), op))
            options[1].dilationHFactor = options[1].dilationWFactor = 1
            inputs += self.parameters(op, op.weight.transpose(0, 2, 3, 1), 0)
        elif kind == "Gemm":
            options = ("FullyConnectedOptions", schema.FullyConnectedOptionsT())
            inputs += self.parameters(op, op.weight, 0)
        elif kind == "GlobalAveragePool":
            options = ("ReducerOptions", schema.ReducerOptionsT())
            options[1].keepDims = True
            inputs.append(self.tensor(f"{op.output.name}.axes", [2], schema.TensorType.INT32, values=np.int32([1, 2])))
        elif kind == "MaxPool":
            options = ("Pool2DOptions", self.windowed(schema.Pool2DOptionsT(), op))
            options[1].filterHeight, options[1].filterWidth = op.attributes["kernel_shape"]
        elif kind == "Flatten":
            shape = np.int32(op.output.shape)
            inputs.append(self.tensor(f"{op.output.name}.shape", [2], schema.TensorType.INT32, values=shape))
        elif kind in ("Add", "Mul"):
            options = (f"{kind}Options", getattr(schema, f"{kind}OptionsT")())
        self.operator(kind, inputs, output, options)

    def bytes(self, inputs, outputs):
        """Return the file."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def convert(source, target):
    """Write the network in the ONNX file `source` to `target`."""
    network, writer = qdq.read(source), Writer()
    n, channels, height, width = network.input.shape
    floats = writer.tensor("input.f32", [n, height, width, channels], schema.TensorType.FLOAT32)
    writer.operator("Quantize", [floats], writer.activation(network.input))
    for op in network.ops:
        writer.add(op)
    logits = writer.tensor("logits.f32", network.output.shape, schema.TensorType.FLOAT32)
    writer.operator("Dequantize", [writer.activation(network.output)], logits)
    target.write_bytes(writer.bytes([floats], [logits]))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
