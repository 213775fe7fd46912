#!/usr/bin/env python3
"""Plays an annotated video in a real browser: Chromium, driven through ChromeDriver.

    tests/browser/annotate.py VIDEO [--pixel X Y RRGGBB] [--screenshot OUT.png]

The page must load the video, know its length, seek to its middle and give that picture's pixels to a
canvas. `--pixel` names the colour that the picture must have there, within 12 of each channel. Exits 0
and says why when there is no Chromium, unless CANDOR_REQUIRE_FIXTURES is set. Standard library only.
"""

import argparse
import base64
import http.server
import json
import pathlib
import re
import sys
import tempfile
import threading

from chromium import Browser, programs

PAGE = b"""<!doctype html><meta charset=utf-8><style>body{margin:0;background:#444}</style>
<video id=video src=/video.mp4 muted style="max-width:100vw;max-height:100vh"></video>"""

# Seeks to the middle and reads that picture; the promise's value comes back to Python.
CHECK = """
const [pixel, done] = arguments;
const video = document.querySelector('video');
const once = (name) => new Promise((go, fail) => {
  video.addEventListener(name, go, {once: true});
  video.addEventListener('error', () => fail(new Error(video.error.message)), {once: true});
});
(async () => {
  if (video.error) throw new Error(video.error.message);
  if (video.readyState < 2) await once('loadeddata');
  const length = video.duration;
  const middle = Number.isFinite(length) ? length / 2 : 1;
  const seeked = once('seeked');
  video.currentTime = middle;
  await seeked;
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  const all = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  const at = pixel ? [...context.getImageData(pixel[0], pixel[1], 1, 1).data] : null;
  const seekable = video.seekable.length ? video.seekable.end(video.seekable.length - 1) : 0;
  await video.play();
  await new Promise((go) => video.requestVideoFrameCallback(go));
  video.pause();
  return {width: canvas.width, height: canvas.height, length, seekable, middle, n_colors: new Set(all).size, at,
          moved: video.currentTime >= middle};
})().then(done, (error) => done({error: String(error)}));
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page and the video, the latter in ranges: seeking asks for them."""

    video = b""

    def do_GET(self):
        is_video = self.path == "/video.mp4"
        body = self.video if is_video else PAGE
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if is_video else None
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2] or len(body) - 1), len(body) - 1) if asked else len(body) - 1
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "video/mp4" if is_video else "text/html")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.end_headers()
        try:
            self.wfile.write(body[first : last + 1])
        except ConnectionError:
            pass  # the browser has enough of this range

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=pathlib.Path)
    parser.add_argument("--pixel", nargs=3, metavar=("X", "Y", "RRGGBB"))
    parser.add_argument("--screenshot", type=pathlib.Path)
    args = parser.parse_args()

    chromium, chromedriver = programs()

    Handler.video = args.video.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pixel = [int(args.pixel[0]), int(args.pixel[1])] if args.pixel else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, chromedriver, profile)
        try:
            browser.call("POST", "/url", {"url": f"http://127.0.0.1:{server.server_port}/"})
            found = browser.call("POST", "/execute/async", {"script": CHECK, "args": [pixel]})
            if args.screenshot:
                args.screenshot.write_bytes(base64.b64decode(browser.call("GET", "/screenshot")))
        finally:
            browser.close()
            server.shutdown()

    print(json.dumps(found))
    if "error" in found:
        sys.exit(f"{args.video}: the browser says: {found['error']}")
    faults = []
    if not found["length"] or found["seekable"] < found["length"]:
        faults.append(f"seekable to {found['seekable']} s of {found['length']} s")
    if found["n_colors"] < 16:
        faults.append(f"the middle picture has {found['n_colors']} colours: it is blank")
    if not found["moved"]:
        faults.append("it does not play on from its middle")
    if args.pixel:
        expected = list(bytes.fromhex(args.pixel[2]))
        if any(abs(a - b) > 12 for a, b in zip(expected, found["at"])):
            faults.append(f"the pixel at {pixel} is {found['at'][:3]}, expected {expected}")
    if faults:
        sys.exit(f"{args.video}: " + "; ".join(faults))


if __name__ == "__main__":
    main()
