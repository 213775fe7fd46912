"""Makes the pictures and clips of this folder and, beside each, what another decoder makes of it.

    python runtime/tests/golden/pictures/make.py

needs imageio-ffmpeg, numpy and Pillow. NAME.rgb is the upright picture (or all frames of the clip) as
8-bit RGB rows without padding; index.json gives its size. Pillow (libjpeg-turbo, libpng) decodes the
stills, ffmpeg the clips and 16-bit PNG.
"""

import io
import json
import pathlib
import subprocess

import imageio_ffmpeg
import numpy
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent
FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
TO_RGB = ["-sws_flags", "accurate_rnd+full_chroma_int+bitexact", "-f", "rawvideo", "-pix_fmt", "rgb24"]
EXACT = ["-flags", "+bitexact", "-fflags", "+bitexact"]
EXIF_ORIENTATION = 0x0112


def scene(width, height, seed):
    """Soft coloured blobs: like a photo, without edges at which chroma filters differ."""
    rng = numpy.random.default_rng(seed)
    coarse = rng.integers(30, 226, (4, 5, 3), dtype=numpy.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def ffmpeg(args, stdin=None):
    return subprocess.run(FFMPEG + args, input=stdin, stdout=subprocess.PIPE, check=True).stdout


class Goldens:
    def __init__(self):
        self.index = {}

    def add(self, name, encoded, size, rgb, n_frames=1):
        width, height = size
        assert len(rgb) == width * height * 3 * n_frames, name
        (HERE / name).write_bytes(encoded)
        (HERE / f"{name}.rgb").write_bytes(rgb)
        self.index[name] = {"width_px": width, "height_px": height, "n_frames": n_frames}

    def add_pillow(self, name, picture, **options):
        encoded = io.BytesIO()
        picture.save(encoded, pathlib.Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
        self.add_decoded_by_pillow(name, encoded.getvalue())

    def add_decoded_by_pillow(self, name, encoded):
        seen = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        if "A" in seen.getbands() or "transparency" in seen.info:
            seen = seen.convert("RGBA")
            seen = Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
        rgb = seen.convert("RGB")
        self.add(name, encoded, rgb.size, rgb.tobytes())


def without_huffman_tables(jpeg):
    """The JPEG without its DHT segments, as many cameras send it."""
    out, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        out += b"" if jpeg[at + 1] == 0xC4 else jpeg[at:end]
        at = end
    return out + jpeg[at:]


def stills(goldens):
    photo = scene(37, 23, seed=1)
    for subsampling, name in enumerate(["444", "422", "420"]):
        goldens.add_pillow(f"baseline{name}.jpg", photo, quality=90, subsampling=subsampling)
    goldens.add_pillow("progressive.jpg", photo, quality=90, progressive=True)
    goldens.add_pillow("grey.jpg", photo.convert("L"), quality=90)
    goldens.add_pillow("cmyk.jpg", photo.convert("CMYK"), quality=90)
    bare = without_huffman_tables((HERE / "baseline420.jpg").read_bytes())
    goldens.add("no_tables.jpg", bare, photo.size, (HERE / "baseline420.jpg.rgb").read_bytes())
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        goldens.add_pillow(f"orientation{orientation}.jpg", photo, quality=90, subsampling=0, exif=exif)
    goldens.add_pillow("rgb.png", photo)
    goldens.add_pillow("palette.png", photo.quantize(16))
    goldens.add_pillow("bilevel.png", photo.convert("1"))
    clear = photo.quantize(16)
    goldens.add_pillow("palette_clear.png", clear, transparency=3)
    faded = photo.copy()
    faded.putalpha(Image.linear_gradient("L").resize(photo.size))
    goldens.add_pillow("rgba.png", faded)
    goldens.add_pillow("grey_alpha.png", faded.convert("LA"))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    goldens.add_pillow("orientation6.png", photo, exif=exif)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "37x23", "-i", "-"]
    for pix_fmt, name in [("rgb48be", "rgb16.png"), ("gray16be", "grey16.png")]:
        deep = ffmpeg(raw + ["-c:v", "png", "-pix_fmt", pix_fmt, "-f", "image2pipe", "-"], photo.tobytes())
        samples = numpy.frombuffer(
            ffmpeg(["-f", "image2pipe", "-c:v", "png", "-i", "-", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"], deep), ">u2"
        )
        eight = numpy.rint(samples / 257).astype(numpy.uint8)
        eight = eight if pix_fmt == "rgb48be" else numpy.repeat(eight, 3)
        goldens.add(name, deep, photo.size, eight.tobytes())


def clips(goldens):
    frames = b"".join(scene(48, 32, seed).tobytes() for seed in range(4))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "48x32", "-r", "30000/1001", "-i", "-"]
    for name, options in {
        "mjpeg444.avi": ["-c:v", "mjpeg", "-pix_fmt", "yuvj444p", "-huffman", "default"],
        "mjpeg420.avi": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
        "mjpeg_limited.avi": ["-c:v", "mjpeg", "-pix_fmt", "yuv444p", "-color_range", "tv", "-strict", "unofficial"],
    }.items():
        clip = HERE / name
        ffmpeg(raw + options + ["-q:v", "3"] + EXACT + [str(clip)], frames)
        rgb = ffmpeg(["-i", str(clip)] + TO_RGB + ["-"])
        goldens.add(name, clip.read_bytes(), (48, 32), rgb, n_frames=4)
    for codec in ["mpeg4", "msmpeg4v3", "cinepak"]:
        ffmpeg(raw + ["-frames:v", "1", "-c:v", codec] + EXACT + [str(HERE / f"{codec}.avi")], frames)


def main():
    goldens = Goldens()
    stills(goldens)
    clips(goldens)
    (HERE / "index.json").write_text(json.dumps(goldens.index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
