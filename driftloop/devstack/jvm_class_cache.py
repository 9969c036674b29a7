"""Cache of Kafka's loaded classes, which the next Java maps into memory: a start takes a third less time.

Java writes the archive (application class data sharing, JEP 350) when the first broker ends. An archive belongs to one
build of Java and one class path. Its name in the user cache contains its digest, so an altered file is never mapped.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from driftloop.core.files import atomic_path

FRESH = "classes.jsa"
"""Name of a new archive in the folder of the broker."""


def java_options(java: Path, class_path: str, cache: Path, folder: Path) -> list[str]:
    """Return options for Java that use a cached archive, or that write one at exit.

    Args:
        java: The Java executable.
        class_path: Class path of the broker.
        cache: Folder of the cached archives.
        folder: Folder that gets a new archive.
    """
    for archive in cache.glob(f"{_prefix(java, class_path)}*.jsa"):
        if _digest(archive) == archive.stem.rpartition("-")[2]:
            return [f"-XX:SharedArchiveFile={archive}"]
        with suppress(OSError):
            archive.unlink()
    return [f"-XX:ArchiveClassesAtExit={folder / FRESH}", "-Xlog:cds=error", "-Xlog:cds+dynamic=error"]


def store_archive(java: Path, class_path: str, cache: Path, folder: Path) -> None:
    """Move a new archive to the cache. A failure only makes the next start slower.

    Args:
        java: The Java executable.
        class_path: Class path of the broker.
        cache: Folder of the cached archives.
        folder: Folder in which a broker has left the archive.
    """
    fresh = folder / FRESH
    if not fresh.exists():
        return
    with suppress(OSError):
        name = f"{_prefix(java, class_path)}{_digest(fresh)}.jsa"
        with atomic_path(cache / name) as scratch:
            shutil.copyfile(fresh, scratch)
    with suppress(OSError):
        fresh.unlink()


def _prefix(java: Path, class_path: str) -> str:
    home = java.resolve().parent.parent
    digest = hashlib.sha256(f"{home}\n{class_path}\n".encode())
    with suppress(OSError):
        digest.update((home / "release").read_bytes())
    return f"classes-{digest.hexdigest()[:12]}-"


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    except OSError:
        return ""
