"""Candidates that go wrong in every way a fit can, for the sandbox's tests; named as `tests.misbehaving:Class`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from driftloop.core.errors import DriftloopError
from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head, stack_columns
from retrain.candidates.base import CannotFit, Interrupted, Task
from retrain.training_window import TrainingWindow


class Quick:
    """Nothing wrong: a logistic regression that talks a lot on standard output."""

    name = "quick"
    quick = True
    progress = staticmethod(lambda text: None)

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        print("a library's chatter", flush=True)
        os.write(1, b'{"ok": false, "reason": "chatter is no answer"}\n')
        self.progress(f"niceness {os.nice(0)}")
        head = Head(LogisticRegression().fit(window.embeddings, np.asarray(window.labels)))
        encoder = OnnxEncoder(window.encoder, task.model.max_tokens, 1)
        write_bundle(out, encoder=encoder, head=head, labels=head.classes, lineage=task.lineage, key=task.signing_key)

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        return False

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        return False


class Slow(Quick):
    """Nothing wrong, and not among the quick ones; it also tells its session's niceness."""

    quick = False

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        autogroup = Path("/proc/self/autogroup")
        if autogroup.exists():
            self.progress(autogroup.read_text().partition(" ")[2].strip())
        Quick.fit(self, window, task, out)


class Letters(Quick):
    """Reads the letters that a word begins with, which no other model sees."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 2))
        columns = stack_columns(window.embeddings, vectorizer.fit_transform(window.texts))
        head = Head(LogisticRegression(C=100).fit(columns, np.asarray(window.labels)), vectorizer)
        encoder = OnnxEncoder(window.encoder, task.model.max_tokens, 1)
        write_bundle(out, encoder=encoder, head=head, labels=head.classes, lineage=task.lineage, key=task.signing_key)


class Looks(Quick):
    """Says which GPUs its process may use."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise CannotFit(f"it sees {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')!r}")


class Counts(Quick):
    """Says how many seconds it may take."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise CannotFit(f"limit {task.budget.seconds}")


class Sleeper(Quick):
    """Starts a child of its own, in another session, and never ends."""

    quick = False

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
        same = subprocess.Popen(sleeping)
        other = subprocess.Popen(sleeping, start_new_session=task.budget.seed == 1)
        unfinished = task.scratch / "pids.part"
        unfinished.write_text(f"{os.getpid()} {same.pid} {other.pid}")
        out.mkdir()
        (out / "manifest.json").write_text("half a bundle")
        unfinished.rename(task.scratch / "pids")
        time.sleep(600)


class SleeperWithBest(Sleeper):
    """Never ends, but leaves something to rescue."""

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        assert (task.scratch / "pids").exists()
        Quick.fit(self, window, task, out)
        return True


class SleeperAfterBundle(Quick):
    """Writes its bundle, but its process does not end."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        Quick.fit(self, window, task, out)
        os._exit = lambda status: time.sleep(600)  # type: ignore[assignment, return-value]


class SleeperWithSlowRescue(Sleeper):
    """Never ends, and takes seconds to make something of what it has."""

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        (task.scratch / "rescuing").touch()
        time.sleep(5)
        Quick.fit(self, window, task, out)
        return True


class Segfault(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        ctypes.string_at(0)


class Killed(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        os.kill(os.getpid(), 9)


class OutOfMemory(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        np.ones((1 << 62,), dtype=np.int8)


class Quits(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        os.write(2, b"a last word\n")
        os._exit(3)


class Refuses(Quick):
    quick = False

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise CannotFit("all 9 labels are 'a'")

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        raise AssertionError("there is nothing to rescue after a refusal")


class CutOff(Quick):
    """Loses what it needs, with something to rescue."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise Interrupted("the cluster was lost")

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        Quick.fit(self, window, task, out)
        return True


class Blunders(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise ZeroDivisionError("division by zero")


class CannotDownload(Quick):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        raise DriftloopError("The encoder x could not be loaded: give a folder.")


class Forges(Quick):
    """Writes a bundle with another key."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        Quick.fit(self, window, replace(task, signing_key="another key"), out)
