"""Instructions that the program for aarch64 executes, counted by a plugin of the emulator (count.c)."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PROFILE = os.environ.get("CANDOR_PROFILE", "release")
# With the names of its functions.
PROGRAM = REPO / "target/cross/aarch64-unknown-linux-gnu" / PROFILE / "candor"
PLUGIN = REPO / "target/cross/count.so"
# A core for each set of kernels.
CORES = {"neon": "cortex-a72", "neon-dotprod": "cortex-a76", "neon-i8mm": "max"}


def prepare():
    """Builds the plugin."""
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is missing: run cross/build")
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", PLUGIN, REPO / "tests/isa/count.c"]
    subprocess.run(command, check=True)


def tools():
    """The folder with the emulator and llvm-objdump."""
    env_file = subprocess.run([REPO / "cross/setup"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(env_file).parent / "bin"


def tool(name):
    """Ours where cross/setup unpacked it, else the machine's."""
    ours = tools() / name
    return str(ours) if ours.exists() else name


def compiler():
    """The Rust that made the program, as the program itself says."""
    listing = subprocess.run(
        [tool("aarch64-linux-gnu-readelf"), "--string-dump=.comment", PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    return "; ".join(sorted(set(re.findall(r"rustc version .*", listing)))) or sys.exit(f"{PROGRAM}: no Rust made it")


def symbols():
    """[(address, name)] of the program's functions, by address."""
    listing = subprocess.run(
        [tool("aarch64-linux-gnu-nm"), "--demangle", "--defined-only", PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    found = (re.match(r"([0-9a-f]+) [tTwW] (.*)", line) for line in listing.splitlines())
    return sorted((int(m[1], 16), m[2]) for m in found if m)


def executed(core, arguments, said=""):
    """Instructions by address of their block of code, of one run of the program with nothing in its environment."""
    with tempfile.NamedTemporaryFile() as out:
        command = [tool("qemu-aarch64"), "-cpu", core, "-plugin", f"{PLUGIN},out={out.name}", PROGRAM, *arguments]
        ran = subprocess.run(command, env={}, input=said, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"{' '.join(map(str, command))}: {ran.stderr}")
        counts = Counter()
        for line in Path(out.name).read_text().splitlines():
            address, n = line.split()
            counts[int(address, 16)] += int(n)
        return counts


def by_stage(counts, named, patterns):
    """Instructions by the first of `patterns` (stage to regular expression) that their function's name matches."""
    found = Counter()
    at = 0
    for address in sorted(counts):
        while at + 1 < len(named) and named[at + 1][0] <= address:
            at += 1
        stage = next((s for s, pattern in patterns.items() if re.search(pattern, named[at][1])), "other")
        found[stage] += counts[address]
    return found


def a_tenth(eleven, one):
    """What one of ten more runs takes, by address."""
    return {address: (eleven.get(address, 0) - one.get(address, 0)) / 10 for address in eleven.keys() | one.keys()}
