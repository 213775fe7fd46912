"""Compare the default classifier in int8 with itself in float, over faces of clips that its ranges weren't measured on.

    python tests/reference/compare_int8.py

Prints how far the scores lie apart. Needs what tests/setup makes.
"""

import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np

REPO = Path(__file__).resolve().parents[2]
CLIPS = REPO / ".cache" / "clips"
sys.path[:0] = [str(REPO / "models"), str(REPO / "models" / "default")]

import build as default_bundle
import calibrate
import mtcnn as reference
import ranges

CLIP_NAMES = tuple(
    f"{name}.mp4"
    for name in ("WolfgangLanger_Pexels", "cap12_edit", "cap13_edit2", "franck", "carphone_pristine", "single_face")
)
FRAMES_PER_CLIP, LONGER_SIDE_PX = 40, 640
MIN_FACE_PX, MIN_CONFIDENCE = 40, 0.9


def frames(path):
    """Yield evenly spread frames of a clip as u8 RGB."""
    n_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    every = max(1, n_frames // FRAMES_PER_CLIP)
    shrink = f"select='not(mod(n,{every}))',scale='min(iw,{LONGER_SIDE_PX})':-2"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-vf", f"{shrink},format=rgb24"]
    command += ["-fps_mode", "vfr", "-f", "image2pipe", "-c:v", "ppm", "-"]
    ppm = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    at = 0
    while at < len(ppm):
        header = re.compile(rb"P6\n(\d+) (\d+)\n255\n").match(ppm, at)
        width_px, height_px = map(int, header.groups())
        at = header.end() + width_px * height_px * 3
        yield np.frombuffer(ppm[header.end() : at], np.uint8).reshape(height_px, width_px, 3)


def held_out_crops():
    """Return face crops [1,3,S,S] of the clips, as the classifier takes them."""
    detector = reference.Detector(reference.load_networks("int8"), MIN_FACE_PX)
    crops = []
    for name in CLIP_NAMES:
        for frame in frames(CLIPS / name):
            boxes, confidences, _ = detector.detect(frame)
            sure = boxes[confidences > MIN_CONFIDENCE]
            crops += [calibrate.square_crop(frame, box, default_bundle.MARGIN) for box in sure]
    return crops


def scores(model, crops):
    """Return P(fake) of each crop."""
    run = ranges.session(model)
    logits = np.concatenate([run.run(["logits"], {"input": crop})[0] for crop in crops]).astype(np.float64)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def main():
    crops = held_out_crops()
    exact = scores(default_bundle.network().model(), crops)
    int8 = scores(default_bundle.int8().model(), crops)
    error = np.abs(int8 - exact)
    spread = f"{exact.min():.3f} to {exact.max():.3f}, standard deviation {exact.std():.3f}"
    print(f"{len(crops)} crops of {len(CLIP_NAMES)} clips; float scores {spread}")
    percentiles = ", ".join(f"{k} % {np.percentile(error, k):.4f}" for k in (50, 95, 100))
    print(f"|int8 - float|: mean {error.mean():.4f}, {percentiles}; mean difference {np.mean(int8 - exact):+.4f}")


if __name__ == "__main__":
    main()
