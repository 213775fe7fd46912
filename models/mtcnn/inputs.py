"""Write what `trainer-bridge quantize-net` measures the MTCNN networks on.

    python models/mtcnn/inputs.py [--into DIR]

The reference cascade runs in float over photos that pinned packages carry, as they are, mirrored and at smaller sizes; what
it feeds each network, false candidates included, is the sample. DIR (.cache/models/mtcnn-inputs) gets, for each network, two
.npz files of u8 arrays [N,3,H,W]: NET-calibration.npz of PHOTOS, NET-checks.npz of CHECK_PHOTOS.
"""

import sys
from pathlib import Path

import numpy as np
from convert import NETWORKS, build, fetch

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "tests" / "reference"))
import mtcnn as reference
import recorded
from PIL import Image
from ranges import session

SEED = 20161
PHOTOS = ("astronaut.png", "chelsea.png", *(f"sample{k}.jpg" for k in range(1, 6)))
CHECK_PHOTOS = ("coffee.png", "sample6.jpg")
LONGER_SIDES_PX = (1280, 480)
MIN_FACE_PX = 20
# P-Net's levels are cut to tiles: it sees no more than 12 px at once, and a level has the same numbers over and over.
TILE_PX = 24
MAX_TILES, MAX_CROPS = 16000, 8000


def frames(photos):
    """Yield the photos as u8 RGB at each size, mirrored too."""
    for name in photos:
        picture = reference.read_picture(fetch.UPSTREAM / "photos" / name)
        for longer_px in LONGER_SIDES_PX:
            shrink = min(1.0, longer_px / max(picture.shape[:2]))
            size = [round(side * shrink) for side in picture.shape[1::-1]]
            frame = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
            yield frame
            yield frame[:, ::-1]


def tiles(level):
    """Return [n,3,TILE_PX,TILE_PX] cut side by side from a level [1,3,H,W]; none where it is smaller."""
    n_rows, n_columns = (side // TILE_PX for side in level.shape[2:])
    inside = level[0, :, : n_rows * TILE_PX, : n_columns * TILE_PX]
    cut = inside.reshape(3, n_rows, TILE_PX, n_columns, TILE_PX).transpose(1, 3, 0, 2, 4)
    return cut.reshape(-1, 3, TILE_PX, TILE_PX)


def record_inputs(photos, rng):
    """Return `{"NET-": {"pixels": u8 [N,3,H,W]}}`: a sample of what the float cascade feeds each network over the photos."""
    fed = {net: [] for net in NETWORKS}

    def recorded(net):
        run = session(build(net))

        def call(pixels):
            # The int8 networks see rounded pixels; so do these.
            pixels = np.rint(pixels)
            fed[net].append(pixels.astype(np.uint8))
            return run.run(None, {"pixels": pixels})

        return call

    detector = reference.Detector([recorded(net) for net in NETWORKS], MIN_FACE_PX)
    for frame in frames(photos):
        detector.detect(frame)
    fed["pnet"] = [tiles(level) for level in fed["pnet"]]
    chosen = {}
    for net, parts in fed.items():
        crops, most = np.concatenate(parts), MAX_TILES if net == "pnet" else MAX_CROPS
        pixels = crops[rng.permutation(len(crops))[:most]]
        chosen[f"{net}-"] = {"pixels": pixels}
        print(f"{net}: {len(pixels)} of {len(crops)} inputs")
    return chosen


if __name__ == "__main__":
    recorded.write(__doc__, "mtcnn-inputs", SEED, {"calibration": PHOTOS, "checks": CHECK_PHOTOS}, record_inputs)
