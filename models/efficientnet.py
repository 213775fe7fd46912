"""Build EfficientNet classifiers (Lite0..4, B0..B5) as ONNX from one description.

    python models/zoo.py lite0 b5

`input`, f32 [N,3,S,S], normalised RGB -> backbone -> 1024 -> ReLU -> `logits`, f32 [N,2]: class 0 real, class 1 fake.
Batch normalisation is folded. The Lite family has no squeeze-and-excitation, ReLU6, and TensorFlow's "SAME" padding
(the extra pixel right and below); the B family has SE, SiLU and symmetric padding.
Sources: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), and the
EfficientNet-Lite changes: no SE, ReLU6, stem and head not scaled, first and last group not deepened.
"""

import math
from dataclasses import dataclass

import numpy as np
from network import Builder
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
STEM_CHANNELS, FEATURES = 32, 1280
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
        # Undoes what ReLU6 leaves of a unit normal's second moment; for SiLU, which takes less away from large values
        # than from small ones, less than that, or the signal grows without end.
        self.after_activation = math.sqrt(2.0) if architecture.lite else 1.54
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


class EfficientNet(Builder):
    """Adds the family's parts."""

    def __init__(self, name, architecture, weights, size_px, calibration):
        super().__init__(name, weights, size_px, calibration)
        self.lite = architecture.lite
        self.activation = self.relu6 if self.lite else self.silu

    def pads(self, kernel_px, stride):
        """Return (before, after) for one axis and move the side past the layer."""
        side_px = self.side_px
        symmetric = super().pads(kernel_px, stride)
        if not self.lite:
            return symmetric
        total = max((self.side_px - 1) * stride + kernel_px - side_px, 0)
        return total // 2, total - total // 2

    def squeeze_excite(self, source, name, block):
        """Multiply each channel by a gate made of all channels' means."""
        side_px = self.side_px
        squeezed = self.mean(source, f"{name}.se_pool")
        self.side_px = 1
        squeezed = self.convolution(squeezed, f"{name}.se_reduce", block.n_squeezed, block.n_expanded)
        squeezed = self.convolution(self.activation(squeezed), f"{name}.se_expand", block.n_expanded, block.n_squeezed)
        gate = self.step(self.graph.node("Sigmoid", [self.step(squeezed)], f"{name}.se_gate"))
        self.side_px = side_px
        return self.step(self.graph.node("Mul", [source, gate], f"{name}.se"))

    def block(self, source, name, block):
        """Add one inverted residual block."""
        inner = source
        if block.n_expanded != block.n_in:
            inner = self.activation(self.convolution(inner, f"{name}.expand", block.n_expanded, block.n_in))
        depthwise = (block.n_expanded, block.n_expanded, block.kernel_px, block.stride, block.n_expanded)
        inner = self.activation(self.convolution(inner, f"{name}.depthwise", *depthwise))
        if block.n_squeezed:
            inner = self.squeeze_excite(inner, name, block)
        inner = self.step(self.convolution(inner, f"{name}.project", block.n_out, block.n_expanded))
        if block.residual:
            inner = self.step(self.graph.node("Add", [inner, source], f"{name}.sum"))
        return inner


def build(member, weights, size_px=None, calibration=None, imagenet=False):
    """Return the finished `Builder` of `member` (a key of ARCHITECTURES) with `weights` (an object with `layer`).

    With a `calibration` it is int8, else float. `imagenet` ends in the checkpoint's own 1000 classes instead of the
    detector's head, to check a backbone.
    """
    architecture = ARCHITECTURES[member]
    size_px = size_px or architecture.size_px
    network = EfficientNet(f"EfficientNet {member}", architecture, weights, size_px, calibration)
    n_stem, n_features = stem_and_features(architecture)
    flow = network.activation(network.convolution(network.input(), "stem", n_stem, 3, 3, 2))
    n_channels = n_stem
    for block_idx, block in enumerate(blocks(architecture)):
        flow = network.block(flow, f"blocks.{block_idx}", block)
        n_channels = block.n_out
    flow = network.activation(network.convolution(flow, "features", n_features, n_channels))
    network.head(flow, n_features, imagenet)
    return network
