"""Download of Apache Kafka's jars into the user cache, verified against committed digests."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import cache_dir

VERSION = "4.3.1"
PINS = Path(__file__).with_name(f"kafka-{VERSION}.sha256")
NEEDED = 200 * 1024 * 1024
"""Free bytes that a download needs: the jars twice, and a reserve."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Pin:
    """Maven coordinates, size and digest of one jar."""

    sha256: str
    size: int
    group: str
    artifact: str
    version: str

    @property
    def filename(self) -> str:
        """Name of the jar in a Maven repository and in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def kafka_classpath(
    progress: Progress = lambda _line: None,
    *,
    folder: Path | None = None,
    repositories: Mapping[str, str] | None = None,
) -> list[Path]:
    """Return the verified jars of Kafka 4.3.1. Missing and altered jars are fetched first.

    Cached jars need neither the network nor jgo.

    Args:
        progress: Called with one line before jars are fetched.
        folder: Cache folder. `None` selects `kafka-4.3.1` in the user cache.
        repositories: Maven repositories by name, in the order of their use. `None` selects those of jgo's
            configuration, then Maven Central.

    Raises:
        DriftloopError: a jar cannot be fetched, or it does not have the committed digest.
    """
    pins = read_pins()
    where = folder or cache_dir() / f"kafka-{VERSION}"
    with ThreadPoolExecutor(4) as pool:
        verified = pool.map(lambda pin: _is_verified(where / pin.filename, pin), pins)
        missing = [pin for pin, valid in zip(pins, verified, strict=True) if not valid]
    if missing:
        altered = [pin.filename for pin in missing if (where / pin.filename).exists()]
        if altered:
            progress(f"{len(altered)} cached jars of Kafka do not have their digest and are fetched again.")
        megabytes = sum(pin.size for pin in missing) / 1e6
        progress(f"Fetching Apache Kafka {VERSION}: {len(missing)} jars, {megabytes:.0f} MB, once.")
        _fetch(missing, where, repositories)
    return [where / pin.filename for pin in pins]


def read_pins(file: Path = PINS) -> list[Pin]:
    """Return the committed pins, in the order of the class path."""
    pins: list[Pin] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            digest, size, coordinates = line.split()
            pins.append(Pin(digest, int(size), *coordinates.split(":")))
    return pins


def _is_verified(path: Path, pin: Pin) -> bool:
    try:
        if path.stat().st_size != pin.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == pin.sha256
    except OSError:
        return False


def _fetch(pins: Iterable[Pin], where: Path, repositories: Mapping[str, str] | None) -> None:
    """Download into a scratch folder beside the cache, verify, and move each jar atomically."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(where).free
        if free < NEEDED:
            raise DriftloopError(
                f"Only {free // 2**20} MB are free under {where}: fetching Kafka needs {NEEDED // 2**20} MB; make room "
                "or point DRIFTLOOP_CACHE at another disk."
            )
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=where) as scratch:
            context = _maven(Path(scratch), repositories)
            with ThreadPoolExecutor(8) as pool:
                for pin, found in pool.map(lambda pin: (pin, _download(context, pin)), pins):
                    found.replace(where / pin.filename)
    except OSError as error:
        raise DriftloopError(
            f"Kafka's jars could not be written to {where} ({error.strerror or error}): make room or point "
            "DRIFTLOOP_CACHE at a folder that can be written."
        ) from error


def _maven(scratch: Path, repositories: Mapping[str, str] | None) -> Any:
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError as error:
        raise DriftloopError(
            "Kafka's jars are not cached and jgo, which fetches them, is not installed: run `pip install "
            "'driftloop[embedded]'`, or set DRIFTLOOP_KAFKA to a broker of your own."
        ) from error
    settings = GlobalSettings.load()
    remote = dict(repositories) if repositories else {**settings.repositories, "central": MAVEN_CENTRAL_URL}
    # Jars that Maven or jgo fetched earlier save the download. They are verified like all others.
    return MavenContext(repo_cache=scratch, local_repos=[Path(settings.repo_cache)], remote_repos=remote, timeout=20)


def _download(context: Any, pin: Pin) -> Path:
    """Fetch one jar and return its path in the scratch folder. An altered local copy is downloaded again."""
    artifact = context.project(pin.group, pin.artifact).at_version(pin.version).artifact()
    scratch = Path(artifact.cached_path)
    try:
        found = Path(artifact.resolve())
        if found != scratch and _is_verified(found, pin):
            scratch.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, scratch)
        elif found != scratch:
            context.resolver.download(artifact)
    except OSError as error:  # requests' exceptions are OSErrors too
        if error.errno is not None:
            raise
        raise DriftloopError(_unreachable(pin, error)) from error
    except RuntimeError as error:
        raise DriftloopError(_unreachable(pin, error)) from error
    if not _is_verified(scratch, pin):
        with suppress(OSError):
            scratch.unlink()
        raise DriftloopError(
            f"{pin.filename} was fetched but does not have the committed SHA-256 {pin.sha256[:12]}…: a proxy or mirror "
            "alters downloads. The file was deleted; try again from another network."
        )
    return scratch


def _unreachable(pin: Pin, error: Exception) -> str:
    reason = type(error).__name__ if isinstance(error, OSError) else "no repository has it"
    return (
        f"Kafka's jars are not cached and {pin.filename} could not be fetched ({reason}): connect to the network once, "
        "name a Maven mirror under [repositories] in ~/.config/jgo.conf, or set DRIFTLOOP_KAFKA to your own broker."
    )
