"""Compare the int8 MTCNN with the float one, face by face, through the reference detector.

    python tests/reference/measure_mtcnn.py [--min-face-px 20] [--n-pictures 250] SOURCE...

A source is a folder of pictures (recall is reported too: one face each) or a clip, read through ffmpeg. A face is a
detection above 0.90; two face sets are equal when they pair off one to one at IoU >= 0.5. Prints one JSON line per source
and names what differs.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from mtcnn import Detector, load_networks, read_picture, read_raw

KEPT_CONFIDENCE, SAME_IOU = 0.90, 0.5
SEED = 7


def iou_table(ours, theirs):
    """IoU of every pair: [len(ours), len(theirs)]."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    return overlap / (area[0][:, None] + area[1][None] - overlap)


def paired(ours, theirs):
    """Return (ours_idx, theirs_idx, IoU) of faces paired greedily, best overlap first."""
    table, pairs = iou_table(ours, theirs), []
    while table.size and table.max() >= SAME_IOU:
        row, column = np.unravel_index(table.argmax(), table.shape)
        pairs.append((row, column, float(table[row, column])))
        table[row, :] = table[:, column] = -1
    return pairs


def ffmpeg():
    """Path of ffmpeg: the installed one or the Python package's."""
    installed = shutil.which("ffmpeg")
    if installed:
        return installed
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def clip_frames(path):
    """Yield (frame name, u8 RGB) of a clip's decoded frames, rotation applied."""
    probe = subprocess.run(
        [ffmpeg(), "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    width_px, height_px = map(int, probe.split(maxsplit=3)[1:3])
    command = [ffmpeg(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for frame_idx, frame in enumerate(read_raw(process.stdout, width_px, height_px)):
            yield f"{path.name}#{frame_idx}", frame


def folder_pictures(folder, n_pictures):
    """Yield (name, u8 RGB) of a seeded choice of the folder's pictures; all of them when `n_pictures` is 0."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if n_pictures:
        paths = sorted(random.Random(SEED).sample(paths, min(n_pictures, len(paths))))
    for path in paths:
        yield path.name, read_picture(path)


def kept(detector, frame):
    boxes, scores, _ = detector.detect(frame)
    above = scores > KEPT_CONFIDENCE
    return boxes[above], scores[above]


def measure(pictures, exact, int8):
    """Compare both detectors over (name, frame) pairs and return the figures."""
    n_pictures, n_equal, n_recalled, n_int8_recalled, overlaps, edges, different = 0, 0, 0, 0, [], [], []
    for name, frame in pictures:
        (ours, ours_scores), (theirs, theirs_scores) = kept(int8, frame), kept(exact, frame)
        pairs = paired(ours, theirs)
        equal = len(pairs) == len(ours) == len(theirs)
        n_pictures += 1
        n_equal += equal
        n_recalled += len(theirs) > 0
        n_int8_recalled += len(ours) > 0
        overlaps += [overlap for *_, overlap in pairs]
        edges += [np.abs(ours[row] - theirs[column]) for row, column, _ in pairs]
        if not equal:
            different.append([name, ours_scores.round(3).tolist(), theirs_scores.round(3).tolist()])
    return {
        "n_pictures": n_pictures,
        "equal_percent": round(100 * n_equal / max(n_pictures, 1), 2),
        "with_face_float": n_recalled,
        "with_face_int8": n_int8_recalled,
        "n_pairs": len(overlaps),
        "iou_median": round(float(np.median(overlaps)), 4) if overlaps else None,
        "iou_p5": round(float(np.percentile(overlaps, 5)), 4) if overlaps else None,
        "iou_from_0.9_percent": round(100 * float(np.mean(np.array(overlaps) >= 0.9)), 2) if overlaps else None,
        "edge_px_median": round(float(np.median(edges)), 2) if edges else None,
        "different": different,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--min-face-px", type=float, default=20)
    parser.add_argument("--n-pictures", type=int, default=250, help="pictures taken from a folder; 0 takes all")
    parser.add_argument("--models", default="int8", help="what to compare with float: int8, or a folder")
    args = parser.parse_args()
    exact, int8 = (Detector(load_networks(models), args.min_face_px) for models in ("float", args.models))
    for source in args.sources:
        pictures = folder_pictures(source, args.n_pictures) if source.is_dir() else clip_frames(source)
        figures = measure(pictures, exact, int8)
        print(json.dumps({"source": source.name, "min_face_px": args.min_face_px, **figures}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
