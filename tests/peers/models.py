"""Write the files that the peers run, from the same int8 networks, into .cache/peers/models.

    python tests/peers/models.py

NAME.tflite, NAME.param and NAME.bin for each of `CLASSIFIERS`, and for each level of the detector's pyramid over a
640x360 picture pnet-WxH.onnx in int8, and pnet-float-WxH in all formats, with fixed shapes.
"""

import sys
from pathlib import Path

import onnx

REPO = Path(__file__).resolve().parents[2]
OUT = REPO / ".cache" / "peers" / "models"
sys.path[:0] = [str(REPO / "models"), str(REPO / "models" / "mtcnn"), str(REPO / "tests" / "reference")]

CLASSIFIERS = ("lite0", "lite4", "b0", "b5")
# Quantized by ONNX Runtime's own tool, for ONNX Runtime alone: it runs their SiLU in integers.
OWN = {"b0": "b0-ort", "b5": "b5-ort"}
PICTURE_PX, MIN_FACE_PX = (640, 360), 20


def level_sizes():
    """Return (width, height) of each pyramid level."""
    import mtcnn as reference

    width, height = PICTURE_PX
    scales = reference.pyramid(height, width, MIN_FACE_PX)
    return [(int(width * scale + 1), int(height * scale + 1)) for scale in scales]


def with_shape(model, shape):
    """Return `model` with its input's shape fixed, and the outputs' as they follow; defaults are spelt out for rten."""
    for axis, n in zip(model.graph.input[0].type.tensor_type.shape.dim, shape):
        axis.dim_value = n
    for node in model.graph.node:
        for name, value in {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}.items():
            if node.op_type == "Conv" and not any(attribute.name == name for attribute in node.attribute):
                node.attribute.append(onnx.helper.make_attribute(name, value))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def main():
    import convert
    import fetch
    import ncnn_files
    import tflite
    import zoo

    OUT.mkdir(parents=True, exist_ok=True)
    fetch.fetch_all()
    for name in CLASSIFIERS:
        source = zoo.write(name)
        tflite.convert(source, OUT / f"{name}.tflite")
        ncnn_files.convert(source, OUT / f"{name}.param", OUT / f"{name}.bin")
    for name in OWN.values():
        zoo.write(name)
    for width, height in level_sizes():
        for kind, model in (("pnet", onnx.load(REPO / "models/mtcnn/pnet.onnx")), ("pnet-float", convert.build("pnet"))):
            fixed = with_shape(model, (1, 3, height, width))
            (OUT / f"{kind}-{width}x{height}.onnx").write_bytes(fixed.SerializeToString(deterministic=True))
        source, target = OUT / f"pnet-{width}x{height}.onnx", OUT / f"pnet-float-{width}x{height}"
        tflite.convert(source, target.with_suffix(".tflite"), is_float=True)
        ncnn_files.convert(source, target.with_suffix(".param"), target.with_suffix(".bin"), is_float=True)


if __name__ == "__main__":
    main()
