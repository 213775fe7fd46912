"""Write what ONNX Runtime makes of every kind of network, for the Rust tests to compare with.

    python tests/reference/goldens.py

A golden is .cache/goldens/NAME.json:

    {"model": path from the repository, "input": {"file", "shape"}, "outputs": {name: {"file", "shape"}},
     "steps": [{"name", "file", "shape"}]}

Each file lies beside it: inputs and outputs raw f32 little-endian, steps raw u8. NAME is a network and `photo` or
`noise`, which is seeded. `steps`, not there for every network, are the outputs of all QuantizeLinear nodes in the
graph's order.

crops.json has faces of clips: {"crops": {"file", "shape"}, "logits": {model: {"file", "shape"}}}, the crops raw u8
[N,224,224,3], to be normalised as the default manifest says, the logits raw f32 [N,2].

All come from ONNX Runtime at its default optimization level, which is the one that fuses DequantizeLinear -> Conv ->
QuantizeLinear into QLinearConv; below the extended level it computes such a convolution in float. Giving a step as an
output doesn't undo the fusion: this script checks that as many QLinearConv run and the outputs stay the same. It does
with i8 activations, which ONNX Runtime turns into u8 first, so there are no steps for those.
On x86 without VNNI, ONNX Runtime's u8 x i8 products saturate in 16 bits and the goldens are wrong, so it refuses there.
"""

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
sys.path.insert(0, str(MODELS))

import crops
import efficientnet
import fetch
import mtcnn as reference
import ranges
import zoo
from graph import save

# Names of `zoo`; those with steps in their goldens, and those that score the crops.
NETWORKS = ("lite0", "lite4", "b0", "b5", "resnet18", "lite0-ort", "b0-ort", "resnet18-ort", "lite0-ort-s8")
WITH_STEPS = ("lite0", "lite4", "b0", "b5", "resnet18", "lite0-ort", "b0-ort", "resnet18-ort")
OF_CROPS = ("lite0", "b0", "resnet18")
MTCNN_SHAPES = {"pnet": (1, 3, 61, 84), "rnet": (3, 3, 24, 24), "onet": (3, 3, 48, 48)}


class GoldenError(RuntimeError):
    """A machine or a graph whose numbers can't serve as reference."""


def require_exact_products():
    """Refuse an x86 processor without VNNI."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx2" in flags and "vnni" not in flags:
        raise GoldenError("this processor has no VNNI, so ONNX Runtime's int8 products saturate: no goldens from here")


def session(model, optimized=None):
    """Return a session at the default level; `optimized` is a path for the graph that then runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimized or "")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def centre_crop(path, size_px):
    """Return the photo's central square as the classifier's input [1,3,S,S]."""
    photo = Image.fromarray(reference.read_picture(path))
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return zoo.normalised(square)


def write_tensor(file_name, values, dtype="<f4"):
    """Write raw values and return their entry."""
    (GOLDENS / file_name).write_bytes(np.ascontiguousarray(values, dtype).tobytes())
    return {"file": file_name, "shape": list(values.shape)}


def with_steps(model):
    """Return a copy of `model` that gives each QuantizeLinear's output too, and their names in order."""
    steps = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return ranges.exposed(model, steps, onnx.TensorProto.UINT8), steps


def n_fused(model):
    """Return how many QLinearConv ONNX Runtime runs for `model`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "optimized.onnx"
        session(model, path)
        return sum(node.op_type == "QLinearConv" for node in onnx.load(str(path)).graph.node)


def write_golden(name, path, input_name, tensor, has_steps=False):
    """Write one golden: what ONNX Runtime makes of `tensor` with the model file."""
    model = onnx.load(str(path))
    names = [output.name for output in model.graph.output]
    outputs = session(model).run(names, {input_name: tensor})
    described = {
        "model": str(path.relative_to(REPO)),
        "input": write_tensor(f"{name}.{input_name}.f32", tensor),
        "outputs": {n: write_tensor(f"{name}.{n}.f32", values) for n, values in zip(names, outputs)},
    }
    if has_steps:
        exposed, steps = with_steps(model)
        found = session(exposed).run([*names, *steps], {input_name: tensor})
        if any((a != b).any() for a, b in zip(outputs, found)):
            raise GoldenError(f"{name}: giving the steps changes the outputs")
        described["steps"] = [
            {"name": step} | write_tensor(f"{name}.step{k}.u8", values, "u1")
            for k, (step, values) in enumerate(zip(steps, found[len(names) :]))
        ]
    (GOLDENS / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


def check_fusion(path):
    """Refuse a model whose convolutions ONNX Runtime doesn't fuse alike with and without its steps given."""
    model = onnx.load(str(path))
    plain, exposed = n_fused(model), n_fused(with_steps(model)[0])
    if plain != exposed or not plain:
        raise GoldenError(f"{path}: {plain} fused convolutions, {exposed} with the steps given")


def write_classifier(name, path, size_px, rng, has_steps=False):
    """Write a classifier's goldens: a photo and seeded noise."""
    noise = rng.uniform(-1, 1, (1, 3, size_px, size_px)).astype(np.float32)
    photo = centre_crop(fetch.UPSTREAM / "photos" / "astronaut.png", size_px)
    if has_steps:
        check_fusion(path)
    for kind, tensor in (("photo", photo), ("noise", noise)):
        write_golden(f"{name}-{kind}", path, "input", tensor, has_steps)


def write_detector(rng):
    """Write the MTCNN networks' goldens."""
    face = reference.read_picture(fetch.UPSTREAM / "photos" / "astronaut.png")[60:176, 170:280]
    for net, shape in MTCNN_SHAPES.items():
        path = MODELS / "mtcnn" / f"{net}.onnx"
        noise = rng.integers(0, 256, shape).astype(np.float32)
        resized = np.rint(reference.area_resize(face, *shape[2:])).transpose(2, 0, 1)[None]
        write_golden(f"{net}-noise", path, "pixels", noise, has_steps=True)
        write_golden(f"{net}-photo", path, "pixels", resized.astype(np.float32), has_steps=True)


def write_crops(models):
    """Write the faces of the clips and the logits of `models`, one crop at a time."""
    faces = crops.face_crops()
    pixels = np.concatenate(faces) * zoo.STD + zoo.MEAN
    described = {"crops": write_tensor("crops.u8", np.rint(pixels).transpose(0, 2, 3, 1), "u1"), "logits": {}}
    for k, path in enumerate(models):
        run = session(onnx.load(str(path)))
        logits = np.concatenate([run.run(["logits"], {"input": crop})[0] for crop in faces])
        described["logits"][str(path.relative_to(REPO))] = write_tensor(f"crops.logits{k}.f32", logits)
    (GOLDENS / "crops.json").write_text(json.dumps(described, indent=1) + "\n")
    print(f"ok: {len(faces)} crops of faces")


def write_all():
    """Write every golden."""
    require_exact_products()
    GOLDENS.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    default = MODELS / "default" / "model.onnx"
    b5_weights = efficientnet.RandomWeights(B5_SEED, efficientnet.ARCHITECTURES["b5"])
    save(efficientnet.build("b5", b5_weights, B5_SIZE_PX).model(), B5)
    write_classifier("default", default, 224, rng, has_steps=True)
    write_classifier("b5", B5, B5_SIZE_PX, rng)
    for name in NETWORKS:
        entry = zoo.ENTRIES[zoo.BY_ORT[name][0] if name in zoo.BY_ORT else name]
        write_classifier(f"{name}-int8", zoo.write(name), entry.size_px, rng, name in WITH_STEPS)
    write_detector(rng)
    write_crops([default, *(zoo.write(name) for name in OF_CROPS)])
    print(f"ok: {len(list(GOLDENS.glob('*.json')))} goldens in {GOLDENS.relative_to(REPO)}, seed {SEED}")


if __name__ == "__main__":
    fetch.fetch_all()
    write_all()
