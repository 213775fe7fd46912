"""Write the goldens of trainer-bridge's augmentations, from definitions in numpy, SciPy, OpenCV and Pillow.

    pip install numpy scipy opencv-python-headless pillow
    python tests/reference/augmentations.py

The goldens are in trainer-bridge/tests/golden/, made of landmarks.png, the astronaut's face (see landmarks.py), and are
checked in, so that only this script needs SciPy and OpenCV.
"""

import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from scipy.spatial import ConvexHull
from scipy.special import expit, logit

GOLDEN = Path(__file__).resolve().parents[2] / "trainer-bridge" / "tests" / "golden"
FACE = np.asarray(Image.open(GOLDEN / "landmarks.png").convert("RGB"))
LANDMARKS = np.array(json.loads((GOLDEN / "landmarks.json").read_text())).reshape(68, 2) * 112
OUT_PX = 96
# place in width and height, flip, degrees, scale of width and height
GEOMETRY = ((0.2, 0.9), True, 8.0, (1.15, 0.85))
FEATURES = {"mouth": (48, 68), "left brow": (22, 27), "jaw": (0, 17)}
MASKS = {"whole": [(0, 68)], "features": list(FEATURES.values()), "interval": [(20, 45)]}
RADIUS_PX, N_DILATIONS = 4, 2


def save(name, picture):
    Image.fromarray(np.uint8(picture)).save(GOLDEN / f"{name}.png", optimize=True)


def move(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def geometry():
    """Matrices from the picture to the window, multiplied one by one, then inverted."""
    place, flip, degrees, scale = GEOMETRY
    scaled = np.array(scale) * OUT_PX
    grow = np.diag([*(scaled / 112), 1])
    cut = move(*(-np.array(place) * (scaled - OUT_PX)))
    angle = np.deg2rad(degrees)
    # against the clock where y points down
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    centre = OUT_PX / 2
    mirror = np.diag([-1.0 if flip else 1.0, 1, 1])
    forward = move(centre, centre) @ mirror @ turn @ move(-centre, -centre) @ cut @ grow
    y, x = np.mgrid[:OUT_PX, :OUT_PX] + 0.5
    sx, sy, _ = np.linalg.inv(forward) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    channels = [
        map_coordinates(FACE[..., c].astype(float), [sy - 0.5, sx - 0.5], order=1, mode="mirror") for c in range(3)
    ]
    save("geometry", np.rint(np.stack(channels, -1).reshape(OUT_PX, OUT_PX, 3)))


def light():
    """fast.ai v1's vision.transform: brightness adds, contrast multiplies, on the logit of a picture of 0..1."""
    pixels = logit(np.clip(FACE / 255, 1e-7, 1 - 1e-7))
    save("light", np.rint(255 * expit((pixels + logit(0.43)) * 1.2)))


def blur():
    for sigma in (0.6, 2.3):
        blurred = gaussian_filter(FACE.astype(float), (sigma, sigma, 0), mode="mirror", truncate=3.0)
        save(f"blur-{sigma}", np.rint(blurred))


def jpeg():
    for quality in (65, 90):
        buffer = io.BytesIO()
        Image.fromarray(FACE).save(buffer, "JPEG", quality=quality, subsampling=2)
        save(f"jpeg-{quality}", np.asarray(Image.open(buffer).convert("RGB")))


def inside_hull(points):
    """Pixel centres inside the convex hull, and the pixels of its corners."""
    y, x = np.mgrid[:112, :112] + 0.5
    hull = ConvexHull(points)
    inside = np.ones((112, 112), bool)
    for a, b, c in hull.equations:
        inside &= a * x + b * y + c <= 0
    for x, y in points[hull.vertices]:
        if 0 <= x < 112 and 0 <= y < 112:
            inside[int(y), int(x)] = True
    return inside


def masks():
    dy, dx = np.mgrid[-RADIUS_PX : RADIUS_PX + 1, -RADIUS_PX : RADIUS_PX + 1]
    disc = np.uint8(dx**2 + dy**2 <= RADIUS_PX**2)
    for name, ranges in MASKS.items():
        shown = np.zeros((112, 112), bool)
        for first, last in ranges:
            shown |= inside_hull(LANDMARKS[first:last])
        shown = cv2.dilate(np.uint8(shown), disc, iterations=N_DILATIONS)
        save(f"mask-{name}", cv2.bitwise_and(FACE, FACE, mask=shown))


def seamless():
    """Poisson's equation solved at once: a face in another light and out of focus, in the face, under an ellipse."""
    soft = gaussian_filter(FACE.astype(float), (1.5, 1.5, 0), mode="mirror")
    over = np.uint8(np.clip(soft * 0.9 + np.linspace(-20, 20, 112)[None, :, None], 0, 255))
    y, x = np.mgrid[:112, :112]
    inside = ((x - 56) / 30) ** 2 + ((y - 60) / 36) ** 2 <= 1
    at = np.flatnonzero(inside)
    number = np.full(112 * 112, -1)
    number[at] = np.arange(len(at))
    border = np.clip(FACE.astype(float) - over, -45, 45).reshape(-1, 3)
    equations, known = lil_matrix((len(at), len(at))), np.zeros((len(at), 3))
    for row, pixel in enumerate(at):
        equations[row, row] = 4
        for neighbour in (pixel - 1, pixel + 1, pixel - 112, pixel + 112):
            if number[neighbour] >= 0:
                equations[row, number[neighbour]] = -1
            else:
                known[row] += border[neighbour]
    blend = FACE.reshape(-1, 3).astype(float)
    blend[at] = over.reshape(-1, 3)[at] + spsolve(equations.tocsc(), known)
    save("seamless", np.clip(np.rint(blend), 0, 255).reshape(FACE.shape))
    save("seamless-over", over)
    save("seamless-mask", inside * 255)


def lab():
    colors = np.array([[0, 0, 0], [255, 255, 255], [200, 150, 120], [30, 90, 200], [12, 3, 7], [90, 60, 45]], np.uint8)
    values = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    pairs = [[color.tolist(), [round(float(v), 3) for v in value]] for color, value in zip(colors, values)]
    (GOLDEN / "lab.json").write_text(json.dumps(pairs) + "\n")


if __name__ == "__main__":
    for write in (geometry, light, blur, jpeg, masks, seamless, lab):
        write()
