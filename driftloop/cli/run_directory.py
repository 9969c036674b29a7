"""Run directories: what a simulation was asked to do, and how other terminals find one that is running.

``DIR/run.json``          the `Record`: scenario, options, settings without secrets, and the clock so far
``CACHE/runs/PID.json``   the `Running` announcement of a live simulation, the same as ``DIR/running.json``
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from driftloop.core import settings as tree
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings, cache_dir

RECORD, RUNNING = "run.json", "running.json"
ADDRESSES = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW", "DRIFTLOOP_STREAM", "DRIFTLOOP_TOPIC_PREFIX")


class Record(msgspec.Struct, kw_only=True):
    """What a run directory remembers, so that the run can be resumed."""

    scenario: str
    """A built-in's name, or the absolute path of a scenario file."""
    rate: str = ""
    """Events per second or ``max``; empty: the scenario's own."""
    limit: int | None = None
    stack: Literal["embedded", "own"] = "embedded"
    settings: dict[str, str] = {}
    """The settings as environment variables, secrets and the embedded stack's addresses left out."""
    version: str = ""
    created_at: float = 0.0
    sessions: int = 0
    seconds: float = 0.0
    """Seconds that earlier sessions ran."""
    first_prediction_seconds: float | None = None
    first_promotion_seconds: float | None = None
    peak_memory_mb: float = 0.0
    cpu_seconds: dict[str, float] = {}
    """CPU time by process of all sessions that ended in order."""


class Running(msgspec.Struct, kw_only=True):
    """A simulation that runs now."""

    pid: int
    born: float
    """When the process was created: a later process with the same number is another one."""
    root: str
    settings: dict[str, str]


def new(root: Path, record: Record) -> None:
    """Make the run directory ``root`` and write its record.

    Raises:
        DriftloopError: it holds a run or other files already, or cannot be written.
    """
    if (root / RECORD).exists():
        raise DriftloopError(
            f"{root} holds a run already: go on with it (`driftloop simulate --resume {root}`) or choose another "
            "folder."
        )
    try:
        if root.exists() and any(root.iterdir()):
            raise DriftloopError(f"{root} is not empty: choose a new folder for the run.")
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DriftloopError(f"{root} cannot be used as a run directory: {error.strerror}.") from error
    save(root, record)


def save(root: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    _write(root / RECORD, msgspec.json.format(msgspec.json.encode(record)))


def read(root: Path) -> Record:
    """The record of a run directory.

    Raises:
        DriftloopError: there is none, or it is damaged.
    """
    try:
        return msgspec.json.decode((root / RECORD).read_bytes(), type=Record)
    except OSError as error:
        raise DriftloopError(
            f"{root} holds no run ({RECORD}: {error.strerror}): give the folder that `driftloop simulate` named."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DriftloopError(f"{root / RECORD} is damaged ({error}): start a new run.") from error


def to_remember(settings: Settings, *, own_stack: bool) -> dict[str, str]:
    """The variables worth storing in a record: no secrets, and addresses only of a stack of the user's own."""
    variables = tree.environment(settings)
    hidden = set(tree.SECRETS)
    if not own_stack:
        hidden |= set(ADDRESSES[:3])
    hidden |= {name for name, value in variables.items() if "@" in value and "://" in value}
    return {name: value for name, value in variables.items() if name not in hidden}


def announce(root: Path, settings: Settings, identity: Mapping[str, str] | None = None) -> Running:
    """Tell other terminals where the topics of this process's simulation are, and the variables to read them with."""
    variables = tree.environment(settings)
    me = psutil.Process()
    running = Running(
        pid=me.pid,
        born=me.create_time(),
        root=str(root.absolute()),
        settings={**{name: variables[name] for name in ADDRESSES}, **(identity or {})},
    )
    body = msgspec.json.encode(running)
    _write(root / RUNNING, body)
    # A cache that cannot be written costs the comfort of being found, not the run.
    with suppress(DriftloopError):
        _write(_announcements() / f"{running.pid}.json", body)
    return running


def withdraw(running: Running) -> None:
    """Take the announcement back; doing it twice does no harm."""
    for path in (Path(running.root) / RUNNING, _announcements() / f"{running.pid}.json"):
        with suppress(OSError):
            path.unlink()


def find(root: Path | None = None) -> Running | None:
    """The simulation that runs under ``root``, or else the one started last; None when none runs.

    Announcements whose process is gone are ignored, and removed from the cache.
    """
    if root is not None:
        return _alive(root / RUNNING)
    found: list[Running] = []
    with suppress(OSError):
        for path in _announcements().glob("*.json"):
            running = _alive(path)
            if running is not None:
                found.append(running)
            else:
                with suppress(OSError):
                    path.unlink()
    return max(found, key=lambda running: running.born, default=None)


def environ_of(root: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, str], Running | None]:
    """The variables to reach a running simulation, and that simulation.

    ``root`` chooses one by its folder. Otherwise what ``environ`` sets wins, and the simulation started last fills
    in the rest; not where ``environ`` names another broker. An identity in ``environ`` is kept.

    Raises:
        DriftloopError: nothing runs under ``root``.
    """
    running = find(root)
    if root is not None:
        if running is None:
            raise DriftloopError(f"No simulation is running under {root}: see `driftloop simulate --resume {root}`.")
        return {**environ, **_beside(environ, running)}, running
    if running is None or environ.get(ADDRESSES[0], running.settings[ADDRESSES[0]]) != running.settings[ADDRESSES[0]]:
        return dict(environ), None
    return {**_beside(environ, running), **environ}, running


def _beside(environ: Mapping[str, str], running: Running) -> dict[str, str]:
    """The announced variables without an identity where ``environ`` has another: a name needs its own password."""
    known = "DRIFTLOOP_SECURITY__"
    own = any(name.startswith(known) for name in environ)
    return {name: value for name, value in running.settings.items() if not (own and name.startswith(known))}


def _alive(path: Path) -> Running | None:
    try:
        running = msgspec.json.decode(path.read_bytes(), type=Running)
        alive = abs(psutil.Process(running.pid).create_time() - running.born) < 1.0
    # A damaged file may hold no UTF-8, or a process id below 0.
    except (OSError, msgspec.DecodeError, ValueError, RecursionError, psutil.Error):
        return None
    return running if alive and set(ADDRESSES) <= set(running.settings) else None


def _announcements() -> Path:
    return cache_dir() / "runs"


def _write(path: Path, body: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An address may carry a password.
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(body)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise DriftloopError(
            f"{path} cannot be written: {error.strerror}; make room or choose another folder."
        ) from error
