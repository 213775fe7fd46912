"""Build the default bundle's files: an EfficientNet-Lite0 whose head has not been trained.

    python models/default/build.py [--into DIR]

The backbone is the pinned ImageNet checkpoint; the head is seeded, with `LOGIT_GAIN` and `LOGIT_SHIFT` chosen so that
faces score over much of 0.3 to 0.7. It is int8 with the numbers of calibration.json (see `calibrate.py`), and the same
bytes come out on every run.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import fetch
import ranges
from efficientnet import ARCHITECTURES, CheckpointWeights, EqualizedWeights, build
from graph import save
from network import MEAN, STD

CALIBRATION = HERE / "calibration.json"
MEMBER, SIZE_PX, SEED = "lite0", 224, 1
ARCHITECTURE = ARCHITECTURES[MEMBER]
MARGIN = 0.3
# Of the logits' difference over face crops.
LOGIT_GAIN, LOGIT_SHIFT = 1.2, -0.4


class UntrainedHead(CheckpointWeights):
    """The checkpoint's backbone with the seeded head scaled to unsaturated scores."""

    def layer(self, name, shape):
        """Return (weight, bias) of the layer called `name`."""
        weight, bias = super().layer(name, shape)
        if name == "classes":
            weight = weight * LOGIT_GAIN
            bias = np.array([-LOGIT_SHIFT, LOGIT_SHIFT]) / 2
        return weight, bias


def network(factors=None, calibration=None, imagenet=False):
    """Return the finished builder: streams divided by `factors`, int8 with a `calibration`, else float."""
    weights = UntrainedHead(fetch.fetch_all() / "lite0" / "lite0.pth", SEED, ARCHITECTURE)
    if factors:
        weights = EqualizedWeights(weights, ARCHITECTURE, factors)
    return build(MEMBER, weights, SIZE_PX, calibration, imagenet)


def int8(imagenet=False):
    """Return the finished builder of the model that ships, or of its backbone with ImageNet's classes."""
    calibration = ranges.read(CALIBRATION)
    return network(calibration["equalize"], calibration, imagenet)


def manifest(model):
    """Return the manifest of the bundle around the bytes of `model`."""
    return {
        "format": 1,
        "id": "lite0-224-untrained",
        "version": "0.1.0",
        "status": "untrained",
        "architecture": "EfficientNet-Lite0",
        "input": {"size_px": SIZE_PX, "mean": [MEAN] * 3, "std": [STD] * 3, "margin": MARGIN},
        "score": {"temperature": 1.0, "bias": 0.0},
        "thresholds": {"real_below": 0.35, "fake_above": 0.65},
        "min_scores": 5,
        "min_face_px": 50,
        "model": {"file": "model.onnx", "sha256": hashlib.sha256(model).hexdigest(), "size_bytes": len(model)},
        "licence": "Apache-2.0",
        "data_terms": "ImageNet-pretrained backbone; head untrained",
        "quality": None,
    }


def build_into(into):
    """Write model.onnx and manifest.json into the folder `into`."""
    save(int8().model(), into / "model.onnx")
    described = manifest((into / "model.onnx").read_bytes())
    (into / "manifest.json").write_text(json.dumps(described, indent=2) + "\n")
    print(f"{into / 'model.onnx'}: {described['model']['size_bytes']} bytes, SHA-256 {described['model']['sha256']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE)
    build_into(parser.parse_args().into)


if __name__ == "__main__":
    main()
