"""The child's side of the sandbox: waits for one order, fits or rescues, and answers on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from retrain.candidates.base import Task
from retrain.window import Window

NICENESS = 10

Progress = Callable[[str], None]


class Order(msgspec.Struct, frozen=True):
    """What a child is to do; one line of JSON on its standard input."""

    verb: Literal["fit", "rescue"]
    name: str
    folder: Path
    """Has `window`; gets `bundle`, whole or not at all, and a log."""
    task: Task


def encode(order: Order) -> bytes:
    """The order as the line that `main` reads."""
    return _encoder.encode(order) + b"\n"


_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder(Order, dec_hook=lambda kind, value: kind(value))


def main() -> NoReturn:
    """Wait for an order, carry it out in this process, and answer with one JSON line on standard output."""
    import retrain.candidates.linear  # noqa: F401 - the quick candidate is what is waited for

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not disturb the answers
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    line = sys.stdin.buffer.readline()
    if not line:  # the parent has ended
        os._exit(0)
    order = _decoder.decode(line)
    if order.task.device == "cpu":  # torch's optimizers take hold of a GPU that they see, also for weights on the CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _die_with_parent()
    log = os.open(order.folder / f"{order.verb}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer = _work(order, lambda text: say({"progress": text}))
    say(answer)
    sys.stderr.flush()
    os._exit(0 if answer["ok"] else 1)  # thread pools of the libraries can take seconds to end


def _work(order: Order, progress: Progress) -> dict[str, Any]:
    from driftloop.errors import DriftloopError
    from retrain.candidates import catalogue
    from retrain.candidates.base import CannotFit, Interrupted

    unfinished = order.folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        candidate = catalogue.find(order.name)
        if hasattr(candidate, "progress"):
            candidate.progress = progress
        window = Window.load(order.folder / "window")
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


def _die_with_parent() -> None:
    """End this process's whole group when the parent ends, however it ends."""

    def end(*_: object) -> None:
        if hasattr(os, "killpg"):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    def watch() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock would be held at the exit
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
    if sys.platform == "linux":  # for a parent whose pipe was inherited by another of its children
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
