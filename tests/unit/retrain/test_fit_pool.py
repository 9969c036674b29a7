"""The slow candidates of a retraining: so many at once, and none any more once nobody wants them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from retrain.fitting import fit_pool
from retrain.fitting.fit_pool import FitPool
from retrain.fitting.sandbox import FitResult
from tests import tiny

NAMES = ["one", "two", "three"]


class Fits:
    """Stands for the processes: each takes until it is let go, or is told that nobody wants it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at_work = self.most = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def run(self, name: str, *_: Any, cancel: Any) -> FitResult:
        with self._lock:
            self.begun.append(name)
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        while not self.go.wait(0.01) and cancel() is None:
            pass
        with self._lock:
            self.at_work -= 1
        return FitResult(None, 0.0, cancel() or "done", False)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    made = Fits()
    monkeypatch.setattr(fit_pool.sandbox, "run", made.run)
    return made


def started(fits: Fits, at_once: int, folder: Path) -> FitPool:
    made = FitPool(NAMES, tiny.window(4), lambda name: name, folder, at_once)  # type: ignore[arg-type, return-value]
    deadline = time.monotonic() + 10
    while fits.at_work < min(at_once, 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    return made


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_pool_runs_at_most_n_fits_together(fits: Fits, at_once: int, tmp_path: Path) -> None:
    """All fits are done in the end."""
    made = started(fits, at_once, tmp_path)
    assert sorted(fits.begun) == sorted(NAMES[:at_once]) and made.running and made.collect() == []
    fits.go.set()
    made.close()
    assert sorted(name for name, _ in made.collect()) == sorted(NAMES) and not made.running
    assert fits.most == min(at_once, 3)


def test_cancelled_pool_does_not_start_waiting_fits(fits: Fits, tmp_path: Path) -> None:
    made = started(fits, 1, tmp_path)
    made.cancel("a newer drift")
    made.close()
    assert {name: fitted.reason for name, fitted in made.collect()} == dict.fromkeys(NAMES, "a newer drift")
    assert fits.begun == ["one"]
