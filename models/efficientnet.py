"""Build EfficientNet classifiers (Lite0..4, B0..B5) as ONNX from one description.

    python models/efficientnet.py lite0 OUT.onnx --weights CHECKPOINT.pth --quantize weights
    python models/efficientnet.py b5 OUT.onnx --weights random --seed 5 --size 300

`input`, f32 [N,3,S,S], normalised RGB -> backbone -> 1024 -> ReLU -> `logits`, f32 [N,2]: class 0 real, class 1 fake.
Batch normalisation is folded. The Lite family has no squeeze-and-excitation, ReLU6, and TensorFlow's "SAME" padding
(the extra pixel right and below); the B family has SE, SiLU and symmetric padding.
Sources: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), and the
EfficientNet-Lite changes: no SE, ReLU6, stem and head not scaled, first and last group not deepened.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from graph import Graph, quantize_per_channel, save
from weights import read_checkpoint

# kernel, stride, expansion, channels, repeats
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS, FEATURES, HIDDEN, N_CLASSES = 32, 1280, 1024, 2
SE_RATIO = 0.25
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Architecture:
    """One member: `width` and `depth` multiply channels and repeats; `size_px` is its own input side."""

    lite: bool
    width: float
    depth: float
    size_px: int


ARCHITECTURES = {
    "lite0": Architecture(True, 1.0, 1.0, 224),
    "lite1": Architecture(True, 1.0, 1.1, 240),
    "lite2": Architecture(True, 1.1, 1.2, 260),
    "lite3": Architecture(True, 1.2, 1.4, 280),
    "lite4": Architecture(True, 1.4, 1.8, 300),
    "b0": Architecture(False, 1.0, 1.0, 224),
    "b1": Architecture(False, 1.0, 1.1, 240),
    "b2": Architecture(False, 1.1, 1.2, 260),
    "b3": Architecture(False, 1.2, 1.4, 300),
    "b4": Architecture(False, 1.4, 1.8, 380),
    "b5": Architecture(False, 1.6, 2.2, 456),
}


@dataclass(frozen=True)
class Block:
    """One inverted residual block; `n_squeezed` is SE's inner width, 0 without SE."""

    kernel_px: int
    stride: int
    n_in: int
    n_expanded: int
    n_out: int
    n_squeezed: int

    @property
    def residual(self):
        return self.stride == 1 and self.n_in == self.n_out


def scaled_channels(n_channels, width):
    """Scale and round to a multiple of 8, never by more than a tenth downwards."""
    wanted = n_channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def stem_and_features(architecture):
    """Return the stem's and the last convolution's channel counts."""
    width = 1.0 if architecture.lite else architecture.width
    return scaled_channels(STEM_CHANNELS, width), scaled_channels(FEATURES, width)


def blocks(architecture):
    """Return the member's blocks in order."""
    n_in, found = stem_and_features(architecture)[0], []
    for group_idx, (kernel_px, stride, expansion, channels, repeats) in enumerate(GROUPS):
        n_out = scaled_channels(channels, architecture.width)
        fixed = architecture.lite and group_idx in (0, len(GROUPS) - 1)
        for repeat in range(repeats if fixed else math.ceil(repeats * architecture.depth)):
            n_squeezed = 0 if architecture.lite else max(1, int(n_in * SE_RATIO))
            found.append(Block(kernel_px, stride if repeat == 0 else 1, n_in, n_in * expansion, n_out, n_squeezed))
            n_in = n_out
    return found


class RandomWeights:
    """Seeded weights that keep the signal's size through a network without batch normalisation."""

    RESIDUAL_GAIN = 0.2
    MEAN_SE_GATE = 0.5

    def __init__(self, seed, architecture):
        self.rng = np.random.default_rng(seed)
        # Undoes what ReLU6 or SiLU leaves of a unit normal's second moment.
        self.after_activation = math.sqrt(2.0) if architecture.lite else 1.68
        self.gains = {"stem": 1.0, "features": 1.0}
        for block_idx, block in enumerate(blocks(architecture)):
            project = self.after_activation * (self.RESIDUAL_GAIN if block.residual else 1.0)
            self.gains[f"blocks.{block_idx}.expand"] = 1.0
            self.gains[f"blocks.{block_idx}.project"] = project / (self.MEAN_SE_GATE if block.n_squeezed else 1.0)

    def layer(self, name, shape):
        """Return (weight of `shape`, bias) in float64 for the layer called `name`."""
        gain = self.gains.get(name, self.after_activation)
        weight = self.rng.standard_normal(shape) * gain / math.sqrt(math.prod(shape[1:]))
        return weight, self.rng.standard_normal(shape[0]) * 0.1


class CheckpointWeights:
    """The backbone of a PyTorch checkpoint with batch normalisation folded; the classifier is seeded.

    Layer names are those of the `efficientnet-pytorch` packages (`_blocks.N._expand_conv`, `_bn0`, ...).
    """

    LAYERS = {
        "stem": ("_conv_stem", "_bn0"),
        "features": ("_conv_head", "_bn1"),
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "se_reduce": ("_se_reduce", None),
        "se_expand": ("_se_expand", None),
        "project": ("_project_conv", "_bn2"),
    }

    def __init__(self, path, seed, architecture):
        self.state = {name: array.astype(np.float64) for name, array in read_checkpoint(path).items()}
        self.seeded = RandomWeights(seed, architecture)

    def layer(self, name, shape):
        """Return (weight of `shape`, bias) in float64 for the layer called `name`."""
        *block, kind = name.split(".")
        if kind == "imagenet":
            return self.state["_fc.weight"], self.state["_fc.bias"]
        if kind not in self.LAYERS:
            return self.seeded.layer(name, shape)
        folder = f"_blocks.{block[1]}." if block else ""
        convolution, norm = (part and folder + part for part in self.LAYERS[kind])
        weight = self.state[f"{convolution}.weight"]
        if weight.shape != tuple(shape):
            raise ValueError(f"{convolution}: expected shape {tuple(shape)}, found {weight.shape}")
        if norm is None:
            return weight, self.state[f"{convolution}.bias"]
        gain = self.state[f"{norm}.weight"] / np.sqrt(self.state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        bias = self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * gain
        return weight * gain[:, None, None, None], bias


class Builder:
    """Writes layers into a graph and tracks the side of the feature map, which "SAME" padding depends on."""

    def __init__(self, architecture, weights, size_px, quantized):
        self.graph = Graph("efficientnet")
        self.lite = architecture.lite
        self.weights = weights
        self.side_px = size_px
        self.quantized = quantized

    def parameters(self, name, shape):
        """Add a layer's weight and bias and return their names."""
        weight, bias = self.weights.layer(name, shape)
        if self.quantized:
            weight_name = self.graph.dequantized(f"{name}.weight", *quantize_per_channel(weight))
        else:
            weight_name = self.graph.constant(f"{name}.weight", np.float32(weight))
        return [weight_name, self.graph.constant(f"{name}.bias", np.float32(bias))]

    def pads(self, kernel_px, stride):
        """Return (before, after) for one axis and step the side past the layer."""
        n_out = -(-self.side_px // stride)
        total = kernel_px - 1
        if self.lite:
            total = max((n_out - 1) * stride + kernel_px - self.side_px, 0)
        self.side_px = n_out
        return total // 2, total - total // 2

    def convolution(self, source, name, n_out, n_in, kernel_px=1, stride=1, groups=1):
        before, after = self.pads(kernel_px, stride)
        return self.graph.node(
            "Conv",
            [source, *self.parameters(name, (n_out, n_in // groups, kernel_px, kernel_px))],
            name,
            kernel_shape=[kernel_px] * 2,
            strides=[stride] * 2,
            pads=[before, before, after, after],
            group=groups,
        )

    def activation(self, source):
        if self.lite:
            return self.graph.node("Clip", [source, "zero", "six"], f"{source}.relu6")
        gate = self.graph.node("Sigmoid", [source], f"{source}.sigmoid")
        return self.graph.node("Mul", [source, gate], f"{source}.silu")

    def squeeze_excite(self, source, name, block):
        side_px = self.side_px
        self.side_px = 1
        squeezed = self.graph.node("GlobalAveragePool", [source], f"{name}.se_pool")
        squeezed = self.convolution(squeezed, f"{name}.se_reduce", block.n_squeezed, block.n_expanded)
        squeezed = self.convolution(self.activation(squeezed), f"{name}.se_expand", block.n_expanded, block.n_squeezed)
        gate = self.graph.node("Sigmoid", [squeezed], f"{name}.se_gate")
        self.side_px = side_px
        return self.graph.node("Mul", [source, gate], f"{name}.se")

    def block(self, source, name, block):
        inner = source
        if block.n_expanded != block.n_in:
            inner = self.activation(self.convolution(inner, f"{name}.expand", block.n_expanded, block.n_in))
        depthwise = (block.n_expanded, block.n_expanded, block.kernel_px, block.stride, block.n_expanded)
        inner = self.activation(self.convolution(inner, f"{name}.depthwise", *depthwise))
        if block.n_squeezed:
            inner = self.squeeze_excite(inner, name, block)
        inner = self.convolution(inner, f"{name}.project", block.n_out, block.n_expanded)
        if block.residual:
            inner = self.graph.node("Add", [inner, source], f"{name}.sum")
        return inner

    def dense(self, source, name, n_out, n_in, output=None):
        return self.graph.node("Gemm", [source, *self.parameters(name, (n_out, n_in))], output or name, transB=1)


def build(member, weights, size_px=None, quantized=False, imagenet=False):
    """Return the ONNX model of `member` (a key of ARCHITECTURES) with `weights` (an object with `layer`).

    `quantized` stores weights as i8 per output channel, computed in float. `imagenet` ends in the checkpoint's own
    1000 classes instead of the detector's head, to check a backbone.
    """
    architecture = ARCHITECTURES[member]
    size_px = size_px or architecture.size_px
    builder = Builder(architecture, weights, size_px, quantized)
    graph = builder.graph
    if architecture.lite:
        graph.constant("zero", np.float32(0))
        graph.constant("six", np.float32(6))
    n_stem, n_features = stem_and_features(architecture)
    flow = builder.activation(builder.convolution("input", "stem", n_stem, 3, 3, 2))
    n_channels = n_stem
    for block_idx, block in enumerate(blocks(architecture)):
        flow = builder.block(flow, f"blocks.{block_idx}", block)
        n_channels = block.n_out
    flow = builder.activation(builder.convolution(flow, "features", n_features, n_channels))
    flow = graph.node("Flatten", [graph.node("GlobalAveragePool", [flow], "pool")], "flat", axis=1)
    n_classes = 1000 if imagenet else N_CLASSES
    if imagenet:
        builder.dense(flow, "imagenet", n_classes, n_features, "logits")
    else:
        flow = graph.node("Relu", [builder.dense(flow, "hidden", HIDDEN, n_features)], "hidden.relu")
        builder.dense(flow, "classes", n_classes, HIDDEN, "logits")
    doc = f"EfficientNet {member}, {size_px} px" + (", i8 weights" if quantized else "")
    return graph.model({"input": ["N", 3, size_px, size_px]}, {"logits": ["N", n_classes]}, doc)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("member", choices=ARCHITECTURES)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--weights", default="random", help="a checkpoint's path, or random")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of the classifier's")
    parser.add_argument("--size", type=int, help="input side in px; the member's own by default")
    parser.add_argument("--quantize", choices=["weights"], help="store the weights as i8")
    args = parser.parse_args()
    architecture = ARCHITECTURES[args.member]
    if args.weights == "random":
        weights = RandomWeights(args.seed, architecture)
    else:
        weights = CheckpointWeights(args.weights, args.seed, architecture)
    save(build(args.member, weights, args.size, args.quantize == "weights"), args.onnx)
    print(f"{args.onnx}: {args.onnx.stat().st_size} bytes")


if __name__ == "__main__":
    main()
