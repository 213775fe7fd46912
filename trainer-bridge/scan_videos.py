#!/usr/bin/env python3
"""Scans labelled videos with the candor program and a bundle; writes predictions.csv for `trainer-bridge evaluate`.

What is measured is all that a user meets: decoding, detection, tracking, crops, the int8 network, its calibration.

    .cache/venv/bin/python trainer-bridge/scan_videos.py FOLDER --bundle DIR --out predictions.csv
    trainer-bridge evaluate --predictions predictions.csv --out report

FOLDER has a metadata.json as `ingest` reads it. Every clip goes through ffmpeg, so that what candor doesn't decode
counts as well: as it is (lossless 4:2:0), or compressed first by --condition, `crf40` or `crf40-360p` for instance.
`--like MANIFEST` takes the groups and the split of a dataset, and its validation videos alone.
"""

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg

COLUMNS = (
    "dataset crop video source group method condition track face_px label split "
    "logit_real logit_fake sharpness brightness png_bytes"
).split()
# A score is written with six decimals; 0 and 1 have no logit.
CLIP = 5e-7


def condition(text):
    found = re.fullmatch(r"(?:crf(\d+))?-?(?:(\d+)p)?", text)
    if text != "clean" and not (found and any(found.groups())):
        raise argparse.ArgumentTypeError("expected clean, crf28, 360p or crf28-360p")
    return text


def ffmpeg_arguments(name):
    """Filter, and encoder if it compresses."""
    crf, height = re.search(r"crf(\d+)", name), re.search(r"(\d+)p", name)
    filters = [f"scale=-2:{height[1]}"] if height else []
    filters.append("crop=trunc(iw/2)*2:trunc(ih/2)*2")
    return ["-vf", ",".join(filters), "-pix_fmt", "yuv420p"], crf


def scanned(candor, bundle, clip, name):
    """candor's JSON lines of a clip."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{clip}", "-an"]
    picture, crf = ffmpeg_arguments(name)
    scan = [candor, "scan", "--json", *(["--bundle", bundle] if bundle else [])]
    with tempfile.TemporaryDirectory() as scratch:
        if name != "clean":
            made = f"{scratch}/clip.mp4"
            encoder = ["-c:v", "libx264", "-preset", "medium", "-crf", crf[1] if crf else "23"]
            subprocess.run([*ffmpeg, *picture, *encoder, "-y", made], check=True)
            run = subprocess.run([*scan, made], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        else:
            with subprocess.Popen(
                [*ffmpeg, *picture, "-f", "yuv4mpegpipe", "-"], stdout=subprocess.PIPE
            ) as source:
                run = subprocess.run(
                    [*scan, "-"], stdin=source.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if not any(line["event"] == "summary" for line in lines):
        sys.exit(f"{clip}: candor ended with {run.returncode}: {run.stderr.decode(errors='replace')}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--candor", default="target/release/candor")
    parser.add_argument("--bundle", help="folder or file; the built-in one without")
    parser.add_argument("--condition", type=condition, nargs="+", default=["clean"])
    parser.add_argument("--like", type=Path, help="manifest.csv of a dataset of the same folder")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    metadata = json.loads((arguments.folder / "metadata.json").read_text())
    split = {}
    if arguments.like:
        with arguments.like.open() as file:
            split = {Path(row["video"]).name: (row["group"], row["split"]) for row in csv.DictReader(file)}
    calibration = {"temperature": 1.0, "bias": 0.0}
    if arguments.bundle:
        calibration = json.loads((Path(arguments.bundle) / "manifest.json").read_text())["score"]
    verdicts = {}
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name, facts in sorted(metadata.items()):
            group, part = split.get(name, (facts.get("group", name), "validation"))
            if arguments.like and (name not in split or part != "validation"):
                continue
            for at in arguments.condition:
                clip = arguments.folder / name
                for line in scanned(arguments.candor, arguments.bundle, clip, at):
                    if line["event"] == "summary":
                        key = (at, facts["label"], line["verdict"])
                        verdicts[key] = verdicts.get(key, 0) + 1
                    if line["event"] != "verdict":
                        continue
                    for index, score in enumerate(line["scores"]):
                        score = min(max(score, CLIP), 1 - CLIP) if score is not None else math.nan
                        margin = calibration["temperature"] * (
                            math.log(score / (1 - score)) - calibration["bias"]
                        )
                        writer.writerow(
                            dict(
                                dataset=arguments.folder.resolve().name,
                                crop=f"{name}#{line['track_id']}-{index}",
                                video=name,
                                source=facts.get("original") or name,
                                group=group,
                                method=facts.get("method") or "" if facts["label"] == "FAKE" else "",
                                condition=at,
                                track=line["track_id"],
                                face_px=line["bbox"][2],
                                label=facts["label"],
                                split="validation",
                                logit_real=0.0,
                                logit_fake=margin,
                                sharpness=0.0,
                                brightness=0.0,
                                png_bytes=0,
                            )
                        )
                file.flush()
    for (at, label, verdict), n in sorted(verdicts.items()):
        print(f"{at:12} {label:4} {verdict:12} {n}")


if __name__ == "__main__":
    main()
