"""The child's side of the sandbox: fits or rescues as ordered, and answers through a pipe."""

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
"""Of every child: events come first."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FitRequest:
    """What a child is to do."""

    verb: Literal["fit", "rescue"]
    name: str
    folder: Path
    """Has `window`; gets `bundle`, whole or not at all, and a log."""
    task: Task


def main(order: FitRequest, pipe: Connection) -> NoReturn:
    """Do as ordered, tell the progress and then the answer through ``pipe`` as JSON objects, and end this process."""
    if hasattr(os, "setsid"):
        os.setsid()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    _die_with_parent(pipe)
    if order.task.device == "cpu":  # torch's optimizers take hold of a GPU that they see, also for weights on the CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    log = os.open(order.folder / f"{order.verb}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)

    def say(message: dict[str, Any]) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    answer = _work(order, lambda text: say({"progress": text}))
    say(answer)
    sys.stderr.flush()
    os._exit(0 if answer["ok"] else 1)  # thread pools of the libraries can take seconds to end


def _work(order: FitRequest, progress: Progress) -> dict[str, Any]:
    from driftloop.core.errors import DriftloopError
    from retrain.candidates import catalogue
    from retrain.candidates.base import CannotFit, Interrupted

    unfinished = order.folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        candidate = catalogue.find(order.name)
        if not candidate.quick:  # nobody waits for it, and a quick one of another retraining is waited for
            _lower_priority()
        if hasattr(candidate, "progress"):
            candidate.progress = progress
        window = TrainingWindow.load(order.folder / "window")
        if order.verb == "fit":
            candidate.fit(window, order.task, unfinished)
        elif not candidate.rescue(window, order.task, unfinished):
            return {"ok": False, "reason": "there was nothing to rescue", "refused": True}
        unfinished.rename(order.folder / "bundle")  # a bundle is whole or not there
    except (CannotFit, DriftloopError) as error:
        return {"ok": False, "reason": str(error), "refused": True}
    except Interrupted as error:
        return {"ok": False, "reason": str(error)}
    except MemoryError:
        return {"ok": False, "reason": "it ran out of memory"}
    except OSError as error:
        return {"ok": False, "reason": f"it could not read or write a file: {error}"}
    except Exception as error:  # a candidate's own fault is its reason, and the worker's log has the rest
        import traceback

        traceback.print_exc()
        return {"ok": False, "reason": f"it failed with {type(error).__name__}: {str(error).strip()[:300]}"}
    return {"ok": True}


def _lower_priority() -> None:
    """Take only the processor time that nobody else wants, this process's session as a whole included.

    Where Linux shares out the processor by sessions, the niceness of a process counts only within its own one; see
    "The autogroup feature" in sched(7). The kernel takes one such wish in a tenth of a second and refuses others.
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
    """End this process's whole group when the other end of ``pipe`` is closed, however the parent ends."""

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
