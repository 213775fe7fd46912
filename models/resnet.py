"""Build ResNet classifiers (18 and 34) as ONNX.

    python models/zoo.py resnet18

`input`, f32 [N,3,S,S], normalised RGB -> backbone -> 1024 -> ReLU -> `logits`, f32 [N,2]: class 0 real, class 1 fake.
Batch normalisation is folded.
Source: He et al., "Deep Residual Learning for Image Recognition" (2015), basic blocks.
"""

import math

import numpy as np
from network import Builder

REPEATS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STEM_CHANNELS = 64


class RandomWeights:
    """Seeded weights that keep the signal's size through a network without batch normalisation."""

    # Undoes what ReLU leaves of a unit normal's second moment.
    AFTER_RELU = math.sqrt(2.0)
    RESIDUAL_GAIN = 0.3

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def layer(self, name, shape):
        """Return (weight of `shape`, bias) in float64 for the layer called `name`."""
        gain = 1.0 if name == "stem" else self.AFTER_RELU
        if name.endswith("conv2"):
            gain *= self.RESIDUAL_GAIN
        elif name.endswith("shortcut"):
            gain = 1.0
        weight = self.rng.standard_normal(shape) * gain / math.sqrt(math.prod(shape[1:]))
        return weight, self.rng.standard_normal(shape[0]) * 0.1


class ResNet(Builder):
    """Adds the family's parts."""

    def block(self, source, name, n_in, n_out, stride):
        """Add one basic block."""
        side_px = self.side_px
        inner = self.relu(self.convolution(source, f"{name}.conv1", n_out, n_in, 3, stride))
        inner = self.step(self.convolution(inner, f"{name}.conv2", n_out, n_out, 3))
        if stride != 1 or n_in != n_out:
            self.side_px = side_px
            source = self.step(self.convolution(source, f"{name}.shortcut", n_out, n_in, 1, stride))
        return self.relu(self.graph.node("Add", [inner, source], f"{name}.sum"))


def build(member, weights, size_px=224, calibration=None):
    """Return the finished `Builder` of `member` (a key of REPEATS) with `weights` (an object with `layer`).

    With a `calibration` it is int8, else float.
    """
    network = ResNet(member, weights, size_px, calibration)
    flow = network.relu(network.convolution(network.input(), "stem", STEM_CHANNELS, 3, 7, 2))
    flow = network.max_pool(flow, "stem.pool", 3, 2)
    n_channels = STEM_CHANNELS
    for group_idx, n_repeats in enumerate(REPEATS[member]):
        n_out = STEM_CHANNELS << group_idx
        for repeat in range(n_repeats):
            stride = 2 if group_idx and not repeat else 1
            flow = network.block(flow, f"groups.{group_idx}.{repeat}", n_channels, n_out, stride)
            n_channels = n_out
    network.head(flow, n_channels)
    return network
