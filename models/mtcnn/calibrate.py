"""Measure what `convert.py` needs for the int8 networks and write it to calibration.json.

    python models/mtcnn/calibrate.py

The reference cascade runs in float over the calibration photos, as they are, mirrored and at smaller sizes, and what it
feeds each network, false candidates included, is the sample. Per inner tensor this gives one factor per channel that
makes all channels share one u8 scale with the least noise at the next layer, that scale with its zero point, and per
convolution the mean error of its output, which the bias takes back. Rerun only when the method changes: the numbers rest
on ONNX Runtime's sums, whose order differs between machines; the networks built from them don't.
"""

import sys

import numpy as np
from convert import CALIBRATION, NETWORKS, REPO_REFERENCE, build, fetch, load_stages

sys.path.insert(0, str(REPO_REFERENCE))
import mtcnn as reference
from inputs import MIN_FACE_PX, frames
from ranges import clipped_range, session, write

SEED = 20161
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", *(f"sample{k}.jpg" for k in range(1, 7)))
MAX_LEVELS, MAX_CROPS, MAX_ROWS = 60, 3000, 60000
ZERO_FRACTIONS = np.arange(1, 192) / 255


def record_inputs(rng):
    """Return `{net: [pixels, ...]}`: what the float cascade feeds each network over the photos."""
    fed = {net: [] for net in NETWORKS}

    def recorded(net):
        run = session(build(net))

        def call(pixels):
            # The int8 networks see rounded pixels; so do these.
            pixels = np.rint(pixels)
            fed[net].append(pixels)
            return run.run(None, {"pixels": pixels})

        return call

    detector = reference.Detector([recorded(net) for net in NETWORKS], MIN_FACE_PX)
    for frame in frames(PHOTOS):
        detector.detect(frame)
    levels = [fed["pnet"][k] for k in rng.permutation(len(fed["pnet"]))[:MAX_LEVELS]]
    chosen = {"pnet": levels}
    for net in ("rnet", "onet"):
        crops = np.concatenate(fed[net])
        chosen[net] = [crops[np.sort(rng.permutation(len(crops))[:MAX_CROPS])]]
        print(f"{net}: {len(chosen[net][0])} of {len(crops)} crops")
    return chosen


def channel_samples(model, taps, inputs, rng):
    """Return `{tap: [rows, C]}` of a model's inner tensors over `inputs`, at most MAX_ROWS rows each."""
    run, rows = session(model), {tap: [] for tap in taps}
    for pixels in inputs:
        for tap, tensor in zip(taps, run.run(list(taps), {"pixels": pixels})):
            flat = np.moveaxis(tensor, 1, -1).reshape(-1, tensor.shape[1])
            rows[tap].append(flat[rng.permutation(len(flat))[: -(-MAX_ROWS // len(inputs))]])
    return {tap: np.concatenate(parts).astype(np.float64) for tap, parts in rows.items()}


def shared_scale(samples, following):
    """Return (factors [C], scale, zero point) so that every channel of `samples`/factor fits one u8 tensor.

    `following` [O,C,kh,kw] weighs each channel's rounding noise by what the next layer makes of it.
    """
    low, high = np.array([clipped_range(channel) for channel in samples.T]).T
    energy = np.square(following).sum(axis=(0, 2, 3))
    candidates = []
    for zero_fraction in [0.0, *ZERO_FRACTIONS]:
        if zero_fraction == 0 and low.min() < 0:
            continue
        below = -low / zero_fraction if zero_fraction else np.zeros_like(low)
        factor = np.maximum(below, high / (1 - zero_fraction))
        candidates.append((float(energy @ np.square(factor)), zero_fraction, factor))
    _, zero_fraction, factor = min(candidates, key=lambda candidate: candidate[0])
    return factor, 1 / 255, round(zero_fraction * 255)


def rounded(numbers):
    """Return floats cut to 6 digits, as JSON keeps them."""
    return [float(f"{number:.6g}") for number in np.atleast_1d(numbers)]


def calibrate(net, inputs, rng):
    """Return the calibration of one network."""
    stages = load_stages(net)
    names = [stage.name for stage in stages]
    inner = {stage.name: f"{stage.name}.pool" if stage.layer.pool_px else stage.layer.prelu for stage in stages[:-1]}
    floats = channel_samples(build(net, taps=list(inner.values())), list(inner.values()), inputs, rng)
    found = {"equalize": {}, "activations": {}, "bias_shift": {name: [0.0] * len(s.bias) for name, s in zip(names, stages)}}
    for stage, following in zip(stages, stages[1:]):
        factor, scale, zero_point = shared_scale(floats[inner[stage.name]], following.weight)
        found["equalize"][stage.name] = rounded(factor)
        found["activations"][stage.name] = {"scale": rounded(scale)[0], "zero_point": zero_point}

    # One layer after the other: each correction is measured with those before it in place.
    exact = mean_outputs(build(net, taps=names), names, inputs)
    for name in names:
        factor = found["equalize"].get(name, 1.0)
        int8 = mean_outputs(build(net, found, taps=[name]), [name], inputs)[name]
        found["bias_shift"][name] = rounded(exact[name] / factor - int8)
    report(net, found, inputs)
    return found


def mean_outputs(model, taps, inputs):
    """Return `{tap: [C]}`, the mean of each channel over all of `inputs`."""
    run, sums, counts = session(model), {tap: 0.0 for tap in taps}, {tap: 0 for tap in taps}
    for pixels in inputs:
        for tap, tensor in zip(taps, run.run(list(taps), {"pixels": pixels})):
            sums[tap] += tensor.sum(axis=(0, 2, 3), dtype=np.float64)
            counts[tap] += tensor.size // tensor.shape[1]
    return {tap: sums[tap] / counts[tap] for tap in taps}


def report(net, found, inputs):
    """Print the signal-to-noise ratio of the heads, int8 against float."""
    float_run, int8_run = session(build(net, taps=["heads"])), session(build(net, found, taps=["heads"]))
    signal, noise, face_error = 0.0, 0.0, []
    for pixels in inputs:
        exact, int8 = (run.run(["heads", "prob"], {"pixels": pixels}) for run in (float_run, int8_run))
        signal = signal + np.square(exact[0]).sum(axis=(0, 2, 3))
        noise = noise + np.square(exact[0] - int8[0]).sum(axis=(0, 2, 3))
        face_error.append(np.abs(exact[1] - int8[1]).ravel())
    face_error = np.concatenate(face_error)
    snr = ", ".join(f"{ratio:.1f}" for ratio in 10 * np.log10(signal / noise))
    print(f"{net}: SNR of heads in dB {snr}; P(face) error mean {face_error.mean():.5f}, max {face_error.max():.3f}")


def main():
    rng = np.random.default_rng(SEED)
    fetch.fetch_all()
    inputs = record_inputs(rng)
    found = {net: calibrate(net, inputs[net], rng) for net in NETWORKS}
    write(found, CALIBRATION)


if __name__ == "__main__":
    main()
