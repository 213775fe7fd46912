"""Compare Candor's face detector with the reference detector of mtcnn.py.

    cargo build --release --example detect
    python tests/reference/compare_detector.py [--detect target/release/examples/detect] [--only same,recall,int8,sizes]

- same: the same float networks in both, on portraits and on every 10th frame of the fetched clips;
- recall: the shipped int8 networks on every portrait, and on the frames of a clip without faces;
- int8: int8 against float within Candor, on the pictures of `same`;
- sizes: portraits scaled down to 40 px faces on a 1920 x 1080 background, and cropped so that the face's box is
  1.0 to 1.4 times the frame's shorter side, in both detectors.

A face is a detection above 0.90; two faces are the same from IoU 0.5. Portraits come from $CANDOR_SHARED/data/portraits
(default ../shared beside the checkout); without it the comparison runs on the clips and pictures alone and says so.
Prints Markdown tables.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from measure_mtcnn import KEPT_CONFIDENCE, clip_frames, kept, paired
from mtcnn import FLOAT_MODELS, REPO, Detector, load_networks, read_picture

CLIPS = REPO / ".cache" / "clips"
SHARED = Path(os.environ.get("CANDOR_SHARED", REPO.parent / "shared"))
PORTRAITS = SHARED / "data" / "portraits"
MIN_FACE_PX = 40
SEED = 7
N_PORTRAITS, FRAME_STEP, N_SIZED = 200, 10, 60
SMALL_FACE_PX, FULL_HD = 40, (1920, 1080)
FILLED_SIDES = (1.0, 1.1, 1.2, 1.3, 1.4)
# Pictures handed to one run of the example: bounds the space that the lossless copies take.
BATCH = 64


@dataclass
class Candor:
    """The example program of Candor's detector, with the built-in networks or those of a folder."""

    program: Path
    networks: Path | None = None
    ms: list = field(default_factory=list)

    def detect(self, frames):
        """Yield (boxes [N,4], scores [N]) for each of `frames`, u8 RGB [H,W,3]."""
        frames = iter(frames)
        while batch := list(itertools.islice(frames, BATCH)):
            with tempfile.TemporaryDirectory() as scratch:
                paths = [Path(scratch) / f"{k:03}.png" for k in range(len(batch))]
                for path, frame in zip(paths, batch):
                    Image.fromarray(frame).save(path, compress_level=1)
                command = [self.program, "--min-face-px", MIN_FACE_PX]
                command += ["--networks", self.networks] if self.networks else []
                printed = subprocess.run([*map(str, command), *map(str, paths)], check=True, stdout=subprocess.PIPE)
            for line in printed.stdout.splitlines():
                seen = json.loads(line)
                self.ms.append(seen["ms"])
                yield corners(seen["faces"])


def corners(faces):
    """Boxes as corners [N,4] and confidences [N] of the example's faces."""
    boxes = [[f["bbox"]["x"], f["bbox"]["y"], f["bbox"]["w"], f["bbox"]["h"]] for f in faces]
    boxes = np.array(boxes, float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([f["confidence"] for f in faces])


@dataclass
class Agreement:
    """How far the faces of two detectors agree over pictures."""

    n_pictures: int = 0
    n_equal: int = 0
    n_faces: list = field(default_factory=lambda: [0, 0])
    overlaps: list = field(default_factory=list)
    edges: list = field(default_factory=list)
    different: list = field(default_factory=list)

    def add(self, name, ours, theirs):
        """Count one picture; `ours` and `theirs` are (boxes, scores)."""
        pairs = paired(ours[0], theirs[0])
        is_equal = len(pairs) == len(ours[0]) == len(theirs[0])
        self.n_pictures += 1
        self.n_equal += is_equal
        self.n_faces = [self.n_faces[0] + len(ours[0]), self.n_faces[1] + len(theirs[0])]
        self.overlaps += [overlap for *_, overlap in pairs]
        self.edges += [float(np.median(np.abs(ours[0][i] - theirs[0][j]))) for i, j, _ in pairs]
        if not is_equal:
            self.different.append(f"{name}: {ours[1].round(3).tolist()} against {theirs[1].round(3).tolist()}")

    def row(self, name):
        """One line of the table under `AGREEMENT_HEAD`."""
        if not self.overlaps:
            return cells(name, self.n_pictures, percent(self.n_equal, self.n_pictures), *self.n_faces, *["-"] * 6)
        overlaps, edges = np.array(self.overlaps), np.array(self.edges)
        return cells(
            name,
            self.n_pictures,
            percent(self.n_equal, self.n_pictures),
            *self.n_faces,
            *(f"{q:.3f}" for q in np.percentile(overlaps, [1, 5, 50])),
            f"{100 * (overlaps >= 0.9).mean():.1f} %",
            f"{np.median(edges):.2f} / {np.percentile(edges, 95):.2f}",
            f"{100 * (edges <= 2).mean():.1f} %",
        )


AGREEMENT_HEAD = [
    "source", "pictures", "same faces", "faces ours", "faces theirs", "IoU 1 %", "IoU 5 %", "IoU median", "IoU >= .9",
    "edge px median / 95 %", "edge <= 2 px",
]  # fmt: skip


def cells(*values):
    return "| " + " | ".join(map(str, values)) + " |"


def percent(part, whole):
    return f"{100 * part / max(whole, 1):.2f} %"


def table(title, head, rows):
    print(f"\n### {title}\n", cells(*head), cells(*["---"] * len(head)), *rows, sep="\n", flush=True)


def portraits(n_portraits=0):
    """Paths of all portraits or of a seeded choice."""
    paths = sorted(PORTRAITS.glob("*.jpg"))
    return sorted(random.Random(SEED).sample(paths, n_portraits)) if n_portraits and paths else paths


def sources():
    """Yield (source's name, [(picture's name, frame)]) of everything that `same` and `int8` look at."""
    if chosen := portraits(N_PORTRAITS):
        yield "portraits", [(path.name, read_picture(path)) for path in chosen]
    photos = sorted([*CLIPS.glob("*.jpg"), *CLIPS.glob("*.png")])
    yield "photos", [(path.name, read_picture(path)) for path in photos]
    for clip in sorted([*CLIPS.glob("*.mp4"), *CLIPS.glob("*.mov")]):
        yield clip.name, list(itertools.islice(clip_frames(clip), 0, None, FRAME_STEP))


def compare(title, ours, theirs):
    """Print how `ours` and `theirs`, functions of frames, agree on every source."""
    whole, rows = Agreement(), []
    for name, pictures in sources():
        part = Agreement()
        frames = [frame for _, frame in pictures]
        for (picture, _), found, expected in zip(pictures, ours(frames), theirs(frames), strict=True):
            part.add(picture, found, expected)
            whole.add(picture, found, expected)
        rows.append(part.row(name))
    table(title, AGREEMENT_HEAD, [*rows, whole.row("all")])
    print("\nNot the same faces (confidences):", *whole.different, sep="\n- ", flush=True)


def above_threshold(reference, frames):
    """Yield the reference's faces; its left and top edges are inclusive and counted from 1."""
    for frame in frames:
        boxes, scores = kept(reference, frame)
        yield boxes - [1, 1, 0, 0], scores


def check_recall(candor):
    """Print the share of portraits with a face, and the faces where there is none."""
    rows, missed = [], []
    if paths := portraits():
        found = list(candor.detect(map(read_picture, paths)))
        missed = [path.name for path, (boxes, _) in zip(paths, found, strict=True) if not len(boxes)]
        extra = sum(len(boxes) > 1 for boxes, _ in found)
        n_found = len(paths) - len(missed)
        rows.append(cells("portraits", len(paths), f"{n_found} ({percent(n_found, len(paths))})", extra))
    empty = [len(boxes) for boxes, _ in candor.detect(frame for _, frame in clip_frames(CLIPS / "no_face.mp4"))]
    n_seen = sum(n > 0 for n in empty)
    rows.append(cells("no_face.mp4", len(empty), f"{n_seen} ({percent(n_seen, len(empty))})", sum(n > 1 for n in empty)))
    table(f"Recall above {KEPT_CONFIDENCE}, int8", ["source", "pictures", "with a face", "with several"], rows)
    print("\nMissed:", ", ".join(missed) or "none", flush=True)


def located_faces(reference):
    """Yield (name, frame, box) of portraits and the astronaut in which `reference` sees one face."""
    for path in [CLIPS / "astronaut.png", *portraits(N_SIZED)]:
        frame = read_picture(path)
        boxes, _ = kept(reference, frame)
        if len(boxes) == 1:
            yield path.name, frame, boxes[0]


def with_small_face(frame, box, rng):
    """The picture scaled until its face is SMALL_FACE_PX large, on a plain 1920 x 1080 background; (frame, box)."""
    scale = SMALL_FACE_PX / max(box[2] - box[0], box[3] - box[1])
    size = [round(side * scale) for side in frame.shape[1::-1]]
    small = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    background = Image.new("RGB", FULL_HD, tuple(rng.randrange(256) for _ in range(3)))
    corner = tuple(rng.randrange(whole - side) for whole, side in zip(FULL_HD, size))
    background.paste(small, corner)
    return np.asarray(background), box * scale + np.tile(corner, 2)


def filled_by_face(frame, box, side):
    """A square about the face whose side is the face's longer one over `side`, at least 160 px large; (frame, box)."""
    longer = max(box[2] - box[0], box[3] - box[1])
    half = longer / side / 2
    centre = (box[:2] + box[2:]) / 2
    corner = np.maximum(np.round(centre - half), 0).astype(int)
    end = np.minimum(np.round(centre + half).astype(int), frame.shape[1::-1])
    cut = Image.fromarray(frame[corner[1] : end[1], corner[0] : end[0]])
    scale = max(1, 160 / min(cut.size))
    cut = cut.resize([round(side * scale) for side in cut.size], Image.Resampling.BICUBIC)
    return np.asarray(cut), (box - np.tile(corner, 2)) * scale


def check_sizes(candor, exact, int8):
    """Print how many faces of known place both detectors find at the ends of the range of sizes."""
    rng = random.Random(SEED)
    faces = list(located_faces(Detector(load_networks("float"), 20)))
    cases = {f"{SMALL_FACE_PX} px in {FULL_HD[0]} x {FULL_HD[1]}": [with_small_face(f, b, rng) for _, f, b in faces]}
    for side in FILLED_SIDES:
        cases[f"{side} x the shorter side"] = [filled_by_face(f, b, side) for _, f, b in faces]
    rows = []
    for name, pictures in cases.items():
        frames = [frame for frame, _ in pictures]
        found = [candor.detect(frames), above_threshold(exact, frames), above_threshold(int8, frames)]
        recalls = []
        for seen in found:
            hits = [bool(paired(boxes, box[None])) for (boxes, _), (_, box) in zip(seen, pictures, strict=True)]
            recalls.append(f"{sum(hits)} ({percent(sum(hits), len(hits))})")
        rows.append(cells(name, len(pictures), *recalls))
    table(f"Recall by size, seed {SEED}", ["face", "pictures", "Candor int8", "reference float", "reference int8"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detect", type=Path, default=REPO / "target" / "release" / "examples" / "detect")
    parser.add_argument("--only", default="same,recall,int8,sizes", help="parts, separated by commas")
    args = parser.parse_args()
    parts = args.only.split(",")
    if not args.detect.exists():
        sys.exit(f"{args.detect}: missing; cargo build --release --example detect")
    if not PORTRAITS.is_dir():
        print(f"{PORTRAITS} is missing: no portraits are looked at")
    int8, exact = Candor(args.detect), Candor(args.detect, FLOAT_MODELS)
    reference = Detector(load_networks("float"), MIN_FACE_PX)
    if "same" in parts:
        compare("Candor against the reference, float", exact.detect, lambda f: above_threshold(reference, f))
    if "recall" in parts:
        check_recall(int8)
    if "int8" in parts:
        compare("Candor int8 against Candor float", int8.detect, exact.detect)
    if "sizes" in parts:
        check_sizes(int8, reference, Detector(load_networks("int8"), MIN_FACE_PX))
    for name, candor in (("int8", int8), ("float", exact)):
        if candor.ms:
            print(f"\n{name}: {np.median(candor.ms):.1f} ms per picture, median of {len(candor.ms)}")


if __name__ == "__main__":
    main()
