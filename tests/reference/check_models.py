"""Check the shipped models and write the goldens that the Rust tests read.

    python tests/reference/check_models.py [--goldens-only]

- every shipped ONNX file passes onnx.checker and runs in ONNX Runtime;
- the MTCNN networks and the default bundle, rebuilt from the pinned packages, have the committed bytes;
- the manifest's size and SHA-256 are the model's;
- the Lite0 backbone with its own ImageNet classifier names a cat and an espresso;
- `.cache/models/b5.onnx` (EfficientNet-B5, 300 px, seeded weights) and `.cache/goldens/` are written.

A golden is NAME.json: {"model": path from the repository, "input": {"file", "shape"}, "outputs": {name: {"file",
"shape"}}}, each file beside it, raw f32 little-endian; the outputs are ONNX Runtime's.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
MODELS = REPO / "models"
GOLDENS = REPO / ".cache" / "goldens"
B5 = REPO / ".cache" / "models" / "b5.onnx"
B5_SEED, B5_SIZE_PX = 5, 300
SEED = 3
sys.path[:0] = [str(MODELS), str(MODELS / "mtcnn"), str(MODELS / "default")]

import build as default_bundle
import convert
import efficientnet
import fetch
import mtcnn as reference
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
    expect(len(shipped_models()) == 4, "four models ship")


def check_rebuild():
    """The committed bytes are what the scripts make of the pinned packages."""
    calibration = json.loads(convert.CALIBRATION.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        for net in convert.NETWORKS:
            rebuilt = Path(scratch) / f"{net}.onnx"
            save(convert.build(net, calibration[net]), rebuilt)
            same = rebuilt.read_bytes() == (MODELS / "mtcnn" / f"{net}.onnx").read_bytes()
            expect(same, f"models/mtcnn/{net}.onnx rebuilds to the same bytes")
        default_bundle.build_into(Path(scratch))
        for name in ("model.onnx", "manifest.json"):
            same = (Path(scratch) / name).read_bytes() == (MODELS / "default" / name).read_bytes()
            expect(same, f"models/default/{name} rebuilds to the same bytes")


def check_manifest():
    """The default bundle's manifest describes its model."""
    raw = (MODELS / "default" / "model.onnx").read_bytes()
    described = json.loads((MODELS / "default" / "manifest.json").read_text())["model"]
    expect(described["size_bytes"] == len(raw) < 6_000_000, "default model has the manifest's size, under 6 MB")
    expect(described["sha256"] == hashlib.sha256(raw).hexdigest(), "default model has the manifest's SHA-256")


def check_backbone():
    """The Lite0 backbone still recognises everyday things, so its folding and padding are right."""
    checkpoint = fetch.UPSTREAM / "lite0" / "lite0.pth"
    weights = efficientnet.CheckpointWeights(checkpoint, 0, efficientnet.ARCHITECTURES["lite0"])
    run = session(efficientnet.build("lite0", weights, 224, quantized=True, imagenet=True).SerializeToString())
    for photo, classes in PHOTO_CLASSES.items():
        logits = run.run(None, {"input": centre_crop(fetch.UPSTREAM / "photos" / photo, 224)})[0][0]
        top = int(logits.argmax())
        expect(top in classes, f"{photo} is ImageNet class {top}")


def centre_crop(path, size_px):
    """Return the photo's central square as the classifier's input [1,3,S,S]."""
    photo = Image.fromarray(reference.read_picture(path))
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return ((np.asarray(square, np.float32) - 127) / 128).transpose(2, 0, 1)[None]


def write_golden(name, model, input_name, tensor):
    """Write one golden: what ONNX Runtime makes of `tensor` with the model file."""
    run = session(str(model))
    tensors = dict(zip((output.name for output in run.get_outputs()), run.run(None, {input_name: tensor})))
    described = {"model": str(model.relative_to(REPO)), "outputs": {}}
    for tensor_name, values in {input_name: tensor, **tensors}.items():
        file_name = f"{name}.{tensor_name}.f32"
        (GOLDENS / file_name).write_bytes(np.ascontiguousarray(values, "<f4").tobytes())
        entry = {"file": file_name, "shape": list(values.shape)}
        if tensor_name == input_name:
            described["input"] = entry
        else:
            described["outputs"][tensor_name] = entry
    (GOLDENS / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


def write_goldens():
    """Write B5 and the goldens of every network: a photo and seeded noise each."""
    GOLDENS.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    save(efficientnet.build("b5", efficientnet.RandomWeights(B5_SEED, efficientnet.ARCHITECTURES["b5"]), B5_SIZE_PX), B5)
    astronaut = fetch.UPSTREAM / "photos" / "astronaut.png"
    for name, model, size_px in (("default", MODELS / "default" / "model.onnx", 224), ("b5", B5, B5_SIZE_PX)):
        noise = rng.uniform(-1, 1, (1, 3, size_px, size_px)).astype(np.float32)
        for kind, tensor in (("photo", centre_crop(astronaut, size_px)), ("noise", noise)):
            write_golden(f"{name}-{kind}", model, "input", tensor)
    shapes = {"pnet": (1, 3, 61, 84), "rnet": (3, 3, 24, 24), "onet": (3, 3, 48, 48)}
    face = reference.read_picture(astronaut)[60:176, 170:280]
    for net, shape in shapes.items():
        model = MODELS / "mtcnn" / f"{net}.onnx"
        noise = rng.integers(0, 256, shape).astype(np.float32)
        resized = np.rint(reference.area_resize(face, *shape[2:])).transpose(2, 0, 1)[None]
        write_golden(f"{net}-noise", model, "pixels", noise)
        write_golden(f"{net}-photo", model, "pixels", resized.astype(np.float32))
    print(f"ok: {len(list(GOLDENS.glob('*.json')))} goldens in {GOLDENS.relative_to(REPO)}, seed {SEED}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goldens-only", action="store_true")
    goldens_only = parser.parse_args().goldens_only
    fetch.fetch_all()
    if not goldens_only:
        check_files()
        check_rebuild()
        check_manifest()
        check_backbone()
    for net in convert.NETWORKS:
        save(convert.build(net), reference.FLOAT_MODELS / f"{net}.onnx")
    write_goldens()


if __name__ == "__main__":
    main()
