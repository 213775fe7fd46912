"""Write an int8 QDQ network as a TFLite file with the same integers, shifted by 128 from u8 to i8, or in float.

The file takes f32 [1,H,W,3] and gives the f32 output of the network's last op. Where there is padding, it becomes "SAME":
the same sums for the Lite family, and the same number of them, shifted by a pixel, where the network pads
symmetrically. Float is for the detector, as XNNPACK has no PReLU in i8. Schema: tensorflow/lite/schema.fbs.
"""

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
    "PRelu": (schema.BuiltinOperator.PRELU, 1),
    "Quantize": (schema.BuiltinOperator.QUANTIZE, 1),
    "Sigmoid": (schema.BuiltinOperator.LOGISTIC, 2),
}
LAST_OP_OF_ONE_BYTE = 127


class Writer:
    """Collects buffers, tensors and operators; `is_float` leaves everything in f32."""

    def __init__(self, is_float):
        self.is_float = is_float
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
            if self.is_float:
                self.index[tensor.name] = self.tensor(tensor.name, shape, schema.TensorType.FLOAT32)
            else:
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

    def parameters(self, op, order, axis):
        """Add a layer's weight, its axes in `order`, its output channels then at `axis`, and bias; return both."""
        n_out, name = len(op.weight_scale), op.output.name
        if self.is_float:
            weight, bias = qdq.float_parameters(op)
            weight = weight.transpose(order)
            return [
                self.tensor(f"{name}.w", weight.shape, schema.TensorType.FLOAT32, values=weight),
                self.tensor(f"{name}.b", [n_out], schema.TensorType.FLOAT32, values=bias),
            ]
        weight, zeros = op.weight.transpose(order), np.zeros(n_out, np.int64)
        bias_scale = np.float32(op.inputs[0].scale) * op.weight_scale
        return [
            self.tensor(f"{name}.w", weight.shape, schema.TensorType.INT8, op.weight_scale, zeros, axis, weight),
            self.tensor(f"{name}.b", [n_out], schema.TensorType.INT32, bias_scale, zeros, 0, op.bias),
        ]

    def windowed(self, options, op):
        """Fill in stride and padding."""
        options.padding = schema.Padding.SAME if any(op.attributes["pads"]) else schema.Padding.VALID
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
            inputs += self.parameters(op, (1, 2, 3, 0), 3)
        elif kind == "Conv":
            options = ("Conv2DOptions", self.windowed(schema.Conv2DOptionsT(), op))
            options[1].dilationHFactor = options[1].dilationWFactor = 1
            inputs += self.parameters(op, (0, 2, 3, 1), 0)
        elif kind == "Gemm":
            options = ("FullyConnectedOptions", schema.FullyConnectedOptionsT())
            inputs += self.parameters(op, (0, 1), 0)
        elif kind == "GlobalAveragePool":
            options = ("ReducerOptions", schema.ReducerOptionsT())
            options[1].keepDims = True
            inputs.append(self.tensor(f"{op.output.name}.axes", [2], schema.TensorType.INT32, values=np.int32([1, 2])))
        elif kind == "MaxPool":
            options = ("Pool2DOptions", self.windowed(schema.Pool2DOptionsT(), op))
            options[1].filterHeight, options[1].filterWidth = op.attributes["kernel_shape"]
        elif kind == "PRelu":
            slopes = op.weight.reshape(1, 1, -1)
            inputs.append(self.tensor(f"{op.output.name}.slopes", slopes.shape, schema.TensorType.FLOAT32, values=slopes))
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


def convert(source, target, is_float=False):
    """Write the network in the ONNX file `source` to `target`."""
    network, writer = qdq.read(source), Writer(is_float)
    first, last = writer.activation(network.input), None
    for op in network.ops:
        writer.add(op)
    last = writer.activation(network.output)
    if not is_float:
        n, channels, height, width = network.input.shape
        quantized, first = first, writer.tensor("input.f32", [n, height, width, channels], schema.TensorType.FLOAT32)
        writer.operator("Quantize", [first], quantized)
        writer.operators.insert(0, writer.operators.pop())
        dequantized = writer.tensor("output.f32", writer.tensors[last].shape, schema.TensorType.FLOAT32)
        writer.operator("Dequantize", [last], dequantized)
        last = dequantized
    target.write_bytes(writer.bytes([first], [last]))
