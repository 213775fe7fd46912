"""Build the network of 68 face landmarks as ONNX from face-api's weights.

    python models/landmarks/convert.py [--into DIR]

`input`, f32 [1,3,112,112]: RGB, (x - mean) / 255 with MEAN below. `landmarks`, f32 [1,136]: x, y of each landmark in turn,
as fractions of the input's side, in iBUG order. Four blocks of separable convolutions, each block's layers summed one on
another, then the mean over the last 7x7 cells and one dense layer. The weights stay the upstream file's bytes, one scale
per tensor, behind DequantizeLinear; only the dense layer's bias, whose range leaves out zero, is f32. With --float all of
them are, as `trainer-bridge quantize-net` takes them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
FLOAT_MODELS = HERE.parent.parent / ".cache" / "models" / "landmarks-float"
sys.path.insert(0, str(HERE.parent))

import fetch
from graph import Graph, save

SIDE_PX = 112
# Of red, green and blue, 0..255.
MEAN = (122.782, 117.001, 104.298)
N_BLOCKS, N_LAYERS = 4, 4
# TensorFlow's SAME at stride 2 on an even side: the one row and column of padding is after the picture.
STRIDE_2 = {"strides": [2, 2], "pads": [0, 0, 1, 1], "kernel_shape": [3, 3]}
STRIDE_1 = {"strides": [1, 1], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}


def read_tensors(folder=fetch.UPSTREAM / "landmarks"):
    """Return `{name: (u8 array, scale, min)}` of the upstream file; a value is byte * scale + min."""
    (group,) = json.loads((folder / "weights_manifest.json").read_text())
    raw = (folder / "weights.bin").read_bytes()
    tensors, at = {}, 0
    for entry in group["weights"]:
        n_values = int(np.prod(entry["shape"]))
        values = np.frombuffer(raw, np.uint8, n_values, at).reshape(entry["shape"])
        tensors[entry["name"]] = (values, entry["quantization"]["scale"], entry["quantization"]["min"])
        at += n_values
    if at != len(raw):
        raise ValueError(f"weights.bin: expected {at} bytes, found {len(raw)}")
    return tensors


class Builder:
    """Adds layers to a graph, with weights of the upstream file."""

    def __init__(self):
        self.graph = Graph("landmarks")
        self.tensors = read_tensors()

    def weight(self, name, axes):
        """Add tensor `name`, its axes in the order `axes`; return its name."""
        values, scale, low = self.tensors[name]
        return self.graph.constant(name, np.float32(values * scale + low).transpose(axes))

    def layer(self, name, source, is_dense, stride):
        """Add one convolution, dense or separable, with its bias."""
        bias = self.weight(f"{name}/bias", (0,))
        if is_dense:
            return self.graph.node("Conv", [source, self.weight(f"{name}/filters", (3, 2, 0, 1)), bias], name, **stride)
        depthwise = self.weight(f"{name}/depthwise_filter", (2, 3, 0, 1))
        pointwise = self.weight(f"{name}/pointwise_filter", (3, 2, 0, 1))
        n_channels = self.tensors[f"{name}/depthwise_filter"][0].shape[2]
        spread = self.graph.node("Conv", [source, depthwise], f"{name}/depthwise", group=n_channels, **stride)
        return self.graph.node("Conv", [spread, pointwise, bias], name, kernel_shape=[1, 1])

    def block(self, name, source, is_first):
        """Add a block: halves the side; each layer reads the rectified sum of all before it."""
        total = self.layer(f"{name}/conv0", source, is_first, STRIDE_2)
        total = self.graph.node("Relu", [total], f"{name}/relu0")
        source = total
        for k in range(1, N_LAYERS):
            made = self.layer(f"{name}/conv{k}", source, False, STRIDE_1)
            total = self.graph.node("Add", [total, made], f"{name}/sum{k}")
            source = self.graph.node("Relu", [total], f"{name}/relu{k}")
        return source


def build():
    """Return the ONNX model."""
    builder = Builder()
    graph, source = builder.graph, "input"
    for k in range(N_BLOCKS):
        source = builder.block(f"dense{k}", source, k == 0)
    source = graph.node("GlobalAveragePool", [source], "mean")
    source = graph.node("Flatten", [source], "features", axis=1)
    weights = [builder.weight("fc/weights", (0, 1)), builder.weight("fc/bias", (0,))]
    graph.node("Gemm", [source, *weights], "landmarks")
    shapes = {"input": [1, 3, SIDE_PX, SIDE_PX]}, {"landmarks": [1, 136]}
    return graph.model(*shapes, "68 face landmarks, float; weights of @vladmandic/face-api 1.7.15 (MIT)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=FLOAT_MODELS, help="where it goes [.cache/models/landmarks-float]")
    path = parser.parse_args().into / "landmarks.onnx"
    fetch.fetch_all()
    save(build(), path)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
