"""Write the small classifiers of tests/bad_models.rs: sound ones, and ones that are wrong in one way each.

    .cache/venv/bin/python runtime/tests/golden/classifiers/make.py

Each takes 1 x 3 x side x side and gives 1 x 2 logits, unless its name says otherwise. What a sound one gives is ONNX
Runtime's in engine/tests/networks.rs for the same kinds of layers; here only refusals count.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "engine/tests/golden/networks"))

from make import Net, save  # noqa: E402


def quantized(name, side=16, n_outputs=2):
    """Convolutions of bytes to logits."""
    net = Net(name)
    x = net.q(net.conv(net.stem(), "second", 8, 8, stride=2), "second.q")
    net.head(x, 8, n_outputs)
    return net.finished({"logits": [1, n_outputs]}, side=side)


def floating(name, weight, bias, side=16):
    """A mean and a dense layer in float: weight is 2 x 3, bias 2."""
    net = Net(name)
    pooled = net.node("GlobalAveragePool", ["input"], "pool")
    flat = net.node("Flatten", [pooled], "flat", axis=1)
    weights = [net.constant("weight", np.float32(weight)), net.constant("bias", np.float32(bias))]
    net.node("Gemm", [flat, *weights], "logits", transB=1)
    return net.finished({"logits": [1, 2]}, side=side)


WEIGHT = [[0.5, -0.25, 0.125], [-0.5, 1.0, 0.25]]

CLASSIFIERS = {
    "int8-16": quantized("int8-16"),
    "int8-16-other": quantized("int8-16-other"),
    "int8-24": quantized("int8-24", side=24),
    "int8-32": quantized("int8-32", side=32),
    "three-logits": quantized("three-logits", n_outputs=3),
    "float-16": floating("float-16", WEIGHT, [0.1, -0.1]),
    "swapped": floating("swapped", WEIGHT[::-1], [-0.1, 0.1]),
    "nan": floating("nan", WEIGHT, [0.1, np.nan]),
    "infinite": floating("infinite", WEIGHT, [np.inf, 0.1]),
    "constant": floating("constant", np.zeros((2, 3)), [0.1, -0.1]),
}

if __name__ == "__main__":
    for name, model in CLASSIFIERS.items():
        save(model, HERE / f"{name}.onnx")
