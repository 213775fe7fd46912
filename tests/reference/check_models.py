"""Check the shipped models and write the goldens that the Rust tests read.

    python tests/reference/check_models.py [--goldens-only]

- every shipped ONNX file passes onnx.checker and runs in ONNX Runtime;
- the MTCNN networks and the landmarks are int8 forms of the float networks that the pinned packages give, by the SHA-256 in
  their metadata, and say about the same as those on a face;
- the float landmarks are those of their network written out in numpy (`landmarks.py`);
- the manifest's size and SHA-256 are the model's;
- the Lite0 backbone with its own ImageNet classifier names a cat and an espresso;
- `goldens.py` writes `.cache/goldens/`, whose format it describes.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

REPO = Path(__file__).resolve().parents[2]
MODELS = REPO / "models"
sys.path[:0] = [str(MODELS), str(MODELS / "mtcnn")]

import convert
import fetch
import goldens
import landmarks
from efficientnet import ARCHITECTURES, CheckpointWeights, build
from graph import save

# Of the output that keeps least.
LEAST_KEPT_DB = {"pnet": 20, "rnet": 20, "onet": 25, "landmarks": 35}
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


def write_float():
    """The float networks, from the pinned packages."""
    for net in convert.NETWORKS:
        save(convert.build(net), convert.FLOAT_MODELS / f"{net}.onnx")
    save(landmarks.convert.build(), landmarks.FLOAT_MODEL)


def kept_db(floats, int8s):
    """Return the signal-to-noise ratio of int8 outputs, the least of all outputs, in dB."""
    return min(10 * np.log10(np.square(f).sum() / np.square(f - i).sum()) for f, i in zip(floats, int8s))


def check_quantized():
    """What ships is made of these float networks, and is near to them."""
    cases = [(convert.FLOAT_MODELS / f"{net}.onnx", MODELS / "mtcnn" / f"{net}.onnx") for net in convert.NETWORKS]
    cases.append((landmarks.FLOAT_MODEL, landmarks.MODEL))
    for source, shipped in cases:
        made_of = {entry.key: entry.value for entry in onnx.load(shipped).metadata_props}["float_sha256"]
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        expect(made_of == digest, f"{shipped.relative_to(REPO)} is made of the float network that its package gives")
        if shipped == landmarks.MODEL:
            given = {"input": landmarks.normalized(landmarks.face())}
        else:
            side = {"pnet": 12, "rnet": 24, "onet": 48}[source.stem]
            faces = [landmarks.face(side, moved) for moved in range(-12, 13)]
            given = {"pixels": np.stack(faces).transpose(0, 3, 1, 2).astype(np.float32)}
        kept = kept_db(session(str(source)).run(None, given), session(str(shipped)).run(None, given))
        expect(kept > LEAST_KEPT_DB[source.stem], f"{source.stem}: int8 is {kept:.1f} dB from float")


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
    apart = landmarks.disagreement(landmarks.FLOAT_MODEL)
    expect(apart < 1e-5, f"float landmarks are {apart:.1e} of the side from the definition's")
    apart = landmarks.disagreement(landmarks.MODEL)
    expect(apart < 0.01, f"int8 landmarks are at most {apart:.4f} of the side from the definition's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goldens-only", action="store_true")
    goldens_only = parser.parse_args().goldens_only
    fetch.fetch_all()
    # None of them ships; the trainer's tests read their weights.
    fetch.fetch_wheels(fetch.LARGER_LITE, fetch.UPSTREAM)
    write_float()
    if not goldens_only:
        check_files()
        check_quantized()
        check_manifest()
        check_backbone()
        check_landmarks()
    goldens.write_all()


if __name__ == "__main__":
    main()
