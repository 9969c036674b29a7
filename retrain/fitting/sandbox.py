"""Sandbox of a fit: a child process that cannot block or crash the worker, and leaves no process behind.

The child leads a session, so that its whole group can be killed when its time is up. It runs niced, so that the scorer
keeps its cores. It dies with its parent: the end of the pipe between them ends its group. Its request travels through
the pipe too, so the signing key is never on disk or in argv. Children are forked from a server that has the libraries
loaded, since loading them takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from driftloop.core.models.bundle import BundleError, verify_bundle
from retrain.candidates.base import Task
from retrain.fitting.child_process import FitRequest, Progress, main
from retrain.training_window import TrainingWindow

GRACE = 10.0
"""Seconds beyond its budget after which a fit is killed; a process needs a few to start."""
RESCUE = 60.0
"""Maximum seconds for a bundle of the best model so far."""

Cancel = Callable[[], str | None]
"""Returns the reason to cancel a fit, or `None` to continue."""


@dataclass(frozen=True)
class FitResult:
    """Outcome of a fit."""

    bundle: Path | None
    """Folder of a verified bundle; `None` if the fit has failed."""
    seconds: float
    """Wall-clock seconds of the whole child process."""
    reason: str
    """Reason of the failure, or a remark about the bundle; empty if the fit ended as planned."""
    overran: bool
    """`True` if the fit was killed at its time limit."""


def run(
    candidate_name: str,
    window: TrainingWindow,
    task: Task,
    folder: Path,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    grace: float = GRACE,
) -> FitResult:
    """Fit a candidate in a child process.

    After ``task.budget.seconds + grace`` seconds the process group is killed, and the candidate may write a bundle of
    its best model so far. No error of the child raises here. `KeyboardInterrupt` ends the child and propagates.

    Args:
        candidate_name: Name of the candidate.
        window: Labelled events to learn from.
        task: Budget, lineage and the other inputs of the fit.
        folder: Folder for the files of the fit.
        progress: Called with each progress message of the candidate.
        cancel: Called a few times a second. A reason ends the fit without a bundle, and also ends a rescue.
        grace: Seconds beyond the budget after which the fit is killed.

    Returns:
        The outcome, with a verified bundle or the reason of the failure.
    """
    started = time.monotonic()
    try:
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        window.save(folder / "window")
        task.scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return FitResult(None, time.monotonic() - started, f"the window could not be written: {error}", False)
    end = _child("fit", candidate_name, task, folder, task.budget.seconds + grace, progress, cancel)
    if end.overran and not _defect(folder / "bundle", task):
        end = _ChildExit(True, end.reason, overran=True)
    if not (end.ok or end.refused or end.cancelled):
        rescue = _child("rescue", candidate_name, task, folder, RESCUE, progress, cancel)
        if rescue.ok:
            end = _ChildExit(True, f"{end.reason}; the best so far was kept", end.overran)
        elif rescue.cancelled:
            end = rescue
    if end.ok and (defect := _defect(folder / "bundle", task)):
        end = _ChildExit(False, defect, end.overran)
    return FitResult(folder / "bundle" if end.ok else None, time.monotonic() - started, end.reason, end.overran)


def _defect(bundle: Path, task: Task) -> str:
    """Return the reason why a bundle cannot be used; empty if it is complete and signed."""
    try:
        verify_bundle(bundle, task.signing_key)
    except BundleError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _ChildExit:
    """Exit of a child process."""

    ok: bool
    reason: str = ""
    overran: bool = False
    refused: bool = False
    """The candidate refused the window, so there is no model to rescue."""
    cancelled: bool = False
    """The fit was cancelled by the caller."""


def _child(
    verb: Literal["fit", "rescue"],
    name: str,
    task: Task,
    folder: Path,
    limit: float,
    progress: Progress | None,
    cancel: Cancel | None = None,
) -> _ChildExit:
    """Run one child to its end or to ``limit`` seconds."""
    answers: list[dict[str, Any]] = []
    overran = False
    cancelled: str | None = None
    (folder / f"{verb}.log").write_bytes(b"")
    ours, theirs = multiprocessing.Pipe()
    reader = threading.Thread(target=_listen, args=(ours, answers, progress), daemon=True)
    with ours:
        try:
            with theirs:
                process = _start(FitRequest(verb, name, folder, task), theirs)
        except (OSError, EOFError) as error:
            return _ChildExit(False, f"its process could not be started: {error}")
        reader.start()
        try:
            cancelled = _wait(process, limit, cancel)
        except TimeoutError:
            overran = True
        finally:
            _end_group(process)
            reader.join(2.0)
    status = process.exitcode
    if cancelled is not None:
        return _ChildExit(False, cancelled, cancelled=True)
    if overran:
        return _ChildExit(False, f"stopped at its limit of {limit:.0f} s", overran=True)
    answer = answers[-1] if answers else {}
    if answer.get("ok") and status == 0:
        return _ChildExit(True)
    if "reason" in answer:
        return _ChildExit(False, str(answer["reason"]), refused=bool(answer.get("refused")))
    return _ChildExit(False, _describe(status or 0, folder / f"{verb}.log"))


def _start(request: FitRequest, pipe: Connection, retries: int = 2) -> ForkServerProcess:
    """Start a child for ``request``; a fork server that dies at this moment is started again."""
    start_fork_server()
    process = _context.Process(target=main, args=(request, pipe))
    try:
        with _lock:
            process.start()
    except (OSError, EOFError):
        if not retries:
            raise
        time.sleep(0.5)
        return _start(request, pipe, retries - 1)
    return process


def start_fork_server() -> None:
    """Start the server that children are forked from, unless it runs; it loads its libraries for some seconds."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Threads of a BLAS spin: beside a busy scorer, four of them fit a pipeline forty times slower than one. A
    # candidate that gains from threads (torch) asks for its ``budget.cores`` itself, and its threads wait without
    # spinning. On a busy machine one step of fine-tuning then takes 1.5 s instead of 11 s.
    changed = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
    }
    with _lock:
        before = {key: os.environ.get(key) for key in changed}
        os.environ.update(changed)
        try:
            forkserver.ensure_running()
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["retrain.fitting.forkserver_preload"])
# Held while a process is started or its exit status is read: multiprocessing reads that of other processes as well.
_lock = threading.Lock()


def _wait(process: ForkServerProcess, limit: float, cancel: Cancel | None) -> str | None:
    """Wait for the end of the child; return the reason of ``cancel`` if that came first.

    Raises:
        TimeoutError: Neither came within ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        left = deadline - time.monotonic()
        if wait([process.sentinel], max(0.0, min(0.2, left) if cancel is not None else left)):
            return None
        if left <= 0:
            raise TimeoutError
        reason = cancel() if cancel is not None else None
        if reason is not None:
            return reason


def _listen(pipe: Connection, answers: list[dict[str, Any]], progress: Progress | None) -> None:
    """Collect the child's answer, and pass on its progress."""
    with contextlib.suppress(OSError, EOFError, ValueError):
        while True:
            message = json.loads(pipe.recv_bytes())
            if "progress" not in message:
                answers.append(message)
            elif progress is not None:
                with contextlib.suppress(Exception):  # a broken display does not end a fit
                    progress(str(message["progress"]))


def _end_group(process: ForkServerProcess) -> None:
    """Kill the rest of the child's process group, and its descendants that have left the group."""
    assert process.pid is not None  # noqa: S101 - for the type checker
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    with _lock:
        process.kill()
        process.join()


def _describe(status: int, log: Path) -> str:
    """Return a sentence about a child that ended without an answer."""
    if status == -signal.SIGKILL:
        return "its process was killed by the system, most likely for want of memory"
    if status < 0:
        return f"its process crashed with {signal.Signals(-status).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with status {status}: {lines[-1][:300] if lines else 'it printed nothing'}"
