"""Browser for the video of the live page and for its tests: the system's Chromium or Chrome.

`python -m serving.demo.browser` installs one if none is found. It uses apt-get if that exists and the user is root, and
Playwright's download otherwise.
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
"""Packages of Debian, with a font. Without a font every letter is a box."""


def launch(playwright: Any) -> Browser:
    """Start the browser without a window.

    Raises:
        DriftloopError: No browser is installed.
    """
    found = _program()
    if found is None:
        raise DriftloopError("Chromium or Chrome is not installed. Run `make browser` to install it.")
    # The browser's sandbox does not work for root, and containers run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser: Browser = playwright.chromium.launch(executable_path=found or None, args=flags)
    return browser


def main() -> int:
    """Install a browser if none is found. Returns 1 if that fails."""
    if _program() is not None:
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        steps = [["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]]
    else:
        environ, steps = dict(os.environ), [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for step in steps:
        done = subprocess.run(step, env=environ, capture_output=True, text=True)
        if done.returncode:
            message = f"`{' '.join(step)}` failed. Install Chromium or Chrome manually."
            sys.stderr.write(f"{done.stderr[-2000:]}\n{message}\n")
            return 1
    return 0 if _program() is not None else 1


def _program() -> str | None:
    """Return the path of the browser; `None` without one, and an empty text for Playwright's own browser."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return "" if any(own.glob("chromium*")) else None


if __name__ == "__main__":
    sys.exit(main())
