#!/usr/bin/env python3
"""Opens the dashboard of `candor watch` in a real browser: Chromium, driven through ChromeDriver.

    tests/browser/dashboard.py CANDOR [--screenshots DIR]

Plays tests/fixtures/astronaut.mp4. The picture, the box, the verdict and its crops must be there; the whole page must work by
keys alone; roles, names, headings and contrast are checked in light and dark; it must fit a phone 320 px wide, say when the
connection is lost, and find the program again that was started anew. With a token the form must let in. Exits 0 and says why
when there is no Chromium, unless CANDOR_REQUIRE_FIXTURES is set. Standard library only.
"""

import argparse
import base64
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from chromium import Browser, programs

CLIP = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "astronaut.mp4"
TAB, ENTER, SPACE = "\ue004", "\ue007", " "
TOKEN = "a-token-for-this-check"
PATIENCE_S = 120

STATE = """
const at = (id) => document.getElementById(id);
const canvas = at('picture');
const pixels = canvas ? new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer) : [];
const box = document.querySelector('.box');
const stage = at('stage')?.getBoundingClientRect();
const b = box?.getBoundingClientRect();
return {ready: document.body.dataset.ready, link: at('link')?.textContent, word: at('word')?.textContent, title: document.title,
  verdicts: [...document.querySelectorAll('.card .word')].map((e) => e.textContent), n_colors: new Set(pixels).size,
  box: box && [(b.x - stage.x) / stage.width, (b.y - stage.y) / stage.height, b.width / stage.width, b.height / stage.height],
  label: box?.textContent, curtain: at('curtain')?.hidden ? null : at('curtain')?.textContent, said: [...(at('said')?.children ?? [])].map((e) => e.textContent),
  crops: [...document.querySelectorAll('.crops img')].filter((i) => i.naturalWidth > 0).length,
  heat: document.querySelector('.heat')?.naturalWidth ?? 0, pressed: at('pause')?.getAttribute('aria-pressed'),
  points: (document.querySelector('.card polyline')?.getAttribute('points') ?? '').split(' ').length,
  health: [...document.querySelectorAll('#health > div')].map((row) => row.textContent), past: at('past')?.children.length,
  wide: document.documentElement.scrollWidth > innerWidth, form: !!document.forms.length, alert: document.querySelector('[role=alert]')?.textContent};
"""

# Where the focus is: what it is called, and whether it can be seen.
FOCUS = """
const e = document.activeElement;
const style = getComputedStyle(e);
const b = e.getBoundingClientRect();
return {tag: e.tagName, name: e.getAttribute('aria-label') || e.textContent.trim(), outline: style.outlineStyle, width: parseFloat(style.outlineWidth),
  shown: b.width > 0 && b.height > 0 && b.left > -50 && b.top > -50 && b.top < innerHeight};
"""

# Every text whose contrast with what is behind it is less than WCAG 2.2 asks of level AA.
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
const faults = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let n = 0;
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const e = text.parentElement;
  if (!text.data.trim() || !e.checkVisibility() || e.closest('.unseen, .skip, noscript, script') || e.disabled) continue;
  const style = getComputedStyle(e), size = parseFloat(style.fontSize);
  const [a, b] = [light(rgba(style.color)), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05), least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  n += 1;
  if (ratio < least) faults.push(`${text.data.trim()}: ${ratio.toFixed(2)}`);
}
return {n, faults};
"""


class Program:
    """A run of `candor watch` with its dashboard."""

    def __init__(self, candor, port=0, config=None):
        command = [candor, "watch", "--play", CLIP, "--repeat", "1000", f"--dashboard=127.0.0.1:{port}"]
        command += ["--config", config] if config else []
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.child.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                self.url, self.port = found[0], int(found[1])
                break
        else:
            sys.exit("the dashboard's address never came")
        threading.Thread(target=self.child.stderr.read, daemon=True).start()

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()


class Page:
    """The dashboard in a browser."""

    def __init__(self, browser, folder):
        self.browser, self.folder = browser, folder

    def run(self, script):
        return self.browser.call("POST", "/execute/sync", {"script": script, "args": []})

    def cdp(self, cmd, **params):
        return self.browser.call("POST", "/goog/cdp/execute", {"cmd": cmd, "params": params})

    def load(self, url):
        self.browser.call("POST", "/url", {"url": url})

    def wait(self, what, is_so):
        """Poll the page until `is_so` holds; ChromeDriver's own round trip paces it."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            state = self.run(STATE)
            if is_so(state):
                return state
        sys.exit(f"{what}: never came; the page says {state}")

    def press(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def media(self, scheme, motion="no-preference"):
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
        self.cdp("Emulation.setEmulatedMedia", features=features)

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def screenshot(self, name):
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.run("scrollTo(0, 0)")
            data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
            (self.folder / name).write_bytes(base64.b64decode(data))


def check_contents(page):
    """What is seen must be shown."""
    is_whole = lambda s: (
        s["ready"] == "yes" and "Real" in s["verdicts"] and s["n_colors"] > 1000 and s["crops"] and s["points"] > 5 and s["box"]
    )
    state = page.wait("a verdict with its picture and crops", is_whole)
    assert state["link"] == "Live" and state["word"] == "Streaming" and state["title"] == "Streaming - Candor", state
    # The face of the clip stands left of its middle.
    x, y, w, h = state["box"]
    assert 0.1 < x < 0.6 and 0 < y < 0.5 and 0.1 < w < 0.7 and 0.3 < h < 1, state["box"]
    assert re.fullmatch(r"\d+ (Real|Measuring) \d\.\d\d", state["label"]), state["label"]
    state = page.wait("health", lambda s: any(row.startswith("Frames a second") for row in s["health"]))
    assert any("trained" in row for row in state["health"]), state["health"]
    # Verdicts are read aloud, scores aren't.
    assert all(re.match(r"(Face \d+: \w+|Source: \w+)", line) for line in state["said"]), state["said"]


def check_tree(page):
    """Roles, names and headings as a screen reader gets them."""
    nodes = [n for n in page.cdp("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    role = lambda n: n.get("role", {}).get("value")
    name = lambda n: (n.get("name") or {}).get("value", "").strip()
    for landmark in ("banner", "main", "contentinfo"):
        assert sum(role(n) == landmark for n in nodes) == 1, f"{landmark}: expected one"
    regions = {name(n) for n in nodes if role(n) == "region"}
    assert len(regions) == 5 and any(r.startswith("Participants") for r in regions), regions
    for node in nodes:
        if role(node) in ("button", "link", "image", "img", "textbox"):
            assert name(node), f"a nameless {role(node)}"
    levels = [next(p["value"]["value"] for p in n["properties"] if p["name"] == "level") for n in nodes if role(n) == "heading"]
    assert levels[0] == 1 and levels.count(1) == 1, levels
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels


def check_keys(page):
    """Everything by keys alone, and the focus always in sight."""
    page.run("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        page.press(TAB)
        focus = page.run(FOCUS)
        if focus["tag"] == "BODY":
            break
        assert focus["name"] and focus["outline"] != "none" and focus["width"] >= 2 and focus["shown"], focus
        seen.append(focus["name"])
        if focus["name"] == "Pause" and seen.count("Pause") == 1:
            page.press(SPACE)
            state = page.wait("a pause", lambda s: s["pressed"] == "true")
            assert state["curtain"] == "Paused", state
            page.press(SPACE)
            page.wait("the picture again", lambda s: s["pressed"] == "false" and s["curtain"] is None)
        if focus["name"].startswith("Where face"):
            page.press(ENTER)
            page.wait("a heat map", lambda s: s["heat"] > 400)
            break
    assert seen[0].startswith("Skip") and "Pause" in seen and seen[-1].startswith("Where face"), seen


def check_looks(page):
    """Contrast in light and dark, and nothing that moves for those who don't want it."""
    for scheme in ("light", "dark"):
        page.media(scheme)
        for name, width, height in (("wide", 1280, 900), ("phone", 320, 700)):
            page.size(width, height)
            state = page.wait("the layout", lambda s: s["crops"] > 0)
            assert not state["wide"], f"wider than {width} px"
            found = page.run(CONTRAST)
            assert found["n"] > 40 and not found["faults"], f"{scheme}: {found}"
            page.screenshot(f"{name}-{scheme}.png")
    page.media("light", "reduce")
    assert page.run("return getComputedStyle(document.querySelector('main')).transitionDuration") == "0s"
    page.size(1280, 900)


def check_loss(page, candor, program):
    """A lost connection is said, and a program that was started anew is found."""
    program.stop()
    state = page.wait("the loss", lambda s: s["link"].startswith("Connection lost"))
    page.screenshot("lost.png")
    again = Program(candor, port=program.port)
    state = page.wait("the new program", lambda s: s["link"] == "Live" and s["verdicts"])
    assert state["word"] == "Streaming", state
    return again


def check_token(page, candor, scratch):
    """The form refuses a wrong token and takes the right one."""
    (scratch / "token").write_text(TOKEN + "\n")
    config = scratch / "device.toml"
    config.write_text(f'[watch.dashboard]\ntoken_file = "{scratch / "token"}"\n')
    program = Program(candor, config=config)
    try:
        page.load(program.url)
        page.wait("the form", lambda s: s["form"])
        page.press(*"a-wrong-token", ENTER)
        page.wait("the refusal", lambda s: s["alert"] == "That is not the token of this device.")
        assert not page.run(CONTRAST)["faults"]
        page.screenshot("login.png")
        page.press(*TOKEN, ENTER)
        page.wait("the page behind the form", lambda s: s["ready"] == "yes" and s["verdicts"])
    finally:
        program.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()

    chromium, chromedriver = programs()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        scratch = pathlib.Path(scratch)
        program = Program(args.program)
        try:
            browser = Browser(chromium, chromedriver, scratch / "profile")
            try:
                page = Page(browser, args.screenshots)
                page.size(1280, 900)
                page.load(program.url)
                check_contents(page)
                check_tree(page)
                check_keys(page)
                check_looks(page)
                program = check_loss(page, args.program, program)
                check_token(page, args.program, scratch)
                logged = [line for line in browser.call("POST", "/se/log", {"type": "browser"}) if "Content Security" in line["message"]]
                assert not logged, json.dumps(logged)
            finally:
                browser.close()
        finally:
            program.stop()
    print("the dashboard shows the clip, by keys, in light and dark, on a phone, and after a loss")


if __name__ == "__main__":
    main()
