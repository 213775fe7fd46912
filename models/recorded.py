"""What the scripts `inputs.py` share: inputs of a network as .npz files for `trainer-bridge quantize-net`."""

import argparse
from pathlib import Path

import fetch
import numpy as np

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"


def write(doc, folder, seed, photos, record):
    """Write `record(photos, rng)`, `{FILE prefix: {input name: array}}`, for calibration and for checks.

    `photos` maps these two to the names of photos; the files go to .cache/models/`folder`, or where --into says.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=CACHE / folder, metavar="DIR")
    into = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    fetch.fetch_all()
    for kind, names in photos.items():
        for prefix, inputs in record(names, rng).items():
            np.savez(into / f"{prefix}{kind}.npz", **inputs)
