"""Measure the ranges that a classifier's 8-bit steps cover, by running the float network in ONNX Runtime.

The numbers rest on ONNX Runtime's sums, whose order differs between machines, so they are kept as JSON beside the model;
the model built from them doesn't depend on the machine.
"""

import json
import re

import numpy as np
import onnx
import onnxruntime

MAX_VALUES = 60000
CLIP_FRACTIONS = np.linspace(0.5, 1.0, 26)


def session(model, n_threads=2):
    """Return an ONNX Runtime session over a ModelProto."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def exposed(model, names, kind=onnx.TensorProto.FLOAT):
    """Return a copy of `model` that gives the inner tensors `names` as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in names)
    return copy


def clipped_range(values):
    """Return the (low, high) around zero whose 255 steps lose least over `values`, by mean square."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    if low == high:
        return 0.0, 1e-6
    best = (np.inf, low, high)
    for fraction in CLIP_FRACTIONS:
        step = (high - low) * fraction / 255
        kept = np.clip(np.rint(values / step), np.rint(low * fraction / step), np.rint(high * fraction / step)) * step
        best = min(best, (np.square(kept - values).mean(), low * fraction, high * fraction))
    return best[1:]


def sampled(model, taps, inputs, rng):
    """Return `{tap: values}` of a float model's inner tensors over `inputs`, at most about MAX_VALUES each."""
    run, values = session(exposed(model, taps)), {tap: [] for tap in taps}
    n_each = -(-MAX_VALUES // len(inputs))
    for tensor in inputs:
        for tap, found in zip(taps, run.run(list(taps), {"input": tensor})):
            flat = found.ravel()
            values[tap].append(flat if flat.size <= n_each else flat[rng.integers(0, flat.size, n_each)])
    return {tap: np.concatenate(parts).astype(np.float64) for tap, parts in values.items()}


def calibrate(network, inputs, rng):
    """Return the calibration of the float `Builder` `network`: a scale and zero point for each of its steps.

    `inputs` is a list of [N,3,S,S] as the network takes them.
    """
    activations = {}
    for name, values in sampled(network.model(), network.steps, inputs, rng).items():
        low, high = clipped_range(values)
        scale = float(f"{(high - low) / 255:.6g}")
        activations[name] = {"scale": scale, "zero_point": int(np.clip(round(-low / scale), 0, 255))}
    return {"activations": activations}


def read(path):
    """Return the calibration in a JSON file."""
    return json.loads(path.read_text())


def write(calibration, path):
    """Write a calibration as JSON, one line per step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(calibration, indent=1)
    one_line = re.sub(r"[\[{]([^\[\]{}]*)[\]}]", lambda group: " ".join(group[0].split()), text)
    path.write_text(one_line + "\n")
