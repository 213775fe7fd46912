"""Measure which quantizer of trainer-bridge's call augmentation loses what x264 loses at a constant rate factor.

    python tests/reference/measure_crf.py PICTURE...

Each picture, a square crop of a face, becomes a clip of FRAMES frames that moves to its place, as the augmentation makes
it. For each rate factor the PSNR of x264's last frame (preset medium, no B-frames) is looked up among the augmentation's
own, and the difference of quantizer and rate factor printed, mean and spread over the pictures.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
FRAMES, MOTION = 4, (0.7, 0.4)
RATE_FACTORS = (23, 26, 28, 30, 32, 34, 36, 38, 40)


def clip(picture):
    """Return FRAMES pictures of `picture` moving to its place, mirrored at the edge, bilinear."""
    frames = []
    for left in range(FRAMES - 1, -1, -1):
        shifted = np.pad(picture.astype(np.float64), [(8, 8), (8, 8), (0, 0)], "reflect")
        for axis, move in ((1, MOTION[0] * left), (0, MOTION[1] * left)):
            whole, part = int(move), move - int(move)
            near, far = np.roll(shifted, -whole, axis), np.roll(shifted, -whole - 1, axis)
            shifted = near * (1 - part) + far * part
        frames.append(np.rint(shifted[8:-8, 8:-8]).astype(np.uint8))
    return frames


def x264_psnr(picture, rate_factor):
    """Return bytes of the stream and PSNR of the last frame."""
    side = len(picture)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{side}x{side}", "-r", "30"]
    color = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p"]
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "clip.h264"
        codec = ["-c:v", "libx264", "-preset", "medium", "-bf", "0", "-crf", str(rate_factor), str(stream)]
        subprocess.run([*ffmpeg, *raw, "-i", "-", *color, *codec], input=np.stack(clip(picture)).tobytes(), check=True)
        back = ["-vf", "scale=in_color_matrix=bt709:in_range=tv", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        decoded = subprocess.run([*ffmpeg, "-i", str(stream), *back], check=True, stdout=subprocess.PIPE).stdout
        n_bytes = stream.stat().st_size
    last = np.frombuffer(decoded, np.uint8).reshape(-1, side, side, 3)[-1].astype(np.float64)
    return n_bytes, 10 * np.log10(255**2 / ((last - picture) ** 2).mean())


def main():
    paths = sys.argv[1:]
    command = ["cargo", "run", "--quiet", "-p", "trainer-bridge", "--example", "h264_loss", "--", str(FRAMES)]
    lines = subprocess.run(
        [*command, *map(str, MOTION), *paths], check=True, stdout=subprocess.PIPE, text=True, cwd=REPO
    ).stdout.splitlines()
    own = {}
    for line in lines:
        path, qp, n_bytes, psnr = line.split("\t")
        own.setdefault(path, []).append((int(qp), int(n_bytes), float(psnr)))
    print("crf  qp-crf by PSNR  spread  PSNR dB  bytes  own bytes there")
    for rate_factor in RATE_FACTORS:
        rows = []
        for path in paths:
            n_bytes, psnr = x264_psnr(np.asarray(Image.open(path).convert("RGB")), rate_factor)
            qps, sizes, psnrs = (np.array(column, float) for column in zip(*own[path]))
            qp = np.interp(-psnr, -psnrs, qps)
            rows.append((qp - rate_factor, psnr, n_bytes, np.interp(qp, qps, sizes)))
        over, psnr, n_bytes, own_bytes = np.mean(rows, axis=0)
        spread = np.std([row[0] for row in rows])
        print(f"{rate_factor:3}  {over:15.1f}  {spread:6.1f}  {psnr:7.1f}  {n_bytes:5.0f}  {own_bytes:5.0f}")


if __name__ == "__main__":
    main()
