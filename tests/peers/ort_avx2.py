"""A copy of ONNX Runtime that sees no AVX-512 and no VNNI, to compare with on processors that have both.

ONNX Runtime has no switch for this: MLAS, its kernel library, asks the processor itself. In a copy of the package under
.cache/peers, two places of MLAS's start-up code are changed and nothing else: where it reads with XGETBV which register
states the system saves, it gets 7, which lacks those of AVX-512; and its tests for AVX-VNNI and AVX-VNNI-INT8 find no bit.
Only for x86-64; a build in which these places aren't found exactly once is refused.
"""

import importlib.util
import re
import shutil
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
COPY = REPO / ".cache" / "peers" / "ort-avx2"

# xgetbv; mov eax,eax; shl rdx,32; or rdx,rax
XGETBV = re.compile(rb"\x0f\x01\xd0(?=\x89\xc0\x48\xc1\xe2\x20\x48\x09\xc2)")
# push 7; pop rax
SEVEN = b"\x6a\x07\x58"
# mov eax,7; mov ecx,1; cpuid; test al,0x10 ... test dl,0x10
VNNI = re.compile(rb"(\xb8\x07\x00\x00\x00\xb9\x01\x00\x00\x00\x0f\xa2\xa8)\x10(.{16,128}?\xf6\xc2)\x10", re.DOTALL)
# XGETBV lies this close before the VNNI test; another copy of the first pattern belongs to the compiler's library.
NEAR_BYTES = 2048


class PatchError(RuntimeError):
    """A build of ONNX Runtime whose start-up code isn't as expected."""


def patched(library):
    """Return the library's bytes with both places changed."""
    tests = list(VNNI.finditer(library))
    if len(tests) != 1:
        raise PatchError(f"expected one test for AVX-VNNI, found {len(tests)}")
    at = tests[0].start()
    reads = [found for found in XGETBV.finditer(library, max(0, at - NEAR_BYTES), at)]
    if len(reads) != 1:
        raise PatchError(f"expected one XGETBV before the test for AVX-VNNI, found {len(reads)}")
    library = VNNI.sub(lambda test: test[1] + b"\0" + test[2] + b"\0", library)
    start, end = reads[0].span()
    return library[:start] + SEVEN + library[end:]


def environment():
    """Make the copy unless it is there; return the environment in which Python imports it."""
    package = COPY / "onnxruntime"
    if not package.exists():
        source = Path(importlib.util.find_spec("onnxruntime").origin).parent
        partial = COPY / "onnxruntime.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        (library,) = (partial / "capi").glob("onnxruntime_pybind11_state*.so")
        library.write_bytes(patched(library.read_bytes()))
        partial.rename(package)
    return {"PYTHONPATH": str(COPY)}
