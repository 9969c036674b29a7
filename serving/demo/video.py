"""A film of the live page: a browser without a window shows it, its pictures are put together by ffmpeg."""

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
"""Pictures a second: the page itself changes once."""
FIRST, PATIENCE = 120_000, 3_000
"""Milliseconds that the page is waited for, and something on it later; a film without that goes on."""
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
    """Records until `stop`; everything the browser does is done by a thread of its own.

    Args:
        address: of the live page.
        file: the film, an MP4; `FILE.vtt` beside it gets the subtitles, which the film has in it as well.

    What goes wrong ends the film and nothing else.
    """

    def __init__(self, address: str, file: Path) -> None:
        self._address = address
        self._file = file
        self._wanted: queue.Queue[Caption | None] = queue.Queue()
        self._frame = b""
        self._cues: list[Cue] = []
        self._failure = ""
        self._thread = threading.Thread(target=self._run, daemon=True, name="film")
        self._thread.start()

    def show(self, beat: Caption) -> None:
        """Show what a beat is about, with its words."""
        self._wanted.put(beat)

    def stop(self) -> str:
        """End the film; returns what went wrong, in words, or nothing."""
        self._wanted.put(None)
        self._thread.join(60)
        return self._failure

    def _run(self) -> None:
        try:
            import imageio_ffmpeg
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright, closing(browser.launch(playwright)) as started:
                page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
                page.set_default_timeout(FIRST)
                page.goto(self._address)
                page.wait_for_selector("canvas")
                page.set_default_timeout(PATIENCE)
                self._record(page, str(imageio_ffmpeg.get_ffmpeg_exe()))
        except ImportError as error:
            self._failure = f"{error.name} is not installed (pip install 'driftloop[demo]')."
        except Exception as error:  # the browser's own errors are of many types, and the demo goes on without a film
            self._failure = str(error).splitlines()[0][:300] if str(error) else repr(error)

    def _record(self, page: Any, ffmpeg: str) -> None:
        raw, words = self._file.with_suffix(".raw.mp4"), self._file.with_suffix(".vtt")
        pictures = ["-f", "image2pipe", "-framerate", str(FPS), "-c:v", "mjpeg", "-i", "-"]
        film = [
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
        command = [ffmpeg, "-y", "-loglevel", "error", *pictures, *film, str(raw)]
        encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert encoder.stdin is not None  # noqa: S101
        try:
            self._shoot(page, encoder.stdin.write)
        finally:
            _, said = encoder.communicate(timeout=60)
        if encoder.returncode:
            raise DriftloopError(f"ffmpeg failed: {said.decode(errors='replace')[-300:]}")
        words.write_text(webvtt(self._cues), encoding="utf-8")
        both = ["-i", str(raw), "-i", str(words), "-c", "copy", "-c:s", "mov_text", "-metadata:s:s:0", "language=eng"]
        command = [ffmpeg, "-y", "-loglevel", "error", *both, "-disposition:s:0", "0", str(self._file)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        raw.unlink()

    def _shoot(self, page: Any, write: Callable[[bytes], Any]) -> None:
        """Take pictures at their times, and do what is wanted in between."""
        session = page.context.new_cdp_session(page)

        def come(event: dict[str, Any]) -> None:
            self._frame = base64.b64decode(event["data"])
            with suppress(Exception):  # the browser is being closed
                session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

        session.on("Page.screencastFrame", come)
        session.send("Page.startScreencast", {"format": "jpeg", "quality": 85, "maxWidth": WIDTH, "maxHeight": HEIGHT})
        self._frame = page.screenshot(type="jpeg", quality=85)
        began, taken = time.monotonic(), 0
        while True:
            with suppress(queue.Empty):
                beat = self._wanted.get_nowait()
                self._end_cue(time.monotonic() - began)
                if beat is None:
                    session.send("Page.stopScreencast")
                    return
                self._cues.append(Cue(time.monotonic() - began, float("inf"), f"{beat.title}. {beat.text}"))
                _act(page, beat)
            page.wait_for_timeout(1000 / FPS / 2)
            # A picture that did not change is shown again, so that the film runs at the pace of the clock.
            while taken < (time.monotonic() - began) * FPS:
                write(self._frame)
                taken += 1

    def _end_cue(self, at: float) -> None:
        if self._cues:
            last = self._cues[-1]
            self._cues[-1] = Cue(last.start, at, last.text)


def _act(page: Any, beat: Caption) -> None:
    """Bring the page to what the beat is about; what is not there is passed over."""
    page.evaluate(_CAPTION, [beat.title, beat.text])
    panel = page.get_by_role("region", name=beat.panel, exact=True)
    with suppress(Exception):  # the browser's; nothing of the loop depends on it
        panel.evaluate("e => window.scrollTo({top: e.getBoundingClientRect().top + scrollY - 16, behavior: 'smooth'})")
        if beat.opens:
            panel.locator(".q-expansion-item--collapsed .q-item").first.click()
        if beat.corrects:
            panel.get_by_role("button", name="should be").first.click()
