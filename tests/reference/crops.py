"""Face crops of the fetched clips, as the classifier takes them."""

import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
CLIPS = REPO / ".cache" / "clips"
sys.path.insert(0, str(REPO / "models"))

import mtcnn as reference
from zoo import normalised

CLIP_NAMES = tuple(
    f"{name}.mp4"
    for name in ("WolfgangLanger_Pexels", "cap12_edit", "cap13_edit2", "franck", "carphone_pristine", "single_face")
)
FRAMES_PER_CLIP, LONGER_SIDE_PX = 40, 640
MIN_FACE_PX, MIN_CONFIDENCE = 40, 0.9
SIZE_PX, MARGIN = 224, 0.3


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


def square_crop(picture, box):
    """Return the square about `box` with the margin, mirrored where it leaves u8 RGB `picture`, as a model input."""
    side = round(max(box[2] - box[0], box[3] - box[1]) * (1 + MARGIN))
    left, top = (round((box[axis] + box[axis + 2] - side) / 2) for axis in (0, 1))
    padded = np.pad(picture, [(side, side), (side, side), (0, 0)], mode="reflect")
    square = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    return normalised(Image.fromarray(square).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))


def face_crops():
    """Return the crops [1,3,S,S] of all clips."""
    detector = reference.Detector(reference.load_networks("int8"), MIN_FACE_PX)
    crops = []
    for name in CLIP_NAMES:
        for frame in frames(CLIPS / name):
            boxes, confidences, _ = detector.detect(frame)
            crops += [square_crop(frame, box) for box in boxes[confidences > MIN_CONFIDENCE]]
    return crops
