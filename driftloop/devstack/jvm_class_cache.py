"""Kafka's loaded classes as a file that the next Java maps into memory: a start costs a third less.

Java writes the archive (application class data sharing, JEP 350) when the first broker ends. It belongs to one build
of Java and one class path, and is kept in the user cache under a name that carries its own digest: a file that was
altered is never mapped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

FRESH = "classes.jsa"


def options(java: Path, class_path: str, cache: Path, folder: Path) -> list[str]:
    """Java's options to use the archive in ``cache``, or to write one into ``folder`` at exit when there is none."""
    for archive in cache.glob(f"{_prefix(java, class_path)}*.jsa"):
        if _digest(archive) == archive.stem.rpartition("-")[2]:
            return [f"-XX:SharedArchiveFile={archive}"]
        with suppress(OSError):
            archive.unlink()
    return [f"-XX:ArchiveClassesAtExit={folder / FRESH}", "-Xlog:cds=error", "-Xlog:cds+dynamic=error"]


def keep(java: Path, class_path: str, cache: Path, folder: Path) -> None:
    """Move an archive that a broker has left in ``folder`` to the cache; a failure costs only speed."""
    fresh = folder / FRESH
    if not fresh.exists():
        return
    with suppress(OSError):
        name = f"{_prefix(java, class_path)}{_digest(fresh)}.jsa"
        scratch = cache / f".{os.getpid()}-{name}"
        try:
            shutil.copyfile(fresh, scratch)
            scratch.replace(cache / name)
        finally:
            scratch.unlink(missing_ok=True)
    with suppress(OSError):
        fresh.unlink()


def _prefix(java: Path, class_path: str) -> str:
    home = java.resolve().parent.parent
    mark = hashlib.sha256(f"{home}\n{class_path}\n".encode())
    with suppress(OSError):
        mark.update((home / "release").read_bytes())
    return f"classes-{mark.hexdigest()[:12]}-"


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    except OSError:
        return ""
