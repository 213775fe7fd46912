"""The network of 68 landmarks written out in numpy, float64, from the upstream file; and the golden for the Rust test."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "models" / "landmarks" / "landmarks.onnx"
GOLDEN = REPO / "trainer-bridge" / "tests" / "golden" / "landmarks.json"
GOLDEN_INT8 = GOLDEN.with_name("landmarks-int8.json")
# The astronaut's face in scikit-image's photo: left, top, right, bottom.
FACE = (165, 55, 285, 175)

# Another script of that name builds the detector.
_spec = importlib.util.spec_from_file_location("convert_landmarks", MODEL.with_name("convert.py"))
convert = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(convert)
FLOAT_MODEL = convert.FLOAT_MODELS / "landmarks.onnx"


def convolve(x, kernel, stride, is_depthwise):
    """x [H,W,C], kernel [3,3,C,O] or [3,3,C,1]; TensorFlow's SAME padding."""
    side = -(-len(x) // stride)
    n_pad = max((side - 1) * stride + 3 - len(x), 0)
    x = np.pad(x, [(n_pad // 2, n_pad - n_pad // 2)] * 2 + [(0, 0)])
    reach = stride * (side - 1) + 1
    total = 0
    for i in range(3):
        for j in range(3):
            seen = x[i : i + reach : stride, j : j + reach : stride]
            total = total + (seen * kernel[i, j, :, 0] if is_depthwise else seen @ kernel[i, j])
    return total


def reference(pixels):
    """Return the [136] landmarks of `pixels`, [112,112,3] of 0..255."""
    weights = {name: values * float(scale) + low for name, (values, scale, low) in convert.read_tensors().items()}

    def separable(x, name, stride):
        spread = convolve(x, weights[f"{name}/depthwise_filter"], stride, True)
        return spread @ weights[f"{name}/pointwise_filter"][0, 0] + weights[f"{name}/bias"]

    x = (pixels.astype(np.float64) - np.array(convert.MEAN)) / 255
    for block in ("dense0", "dense1", "dense2", "dense3"):
        if block == "dense0":
            total = convolve(x, weights["dense0/conv0/filters"], 2, False) + weights["dense0/conv0/bias"]
        else:
            total = separable(x, f"{block}/conv0", 2)
        total = x = np.maximum(total, 0)
        for layer in ("conv1", "conv2", "conv3"):
            total = total + separable(x, f"{block}/{layer}", 1)
            x = np.maximum(total, 0)
    return x.mean((0, 1)) @ weights["fc/weights"] + weights["fc/bias"]


def face(side=112, moved=0):
    """Return the astronaut's face, [side,side,3] u8, seen from a place `moved` px further right and down."""
    photo = Image.open(convert.fetch.UPSTREAM / "photos" / "astronaut.png").convert("RGB")
    return np.asarray(photo.crop([edge + moved for edge in FACE]).resize((side, side), Image.Resampling.BILINEAR))


def normalized(pixels):
    """Return u8 [112,112,3] as the network takes it, f32 [1,3,112,112]."""
    return ((pixels.astype(np.float64) - convert.MEAN) / 255).astype(np.float32).transpose(2, 0, 1)[None]


def run(model):
    """Return the [136] landmarks of the face by a model in ONNX Runtime, optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options)
    return session.run(None, {"input": normalized(face())})[0][0]


def disagreement(model):
    """Return the largest distance of a coordinate of a model from the definition's."""
    return float(np.abs(run(model) - reference(face())).max())


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(face()).save(GOLDEN.with_suffix(".png"))
    for golden, values in ((GOLDEN, reference(face())), (GOLDEN_INT8, run(MODEL))):
        golden.write_text(json.dumps([round(float(v), 6) for v in values]) + "\n")
    print(f"{GOLDEN}: {disagreement(MODEL):.1e} from ONNX Runtime")
