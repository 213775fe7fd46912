"""Build the MTCNN networks (P-Net, R-Net, O-Net) as ONNX from the pretrained PyTorch weights.

    python models/mtcnn/convert.py             # int8, from calibration.json, beside this script
    python models/mtcnn/convert.py --float DIR # the float networks

Both kinds take `pixels`, f32 [N,3,H,W], RGB 0..255 as it is: the networks' (x - 127.5) / 128 is folded into their
first convolution. Dense layers are written as convolutions over the whole of their input, and the two-way softmax
as the sigmoid of the difference of its logits, so each network is a chain of Conv -> PRelu [-> MaxPool] and one
convolution for all heads. The int8 kind is QDQ: u8 activations per tensor, i8 weights per output channel, i32
biases; no quantization between Conv and PRelu, nor after the heads.
Networks: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (2016).
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fetch
from graph import Graph, quantize_bias, quantize_per_channel, save
from weights import read_checkpoint

HERE = Path(__file__).resolve().parent
CALIBRATION = HERE / "calibration.json"
REPO_REFERENCE = HERE.parent.parent / "tests" / "reference"
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


def equalize(stages, factors):
    """Divide each stage's output channels by `factors[name]` and undo it in the next stage's weights.

    Changes nothing in exact arithmetic, as PRelu and max commute with a positive factor; it lets one scale per tensor
    fit all of its channels. Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias
    Correction" (2019).
    """
    for stage, following in zip(stages, stages[1:]):
        factor = np.asarray(factors[stage.name])
        stage.weight = stage.weight / factor[:, None, None, None]
        stage.bias = stage.bias / factor
        following.weight = following.weight * factor[None, :, None, None]


def add_int8_convolution(graph, stage, source, input_scale, bias_shift):
    """Add a convolution with i8 weights and i32 bias over a dequantized `source`; return the output's name.

    `stage.bias` holds for an input centred on zero for the first stage: see `build`.
    """
    integers, scale = quantize_per_channel(stage.weight)
    bias = stage.bias + np.asarray(bias_shift)
    if stage.name == "conv1":
        # Centring with the rounded weights keeps the rounding errors from adding up over the mean grey.
        rounded = integers * scale.astype(np.float64)[:, None, None, None]
        bias = bias - PIXEL_OFFSET * rounded.sum(axis=(1, 2, 3))
    bias_scale = np.float32(input_scale) * scale
    weight = graph.dequantized(f"{stage.name}.weight", integers, scale)
    bias_name = graph.dequantized(f"{stage.name}.bias", quantize_bias(bias, bias_scale), bias_scale)
    return graph.node("Conv", [source, weight, bias_name], stage.name)


def add_float_convolution(graph, stage, source):
    """Add a float convolution and return the output's name."""
    bias = stage.bias
    if stage.name == "conv1":
        bias = bias - PIXEL_OFFSET * stage.weight.sum(axis=(1, 2, 3))
    weight = graph.constant(f"{stage.name}.weight", np.float32(stage.weight))
    return graph.node("Conv", [source, weight, graph.constant(f"{stage.name}.bias", np.float32(bias))], stage.name)


def build(net, calibration=None, taps=()):
    """Return the ONNX model of `net`: float without `calibration`, else int8 with its scales.

    `taps` names inner tensors [N,C,H,W] to give as further outputs.
    """
    stages = load_stages(net)
    graph = Graph(net)
    source = "pixels"
    scale = 1.0
    if calibration:
        equalize(stages, calibration["equalize"])
        source = graph.quantized(source, "pixels.q", 1.0, 0)
    stages[0].weight = stages[0].weight * PIXEL_SCALE
    for stage in stages:
        if calibration:
            source = add_int8_convolution(graph, stage, source, scale, calibration["bias_shift"][stage.name])
        else:
            source = add_float_convolution(graph, stage, source)
        if stage.layer is None:
            break
        slope = graph.constant(f"{stage.layer.prelu}.slope", np.float32(stage.slope)[:, None, None])
        source = graph.node("PRelu", [source, slope], stage.layer.prelu)
        quantizer = calibration and calibration["activations"][stage.name]
        if calibration:
            scale = quantizer["scale"]
            source = graph.quantized(source, f"{stage.name}.q", **quantizer)
        if stage.layer.pool_px:
            source = graph.node(
                "MaxPool",
                [source],
                f"{stage.name}.pool",
                kernel_shape=[stage.layer.pool_px] * 2,
                strides=[2, 2],
                pads=[0, 0, stage.layer.pool_pad, stage.layer.pool_pad],
            )
            if calibration:
                source = graph.quantized(source, f"{stage.name}.pool.q", **quantizer)

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
    kind = "int8 QDQ" if calibration else "float"
    return graph.model({"pixels": shape}, outputs, f"MTCNN {net}, {kind}; weights of facenet-pytorch 2.6.0 (MIT)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float", type=Path, metavar="DIR", help="write the float networks there instead")
    parser.add_argument("--into", type=Path, default=HERE, help="where the int8 networks go")
    args = parser.parse_args()
    fetch.fetch_all()
    calibration = None if args.float else json.loads(CALIBRATION.read_text())
    for net in NETWORKS:
        path = (args.float or args.into) / f"{net}.onnx"
        save(build(net, calibration and calibration[net]), path)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
