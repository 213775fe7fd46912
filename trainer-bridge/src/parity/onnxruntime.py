"""Run ONNX files on crops in ONNX Runtime: python onnxruntime.py FOLDER N SIDE FILE...

FOLDER/input.f32 holds N pictures [3,SIDE,SIDE]; the logits of the K-th file go to FOLDER/K.f32.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

# It would quantize the weights of layers that are left in float.
DISABLED = ["WeightBiasQuantization"]


def main():
    folder, n_pictures, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shape = (n_pictures, 1, 3, side, side)
    pictures = np.memmap(folder / "input.f32", "<f4", "r", shape=shape)
    for idx, path in enumerate(sys.argv[4:]):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
        )
        logits = [session.run(["logits"], {"input": np.array(picture)})[0] for picture in pictures]
        np.concatenate(logits).astype("<f4").tofile(folder / f"{idx}.f32")


if __name__ == "__main__":
    main()
