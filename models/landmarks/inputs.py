"""Write what `trainer-bridge quantize-net` measures the landmarks' network on.

    python models/landmarks/inputs.py [--into DIR]

The faces that the float detector finds in photos that pinned packages carry, each seen as `trainer-bridge` shows it to the
network, moved, grown and mirrored at random. DIR (.cache/models/landmarks-inputs) gets two .npz files of f32 arrays
[N,3,112,112], normalized: calibration.npz of PHOTOS, checks.npz of CHECK_PHOTOS.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPO / "tests" / "reference"), str(REPO / "models")]
import fetch
import mtcnn as reference
import recorded
from landmarks import convert

SEED = 68
PHOTOS = ("astronaut.png", *(f"sample{k}.jpg" for k in range(1, 6)))
CHECK_PHOTOS = ("sample6.jpg",)
# The network sees the middle .8 of a crop with 30 % margin.
SEEN = 1.3 * 0.8
MIN_FACE_PX, LEAST_CONFIDENCE = 40, 0.9
N_VIEWS = 24
MOST_MOVED, MOST_GROWN = 0.08, 0.15


def views(photos, rng):
    """Return `{"": {"input": f32 [N,3,112,112]}}`: N_VIEWS views of each face in the photos."""
    detector, found = reference.Detector(reference.load_networks("float"), MIN_FACE_PX), []
    for name in photos:
        picture = reference.read_picture(fetch.UPSTREAM / "photos" / name)
        boxes, confidences, _ = detector.detect(picture)
        for x0, y0, x1, y1 in boxes[confidences > LEAST_CONFIDENCE]:
            side = SEEN * max(x1 - x0, y1 - y0)
            for _ in range(N_VIEWS):
                half = side / 2 * (1 + rng.uniform(-MOST_GROWN, MOST_GROWN))
                x, y = [(a + b) / 2 + side * rng.uniform(-MOST_MOVED, MOST_MOVED) for a, b in ((x0, x1), (y0, y1))]
                view = Image.fromarray(picture).resize(
                    (convert.SIDE_PX,) * 2, Image.Resampling.BILINEAR, box=clipped(x, y, half, picture.shape)
                )
                pixels = np.asarray(view)[:, :: rng.choice((-1, 1))]
                found.append(((pixels - np.array(convert.MEAN)) / 255).transpose(2, 0, 1))
    print(f"{len(found)} views of faces in {', '.join(photos)}")
    return {"": {"input": np.array(found, np.float32)}}


def clipped(x, y, half, shape):
    """Return the square about (x, y), cut at the picture's edges."""
    return max(x - half, 0), max(y - half, 0), min(x + half, shape[1]), min(y + half, shape[0])


if __name__ == "__main__":
    recorded.write(__doc__, "landmarks-inputs", SEED, {"calibration": PHOTOS, "checks": CHECK_PHOTOS}, views)
