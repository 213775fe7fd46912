"""Write the classifiers that the engine is tested and measured with: every architecture, in float and int8.

    python models/zoo.py [NAME...]

.cache/models/float/NAME.onnx and .cache/models/int8/NAME.onnx, batch 1; what is there stays. Lite0 to Lite2 have the
ImageNet backbones of the pinned packages, the others seeded weights: good for speed and for comparing engines, not for
telling anything apart. Ranges are measured over seeded cuts of the calibration photos and kept in int8/NAME.json, so
that a rebuild with it gives the same bytes.

NAME-ort is the same float network quantized by onnxruntime.quantization.quantize_static: QDQ, weights per channel, u8
activations; NAME-ort-s8 the same with i8 activations.
"""

import argparse
from dataclasses import dataclass

import efficientnet
import fetch
import numpy as np
import ranges
import resnet
from graph import save
from network import MEAN, STD
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

MODELS = fetch.REPO / ".cache" / "models"
FLOAT, INT8 = MODELS / "float", MODELS / "int8"
PRETRAINED = ("lite0", "lite1", "lite2")
N_CALIBRATION = 12
SEED = 7


@dataclass(frozen=True)
class Entry:
    """One model: `member` of a family at `size_px`."""

    member: str
    size_px: int

    def weights(self):
        """Return the object that gives the layers' numbers."""
        if self.member in resnet.REPEATS:
            return resnet.RandomWeights(SEED)
        architecture = efficientnet.ARCHITECTURES[self.member]
        if self.member in PRETRAINED:
            checkpoint = fetch.UPSTREAM / self.member / f"{self.member}.pth"
            return efficientnet.CheckpointWeights(checkpoint, SEED, architecture)
        return efficientnet.RandomWeights(SEED, architecture)

    def build(self, calibration=None):
        """Return the finished builder."""
        family = resnet if self.member in resnet.REPEATS else efficientnet
        return family.build(self.member, self.weights(), self.size_px, calibration)


ENTRIES = {
    "lite0": Entry("lite0", 224),
    "b0": Entry("b0", 224),
    "b5": Entry("b5", 300),
    "resnet18": Entry("resnet18", 224),
    "lite4": Entry("lite4", 300),
    "lite0-160": Entry("lite0", 160),
    "lite1": Entry("lite1", 240),
    "lite2": Entry("lite2", 260),
    "lite3": Entry("lite3", 280),
    "b1": Entry("b1", 240),
    "b2": Entry("b2", 260),
    "b3": Entry("b3", 300),
    "b4": Entry("b4", 380),
    "resnet34": Entry("resnet34", 224),
}
# name -> the entry it quantizes, type of activations
BY_ORT = {
    "lite0-ort": ("lite0", QuantType.QUInt8),
    "b0-ort": ("b0", QuantType.QUInt8),
    "b5-ort": ("b5", QuantType.QUInt8),
    "resnet18-ort": ("resnet18", QuantType.QUInt8),
    "lite0-ort-s8": ("lite0", QuantType.QInt8),
}


def photo_cuts(size_px, n_cuts):
    """Return `n_cuts` seeded square cuts of the calibration photos as inputs [1,3,S,S]."""
    rng = np.random.default_rng(SEED)
    paths = sorted(path for path in (fetch.UPSTREAM / "photos").iterdir() if path.suffix in (".png", ".jpg"))
    cuts = []
    for k in range(n_cuts):
        with Image.open(paths[k % len(paths)]) as photo:
            side = int(min(photo.size) * rng.uniform(0.3, 1.0))
            left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
            square = photo.convert("RGB").crop((left, top, left + side, top + side))
        cuts.append(normalised(square.resize((size_px, size_px), Image.Resampling.BICUBIC)))
    return cuts


def normalised(picture):
    """Return u8 RGB [H,W,3] as an input [1,3,H,W]."""
    return ((np.asarray(picture, np.float32) - MEAN) / STD).transpose(2, 0, 1)[None]


class Reader(CalibrationDataReader):
    """Gives inputs to onnxruntime.quantization one by one."""

    def __init__(self, inputs):
        self.inputs = iter(inputs)

    def get_next(self):
        """Return the next feed, None at the end."""
        tensor = next(self.inputs, None)
        return None if tensor is None else {"input": tensor}


def write_float(name):
    """Write an entry's float model unless it is there, and return its path."""
    path = FLOAT / f"{name}.onnx"
    if not path.exists():
        save(ENTRIES[name].build().model(batch=1), path)
    return path


def write_int8(name):
    """Write an entry's int8 model, and its ranges unless they are there."""
    entry, described = ENTRIES[name], INT8 / f"{name}.json"
    if not described.exists():
        inputs = photo_cuts(entry.size_px, N_CALIBRATION)
        ranges.write(ranges.calibrate(entry.build(), inputs, np.random.default_rng(SEED)), described)
    save(entry.build(ranges.read(described)).model(batch=1), INT8 / f"{name}.onnx")


def write_by_ort(name):
    """Write the model that onnxruntime.quantization makes of an entry."""
    source, activations = BY_ORT[name]
    quantize_static(
        write_float(source),
        INT8 / f"{name}.onnx",
        Reader(photo_cuts(ENTRIES[source].size_px, N_CALIBRATION)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=activations,
        weight_type=QuantType.QInt8,
    )


def write(name):
    """Write the files of `name` that aren't there and return the int8 model's path."""
    path = INT8 / f"{name}.onnx"
    if name in ENTRIES:
        write_float(name)
    if not path.exists():
        INT8.mkdir(parents=True, exist_ok=True)
        write_int8(name) if name in ENTRIES else write_by_ort(name)
        print(f"{path.relative_to(fetch.REPO)}: {path.stat().st_size} bytes", flush=True)
    return path


def main():
    names = [*ENTRIES, *BY_ORT]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    fetch.fetch_all()
    fetch.fetch_wheels(fetch.LARGER_LITE, fetch.UPSTREAM)
    for name in args.names or names:
        write(name)


if __name__ == "__main__":
    main()
