"""Write a small checkpoint in PyTorch's format from before 1.6, for the Rust reader's tests.

    python3 trainer-bridge/tests/reference/legacy.py

Needs torch, any version: made with Debian's python3-torch 1.13.1. Two of its tensors view one storage.
"""

from collections import OrderedDict
from pathlib import Path

import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "legacy.pth"


def main():
    table = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = OrderedDict(transposed=table.t(), row=table[1])
    state["half"] = torch.tensor([-0.5, 1.5], dtype=torch.float16)
    state["count"] = torch.tensor(7)
    torch.save(state, GOLDEN, _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
