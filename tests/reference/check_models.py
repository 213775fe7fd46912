"""Check the shipped models and write the goldens that the Rust tests read.

    python tests/reference/check_models.py [--goldens-only]

- every shipped ONNX file passes onnx.checker and runs in ONNX Runtime;
- the MTCNN networks and the landmarks, rebuilt from the pinned packages, have the committed bytes;
- the landmarks are those of their network written out in numpy (`landmarks.py`);
- the manifest's size and SHA-256 are the model's;
- the Lite0 backbone with its own ImageNet classifier names a cat and an espresso;
- `goldens.py` writes `.cache/goldens/`, whose format it describes.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime

REPO = Path(__file__).resolve().parents[2]
MODELS = REPO / "models"
FLOAT_LANDMARKS = REPO / ".cache" / "models" / "landmarks-float" / "landmarks.onnx"
sys.path[:0] = [str(MODELS), str(MODELS / "mtcnn")]

import convert
import fetch
import goldens
import landmarks
import mtcnn as reference
from efficientnet import ARCHITECTURES, CheckpointWeights, build
from graph import save

# ImageNet classes: tabby, tiger cat, Egyptian cat; espresso.
PHOTO_CLASSES = {"chelsea.png": {281, 282, 285}, "coffee.png": {967}}


class CheckFailed(AssertionError):
    """A shipped file that isn't what its sources give."""


def expect(condition, message):
    if not condition:
        raise CheckFailed(message)
    print(f"ok: {message}")


def shipped_models():
    return sorted(MODELS.glob("*/*.onnx"))


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_files():
    """Every shipped model is valid and loads."""
    for path in shipped_models():
        onnx.checker.check_model(str(path), full_check=True)
        session(str(path))
        print(f"ok: {path.relative_to(REPO)} is valid, {path.stat().st_size} bytes")
    expect(len(shipped_models()) == 5, "five models ship")


def check_rebuild():
    """The committed bytes are what the scripts make of the pinned packages."""
    calibration = json.loads(convert.CALIBRATION.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        for net in convert.NETWORKS:
            rebuilt = Path(scratch) / f"{net}.onnx"
            save(convert.build(net, calibration[net]), rebuilt)
            same = rebuilt.read_bytes() == (MODELS / "mtcnn" / f"{net}.onnx").read_bytes()
            expect(same, f"models/mtcnn/{net}.onnx rebuilds to the same bytes")
        save(landmarks.convert.build(), Path(scratch) / "landmarks.onnx")
        same = (Path(scratch) / "landmarks.onnx").read_bytes() == landmarks.MODEL.read_bytes()
        expect(same, "models/landmarks/landmarks.onnx rebuilds to the same bytes")


def check_manifest():
    """The default bundle's manifest describes its model."""
    raw = (MODELS / "default" / "model.onnx").read_bytes()
    described = json.loads((MODELS / "default" / "manifest.json").read_text())["model"]
    expect(described["size_bytes"] == len(raw) < 6_000_000, "default model has the manifest's size, under 6 MB")
    expect(described["sha256"] == hashlib.sha256(raw).hexdigest(), "default model has the manifest's SHA-256")


def check_backbone():
    """The Lite0 backbone still recognises everyday things, so its folding and padding are right."""
    weights = CheckpointWeights(fetch.UPSTREAM / "lite0" / "lite0.pth", 1, ARCHITECTURES["lite0"])
    run = session(build("lite0", weights, 224, imagenet=True).model().SerializeToString())
    for photo, classes in PHOTO_CLASSES.items():
        logits = run.run(None, {"input": goldens.centre_crop(fetch.UPSTREAM / "photos" / photo, 224)})[0][0]
        top = int(logits.argmax())
        expect(top in classes, f"{photo} is ImageNet class {top}")


def check_landmarks():
    """The landmarks' network computes what its definition says."""
    apart = landmarks.disagreement()
    expect(apart < 1e-5, f"landmarks are {apart:.1e} of the side from the definition's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goldens-only", action="store_true")
    goldens_only = parser.parse_args().goldens_only
    fetch.fetch_all()
    # None of them ships; the trainer's tests read their weights.
    fetch.fetch_wheels(fetch.LARGER_LITE, fetch.UPSTREAM)
    if not goldens_only:
        check_files()
        check_rebuild()
        check_manifest()
        check_backbone()
        check_landmarks()
    for net in convert.NETWORKS:
        save(convert.build(net), reference.FLOAT_MODELS / f"{net}.onnx")
    save(landmarks.convert.build(is_float=True), FLOAT_LANDMARKS)
    goldens.write_all()


if __name__ == "__main__":
    main()
