"""Build the MTCNN networks (P-Net, R-Net, O-Net) as ONNX from the pretrained PyTorch weights.

    python models/mtcnn/convert.py [--into DIR]

In float: `models/quantize` makes the int8 networks that ship of them. They take `pixels`, f32 [N,3,H,W], RGB 0..255 as it
is: the networks' (x - 127.5) / 128 is folded into their first convolution. Dense layers are written as convolutions over
the whole of their input, and the two-way softmax as the sigmoid of the difference of its logits, so each network is a
chain of Conv -> PRelu [-> MaxPool] and one convolution for all heads.
Networks: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (2016).
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fetch
from graph import Graph, save
from weights import read_checkpoint

HERE = Path(__file__).resolve().parent
FLOAT_MODELS = HERE.parent.parent / ".cache" / "models" / "mtcnn-float"
PIXEL_OFFSET, PIXEL_SCALE = 127.5, 1 / 128


@dataclass(frozen=True)
class Layer:
    """Conv -> PRelu, then a max pool of `pool_px` and stride 2 that keeps a partial last window of `pool_pad` px."""

    conv: str
    prelu: str
    pool_px: int = 0
    pool_pad: int = 0


@dataclass(frozen=True)
class Network:
    """One stage: its trunk, the heads' layer names (face, offset, landmarks), and its input side (None: any)."""

    layers: tuple
    heads: tuple
    side_px: int | None


# The pads give what PyTorch's ceil_mode gives at these sizes (at any size for the 2 px pool).
NETWORKS = {
    "pnet": Network(
        (Layer("conv1", "prelu1", 2, 1), Layer("conv2", "prelu2"), Layer("conv3", "prelu3")),
        ("conv4_1", "conv4_2"),
        None,
    ),
    "rnet": Network(
        (
            Layer("conv1", "prelu1", 3, 1),
            Layer("conv2", "prelu2", 3, 0),
            Layer("conv3", "prelu3"),
            Layer("dense4", "prelu4"),
        ),
        ("dense5_1", "dense5_2"),
        24,
    ),
    "onet": Network(
        (
            Layer("conv1", "prelu1", 3, 1),
            Layer("conv2", "prelu2", 3, 0),
            Layer("conv3", "prelu3", 2, 0),
            Layer("conv4", "prelu4"),
            Layer("dense5", "prelu5"),
        ),
        ("dense6_1", "dense6_2", "dense6_3"),
        48,
    ),
}
HEAD_CHANNELS = {"prob": 1, "offset": 4, "landmarks": 10}


@dataclass
class Stage:
    """One convolution's numbers: weight [O,I,kh,kw] and bias [O], and the PRelu slope [O] (None for the heads)."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    slope: np.ndarray | None
    layer: Layer | None


def as_convolution(weight, n_in):
    """Return a dense [O, W*H*C] weight as a convolution's [O,C,H,W]; a convolution's passes through.

    The checkpoint's dense layers flatten [N,W,H,C], which is neither NCHW nor NHWC.
    """
    if weight.ndim == 4:
        return weight
    side = round((weight.shape[1] / n_in) ** 0.5)
    return weight.reshape(len(weight), side, side, n_in).transpose(0, 3, 2, 1)


def load_stages(net):
    """Return the stages of network `net` in float64, heads last, before any folding."""
    state = read_checkpoint(fetch.UPSTREAM / "mtcnn" / f"{net}.pt")
    state = {name: array.astype(np.float64) for name, array in state.items()}
    stages, n_channels = [], 3
    for layer in NETWORKS[net].layers:
        weight = as_convolution(state[f"{layer.conv}.weight"], n_channels)
        stages.append(Stage(layer.conv, weight, state[f"{layer.conv}.bias"], state[f"{layer.prelu}.weight"], layer))
        n_channels = len(weight)
    rows = [(as_convolution(state[f"{head}.weight"], n_channels), state[f"{head}.bias"]) for head in NETWORKS[net].heads]
    # softmax([no, yes])[1] = sigmoid(yes - no)
    rows[0] = (rows[0][0][1:] - rows[0][0][:1], rows[0][1][1:] - rows[0][1][:1])
    stages.append(Stage("heads", np.concatenate([w for w, _ in rows]), np.concatenate([b for _, b in rows]), None, None))
    return stages


def add_convolution(graph, stage, source):
    """Add a convolution and return the output's name."""
    bias = stage.bias
    if stage.name == "conv1":
        bias = bias - PIXEL_OFFSET * stage.weight.sum(axis=(1, 2, 3))
    weight = graph.constant(f"{stage.name}.weight", np.float32(stage.weight))
    return graph.node("Conv", [source, weight, graph.constant(f"{stage.name}.bias", np.float32(bias))], stage.name)


def build(net, taps=()):
    """Return the ONNX model of `net`. `taps` names inner tensors [N,C,H,W] to give as further outputs."""
    stages = load_stages(net)
    graph = Graph(net)
    source = "pixels"
    stages[0].weight = stages[0].weight * PIXEL_SCALE
    for stage in stages:
        source = add_convolution(graph, stage, source)
        if stage.layer is None:
            break
        slope = graph.constant(f"{stage.layer.prelu}.slope", np.float32(stage.slope)[:, None, None])
        source = graph.node("PRelu", [source, slope], stage.layer.prelu)
        if stage.layer.pool_px:
            source = graph.node(
                "MaxPool",
                [source],
                f"{stage.name}.pool",
                kernel_shape=[stage.layer.pool_px] * 2,
                strides=[2, 2],
                pads=[0, 0, stage.layer.pool_pad, stage.layer.pool_pad],
            )

    side = NETWORKS[net].side_px
    shape = ["N", 3, side or "H", side or "W"]
    tail = []
    if side:
        source = graph.node("Flatten", [source], "flat", axis=1)
    else:
        tail = ["Hp", "Wp"]
    heads = dict(list(HEAD_CHANNELS.items())[: len(NETWORKS[net].heads)])
    splits = graph.constant("head_channels", np.array(list(heads.values()), np.int64))
    graph.node("Split", [source, splits], ["face_logit", *list(heads)[1:]], axis=1)
    graph.node("Sigmoid", ["face_logit"], "prob")
    outputs = {head: ["N", n, *tail] for head, n in heads.items()}
    outputs |= {tap: [f"{tap}.{axis}" for axis in "NCHW"] for tap in taps}
    return graph.model({"pixels": shape}, outputs, f"MTCNN {net}, float; weights of facenet-pytorch 2.6.0 (MIT)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=FLOAT_MODELS, help="where they go [.cache/models/mtcnn-float]")
    into = parser.parse_args().into
    fetch.fetch_all()
    for net in NETWORKS:
        path = into / f"{net}.onnx"
        save(build(net), path)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
