#!/usr/bin/env python3
"""Reviews a dataset in a real browser: Chromium, driven through ChromeDriver.

    tests/browser/review.py TRAINER_BRIDGE [--dataset DIR] [--screenshots DIR]

Without --dataset one is made from tests/fixtures/astronaut.mp4. The page is worked by keys alone: a face and a crop
are marked, a mark is undone, the page is loaded again and must show what decisions.csv holds, and it must fit a
phone. Another page's Origin must be refused. Exits 0 and says why when there is no Chromium, unless
CANDOR_REQUIRE_FIXTURES is set. Standard library only.
"""

import argparse
import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from chromium import Browser, Page, programs

CLIP = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "astronaut.mp4"
LEFT, UP, RIGHT, DOWN, SHIFT = "\ue012", "\ue013", "\ue014", "\ue015", "\ue008"

STATE = """
const marked = [...document.querySelectorAll('.face')].map((face) => [face.getAttribute('aria-label'), face.className.replace('face', '').trim(),
  [...face.querySelectorAll('.crop')].map((crop) => crop.className.replace('crop', '').trim())]);
const names = [...document.querySelectorAll('button, select')].filter((e) => !(e.getAttribute('aria-label') || e.textContent || e.labels?.length));
return {ready: document.body.dataset.ready, saved: Number(document.body.dataset.saved ?? 0), marked, nameless: names.length,
  focus: document.activeElement?.getAttribute('aria-label'), counts: document.getElementById('counts').textContent,
  status: document.getElementById('status').textContent, wide: document.documentElement.scrollWidth > innerWidth,
  waiting: [...document.images].slice(0, 15).filter((i) => !i.complete).length,
  broken: [...document.images].filter((i) => i.complete && !i.naturalWidth).length,
  loaded: [...document.images].filter((i) => i.naturalWidth).length};
"""


def make_dataset(program, folder):
    """Make a dataset of a real and a fake, and of two faces where the clip has them."""
    videos = folder / "dfdc"
    videos.mkdir()
    shutil.copy(CLIP, videos / "real.mp4")
    shutil.copy(CLIP, videos / "fake.mp4")
    entries = {"real.mp4": {"label": "REAL"}, "fake.mp4": {"label": "FAKE", "original": "real.mp4", "method": "copy"}}
    (videos / "metadata.json").write_text(json.dumps(entries))
    dataset = folder / "dataset"
    subprocess.run([program, "ingest", videos, "--out", dataset, "--size", "128"], check=True, stdout=subprocess.DEVNULL)
    return dataset


def load(page, url):
    page.load(url)
    return page.wait("the page", lambda s: s["ready"] == "yes" and s["loaded"] > 0 and not s["waiting"])


def decisions(dataset):
    path = dataset / "decisions.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(row["video"], row["track"], row["frame"], row["verdict"]) for row in csv.DictReader(file)]


def check_guard(url, port):
    """Other pages' requests must be refused."""
    mark = json.dumps({"video": "x", "track": 0, "frame": None, "verdict": "wrong-face"}).encode()
    asked = [
        ("another Origin", "decisions", mark, {"Origin": "http://evil.example"}),
        ("no Origin", "decisions", mark, {}),
        ("another Host", "faces", None, {"Host": f"evil.example:{port}"}),
        ("a null Origin", "faces", None, {"Origin": "null"}),
    ]
    for what, path, body, headers in asked:
        request = urllib.request.Request(url + path, body, {"Content-Type": "application/json", **headers})
        try:
            urllib.request.urlopen(request)
            sys.exit(f"{what} was let in")
        except urllib.error.HTTPError as error:
            if error.code != 403:
                sys.exit(f"{what}: expected 403, found {error.code}")
    for path in ("picture/plan.json", "picture/../plan.json", "picture/%2e%2e/%2e%2e/etc/passwd"):
        try:
            urllib.request.urlopen(url + path)
            sys.exit(f"{path} was let out")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                sys.exit(f"{path}: expected 404, found {error.code}")


def work(page, url, dataset):
    """Mark with keys, load again, compare with the file."""
    state = load(page, url)
    assert state["nameless"] == 0 and state["broken"] == 0, state
    page.screenshot("wide.png")
    n_faces = len(state["marked"])
    faces = [re.match(r"(.*), face (\d+), (\w+)$", label) for label, *_ in state["marked"]]
    fake = next(n for n, face in enumerate(faces) if face[3] == "FAKE")
    page.press(*[DOWN] * fake, RIGHT, RIGHT)
    assert "(3 of" in page.state()["focus"], page.state()["focus"]
    page.press("r")
    page.press("w", holding=SHIFT)
    state = page.wait("two marks", lambda s: s["saved"] == 2)
    video, track = faces[fake][1], faces[fake][2]
    frame = re.search(r"frame (\d+)", state["focus"])[1]
    expected = [(video, track, "", "real-person"), (video, track, frame, "wrong-face")]
    assert decisions(dataset) == expected, decisions(dataset)
    if n_faces > 1:
        page.press(DOWN if fake == 0 else UP, "w")
        page.wait("a third mark", lambda s: s["saved"] == 3)
        page.press("u")
        page.wait("undo", lambda s: s["saved"] == 4)
        assert decisions(dataset) == expected, decisions(dataset)
        real = next((n for n, face in enumerate(faces) if face[3] == "REAL"), None)
        assert real is None or state["marked"][real][1] == "", state
    page.screenshot("marked.png")
    state = load(page, url)
    assert state["marked"][fake][1] == "real-person" and state["marked"][fake][2][2] == "wrong-face", state["marked"][fake]
    assert "wrong 0 · real 1 · single crops 1" in state["counts"], state["counts"]
    page.browser.call("POST", "/window/rect", {"width": 500, "height": 800})
    page.size(360, 740, scale=2)
    state = load(page, url)
    assert not state["wide"], "the page is wider than a phone"
    page.screenshot("phone.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--dataset", type=pathlib.Path, help="a copy is worked on")
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()

    chromium, chromedriver = programs()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        scratch = pathlib.Path(scratch)
        if args.dataset:
            dataset = scratch / "dataset"
            shutil.copytree(args.dataset, dataset, ignore=shutil.ignore_patterns("decisions.csv"))
        else:
            dataset = make_dataset(args.program, scratch)
        server = subprocess.Popen([args.program, "review", dataset, "--port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://127\.0\.0\.1:(\d+)/", server.stdout.readline())
            check_guard(url[0], url[1])
            browser = Browser(chromium, chromedriver, scratch / "profile")
            try:
                work(Page(browser, STATE, args.screenshots), url[0], dataset)
            finally:
                browser.close()
        finally:
            server.terminate()
            server.wait()
    print("the page and decisions.csv agree")


if __name__ == "__main__":
    main()
