"""A model is installed on a disk of the board, and the plug is pulled in the middle."""

import json
import os
import shutil
import subprocess
import sys

from board import CLIP, PROGRAM, REPO, boot, ffmpeg

# When the plug is pulled, as what the board waits for, and what the slots may then hold.
CUTS = [
    ("while the bundle is written", "await [ -s /data/slots/incoming ]", {"nothing"}),
    ("once its file has its name", "await has_bundle", {"nothing", "staged"}),
    ("once it is installed", "wait $installing", {"staged"}),
]
CONFIRMED = "once it is confirmed"

# Every start of the board: what the last cut left is written down.
CHECK = """
cp /job/candor /tmp/candor
mount -t ext4 /dev/vda /data || echo "no disk"
slot() { /tmp/candor slot --slots /data/slots --root-key "$(cat /job/root.pub)" "$@"; }
slot status --json >"/job/found.json" 2>/job/found.errors
"""
# Where the installation is over, what is awaited can't come any more.
CUT = """
rm -rf /data/slots
sync
{ slot install /job/m.bundle >/job/said 2>&1; : >/tmp/is_over; } &
installing=$!
await() {
    until "$@" || [ -e /tmp/is_over ]; do usleep 1000; done
}
has_bundle() { ls /data/slots/*.bundle; }
{when} >/dev/null 2>&1
echo b >/proc/sysrq-trigger
sleep 60
"""
CONFIRM = """
/tmp/candor scan --json --slots /data/slots --root-key "$(cat /job/root.pub)" /job/face.png >/job/scan 2>&1
slot confirm >/job/said 2>&1
echo b >/proc/sysrq-trigger
sleep 60
"""


def trainer(*arguments):
    """Runs trainer-bridge, which signs bundles; built by tests/run."""
    program = REPO / "target/debug/trainer-bridge"
    if not program.exists():
        build = ["cargo", "build", "--workspace", "--bin", "trainer-bridge"]
        subprocess.run(build, cwd=REPO, check=True)
    command = [program, *map(str, arguments)]
    environment = os.environ | {"CANDOR_PASSPHRASE": "of a test"}
    done = subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tests/board: {' '.join(map(str, command))}: {done.stderr}")


def signed_bundle(job):
    """Puts a bundle of the default model under another version, and the root key's public half, into `job`."""
    model = job / "model"
    shutil.copytree(REPO / "models/default", model)
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["version"] = "9.0.0"
    (model / "manifest.json").write_text(json.dumps(manifest))
    for name in ("root", "release"):
        trainer("keygen", job / name)
    trainer("key-list", job / "release.pub", "--serial", 1, "--out", job / "keys.list")
    trainer("sign", job / "keys.list", "--key", job / "root.key")
    signer = ["--key-list", job / "keys.list", "--signer", job / "release.pub"]
    trainer("pack", model, *signer, "--out", job / "m.bundle")
    trainer("sign", job / "m.bundle", "--key", job / "release.key")


def found(job):
    """What the board found in the slots when it started: a word, and what it is for people."""
    text = (job / "found.json").read_text()
    if not text:
        return "damaged", (job / "found.errors").read_text().strip()
    status = json.loads(text)
    states = [json.dumps(slot) for slot in status["record"]["slots"].values()] if status["record"] else []
    for word in ("confirmed", "staged", "trial"):
        if any(f'"{word}"' in state for state in states):
            return word, f"{word}, next start runs {status['next']}"
    return "nothing", "both slots empty"


def pull_the_plug(board, job):
    """Installs, cuts and looks, again and again; True when every cut left what it may leave."""
    job.mkdir()
    shutil.copy(PROGRAM, job / "candor")
    signed_bundle(job)
    picture = [ffmpeg(), "-v", "error", "-i", CLIP, "-frames:v", "1", job / "face.png"]
    subprocess.run(picture, check=True)
    disk = job.parent / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
    more = ["-drive", f"file={disk},format=raw,if=virtio,cache=writethrough"]
    went_well = True
    before = None
    steps = [(name, CUT.replace("{when}", when), allowed) for name, when, allowed in CUTS]
    steps += [(CONFIRMED, CONFIRM, {"confirmed"}), (None, "", None)]
    for name, script, allowed in steps:
        (job / "main").write_text(CHECK + script)
        console = boot(board, job, more, is_timed=False)
        if before:
            word, about = found(job)
            is_good = word in before[1]
            went_well &= is_good
            verdict = "" if is_good else f"FAILED, expected {' or '.join(before[1])}: "
            print(f"  slots: power cut {before[0]}: {verdict}{about}")
            if not is_good:
                print("    " + console.strip().replace("\n", "\n    "))
        before = (name, allowed)
    return went_well
