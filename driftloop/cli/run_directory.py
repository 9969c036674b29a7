"""Run directories: the record of a simulation, and the announcement by which other terminals find a running one.

``DIR/run.json``          the `Record`: scenario, options, settings without secrets, and the clock so far
``CACHE/runs/PID.json``   the `Running` announcement of a live simulation, the same as ``DIR/running.json``
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from driftloop.core import settings as tree
from driftloop.core import settings_source
from driftloop.core.errors import DriftloopError
from driftloop.core.files import THIS_USER, write_atomic
from driftloop.core.settings import Settings, cache_dir

RECORD, RUNNING = "run.json", "running.json"
ADDRESSES = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW", "DRIFTLOOP_STREAM", "DRIFTLOOP_TOPIC_PREFIX")


class Record(msgspec.Struct, kw_only=True):
    """Record of a run, with which it can be resumed."""

    scenario: str
    """Name of a built-in scenario, or absolute path of a scenario file."""
    rate: str = ""
    """Events per second or ``max``. Empty selects the scenario's own rate."""
    limit: int | None = None
    stack: Literal["embedded", "own"] = "embedded"
    settings: dict[str, str] = {}
    """Settings as environment variables, without secrets and without the addresses of an embedded stack."""
    version: str = ""
    created_at: float = 0.0
    sessions: int = 0
    seconds: float = 0.0
    """Duration of all earlier sessions."""
    first_prediction_seconds: float | None = None
    first_promotion_seconds: float | None = None
    peak_memory_mb: float = 0.0
    cpu_seconds: dict[str, float] = {}
    """CPU time by process, over all sessions that ended regularly."""


class Running(msgspec.Struct, kw_only=True):
    """Announcement of a running simulation."""

    pid: int
    born: float
    """Creation time of the process in Unix seconds. It tells it from a later process with the same id."""
    root: str
    settings: dict[str, str]


def new(root: Path, record: Record) -> None:
    """Make a run directory and write its record.

    Args:
        root: The new directory.
        record: Record of the new run.

    Raises:
        DriftloopError: the directory holds a run or other files already, or it cannot be written.
    """
    if (root / RECORD).exists():
        raise DriftloopError(
            f"{root} holds a run already: continue it (`driftloop simulate --resume {root}`) or choose another folder."
        )
    try:
        if root.exists() and any(root.iterdir()):
            raise DriftloopError(f"{root} is not empty: choose a new folder for the run.")
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DriftloopError(f"{root} cannot be used as a run directory: {error.strerror}.") from error
    save(root, record)


def save(root: Path, record: Record) -> None:
    """Write a record atomically.

    Args:
        root: The run directory.
        record: Record to write.

    Raises:
        DriftloopError: the file cannot be written.
    """
    _write(root / RECORD, msgspec.json.format(msgspec.json.encode(record)))


def read(root: Path) -> Record:
    """Return the record of a run directory.

    Raises:
        DriftloopError: the record does not exist, or it is damaged.
    """
    try:
        record = msgspec.json.decode((root / RECORD).read_bytes(), type=Record)
    except OSError as error:
        raise DriftloopError(
            f"{root} holds no run ({RECORD}: {error.strerror}): give the folder that `driftloop simulate` named."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DriftloopError(f"{root / RECORD} is damaged ({error}): start a new run.") from error
    record.settings = settings_source.current_names(record.settings)  # an earlier version may have written it
    return record


def recorded_variables(settings: Settings, *, own_stack: bool) -> dict[str, str]:
    """Return the settings as variables for a record, without secrets.

    Args:
        settings: Settings of the run.
        own_stack: Keep the addresses, because they belong to an external stack.
    """
    variables = settings_source.environment(settings)
    hidden = set(tree.SECRETS)
    if not own_stack:
        hidden |= set(ADDRESSES[:3])
    hidden |= {name for name, value in variables.items() if "@" in value and "://" in value}
    return {name: value for name, value in variables.items() if name not in hidden}


def announce(root: Path, settings: Settings, identity: Mapping[str, str] | None = None) -> Running:
    """Announce the simulation of this process to other terminals.

    Args:
        root: The run directory.
        settings: Settings with the addresses of the stack.
        identity: Variables with which other terminals log in.

    Raises:
        DriftloopError: the run directory cannot be written.
    """
    variables = settings_source.environment(settings)
    process = psutil.Process()
    running = Running(
        pid=process.pid,
        born=process.create_time(),
        root=str(root.absolute()),
        settings={**{name: variables[name] for name in ADDRESSES}, **(identity or {})},
    )
    body = msgspec.json.encode(running)
    _write(root / RUNNING, body)
    # Without a writable cache the simulation is not found automatically, but it can run.
    with suppress(DriftloopError):
        _write(_announcements() / f"{running.pid}.json", body)
    return running


def withdraw(running: Running) -> None:
    """Remove an announcement. Repeated calls are safe."""
    for path in (Path(running.root) / RUNNING, _announcements() / f"{running.pid}.json"):
        with suppress(OSError):
            path.unlink()


def find(root: Path | None = None) -> Running | None:
    """Return the simulation that is running in ``root``, by default the one started last. `None` if none is running.

    Announcements of processes that have ended are ignored, and removed from the cache.
    """
    if root is not None:
        return _read_announcement(root / RUNNING)
    found: list[Running] = []
    with suppress(OSError):
        for path in _announcements().glob("*.json"):
            running = _read_announcement(path)
            if running is not None:
                found.append(running)
            else:
                with suppress(OSError):
                    path.unlink()
    return max(found, key=lambda running: running.born, default=None)


def environ_of(root: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, str], Running | None]:
    """Return the variables to reach a running simulation, and that simulation, `None` if none is running.

    With a directory, the announced variables override ``environ``. Without one, ``environ`` overrides them, and they
    are ignored if it names another broker. An identity in ``environ`` is always kept.

    Args:
        root: Run directory of the simulation. `None` selects the one started last.
        environ: Variables of this process.

    Raises:
        DriftloopError: no simulation is running in ``root``.
    """
    running = find(root)
    if root is not None:
        if running is None:
            raise DriftloopError(f"No simulation is running under {root}: see `driftloop simulate --resume {root}`.")
        return {**environ, **_announced_variables(environ, running)}, running
    if running is None or environ.get(ADDRESSES[0], running.settings[ADDRESSES[0]]) != running.settings[ADDRESSES[0]]:
        return dict(environ), None
    return {**_announced_variables(environ, running), **environ}, running


def _announced_variables(environ: Mapping[str, str], running: Running) -> dict[str, str]:
    """Return the announced variables, without the identity if ``environ`` has one: a user needs its own password."""
    identity = "DRIFTLOOP_SECURITY__"
    given = any(name.startswith(identity) for name in environ)
    return {name: value for name, value in running.settings.items() if not (given and name.startswith(identity))}


def _read_announcement(path: Path) -> Running | None:
    """Return an announcement, `None` if it is missing or damaged, or if its process has ended."""
    try:
        running = msgspec.json.decode(path.read_bytes(), type=Running)
        alive = abs(psutil.Process(running.pid).create_time() - running.born) < 1.0
    # A damaged file may have invalid UTF-8 or a negative process id.
    except (OSError, msgspec.DecodeError, ValueError, RecursionError, psutil.Error):
        return None
    return running if alive and set(ADDRESSES) <= set(running.settings) else None


def _announcements() -> Path:
    return cache_dir() / "runs"


def _write(path: Path, body: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, body, THIS_USER)  # an address may contain a password
    except OSError as error:
        raise DriftloopError(
            f"{path} cannot be written: {error.strerror}; make room or choose another folder."
        ) from error
