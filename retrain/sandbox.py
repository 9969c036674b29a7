"""One fit in a process of its own: whatever it does, the worker goes on and nothing is left running.

The child is a session of its own, so that the whole group can be killed when the time is up, and runs niced, so
that the scorer keeps its cores. It dies with its parent: its standard input is a pipe from the parent, and the end
of that pipe ends the group. Its order travels through the same pipe, so the signing key is never on disk or in argv.
A child that `prepare` started has its libraries loaded already, so that the answer to a drift does not wait for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from driftloop.classifiers.bundle import BundleError, verify_bundle
from retrain.candidates.base import Task
from retrain.fitting import Order, Progress, encode
from retrain.window import Window

GRACE = 10.0
"""Seconds past its budget that a fit may take before it is killed; a process needs a few to start."""
RESCUE = 60.0
"""Seconds that making a bundle of the best so far may take."""

Cancel = Callable[[], str | None]


@dataclass(frozen=True)
class Fitted:
    """What came of a fit."""

    bundle: Path | None
    """A verified bundle, or None."""
    seconds: float
    """Wall-clock seconds of the whole child process."""
    reason: str
    """Why there is no bundle, or what is special about it; empty when all went well."""
    overran: bool
    """The fit was killed at its hard limit."""


def run(
    candidate_name: str,
    window: Window,
    task: Task,
    folder: Path,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    grace: float = GRACE,
) -> Fitted:
    """Fit ``candidate_name`` on ``window`` in a child process, with ``folder`` as its workplace.

    After ``task.budget.seconds + grace`` seconds the process group is killed, and the candidate may make a bundle
    of its best so far. ``cancel`` is asked a few times a second; its reason ends the fit, with nothing rescued.
    Nothing that the child does raises here; `KeyboardInterrupt` ends the child and goes on.
    """
    started = time.monotonic()
    try:
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        window.save(folder / "window")
        task.scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Fitted(None, time.monotonic() - started, f"the window could not be written: {error}", False)
    end = _child("fit", candidate_name, task, folder, task.budget.seconds + grace, progress, cancel)
    if not end.ok and not end.refused:
        rescue = _child("rescue", candidate_name, task, folder, RESCUE, progress)
        if rescue.ok:
            end = _End(True, f"{end.reason}; the best so far was kept", end.overran)
    if end.ok:
        try:
            verify_bundle(folder / "bundle", task.signing_key)
        except BundleError as error:
            end = _End(False, str(error), end.overran)
    return Fitted(folder / "bundle" if end.ok else None, time.monotonic() - started, end.reason, end.overran)


@dataclass(frozen=True)
class _End:
    """How a child ended."""

    ok: bool
    reason: str = ""
    overran: bool = False
    refused: bool = False
    """The candidate itself said no: there is nothing to rescue."""


def _child(
    verb: Literal["fit", "rescue"],
    name: str,
    task: Task,
    folder: Path,
    limit: float,
    progress: Progress | None,
    cancel: Cancel | None = None,
) -> _End:
    """Run one child to its end or to ``limit`` seconds."""
    answers: list[dict[str, Any]] = []
    overran = False
    cancelled: str | None = None
    (folder / f"{verb}.log").write_bytes(b"")
    process = _take_spare() or _start()
    try:
        assert process.stdin is not None  # noqa: S101 - for the type checker
        pipe = process.stdin
        reader = threading.Thread(target=_listen, args=(process.stdout, answers, progress), daemon=True)
        with contextlib.suppress(BrokenPipeError):  # a child that died at once is told apart by its exit status
            pipe.write(encode(Order(verb, name, folder, task)))
            pipe.flush()
        reader.start()
        cancelled = _wait(process, limit, cancel)
    except subprocess.TimeoutExpired:
        overran = True
    finally:
        _end_group(process)
        reader.join(2.0)
        with contextlib.suppress(OSError):
            pipe.close()
    if cancelled is not None:
        return _End(False, cancelled, refused=True)
    if overran:
        return _End(False, f"stopped at its limit of {limit:.0f} s", overran=True)
    answer = answers[-1] if answers else {}
    if answer.get("ok") and process.returncode == 0:
        return _End(True)
    if "reason" in answer:
        return _End(False, str(answer["reason"]), refused=bool(answer.get("refused")))
    return _End(False, _describe(process.returncode, folder / f"{verb}.log"))


def prepare() -> None:
    """Start the child of the next fit now: its libraries take it seconds to load."""
    global _spare
    with _spare_lock:
        if _spare is None or _spare.poll() is not None:
            _spare = _start()


def dismiss() -> None:
    """End the child that `prepare` started, where no fit has taken it."""
    spare = _take_spare()
    if spare is not None:
        _end_group(spare)
        for stream in (spare.stdin, spare.stdout):
            if stream is not None:
                stream.close()


_spare: subprocess.Popen[bytes] | None = None
_spare_lock = threading.Lock()


def _take_spare() -> subprocess.Popen[bytes] | None:
    global _spare
    with _spare_lock:
        spare, _spare = _spare, None
    return spare if spare is not None and spare.poll() is None else None


def _start() -> subprocess.Popen[bytes]:
    """A child that waits for its `Order`."""
    root = Path(__file__).resolve().parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Threads of a BLAS spin: beside a busy scorer, four of them fit a pipeline forty times slower than one. A
    # candidate that gains from threads (torch) asks for its ``budget.cores`` itself, and has them wait without
    # spinning: on a busy machine that is 1.5 s instead of 11 for one step of fine-tuning.
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
    }
    return subprocess.Popen(
        [sys.executable, "-m", "retrain.fitting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], limit: float, cancel: Cancel | None) -> str | None:
    """Wait for the end of the child; the reason of ``cancel`` where that came first.

    Raises:
        subprocess.TimeoutExpired: neither came within ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        left = deadline - time.monotonic()
        try:
            process.wait(min(0.2, left) if cancel is not None else left)
            return None
        except subprocess.TimeoutExpired:
            if left <= 0:
                raise
        reason = cancel() if cancel is not None else None
        if reason is not None:
            return reason


def _listen(stream: IO[bytes], answers: list[dict[str, Any]], progress: Progress | None) -> None:
    """Collect the child's answer, and pass its progress on."""
    with stream, contextlib.suppress(OSError, ValueError):
        for line in stream:
            message = json.loads(line)
            if "progress" not in message:
                answers.append(message)
            elif progress is not None:
                with contextlib.suppress(Exception):  # a broken display does not end a fit
                    progress(str(message["progress"]))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's group, and its descendants that have left the group."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.kill()
    process.wait()


def _describe(status: int, log: Path) -> str:
    """A sentence for a child that ended without an answer."""
    if status == -signal.SIGKILL:
        return "its process was killed by the system, most likely for want of memory"
    if status < 0:
        return f"its process crashed with {signal.Signals(-status).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with status {status}: {lines[-1][:300] if lines else 'it said nothing'}"
