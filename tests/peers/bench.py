"""Time Candor and other engines on the same networks, interleaved: tests/peers/run prepares what this needs.

    python tests/peers/bench.py [--candor PROGRAM] [--rounds 20] [--threads 1 2] [--models lite0 ...] [--json] [--avx2]

Every engine is a process that stays: it loads its model once and, asked for k inferences, answers the mean seconds of
one. Each round asks every engine once, the first one a place further each time, so that what else the machine does
meets all alike. Per engine: the median and the 10th and 90th percentile over the rounds, the ratio of its median to ONNX
Runtime's, the median of the ratios round by round, and the ratio of CPU time, which other programs disturb least.

ONNX Runtime's row that counts is the faster of `onnxruntime`, the same int8 file that Candor runs (u8 activations), and
`onnxruntime-own`: for the B family the same network quantized by its own tool, which it runs wholly in integers; for
the detector, whose int8 convolutions with PReLU it doesn't fuse, the float network. `pnet` is the detector's first
network over the pyramid of a 640x360 picture; LiteRT and ncnn run it in float. Candor's row
holds more than that: it scales the picture to the levels and collects the candidates, which the others don't.

--avx2 hides AVX-512 and VNNI from Candor (--kernels avx2) and from ONNX Runtime (see `ort_avx2.py`); the other
engines are left out. --json prints [{"model", "engine", "threads", "median_ms", "ratio_to_ort", ...}] and nothing else.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models
import ort_avx2

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
INT8 = REPO / ".cache" / "models" / "int8"
RTEN = REPO / ".cache" / "peers" / "rten-target" / "release" / "peer-rten"
WORKLOADS = (*models.CLASSIFIERS, "pnet")
# Each answer is the mean over about this long, at least one inference.
SLICE_S = 0.1
N_WARM_UP = 3
PAUSE_S = 0.03


class EngineError(RuntimeError):
    """An engine that didn't start, or ended."""


class Engine:
    """A process that times inferences when asked."""

    def __init__(self, name, command, environment=None):
        self.name = name
        # NumPy's own threads spin for a while after it is loaded.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | (environment or {})
        self.stderr = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.stderr}
        self.process = subprocess.Popen(list(map(str, command)), text=True, env=environment, **pipes)
        self.wall_s, self.cpu_s = [], []
        self.ask(1)
        self.n_per_slice = max(1, math.ceil(SLICE_S / self.ask(N_WARM_UP)))

    def ask(self, n_inferences):
        """Return the mean seconds of an inference."""
        try:
            self.process.stdin.write(f"{n_inferences}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            # Loggers of some engines write to standard output, too.
            while answer and not answer[0].isdigit():
                answer = self.process.stdout.readline()
            return float(answer)
        except (OSError, ValueError) as error:
            self.process.kill()
            self.process.wait()
            self.stderr.seek(0)
            said = self.stderr.read().splitlines()[-1:] or ["nothing"]
            raise EngineError(f"{self.name}: ended or answered no number, and said {said[0]}") from error

    def used_s(self):
        """Return the CPU time of all of the process's threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def measure(self):
        """Take one slice."""
        before = self.used_s()
        self.wall_s.append(self.ask(self.n_per_slice))
        self.cpu_s.append((self.used_s() - before) / self.n_per_slice)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def commands(model, n_threads, args):
    """Return `{engine: (command, environment)}` for one workload."""
    serve = [sys.executable, HERE / "serve.py"]
    if model == "pnet":
        levels = [f"{width}x{height}" for width, height in models.level_sizes()]
        int8 = [models.OUT / f"pnet-{level}.onnx" for level in levels]
        floats = [models.OUT / f"pnet-float-{level}" for level in levels]
        own = [f"{path}.onnx" for path in floats]
        lite, param = [f"{path}.tflite" for path in floats], [f"{path}.param" for path in floats]
    else:
        int8 = [INT8 / f"{model}.onnx"]
        own = [INT8 / f"{models.OWN[model]}.onnx"] if model in models.OWN else []
        lite, param = [models.OUT / f"{model}.tflite"], [models.OUT / f"{model}.param"]
    ort_environment = ort_avx2.environment() if args.avx2 else {}
    found = {"onnxruntime": ([*serve, "onnxruntime", n_threads, *int8], ort_environment)}
    if own:
        found["onnxruntime-own"] = ([*serve, "onnxruntime", n_threads, *own], ort_environment)
    if not args.avx2:
        found["rten"] = ([RTEN, n_threads, *int8], {})
        if model == "pnet":
            found["rten-float"] = ([RTEN, n_threads, *own], {})
        found["litert"] = ([*serve, "litert", n_threads, *lite], {})
        found["ncnn"] = ([*serve, "ncnn", n_threads, *param], {"OMP_NUM_THREADS": str(n_threads)})
    if args.candor:
        subject = ["--pyramid", "x".join(map(str, models.PICTURE_PX))] if model == "pnet" else int8
        kernels = "avx2" if args.avx2 else "auto"
        found["candor"] = ([args.candor, "bench", "--serve", "--threads", n_threads, "--kernels", kernels, *subject], {})
    return {engine: found[engine] for engine in found if not args.engines or engine in args.engines}


def measured(model, n_threads, args):
    """Return the rows of one workload."""
    engines = []
    for name, (command, environment) in commands(model, n_threads, args).items():
        try:
            engines.append(Engine(name, command, environment))
        except (EngineError, OSError) as error:
            print(f"left out, {model}: {error}", file=sys.stderr)
    if not engines:
        return []
    for round_idx in range(args.rounds):
        first = round_idx % len(engines)
        for engine in engines[first:] + engines[:first]:
            engine.measure()
            # A thread pool that spins for a while after its work must not slow the next engine.
            time.sleep(PAUSE_S)
    for engine in engines:
        engine.close()
    ort = min(
        (engine for engine in engines if engine.name.startswith("onnxruntime")),
        key=lambda engine: statistics.median(engine.wall_s),
        default=None,
    )
    return [row(model, n_threads, engine, ort) for engine in engines]


def row(model, n_threads, engine, ort):
    """Return the figures of one engine; ratios are None where ONNX Runtime is left out."""
    tenths = statistics.quantiles(engine.wall_s, n=10)
    figures = {
        "model": model,
        "engine": engine.name,
        "threads": n_threads,
        "median_ms": statistics.median(engine.wall_s) * 1e3,
        "ratio_to_ort": None,
        "p10_ms": tenths[0] * 1e3,
        "p90_ms": tenths[-1] * 1e3,
        "cpu_ms": statistics.median(engine.cpu_s) * 1e3,
        "round_ratio": None,
        "cpu_ratio": None,
    }
    if ort:
        figures["ratio_to_ort"] = statistics.median(engine.wall_s) / statistics.median(ort.wall_s)
        figures["round_ratio"] = statistics.median(a / b for a, b in zip(engine.wall_s, ort.wall_s))
        figures["cpu_ratio"] = statistics.median(engine.cpu_s) / statistics.median(ort.cpu_s)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def print_table(rows):
    """Print rows as a Markdown table."""
    names = ("model", "threads", "engine", "median_ms", "p10_ms", "p90_ms")
    names += ("ratio_to_ort", "round_ratio", "cpu_ms", "cpu_ratio")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for figures in rows:
        cells = (f"{figures[n]:.2f}" if isinstance(figures[n], float) else str(figures[n] or "-") for n in names)
        print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", type=Path, help="the release program; left out when not given")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--engines", nargs="+", help="only these")
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for model in args.models:
        for n_threads in args.threads:
            rows += measured(model, n_threads, args)
            print(f"{model}, {n_threads} threads: done", file=sys.stderr)
    print(json.dumps(rows, indent=1)) if args.json else print_table(rows)


if __name__ == "__main__":
    main()
