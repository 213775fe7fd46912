"""Chromium for the checks in this folder, driven through ChromeDriver. Standard library only."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request

PATIENCE_S = 120


def programs():
    """Return the paths of Chromium and ChromeDriver.

    Where there is none, end the program: with 0 and the reason, or as an error when CANDOR_REQUIRE_FIXTURES is set.
    """
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium and chromedriver:
        return chromium, chromedriver
    reason = "no chromium and chromedriver on the PATH"
    if "CANDOR_REQUIRE_FIXTURES" in os.environ:
        sys.exit(reason)
    print(f"skipped: {reason}")
    sys.exit()


class Browser:
    """A headless Chromium behind ChromeDriver (W3C WebDriver)."""

    def __init__(self, chromium, chromedriver, profile):
        self.driver = subprocess.Popen(
            [chromedriver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self.base = f"http://127.0.0.1:{found[1]}/session"
                break
        else:
            sys.exit("ChromeDriver ended before it listened")
        # Its later output must not fill the pipe.
        threading.Thread(target=self.driver.stdout.read, daemon=True).start()
        switches = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
        ).split()
        options = {"binary": chromium, "args": [*switches, f"--user-data-dir={profile}", "--window-size=1280,800"]}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "timeouts": {"script": 60_000}}}
        self.base += "/" + self.call("POST", "", {"capabilities": wanted})["sessionId"]

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode()) as reply:
            return json.load(reply)["value"]

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()


class Page:
    """A page in a browser. The script `state` returns what there is to know of it; screenshots go to `folder`, if there is one."""

    def __init__(self, browser, state, folder):
        self.browser, self.state_script, self.folder = browser, state, folder

    def run(self, script):
        return self.browser.call("POST", "/execute/sync", {"script": script, "args": []})

    def cdp(self, cmd, **params):
        return self.browser.call("POST", "/goog/cdp/execute", {"cmd": cmd, "params": params})

    def load(self, url):
        self.browser.call("POST", "/url", {"url": url})

    def state(self):
        return self.run(self.state_script)

    def wait(self, what, is_so):
        """Poll the page until `is_so` holds; ChromeDriver's own round trip paces it."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            state = self.state()
            if is_so(state):
                return state
        sys.exit(f"{what}: never came; the page says {state}")

    def press(self, *keys, holding=None):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if holding:
            actions = [{"type": "keyDown", "value": holding}, *actions, {"type": "keyUp", "value": holding}]
        self.browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def size(self, width, height, scale=1):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)

    def screenshot(self, name):
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.run("scrollTo(0, 0)")
            data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
            (self.folder / name).write_bytes(base64.b64decode(data))
