"""Time models in one Python engine: for each line `k` on standard input, print the mean seconds of `k` inferences.

    python tests/peers/serve.py onnxruntime|litert|ncnn N_THREADS MODEL...

One inference is one run of every MODEL (.onnx, .tflite, .param beside .bin), in order, on seeded noise.
"""

import sys
import time
from pathlib import Path

import numpy as np

SEED = 11


def noise(shape):
    """Return seeded bytes as the classifiers take them, of `shape`."""
    return np.float32((np.random.default_rng(SEED).integers(0, 256, shape) - 127) / 128)


def onnxruntime(path, n_threads):
    """Return a function that runs the model once."""
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    session = engine.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: noise(session.get_inputs()[0].shape)}
    return lambda: session.run(None, feed)


def litert(path, n_threads):
    """Return a function that runs the model once, through XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=n_threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise(interpreter.get_input_details()[0]["shape"]))
    return interpreter.invoke


def ncnn(path, n_threads):
    """Return a function that runs the model once; the input's shape stands in the .param's Input layer."""
    import ncnn as engine

    net = engine.Net()
    net.opt.num_threads = n_threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise OSError(f"{path}: ncnn can't load it")
    source = next(line.split() for line in path.read_text().splitlines() if line.startswith("Input"))
    width, height, channels = (int(field.partition("=")[2]) for field in source[-3:])
    blob, target = engine.Mat(noise((channels, height, width))), net.output_names()[-1]

    def run():
        extractor = net.create_extractor()
        extractor.input(source[4], blob)
        return extractor.extract(target)

    return run


def main():
    engine, n_threads, *paths = sys.argv[1:]
    load = {"onnxruntime": onnxruntime, "litert": litert, "ncnn": ncnn}[engine]
    runs = [load(Path(path), int(n_threads)) for path in paths]
    for line in sys.stdin:
        k = int(line)
        start = time.perf_counter()
        for _ in range(k):
            for run in runs:
                run()
        print(f"{(time.perf_counter() - start) / k:.9f}", flush=True)


if __name__ == "__main__":
    main()
