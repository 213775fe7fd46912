"""Run networks in ONNX Runtime, for the Rust tests to compare with.

    python run_onnx.py FOLDER

FOLDER/jobs.json is a list of {"name", "shape"} and, for one of the scripts' own networks instead of a file, {"member",
"checkpoint"}. For each job FOLDER/NAME.input, raw f32 little-endian of that shape, goes through FOLDER/NAME.onnx, which
must pass onnx.checker, or through what models/efficientnet.py makes of the checkpoint with its ImageNet classifier;
the outputs are written to FOLDER/NAME.output, one after the other. FOLDER/NAME.json gets what ONNX Runtime reads of a file: {"producer", "opset",
"inputs", "outputs": {name: shape}, "metadata", "layers": names of convolutions and dense layers' weights}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "models"))

import efficientnet

# It would quantize the weights of layers that are left in float.
DISABLED = ["WeightBiasQuantization"]


def model(job, folder):
    """Return the checked bytes of a job's network."""
    if "member" not in job:
        path = folder / f"{job['name']}.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        return path.read_bytes()
    architecture = efficientnet.ARCHITECTURES[job["member"]]
    weights = efficientnet.CheckpointWeights(job["checkpoint"], 0, architecture)
    return efficientnet.build(job["member"], weights, job["shape"][2], imagenet=True).model().SerializeToString()


def described(raw, session):
    """Return what a file says of itself."""
    network = onnx.load_from_string(raw)
    weighted = [node for node in network.graph.node if node.op_type in ("Conv", "Gemm")]
    return {
        "producer": network.producer_name,
        "opset": network.opset_import[0].version,
        "inputs": {value.name: value.shape for value in session.get_inputs()},
        "outputs": {value.name: value.shape for value in session.get_outputs()},
        "metadata": session.get_modelmeta().custom_metadata_map,
        "layers": [node.input[1].removesuffix(".weight") for node in weighted],
    }


def main():
    folder = Path(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for job in json.loads((folder / "jobs.json").read_text()):
        pictures = np.fromfile(folder / f"{job['name']}.input", "<f4").reshape(job["shape"])
        raw = model(job, folder)
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED)
        (folder / f"{job['name']}.json").write_text(json.dumps(described(raw, session)))
        outputs = session.run(None, {session.get_inputs()[0].name: pictures})
        np.concatenate([values.ravel() for values in outputs]).astype("<f4").tofile(folder / f"{job['name']}.output")


if __name__ == "__main__":
    main()
