"""The virtual board itself: its tools, how it boots, and the clip that is played to it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PROGRAM = REPO / "target/cross/aarch64-unknown-linux-gnu/candor"
CLIP = REPO / "tests/fixtures/astronaut.mp4"
PHOTO = REPO / ".cache/clips/sample4.jpg"
# Frames of the clip, one of so many, there and back, so that a face that goes round and round never jumps.
N_FRAMES, STEP = 20, 5


def tools():
    """The folder of the board's tools; those of cross/setup come first on the PATH from here on."""
    env_file = subprocess.run([REPO / "cross/setup"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    path = f"{Path(env_file).parent / 'bin'}:{os.environ['PATH']}"
    os.environ["PATH"] = path
    board = subprocess.run([REPO / "tests/board/setup"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return Path(board)


def ffmpeg():
    """The one that the other tests use."""
    named = os.environ.get("CANDOR_FFMPEG")
    found = [Path(named)] if named else (REPO / ".cache/venv/lib").glob("*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*")
    path = next(iter(found), None) or shutil.which("ffmpeg")
    return path or sys.exit("tests/board/run: no ffmpeg: run tests/setup, or set CANDOR_FFMPEG")


def y4m(fourcc, size, frames):
    """The same samples as `frames`, as a file that a scan reads."""
    width, height = map(int, size.split("x"))
    n_bytes = width * height * (2 if fourcc == "YUYV" else 3) // (1 if fourcc == "YUYV" else 2)
    chroma = "422" if fourcc == "YUYV" else "420jpeg"
    parts = [f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C{chroma}\n".encode()]
    for at in range(0, len(frames), n_bytes):
        frame = frames[at : at + n_bytes]
        if fourcc == "YUYV":
            planes = [frame[0::2], frame[1::4], frame[3::4]]
        else:
            chroma_bytes = frame[width * height :]
            planes = [frame[: width * height], chroma_bytes[0::2], chroma_bytes[1::2]]
        parts += [b"FRAME\n", *planes]
    return b"".join(parts)


def arguments_of(name, width, height):
    """ffmpeg's for the frames of a clip: `clip`, somebody talks; `call`, two people beside each other."""
    some = f"select=not(mod(n\\,{STEP}))"
    if name == "clip":
        fitted = f"{some},scale=-2:{height},crop='min(iw,{width})':{height},pad={width}:{height}:-1:-1"
        return ["-i", CLIP, "-vf", fitted]
    half = f"{width // 2}:{height}"
    left = f"[0]{some},scale=-2:{4 * height // 5},crop={width // 2}:ih:iw/3:0,pad={half}:0:oh-ih,setsar=1[left]"
    right = f"[1]crop=300:450:'920+10*sin(n/3)':'70+8*cos(n/4)',scale={half},setsar=1[right]"
    still = ["-loop", "1", "-framerate", "25", "-i", PHOTO]
    return ["-i", CLIP, *still, "-filter_complex", f"{left};{right};[left][right]hstack"]


def prepare_clip(job, file):
    """Puts the frames of `file`, named NAME.WxH.FOURCC, into `job`; what a scan says of them: a line a face, then the summary."""
    name, size, fourcc = file.split(".")
    width, height = map(int, size.split("x"))
    layout = {"YUYV": "yuyv422", "NV12": "nv12"}[fourcc]
    arguments = [*arguments_of(name, width, height), "-fps_mode", "passthrough", "-frames:v", str(N_FRAMES)]
    command = [ffmpeg(), "-v", "error", *arguments]
    there = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", layout, "-"], stdout=subprocess.PIPE, check=True).stdout
    n_bytes = len(there) // N_FRAMES
    frames = [there[at : at + n_bytes] for at in range(0, len(there), n_bytes)]
    both = b"".join(frames + frames[-2:0:-1])
    (job / file).write_bytes(both)
    with tempfile.NamedTemporaryFile(suffix=".y4m") as video:
        video.write(y4m(fourcc, size, both))
        video.flush()
        command = ["qemu-aarch64", "-cpu", "cortex-a72", PROGRAM, "scan", "--json", "--no-progress"]
        command += ["--min-face-px", "100", video.name]
        lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def boot(board, job, more=(), is_timed=True, n_cores=1, kernel=("kernel", "initramfs"), arguments="", timeout_s=1800):
    """Runs /job/main on the board until it turns itself off; what its console showed.

    `is_timed` gives it a time of its own, in which an instruction is a nanosecond and waiting takes none. Not with a
    disk: while the board waits for the disk of this machine, that time runs away; nor with more than one core. `kernel`
    names files of `board`, and `arguments` are added to the kernel's. After `timeout_s` the board is stopped, and the
    console's last line says so.
    """
    command = [board / "qemu", "-M", "virt", "-cpu", "cortex-a72", "-m", "1024", "-nographic", "-nic", "none"]
    command += ["-no-reboot", *(["-icount", "shift=0,sleep=off"] if is_timed else ["-smp", str(n_cores)])]
    command += ["-kernel", board / kernel[0], "-initrd", board / kernel[1]]
    command += ["-append", f"console=ttyAMA0 quiet panic=-1 {arguments}"]
    command += ["-virtfs", f"local,path={job},mount_tag=job,security_model=none", *more]
    console = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, **console, timeout=timeout_s).stdout
    except subprocess.TimeoutExpired as late:
        shown = (late.stdout or b"") + f"\nstopped after {timeout_s} s\n".encode()
    return shown.decode(errors="replace")
