"""A real browser to film the live page with, and to test it in: the system's Chromium or Chrome.

`python -m serving.demo.browser` installs one where there is none: with apt-get where that is there and the user is
root, with Playwright's own download otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftloop.core.errors import DriftloopError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "fonts-dejavu-core")
"""Debian's, with a font: without one every letter is a box."""


def launch(playwright: Any) -> Browser:
    """Start it, without a window.

    Raises:
        DriftloopError: there is none.
    """
    found = _program()
    if found is None:
        raise DriftloopError("There is no Chromium or Chrome on this machine: `make browser` installs it.")
    # Its own sandbox is not for root, and containers run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser: Browser = playwright.chromium.launch(executable_path=found or None, args=flags)
    return browser


def main() -> int:
    """Install what is missing; 1 with one sentence where that cannot be done."""
    if _program() is not None:
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        steps = [["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]]
    else:
        quiet, steps = dict(os.environ), [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for step in steps:
        done = subprocess.run(step, env=quiet, capture_output=True, text=True)
        if done.returncode:
            words = f"`{' '.join(step)}` failed: install Chromium or Chrome yourself."
            sys.stderr.write(f"{done.stderr[-2000:]}\n{words}\n")
            return 1
    return 0 if _program() is not None else 1


def _program() -> str | None:
    """The browser's program; None where there is none, and an empty word for Playwright's own."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return "" if any(own.glob("chromium*")) else None


if __name__ == "__main__":
    sys.exit(main())
