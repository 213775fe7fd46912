"""Chromium for the checks in this folder, driven through ChromeDriver. Standard library only."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request


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
