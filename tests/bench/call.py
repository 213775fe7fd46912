"""The call of four people that the benchmarks of `candor watch` watch."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PHOTO = REPO / ".cache" / "clips" / "sample4.jpg"
CLIP = REPO / ".cache" / "bench" / "four-people-720p30.mp4"
SMALL_CLIP = CLIP.with_name("four-people-360p2.mp4")
DURATION_S, FPS = 24, 30
# Left and top of the cut-out of each head; from when to when it is in the call.
HEADS = [((830, 120), (0, 20)), ((120, 140), (0, 24)), ((500, 20), (3, 16)), ((1110, 90), (6, 22))]
CUT_OUT = (480, 270)
ENCODER = ["-c:v", "libx264", "-preset", "medium", "-crf", "20", "-threads", "1", "-flags:v", "+bitexact"]


def ffmpeg():
    """Path of the ffmpeg that the test environment has."""
    found = sorted((REPO / ".cache" / "venv").glob("lib/python*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*"))
    return found[0] if found else sys.exit("no ffmpeg: run tests/setup")


def make_clip():
    """Make the clip unless it is there."""
    if CLIP.exists():
        return
    CLIP.parent.mkdir(parents=True, exist_ok=True)
    inputs = [arg for _ in HEADS for arg in ("-loop", "1", "-framerate", str(FPS), "-i", str(PHOTO))]
    scene = [f"color=0x303840:s=1280x720:r={FPS}[g0]"]
    for i, ((left, top), (start, end)) in enumerate(HEADS):
        width, height = CUT_OUT
        x, y = 640 * (i % 2), 360 * (i // 2)
        moving = f"crop={width}:{height}:'{left}+12*sin(t*{1 + i / 5})':'{top}+8*cos(t*{1.3 - i / 5})'"
        scene.append(f"[{i}]{moving},scale=640:360[h{i}]")
        scene.append(f"[g{i}][h{i}]overlay={x}:{y}:enable='between(t,{start},{end})'[g{i + 1}]")
    scene.append(f"[g{len(HEADS)}]noise=alls=4:allf=t:all_seed=7,format=yuv420p")
    part = CLIP.with_suffix(".part.mp4")
    command = [ffmpeg(), "-v", "error", "-y", *inputs, "-filter_complex", ";".join(scene), "-t", str(DURATION_S)]
    subprocess.run([*command, *ENCODER, part], check=True)
    part.rename(CLIP)


def make_small_clip():
    """Make the clip that a day is played of unless it is there: a quarter of the picture, 2 frames a second."""
    if SMALL_CLIP.exists():
        return
    part = SMALL_CLIP.with_suffix(".part.mp4")
    command = [ffmpeg(), "-v", "error", "-y", "-i", CLIP, "-vf", "scale=640:360,fps=2", *ENCODER, part]
    subprocess.run(command, check=True)
    part.rename(SMALL_CLIP)


def camera(seconds):
    """A process that gives the call's pictures as a camera does, at their pace: raw, 4:2:0."""
    command = [ffmpeg(), "-v", "error", "-re", "-stream_loop", "-1", "-i", CLIP, "-t", seconds, "-f", "rawvideo"]
    return subprocess.Popen([*map(str, command), "-pix_fmt", "yuv420p", "-"], stdout=subprocess.PIPE)


def row(*cells):
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |")
