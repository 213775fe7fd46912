"""Measure what `build.py` needs for the int8 classifier and write it to calibration.json.

    python models/default/calibrate.py

The sample is the faces that the detector finds in the calibration photos, cut out like the program's crops but at
jittered sizes and places, and cuts of everyday things. Per stream of residual sums this gives one factor per channel
that lets all channels share a u8 scale, per tensor the scale and zero point, and per layer the mean error of its output,
which the bias takes back. Rerun only when the method or the weights change: see `ranges.py`.
"""

import sys

import numpy as np
from build import ARCHITECTURE, CALIBRATION, MARGIN, SEED, SIZE_PX, fetch, network

sys.path.insert(0, str(fetch.REPO / "tests" / "reference"))
import mtcnn as reference
import ranges
from efficientnet import streams
from PIL import Image
from zoo import normalised, photo_cuts

PHOTOS = ("astronaut.png", *(f"sample{k}.jpg" for k in range(1, 7)))
MIN_FACE_PX = 40
CROPS_PER_FACE, N_CUTS = 5, 40


def square_crop(picture, box, margin):
    """Return the square about `box` with `margin`, mirrored where it leaves u8 RGB `picture`, as a model input."""
    side = round(max(box[2] - box[0], box[3] - box[1]) * (1 + margin))
    left, top = (round((box[axis] + box[axis + 2] - side) / 2) for axis in (0, 1))
    padded = np.pad(picture, [(side, side), (side, side), (0, 0)], mode="reflect")
    square = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    return normalised(Image.fromarray(square).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))


def face_crops(rng):
    """Return jittered crops [1,3,S,S] of every face in the photos."""
    detector = reference.Detector(reference.load_networks("int8"), MIN_FACE_PX)
    crops = []
    for name in PHOTOS:
        photo = reference.read_picture(fetch.UPSTREAM / "photos" / name)
        boxes, confidences, _ = detector.detect(photo)
        for box in boxes[confidences > 0.9]:
            for crop_idx in range(CROPS_PER_FACE):
                jitter = rng.uniform(-0.1, 0.1, 2) * (box[2] - box[0]) * (crop_idx > 0)
                margin = MARGIN + rng.uniform(-0.2, 0.4) * (crop_idx > 0)
                crop = square_crop(photo, box + np.tile(jitter, 2), margin)
                crops.append(crop[..., ::-1] if crop_idx % 2 else crop)
    return crops


def main():
    rng = np.random.default_rng(SEED)
    faces = face_crops(rng)
    inputs = faces + photo_cuts(SIZE_PX, N_CUTS)
    print(f"{len(faces)} crops of faces, {N_CUTS} of other things")
    plain = network()
    factors = {}
    for stream, (writers, _) in streams(ARCHITECTURE).items():
        sums = [writer.replace("project", "sum") for writer in writers[1:]]
        factors[stream] = ranges.rounded(ranges.channel_reach(plain.model(), writers + sums, inputs, rng))
    found = {"equalize": factors} | ranges.calibrate(network(factors), inputs, rng)
    found["bias_shift"] = ranges.bias_shifts(lambda calibration: network(factors, calibration), found, inputs)
    ranges.write(found, CALIBRATION)


if __name__ == "__main__":
    main()
