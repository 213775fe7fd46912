"""Write the networks of tests/hostile_networks.rs, with ONNX Runtime's outputs.

    .cache/venv/bin/python runtime/engine/tests/golden/networks/make.py

Sound networks get an input of seeded noise and ONNX Runtime's output beside them, f32 little-endian; index.json lists
all of them. The sound ones are the fuzz target's seeds, too, and are written to runtime/fuzz/corpus/network.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[4]
CORPUS = ROOT / "runtime/fuzz/corpus/network"
sys.path.insert(0, str(ROOT / "models"))

from graph import Graph, quantize_bias, quantize_per_channel, save  # noqa: E402

SEED = 20261125
SIDE = 8
INPUT_SCALE, INPUT_ZERO = 1 / 32, 128


class Net(Graph):
    """A graph with layers of random weights."""

    def __init__(self, name):
        super().__init__(name)
        self.random = np.random.default_rng([SEED, *name.encode()])
        self.scales = {}

    def q(self, source, name, scale=1 / 32, zero=128):
        """Add QuantizeLinear -> DequantizeLinear."""
        output = self.quantized(source, name, scale, zero)
        self.scales[output] = scale
        return output

    def weighted(self, op, source, name, shape, **attributes):
        """Add a convolution or dense layer."""
        fan_in = int(np.prod(shape[1:]))
        weight = self.random.standard_normal(shape) / np.sqrt(fan_in)
        integers, scale = quantize_per_channel(weight)
        bias_scale = scale * np.float32(self.scales[source])
        bias = quantize_bias(self.random.standard_normal(shape[0]) / 4, bias_scale)
        inputs = [
            source,
            self.dequantized(f"{name}.weight", integers, scale),
            self.dequantized(f"{name}.bias", bias, bias_scale),
        ]
        return self.node(op, inputs, name, **attributes)

    def conv(self, source, name, n_in, n_out, side=3, stride=1):
        """Add a convolution that keeps the size, or halves it."""
        pads = [side // 2] * 4
        return self.weighted(
            "Conv", source, name, (n_out, n_in, side, side), kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads
        )

    def depthwise(self, source, name, n_channels, side=3):
        """Add a depthwise convolution."""
        return self.weighted(
            "Conv",
            source,
            name,
            (n_channels, 1, side, side),
            kernel_shape=[side] * 2,
            pads=[side // 2] * 4,
            group=n_channels,
        )

    def gemm(self, source, name, n_in, n_out):
        """Add a dense layer."""
        return self.weighted("Gemm", source, name, (n_out, n_in), transB=1)

    def stem(self, n_out=8):
        """Add the quantized input and a first convolution with ReLU; return its bytes as floats."""
        x = self.q("input", "input", INPUT_SCALE, INPUT_ZERO)
        return self.q(self.node("Relu", [self.conv(x, "stem", 3, n_out)], "stem.relu"), "stem.q", 1 / 64, 0)

    def head(self, source, n_in, n_out=4):
        """Add the mean, a dense layer and its output."""
        pooled = self.q(self.node("GlobalAveragePool", [source], "pool"), "pool.q", 1 / 64, 100)
        flat = self.node("Flatten", [pooled], "flat", axis=1)
        self.scales[flat] = self.scales[pooled]
        return self.gemm(flat, "logits", n_in, n_out)

    def finished(self, outputs, batch=1, side=SIDE):
        """Return the checked model of 3 x side x side pixels; `outputs` maps names to shapes."""
        return self.model({"input": [batch, 3, side, side]}, outputs, f"{self.name}, seed {SEED}")


def plain():
    """Convolutions to logits."""
    net = Net("plain")
    x = net.q(net.conv(net.stem(), "second", 8, 8, stride=2), "second.q")
    net.head(x, 8)
    return net.finished({"logits": [1, 4]})


def depthwise_silu():
    """A depthwise convolution with SiLU, as EfficientNet has it."""
    net = Net("depthwise-silu")
    x = net.q(net.depthwise(net.stem(), "depthwise", 8), "depthwise.q")
    gate = net.q(net.node("Sigmoid", [x], "sigmoid"), "sigmoid.q", 1 / 256, 0)
    x = net.q(net.node("Mul", [x, gate], "silu"), "silu.q", 1 / 48, 20)
    net.head(x, 8)
    return net.finished({"logits": [1, 4]})


def squeeze_excite():
    """A tensor times a gate of its own mean."""
    net = Net("squeeze-excite")
    x = net.stem()
    pooled = net.q(net.node("GlobalAveragePool", [x], "squeeze"), "squeeze.q", 1 / 64, 0)
    gate = net.q(net.conv(pooled, "excite", 8, 8, side=1), "excite.q")
    gate = net.q(net.node("Sigmoid", [gate], "gate"), "gate.q", 1 / 256, 0)
    x = net.q(net.node("Mul", [x, gate], "gated"), "gated.q", 1 / 64, 0)
    net.head(x, 8)
    return net.finished({"logits": [1, 4]})


def residual():
    """A sum of a convolution and its input."""
    net = Net("residual")
    x = net.stem()
    y = net.q(net.conv(x, "branch", 8, 8), "branch.q")
    x = net.q(net.node("Add", [y, x], "sum"), "sum.q", 1 / 24, 100)
    net.head(x, 8)
    return net.finished({"logits": [1, 4]})


def pools_and_heads():
    """PReLU, a pool that rounds up, and outputs with softmax and sigmoid, as a cascade's network has them."""
    net = Net("pools-and-heads")
    x = net.q("input", "input", INPUT_SCALE, INPUT_ZERO)
    slopes = net.constant("slopes", net.random.uniform(-0.1, 0.4, (8, 1, 1)).astype(np.float32))
    x = net.q(net.node("PRelu", [net.conv(x, "stem", 3, 8), slopes], "prelu"), "prelu.q", 1 / 48, 60)
    pool = net.node("MaxPool", [x], "max", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.q(pool, "max.q", 1 / 48, 60)
    both = net.conv(x, "heads", 8, 6, side=1)
    sizes = net.constant("sizes", np.int64([2, 4]))
    net.node("Split", [both, sizes], ["scores", "offsets"], axis=1)
    net.node("Softmax", ["scores"], "prob", axis=1)
    net.node("Sigmoid", ["offsets"], "offset")
    return net.finished({"prob": [1, 2, 4, 4], "offset": [1, 4, 4, 4]})


def few_channels():
    """Steps other than convolutions on an input of three channels."""
    net = Net("few-channels")
    x = net.q("input", "input", INPUT_SCALE, INPUT_ZERO)
    again = net.q(x, "coarser", 1 / 16, 100)
    x = net.q(net.node("Add", [x, again], "sum"), "sum.q", 1 / 12, 110)
    x = net.q(net.depthwise(x, "depthwise", 3), "depthwise.q")
    net.head(x, 3)
    return net.finished({"logits": [1, 4]})


def float_middle():
    """ELU, which no step exists for, between regions."""
    net = Net("float-middle")
    x = net.q(net.conv(net.stem(), "before", 8, 8), "before.q")
    x = net.q(net.node("Elu", [x], "elu"), "elu.q", 1 / 32, 40)
    x = net.q(net.conv(x, "after", 8, 8), "after.q")
    net.head(x, 8)
    return net.finished({"logits": [1, 4]})


def float_pool():
    """An average pool in the middle; only it runs in float."""
    net = Net("float-pool")
    x = net.stem()
    x = net.q(net.node("AveragePool", [x], "average", kernel_shape=[2, 2], strides=[2, 2]), "average.q", 1 / 64, 0)
    net.head(net.q(net.conv(x, "after", 8, 8), "after.q"), 8)
    return net.finished({"logits": [1, 4]})


def residual_across(batch=1):
    """A tensor of the first region is added in the second, past the float part."""
    net = Net("residual-across" if batch == 1 else "batch")
    x = net.stem()
    y = net.q(net.node("Elu", [net.q(net.conv(x, "before", 8, 8), "before.q")], "elu"), "elu.q", 1 / 32, 40)
    y = net.q(net.conv(y, "after", 8, 8), "after.q")
    x = net.q(net.node("Add", [y, x], "sum"), "sum.q", 1 / 24, 100)
    net.head(x, 8)
    return net.finished({"logits": [batch, 4]}, batch)


def all_float():
    """Nothing is quantized."""
    net = Net("all-float")
    weight = net.constant("weight", (net.random.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32))
    x = net.node("Conv", ["input", weight], "conv", kernel_shape=[3, 3], pads=[1] * 4)
    x = net.node("Relu", [x], "relu")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    dense = net.constant("dense", net.random.standard_normal((8, 4)).astype(np.float32))
    net.node("MatMul", [x, dense], "logits")
    return net.finished({"logits": [1, 4]})


def shared_product():
    """A convolution's output is quantized twice, once past a ReLU that reads other values than the second."""
    net = Net("shared-product")
    c = net.conv(net.stem(), "both", 8, 8)
    x = net.q(net.node("Relu", [c], "both.relu"), "relu.q", 1 / 64, 0)
    y = net.q(net.node("Elu", [net.q(c, "both.q")], "elu"), "elu.q", 1 / 32, 40)
    net.head(net.q(net.node("Add", [x, y], "sum"), "sum.q", 1 / 24, 60), 8)
    return net.finished({"logits": [1, 4]})


def bytes_read_as_they_are():
    """Bytes pass through a node that isn't a DequantizeLinear: what makes them runs in float."""
    net = Net("bytes-read-as-they-are")
    c = net.conv(net.stem(), "before", 8, 8)
    step = [net.constant("t.scale", np.float32(1 / 32)), net.constant("t.zero", np.uint8(128))]
    net.node("QuantizeLinear", [c, *step], "t.u8")
    net.node("Transpose", ["t.u8"], "t.turned", perm=[0, 1, 3, 2])
    x = net.node("DequantizeLinear", ["t.turned", *step], "t.f32")
    x = net.q(x, "turned.q")
    net.head(net.q(net.conv(x, "after", 8, 8), "after.q"), 8)
    return net.finished({"logits": [1, 4]})


def weights_of_minus_128():
    """Weights that no kernel takes: the convolution runs in float."""
    model = residual()
    model.graph.name = "weights-of-minus-128"
    weights = next(t for t in model.graph.initializer if t.name == "branch.weight.i8")
    values = bytearray(weights.raw_data)
    values[0] = 0x80
    weights.raw_data = bytes(values)
    return model


SOUND = [
    plain,
    depthwise_silu,
    squeeze_excite,
    residual,
    pools_and_heads,
    few_channels,
    float_middle,
    float_pool,
    residual_across,
    lambda: residual_across(2),
    all_float,
    shared_product,
    bytes_read_as_they_are,
    weights_of_minus_128,
]


def node(model, name):
    """Return the node of that name."""
    return next(n for n in model.graph.node if n.name == name)


def constant(model, name):
    """Return the initializer of that name."""
    return next(t for t in model.graph.initializer if t.name == name)


def attribute(model, name, key):
    """Return an attribute of a node."""
    return next(a for a in node(model, name).attribute if a.name == key)


def hostile():
    """Yield (name, model, what the error has to name)."""

    def changed(name, named, change, base=plain):
        model = base()
        change(model)
        return name, model, named

    def with_shape(model, name, dims):
        constant(model, name).dims[:] = dims

    def with_ints(model, name, key, values):
        attribute(model, name, key).ints[:] = values

    def ring(model):
        node(model, "stem").input[0] = "second.q.f32"

    def itself(model):
        node(model, "stem.relu").input[0] = "stem.relu"

    def twice(model):
        model.graph.node.append(node(model, "stem.relu"))

    def no_output(model):
        del model.graph.output[:]

    def unmade(model):
        model.graph.output[0].name = "nowhere"

    def outside(model):
        tensor = constant(model, "stem.weight.i8")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "passwd"

    def own_graph(model):
        body = helper.make_graph([], "body", [], [])
        model.graph.node.insert(0, helper.make_node("Loop", ["", ""], ["looped"], name="loop", body=body))

    def unknown(model):
        model.graph.node.append(helper.make_node("NonZero", ["stem.relu"], ["where"], name="where"))
        model.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, None))

    def vast(model):
        model.graph.initializer.append(helper.make_tensor("sizes", TensorProto.INT64, [4], [1 << 20] * 4))
        model.graph.node.insert(0, helper.make_node("Expand", ["one", "sizes"], ["vast"], name="vast"))
        model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [1, 1, 1, 1], [1.0]))
        model.graph.output.append(helper.make_tensor_value_info("vast", TensorProto.FLOAT, None))

    def doubled(model):
        model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
        last = "one"
        for i in range(60):
            model.graph.node.append(helper.make_node("Concat", [last, last], [f"twice{i}"], name=f"twice{i}", axis=0))
            last = f"twice{i}"
        model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))

    def integers(model):
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64

    def second_input(model):
        model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))

    def integer_output(model):
        model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], name="best", axis=1))
        model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, None))

    yield changed("ring", "node stem (Conv): its input second.q.f32", ring)
    yield changed("own-input", "node stem.relu (Relu): its input stem.relu", itself)
    yield changed("made-twice", "node stem.relu (Relu): its output stem.relu", twice)
    yield changed("no-output", "no output", no_output)
    yield changed("unmade-output", "nowhere", unmade)
    yield changed("outside", "stem.weight.i8", outside)
    yield changed("own-graph", "node loop (Loop)", own_graph)
    yield changed("unknown-operator", "node where (NonZero)", unknown)
    yield changed("vast", "node vast", vast)
    yield changed("doubled", "node twice", doubled)
    yield changed("integer-input", "input", integers)
    yield changed("second-input", "expected one input, found 2", second_input)
    yield changed("integer-output", "output 1", integer_output)
    yield changed("shape-too-large", "stem.weight.i8", lambda m: with_shape(m, "stem.weight.i8", [1 << 40, 3, 3, 3]))
    yield changed("shape-overflow", "stem.weight.i8", lambda m: with_shape(m, "stem.weight.i8", [1 << 62, 4, 1, 1]))
    yield changed("shape-negative", "stem.weight.i8", lambda m: with_shape(m, "stem.weight.i8", [-8, 3, 3, 3]))
    yield changed("shape-short", "stem.weight.i8", lambda m: with_shape(m, "stem.weight.i8", [8, 3, 3, 2]))
    yield changed("stride-zero", "node stem (Conv): strides", lambda m: with_ints(m, "stem", "strides", [0, 0]))
    yield changed("pads-negative", "node stem (Conv): pads", lambda m: with_ints(m, "stem", "pads", [-1, 0, 0, 0]))
    yield changed("pads-huge", "node stem (Conv): pads", lambda m: with_ints(m, "stem", "pads", [1 << 40] * 4))


def write(name, model):
    """Save a network; return its file's name."""
    save(model, HERE / f"{name}.onnx")
    return f"{name}.onnx"


def main():
    """Write everything."""
    index = {"sound": {}, "hostile": {}}
    for make in SOUND:
        model = make()
        onnx.checker.check_model(model, full_check=True)
        name = model.graph.name
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        noise = np.random.default_rng([SEED, *name.encode(), 1]).normal(0, 1, shape).astype(np.float32)
        bytes_ = model.SerializeToString(deterministic=True)
        session = onnxruntime.InferenceSession(bytes_, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"input": noise}), strict=True))
        write(name, model)
        save(model, CORPUS / f"{name}.onnx")
        index["sound"][name] = {"shape": shape, "outputs": {n: list(v.shape) for n, v in outputs.items()}}
        noise.tofile(HERE / f"{name}.input")
        np.concatenate([v.astype("<f4").ravel() for v in outputs.values()]).tofile(HERE / f"{name}.output")
    for name, model, named in hostile():
        write(name, model)
        index["hostile"][name] = named
    (HERE / "index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
