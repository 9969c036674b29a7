"""Video of the live page: a browser without a window shows it, and ffmpeg encodes its screenshots."""

from __future__ import annotations

import base64
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from serving.demo import browser
from serving.demo.script import Caption
from serving.demo.webvtt import Cue, webvtt

WIDTH, HEIGHT = 1280, 800
FPS = 8
"""Frames per second. The page itself changes once a second."""
FIRST_LOAD, LATER = 120_000, 3_000
"""Timeouts in milliseconds for the first load of the page, and for elements later; without an element the video
continues."""
_CAPTION = """([title, text]) => {
  let box = document.getElementById('caption');
  if (!box) {
    box = document.createElement('div');
    box.id = 'caption';
    box.style.cssText = 'position:fixed;left:50%;bottom:18px;transform:translateX(-50%);width:min(1080px,92vw);' +
      'z-index:9999;background:rgba(10,14,22,.9);color:#fff;border-radius:10px;padding:12px 20px;font-size:19px;' +
      'line-height:1.4;pointer-events:none';
    box.append(document.createElement('b'), document.createElement('div'));
    document.body.append(box);
  }
  box.firstChild.textContent = title;
  box.lastChild.textContent = text;
}"""


class Film:
    """Recording of the live page until `stop`. A separate thread controls the browser.

    A failure ends the video but not the run.

    Args:
        address: Address of the live page.
        file: The video, an MP4 with subtitles. `FILE.vtt` beside it has the subtitles as well.
    """

    def __init__(self, address: str, file: Path) -> None:
        self._address = address
        self._file = file
        self._captions: queue.Queue[Caption | None] = queue.Queue()
        self._frame = b""
        self._cues: list[Cue] = []
        self._failure = ""
        self._thread = threading.Thread(target=self._run, daemon=True, name="video")
        self._thread.start()

    def show(self, caption: Caption) -> None:
        """Show a caption and the panel that it explains."""
        self._captions.put(caption)

    def stop(self) -> str:
        """End the video. Returns the error as text; empty without an error."""
        self._captions.put(None)
        self._thread.join(60)
        return self._failure

    def _run(self) -> None:
        try:
            import imageio_ffmpeg
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright, closing(browser.launch(playwright)) as started:
                page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
                page.set_default_timeout(FIRST_LOAD)
                page.goto(self._address)
                page.wait_for_selector("canvas")
                page.set_default_timeout(LATER)
                self._record(page, str(imageio_ffmpeg.get_ffmpeg_exe()))
        except ImportError as error:
            self._failure = f"{error.name} is not installed (pip install 'driftloop[demo]')."
        except Exception as error:  # the browser has many types of errors, and the demo continues without a video
            self._failure = str(error).splitlines()[0][:300] if str(error) else repr(error)

    def _record(self, page: Any, ffmpeg: str) -> None:
        raw, subtitles = self._file.with_suffix(".raw.mp4"), self._file.with_suffix(".vtt")
        frames = ["-f", "image2pipe", "-framerate", str(FPS), "-c:v", "mjpeg", "-i", "-"]
        video = [
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-crf",
            "26",
            "-pix_fmt",
            "yuv420p",
            "-movflags",
            "+faststart",
        ]
        command = [ffmpeg, "-y", "-loglevel", "error", *frames, *video, str(raw)]
        encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert encoder.stdin is not None  # noqa: S101
        try:
            self._write_frames(page, encoder.stdin.write)
        finally:
            _, errors = encoder.communicate(timeout=60)
        if encoder.returncode:
            raise DriftloopError(f"ffmpeg failed: {errors.decode(errors='replace')[-300:]}")
        subtitles.write_text(webvtt(self._cues), encoding="utf-8")
        both = [
            "-i",
            str(raw),
            "-i",
            str(subtitles),
            "-c",
            "copy",
            "-c:s",
            "mov_text",
            "-metadata:s:s:0",
            "language=eng",
        ]
        command = [ffmpeg, "-y", "-loglevel", "error", *both, "-disposition:s:0", "0", str(self._file)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        raw.unlink()

    def _write_frames(self, page: Any, write: Callable[[bytes], Any]) -> None:
        """Write frames at their times, and show the captions between them."""
        session = page.context.new_cdp_session(page)

        def on_frame(event: dict[str, Any]) -> None:
            self._frame = base64.b64decode(event["data"])
            with suppress(Exception):  # the browser is being closed
                session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

        session.on("Page.screencastFrame", on_frame)
        session.send("Page.startScreencast", {"format": "jpeg", "quality": 85, "maxWidth": WIDTH, "maxHeight": HEIGHT})
        self._frame = page.screenshot(type="jpeg", quality=85)
        began, written = time.monotonic(), 0
        while True:
            with suppress(queue.Empty):
                caption = self._captions.get_nowait()
                self._end_cue(time.monotonic() - began)
                if caption is None:
                    session.send("Page.stopScreencast")
                    return
                self._cues.append(Cue(time.monotonic() - began, float("inf"), f"{caption.title}. {caption.text}"))
                _act(page, caption)
            page.wait_for_timeout(1000 / FPS / 2)
            # An unchanged frame is repeated, so that the video keeps the pace of the clock.
            while written < (time.monotonic() - began) * FPS:
                write(self._frame)
                written += 1

    def _end_cue(self, at: float) -> None:
        if self._cues:
            last = self._cues[-1]
            self._cues[-1] = Cue(last.start, at, last.text)


def _act(page: Any, caption: Caption) -> None:
    """Show the panel of a caption. A missing element is skipped."""
    page.evaluate(_CAPTION, [caption.title, caption.text])
    panel = page.get_by_role("region", name=caption.panel, exact=True)
    with suppress(Exception):  # the browser has many types of errors, and the loop does not depend on it
        panel.evaluate("e => window.scrollTo({top: e.getBoundingClientRect().top + scrollY - 16, behavior: 'smooth'})")
        if caption.opens:
            panel.locator(".q-expansion-item--collapsed .q-item").first.click()
        if caption.corrects:
            panel.get_by_role("button", name="should be").first.click()
