"""Measure what `convert.py` needs for the int8 networks and write it to calibration.json.

    python models/mtcnn/calibrate.py

The reference cascade runs in float over the calibration photos, as they are, mirrored and at smaller sizes, and what it
feeds each network, false candidates included, is the sample. Per inner tensor this gives one factor per channel that
makes all channels share one u8 scale with the least noise at the next layer, that scale with its zero point, and per
convolution the mean error of its output, which the bias takes back. Rerun only when the method changes: the numbers rest
on ONNX Runtime's sums, whose order differs between machines; the networks built from them don't.
"""

import json
import sys

import numpy as np
import onnxruntime
from convert import CALIBRATION, NETWORKS, REPO_REFERENCE, build, fetch, load_stages

sys.path.insert(0, str(REPO_REFERENCE))
import mtcnn as reference
from PIL import Image

SEED = 20161
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", *(f"sample{k}.jpg" for k in range(1, 7)))
LONGER_SIDES_PX = (1280, 480)
MIN_FACE_PX = 20
LIKELY_FACE = 0.5
MAX_OTHERS, MAX_CROPS, MAX_ROWS, BATCH = 100, 2000, 60000, 100
CLIP_FRACTIONS = np.linspace(0.5, 1.0, 26)
ZERO_FRACTIONS = np.arange(1, 192) / 255


def photos():
    """Yield the calibration photos as u8 RGB at each size, mirrored too."""
    for name in PHOTOS:
        picture = reference.read_picture(fetch.UPSTREAM / "photos" / name)
        for longer_px in LONGER_SIDES_PX:
            shrink = min(1.0, longer_px / max(picture.shape[:2]))
            size = [round(side * shrink) for side in picture.shape[1::-1]]
            frame = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
            yield frame
            yield frame[:, ::-1]


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def record_crops(rng):
    """Return `{net: pixels [N,3,S,S]}`: what the float cascade shows each network over the photos.

    For P-Net, which slides over whole levels, these are the windows of single output cells. Half of each sample, where
    there are enough, is what the network takes for a face, so that the scales fit faces first.
    """
    faces, others = ({net: [] for net in NETWORKS} for _ in range(2))

    def recorded(net):
        run = session(build(net))
        window_px = NETWORKS[net].side_px or reference.PNET_CELL_PX

        def call(pixels):
            # The int8 networks see rounded pixels; so do these.
            pixels = np.rint(pixels)
            outputs = run.run(None, {"pixels": pixels})
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (window_px, window_px), axis=(2, 3))
            windows = windows[:, :, :: reference.PNET_STRIDE_PX, :: reference.PNET_STRIDE_PX]
            windows = windows.transpose(0, 2, 3, 1, 4, 5)
            # Without the last row and column, whose pool windows are partial.
            prob = outputs[0].reshape(len(pixels), *outputs[0].shape[2:] or (1, 1))
            likely = prob[:, : windows.shape[1], : windows.shape[2]] > LIKELY_FACE
            faces[net].append(windows[likely].astype(np.uint8))
            others[net].append(rng.permutation(windows[~likely].astype(np.uint8))[:MAX_OTHERS])
            return outputs

        return call

    detector = reference.Detector([recorded(net) for net in NETWORKS], MIN_FACE_PX)
    for frame in photos():
        detector.detect(frame)
    chosen = {}
    for net in NETWORKS:
        halves = [np.concatenate(kind[net]) for kind in (faces, others)]
        halves = [half[rng.permutation(len(half))[:MAX_CROPS]] for half in halves]
        print(f"{net}: {len(halves[0])} likely faces, {len(halves[1])} others")
        chosen[net] = np.concatenate(halves)
    return chosen


def outputs_of(model, taps, crops):
    """Yield the tensors `taps` of a model for each batch of `crops`."""
    run = session(model)
    for start in range(0, len(crops), BATCH):
        yield run.run(list(taps), {"pixels": crops[start : start + BATCH].astype(np.float32)})


def channel_samples(model, tap, crops, rng):
    """Return [rows, C]: a model's inner tensor [N,C,H,W] over `crops`, at most MAX_ROWS rows of it."""
    n_rows = -(-MAX_ROWS * BATCH // len(crops))
    parts = []
    for (tensor,) in outputs_of(model, [tap], crops):
        flat = np.moveaxis(tensor, 1, -1).reshape(-1, tensor.shape[1])
        parts.append(rng.permutation(flat)[:n_rows])
    return np.concatenate(parts).astype(np.float64)


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


def calibrate(net, crops, rng):
    """Return the calibration of one network."""
    stages = load_stages(net)
    found = {"equalize": {}, "activations": {}, "bias_shift": {stage.name: [0.0] * len(stage.bias) for stage in stages}}
    for stage, following in zip(stages, stages[1:]):
        inner = f"{stage.name}.pool" if stage.layer.pool_px else stage.layer.prelu
        samples = channel_samples(build(net, taps=[inner]), inner, crops, rng)
        factor, scale, zero_point = shared_scale(samples, following.weight)
        found["equalize"][stage.name] = rounded(factor)
        found["activations"][stage.name] = {"scale": rounded(scale)[0], "zero_point": zero_point}

    # One layer after the other: each correction is measured with those before it in place.
    for stage in stages:
        factor = found["equalize"].get(stage.name, 1.0)
        exact = mean_output(build(net, taps=[stage.name]), stage.name, crops)
        int8 = mean_output(build(net, found, taps=[stage.name]), stage.name, crops)
        found["bias_shift"][stage.name] = rounded(exact / factor - int8)
    report(net, found, crops)
    return found


def mean_output(model, tap, crops):
    """Return [C], the mean of each channel of an inner tensor over all of `crops`."""
    means = [tensor.mean(axis=(0, 2, 3), dtype=np.float64) for (tensor,) in outputs_of(model, [tap], crops)]
    return np.mean(means, axis=0)


def report(net, found, crops):
    """Print the signal-to-noise ratio of the heads, int8 against float, over all crops and over likely faces."""
    tensors = []
    for model in (build(net, taps=["heads"]), build(net, found, taps=["heads"])):
        heads = np.concatenate([tensor for (tensor,) in outputs_of(model, ["heads"], crops)])
        tensors.append(heads[:, :, 0, 0].astype(np.float64))
    exact, error = tensors[0], tensors[1] - tensors[0]
    for sample, rows in (("all", exact[:, 0] > -np.inf), ("faces", exact[:, 0] > 0)):
        snr = 10 * np.log10(np.square(exact[rows]).sum(axis=0) / np.square(error[rows]).sum(axis=0))
        print(f"{net}: SNR of heads over {sample}, dB: {', '.join(f'{ratio:.1f}' for ratio in snr)}")


def main():
    rng = np.random.default_rng(SEED)
    fetch.fetch_all()
    crops = record_crops(rng)
    found = {net: calibrate(net, crops[net], rng) for net in NETWORKS}
    text = json.dumps(found, indent=1)
    # One array a line.
    text = "[".join(part if k == 0 else " ".join(part.split("]", 1)[0].split()) + "]" + part.split("]", 1)[1] for k, part in enumerate(text.split("[")))
    CALIBRATION.write_text(text + "\n")


if __name__ == "__main__":
    main()
