"""Child process of the sandbox: fits or rescues a candidate, and answers through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NoReturn

from retrain.candidates.base import Task
from retrain.training_window import TrainingWindow

NICENESS = 10
"""Niceness of every child; the scorer has priority."""

Progress = Callable[[str], None]
"""Called with each progress message of a candidate."""


@dataclass(frozen=True)
class FitRequest:
    """Request to a child process."""

    verb: Literal["fit", "rescue"]
    name: str
    folder: Path
    """Folder with `window`. The child adds `bundle`, complete or absent, and a log."""
    task: Task


def main(request: FitRequest, pipe: Connection) -> NoReturn:
    """Execute a request, and end this process.

    Args:
        request: The request.
        pipe: Connection for JSON objects: progress messages, and at last the answer.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    _die_with_parent(pipe)
    if request.task.device == "cpu":  # torch's optimizers use a visible GPU also for weights on the CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    log = os.open(request.folder / f"{request.verb}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)

    def send(message: dict[str, Any]) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    answer = _execute(request, lambda text: send({"progress": text}))
    send(answer)
    sys.stderr.flush()
    os._exit(0 if answer["ok"] else 1)  # thread pools of the libraries can take seconds to end


def _execute(request: FitRequest, progress: Progress) -> dict[str, Any]:
    """Fit or rescue, and return the answer: `ok`, and for a failure `reason` and `refused`."""
    from driftloop.core.errors import DriftloopError
    from retrain.candidates import catalogue
    from retrain.candidates.base import CannotFit, Interrupted

    unfinished = request.folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        candidate = catalogue.find(request.name)
        if not candidate.quick:  # the worker waits for quick candidates only
            _lower_priority()
        if hasattr(candidate, "progress"):
            candidate.progress = progress
        window = TrainingWindow.load(request.folder / "window")
        if request.verb == "fit":
            candidate.fit(window, request.task, unfinished)
        elif not candidate.rescue(window, request.task, unfinished):
            return {"ok": False, "reason": "there was nothing to rescue", "refused": True}
        unfinished.rename(request.folder / "bundle")  # a bundle is complete or absent
    except (CannotFit, DriftloopError) as error:
        return {"ok": False, "reason": str(error), "refused": True}
    except Interrupted as error:
        return {"ok": False, "reason": str(error)}
    except MemoryError:
        return {"ok": False, "reason": "it ran out of memory"}
    except OSError as error:
        return {"ok": False, "reason": f"it could not read or write a file: {error}"}
    except Exception as error:  # any error of a candidate is its reason; the log has the traceback
        import traceback

        traceback.print_exc()
        return {"ok": False, "reason": f"it failed with {type(error).__name__}: {str(error).strip()[:300]}"}
    return {"ok": True}


def _lower_priority() -> None:
    """Lower this process and its session to idle CPU priority.

    Where Linux schedules by sessions, the niceness of a process counts only within its own session; see "The autogroup
    feature" in sched(7). The kernel accepts one change of a session's niceness in a tenth of a second.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    for _ in range(20):
        try:
            Path("/proc/self/autogroup").write_text("19")
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return


def _die_with_parent(pipe: Connection) -> None:
    """End this process's whole group when the parent ends, which closes the other end of ``pipe``."""

    def end(*_: object) -> None:
        if hasattr(os, "killpg"):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv_bytes()
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
