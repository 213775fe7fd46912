#!/usr/bin/env python3
"""Opens the dashboard of `candor watch` in a real browser: Chromium, driven through ChromeDriver.

    tests/browser/dashboard.py CANDOR [--screenshots DIR]

Plays tests/fixtures/astronaut.mp4. The picture, the box, the verdict and its crops must be there; the models of the device's slots and what
happened to them; the whole page must work by keys alone; roles, names, headings and contrast are checked in light and dark; it must fit a phone 320 px wide, say when the
connection is lost, and find the program again that was started anew, or whose settings were read again. With a token the form must let in. Exits 0 and says why
when there is no Chromium, unless CANDOR_REQUIRE_FIXTURES is set. Standard library only.
"""

import argparse
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request

from chromium import Browser, Page, programs

CLIP = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "astronaut.mp4"
TAB, ENTER, SPACE = "\ue004", "\ue007", " "
TOKEN = "a-token-for-this-check"
ROOT_KEY = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"

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
  health: [...document.querySelectorAll('#health > div')].map((row) => row.textContent), titles: [...document.querySelectorAll('#past h3 > span:first-child')].map((e) => e.textContent),
  slots: [...document.querySelectorAll('#slots > div')].map((row) => row.textContent),
  changes: [...document.querySelectorAll('#changes > li')].map((row) => [...row.children].map((e) => e.textContent)),
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

# How long the page takes to turn grey when the connection is lost.
MOTION = """
document.body.classList.add('lost');
const duration = getComputedStyle(document.querySelector('main')).transitionDuration;
document.body.classList.remove('lost');
return duration;
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


def slots_with_history(folder):
    """Write slots whose first model was found bad; the configuration that names them."""
    held = {"digest": "ab" * 32, "id": "lite0-224", "version": "2.1", "security_epoch": 1, "signers": ["release (0123)"]}
    reason = "verdicts contradict those of the model before: <b>31 %</b>"
    steps = [("installed", "channel stable, serial 7"), ("trial-started", None), ("failed", reason)]
    history = [{"at_unix_s": 1790000000 + 60 * i, "what": what, "bundle": held, "reason": why} for i, (what, why) in enumerate(steps)]
    slots = {"a": {"bad": {"held": held, "reason": reason}}, "b": "empty", "current": None, "security_epoch": 0}
    text = json.dumps({"format": 1, "slots": slots, "latest_unix_s": 1790000120, "history": history}) + "\n"
    folder.mkdir()
    (folder / "record").write_text(text + hashlib.sha256(text.encode()).hexdigest() + "\n")
    config = folder.with_suffix(".toml")
    config.write_text(f'[slots]\nfolder = "{folder}"\nroot_keys = ["{ROOT_KEY}"]\n')
    return config


def media(page, scheme, motion="no-preference"):
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
    page.cdp("Emulation.setEmulatedMedia", features=features)


def box_by_state(url):
    """Return where the first face is, in parts of the picture's sides, by the state as JSON; None where there is none now."""
    with urllib.request.urlopen(url + "state.json") as reply:
        faces = json.load(reply)["faces"]
    with urllib.request.urlopen(url + "picture.jpg") as reply:
        about = json.loads(reply.headers.get("Candor-Picture", "null"))
    if not faces or not about:
        return None
    x, y, w, h = faces[0]["bbox"]
    return [x / about["width_px"], y / about["height_px"], w / about["width_px"], h / about["height_px"]]


def check_contents(page, url):
    """What is seen must be shown."""
    is_whole = lambda s: (
        s["ready"] == "yes" and "Real" in s["verdicts"] and s["n_colors"] > 1000 and s["crops"] and s["points"] > 5 and s["box"]
    )
    state = page.wait("a verdict with its picture and crops", is_whole)
    assert state["link"] == "Live" and state["word"] == "Streaming" and state["title"] == "Streaming - Candor", state
    # The photo moves, and a face is scored once a second at the least.
    is_there = lambda box, other: box and other and all(abs(a - b) < 0.02 for a, b in zip(box, other))
    page.wait("the box where the device sees the face", lambda s: is_there(s["box"], box_by_state(url)))
    assert re.fullmatch(r"\d+ (Real|Measuring) \d\.\d\d", state["label"]), state["label"]
    state = page.wait("health", lambda s: any(row.startswith("Frames a second") for row in s["health"]))
    assert any("trained" in row for row in state["health"]), state["health"]


def check_models(page):
    """The slots and what happened to models, newest first, every text as text."""
    state = page.wait("the models", lambda s: len(s["changes"]) == 3)
    assert state["slots"][0].startswith("Slot Alite0-224 2.1: bad: verdicts contradict"), state["slots"]
    assert state["slots"][1:3] == ["Slot Bempty", "Built inruns"], state["slots"]
    title, _, signed, why = state["changes"][0]
    assert title == "Found bad: lite0-224 2.1" and signed == "signed by release (0123)" and "<b>31 %</b>" in why, state["changes"]
    assert [change[0].split(":")[0] for change in state["changes"]] == ["Found bad", "Tried", "Installed"], state["changes"]
    assert state["changes"][2][3] == "channel stable, serial 7", state["changes"]


def check_reload(page, program):
    """Settings that are read again begin a new run: no end is shown, verdicts are read aloud, scores aren't."""
    program.child.send_signal(signal.SIGHUP)
    is_again = lambda s: "All faces so far" in s["titles"] and any(re.fullmatch(r"Face \d+: Real", line) for line in s["said"])
    state = page.wait("a verdict of the new run", is_again)
    assert all(re.fullmatch(r"(Face \d+: \w+|Source: \w+)", line) for line in state["said"]), state["said"]
    assert "Settings read again" in state["titles"] and "Watching ended" not in state["titles"], state["titles"]
    page.wait("the picture of the new run", lambda s: s["curtain"] is None and s["crops"])


def check_tree(page):
    """Roles, names and headings as a screen reader gets them."""
    nodes = [n for n in page.cdp("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    role = lambda n: n.get("role", {}).get("value")
    name = lambda n: (n.get("name") or {}).get("value", "").strip()
    for landmark in ("banner", "main", "contentinfo"):
        assert sum(role(n) == landmark for n in nodes) == 1, f"{landmark}: expected one"
    regions = {name(n) for n in nodes if role(n) == "region"}
    assert len(regions) == 6 and any(r.startswith("Participants") for r in regions), regions
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
        media(page, scheme)
        for name, width, height in (("wide", 1280, 900), ("phone", 320, 700)):
            page.size(width, height)
            state = page.wait("the layout", lambda s: s["crops"] > 0)
            assert not state["wide"], f"wider than {width} px"
            found = page.run(CONTRAST)
            assert found["n"] > 40 and not found["faults"], f"{scheme}: {found}"
            page.screenshot(f"{name}-{scheme}.png")
    for motion, expected in (("no-preference", "0.2s"), ("reduce", "0s")):
        media(page, "light", motion)
        assert page.run(MOTION) == expected, motion
    page.size(1280, 900)


def check_loss(page, candor, program):
    """A lost connection is said, and a program that was started anew is found."""
    program.stop()
    state = page.wait("the loss", lambda s: s["link"].startswith("Connection lost"))
    page.screenshot("lost.png")
    again = Program(candor, port=program.port)
    state = page.wait("the new program", lambda s: s["link"] == "Live" and s["verdicts"] and s["curtain"] is None)
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
        config = slots_with_history(scratch / "slots")
        program = Program(args.program, config=config)
        try:
            browser = Browser(chromium, chromedriver, scratch / "profile")
            try:
                page = Page(browser, STATE, args.screenshots)
                page.size(1280, 900)
                page.load(program.url)
                check_contents(page, program.url)
                check_models(page)
                check_reload(page, program)
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
