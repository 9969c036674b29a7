"""A real browser for the tests of the live page: the system's Chromium or Chrome, installed where it is missing.

`python -m tests.browser.chromium` installs it: with apt-get where that is there and the user is root, with Playwright's
own download otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The system's font, too: without one every letter is a box.
PACKAGES = ("chromium", "fonts-dejavu-core")


def find() -> str | None:
    """The browser's program; None where there is none, and an empty word for Playwright's own."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return "" if any(own.glob("chromium*")) else None


def main() -> int:
    """Install what is missing; 1 with one sentence where that cannot be done."""
    if find() is not None:
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        steps = [["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]]
    else:
        quiet, steps = dict(os.environ), [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for step in steps:
        done = subprocess.run(step, env=quiet, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(
                f"{done.stderr[-2000:]}\n`{' '.join(step)}` failed: install Chromium or Chrome yourself.\n"
            )
            return 1
    return 0 if find() is not None else 1


if __name__ == "__main__":
    sys.exit(main())
