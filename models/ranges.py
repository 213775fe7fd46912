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


def channel_reach(model, names, inputs, rng):
    """Return [C]: how far from zero each channel goes in any of a float model's tensors `names` [N,C,H,W]."""
    run, rows = session(exposed(model, names)), []
    n_each = -(-MAX_VALUES // (len(inputs) * len(names)))
    for tensor in inputs:
        for found in run.run(list(names), {"input": tensor}):
            flat = np.moveaxis(found, 1, -1).reshape(-1, found.shape[1])
            rows.append(flat if len(flat) <= n_each else flat[rng.integers(0, len(flat), n_each)])
    channels = np.concatenate(rows).astype(np.float64).T
    return [max(-low, high) for low, high in map(clipped_range, channels)]


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


def rounded(numbers):
    """Return floats cut to 6 digits, as JSON keeps them."""
    return [float(f"{number:.6g}") for number in np.atleast_1d(numbers)]


def mean_outputs(model, taps, inputs):
    """Return `{tap: [C]}`: the mean of each channel of inner tensors [N,C,...] over `inputs`."""
    run, sums, n_inputs = session(exposed(model, taps)), dict.fromkeys(taps, 0.0), 0
    for tensor in inputs:
        n_inputs += len(tensor)
        for tap, found in zip(taps, run.run(list(taps), {"input": tensor})):
            sums[tap] += found.reshape(*found.shape[:2], -1).mean(axis=2, dtype=np.float64).sum(axis=0)
    return {tap: total / n_inputs for tap, total in sums.items()}


def bias_shifts(build, calibration, inputs):
    """Return what each layer's bias must gain so that the layer's mean output is the float network's.

    `build(calibration)` gives the `Builder` in int8, or in float for None. Each shift is measured with those before it
    in place. The last layer gives the logits and is left alone.
    """
    network = build(None)
    exact = mean_outputs(network.model(), network.layers[:-1], inputs)
    shifts = {}
    for name, expected in exact.items():
        int8 = build(calibration | {"bias_shift": shifts}).model()
        shifts[name] = rounded(expected - mean_outputs(int8, [name], inputs)[name])
    return shifts


def read(path):
    """Return the calibration in a JSON file."""
    return json.loads(path.read_text())


def write(calibration, path):
    """Write a calibration as JSON, one line per step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(calibration, indent=1)
    one_line = re.sub(r"[\[{]([^\[\]{}]*)[\]}]", lambda group: " ".join(group[0].split()), text)
    path.write_text(one_line + "\n")
