"""What is tried in an emulated Debian: a package of candor, and a script whose lines say how it went."""

import subprocess
import sys
from pathlib import Path

from board import REPO, boot

# The system of tests/board/debian, started by the board's own kernel.
ARGUMENTS = "board.root=/dev/vda board.init=/sbin/init"


def disk(path, how):
    """Options of the emulator for a disk."""
    return ["-drive", f"file={path},format=raw,if=virtio,{how}"]


def system():
    """The board's folder, with what tests/board/debian makes."""
    made = subprocess.run([REPO / "tests/board/debian"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(made.stdout.strip())


def put_packages(named, job):
    """Puts the package that is named, or the newest of cross/package, into `job`, and a later version of it.

    The later one has another default configuration, which must not become the user's.
    """
    found = sorted((REPO / "target/cross").glob("candor_*_arm64.deb"), key=lambda path: path.stat().st_mtime)
    package = Path(named) if named else next(reversed(found), None)
    if not package or not package.exists():
        sys.exit(f"{package or 'no package'}: run cross/build && cross/package")
    (job / "candor.deb").write_bytes(package.read_bytes())
    tree = job / "later"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"{line}+later\n" if line.startswith("Version: ") else f"{line}\n" for line in lines))
    with (tree / "etc/candor/candor.toml").open("a") as settings:
        settings.write("# of a later version\n")
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, job / "later.deb"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)


def attempt(board, job, script, **how):
    """Runs `script` in a system that starts as `how` says (see `boot`), prints what it tried, and stops if that failed."""
    (job / "main").write_text((REPO / "tests/board/trying.sh").read_text() + script)
    log, shell = job / "log", job / "shell"
    log.write_text("")
    shell.write_text("")
    console = boot(board, job, is_timed=False, n_cores=2, **how)
    tried = log.read_text()
    print(tried.removesuffix("all done\n"), end="", flush=True)
    if "FAILED" in tried or not tried.endswith("all done\n"):
        last = "\n".join(console.splitlines()[-30:])
        sys.exit(f"{shell.read_text()}\n{last}\ntests/board: it didn't go well")
