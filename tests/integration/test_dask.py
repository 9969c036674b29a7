"""TPOT's search on a real Dask cluster: a scheduler and workers as processes of their own, on the loopback address."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import sklearn
from distributed import Client, as_completed
from sklearn.dummy import DummyClassifier
from threadpoolctl import threadpool_info

from driftloop.core.models.bundle import Lineage, load_bundle, verify_bundle
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import ModelSettings
from retrain.candidates import dask_evaluation as place
from retrain.candidates.base import Budget, Task
from retrain.candidates.tpot_search import Search, TpotSearch
from retrain.candidates.training_rows import forward_folds
from retrain.fitting import sandbox
from retrain.fitting.sandbox import FitResult
from tests import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLIND = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "retrain":
            raise ModuleNotFoundError("No module named 'retrain'")

sys.meta_path.insert(0, Missing())
"""
"""Makes an interpreter in which driftloop is not installed."""
OLD = "import sklearn; sklearn.__version__ = '1.2.3'\n"
UNFIT = "Start its scheduler and its workers from the same image or environment as `driftloop retrain`."


@dataclass
class Dask:
    """A cluster of one's own."""

    folder: Path
    children: list[ManagedProcess] = field(default_factory=list)
    observer: Client | None = None

    def start(self, scheduler: str = "", workers: tuple[str, ...] = ("", "")) -> Dask:
        """Start a scheduler and workers; a text is code that runs before one, and an empty one is nothing."""
        found = self.folder / "scheduler.json"
        self._start("dask_scheduler", scheduler, ["--port", "0", "--no-show", "--scheduler-file", str(found)])
        wait_for(lambda: found.exists() and found.read_text().endswith("}"))  # it is written, not renamed
        self.address = json.loads(found.read_text())["address"]
        for code in workers:
            self.add_worker(code)
        self.observer = Client(self.address, set_as_default=False)
        wait_for(lambda: len(self.observer.nthreads()) == len(workers))
        return self

    def add_worker(self, code: str = "") -> None:
        options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder)]
        self._start("dask_worker", code, [self.address, *options])

    def _start(self, program: str, code: str, options: list[str]) -> None:
        main = f"{code}\nfrom distributed.cli.{program} import main; main()"
        # More threads than Dask gives a BLAS by itself: a search is to limit them.
        environ = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        name = f"{program}-{len(self.children)}"
        options += ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        child = ManagedProcess(
            name, [sys.executable, "-c", main, *options], env=environ, log=self.folder / f"{name}.log"
        )
        child.start()
        self.children.append(child)

    def kill(self, which: int) -> None:
        """Kill the scheduler, 0, or a worker."""
        pid = self.children[which].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def compared(self) -> dict[str, int]:
        """Pipelines that each worker has compared."""
        done: dict[str, int] = {}
        for task in self.observer.get_task_stream():
            if task["key"].startswith("minus_log_loss") and task["status"] == "OK":
                done[task["worker"]] = done.get(task["worker"], 0) + 1
        return done

    def close(self) -> None:
        if self.observer is not None:
            self.observer.close(timeout=1)
        for child in reversed(self.children):
            child.poll()
            child.stop(5)


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    made = Dask(tmp_path / "dask")
    yield made
    made.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    """A scheduler and two workers that every test leaves as they were."""
    made = Dask(tmp_path_factory.mktemp("two")).start()
    yield made
    made.close()


@pytest.fixture
def ground() -> place.EvaluationData:
    window = tiny.window(160, onset=60)
    folds = forward_folds(window.labels, window.onset)
    return place.EvaluationData(window.embeddings, np.asarray(window.labels), folds, [9.0] * len(folds))


def wait_for(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.05)


def task(folder: Path, address: str) -> Task:
    model = ModelSettings(encoder=str(tiny.encoder_folder()), max_tokens=tiny.MAX_TOKENS)
    return Task(
        budget=Budget(120.0),
        model=model,
        lineage=Lineage(candidate="tpot"),
        signing_key=tiny.KEY,
        scratch=folder / "scratch",
        dask=address,
    )


def search(folder: Path, address: str, name: str = "tpot", **options: Any) -> FitResult:
    return sandbox.run(name, tiny.window(160, onset=60), task(folder, address), folder, **options)


def parameters(bundle: Path | None) -> dict[str, Any]:
    assert bundle is not None
    return verify_bundle(bundle, tiny.KEY).lineage.parameters


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


class Short(TpotSearch):
    """Ends by its generations, also on a busy machine."""

    def __init__(self) -> None:
        super().__init__(generations=2, population=16)


def test_the_workers_compare_the_pipelines_of_a_search(two: Dask, tmp_path: Path) -> None:
    assert set().union(*two.observer.run(blas_threads).values()) == {2}, "the control: what a search is to limit"
    two.observer.get_task_stream()  # the record begins with the first question
    end = search(tmp_path, two.address, name="tests.integration.test_dask:Short")
    assert end.reason == "" and not end.overran
    assert end.bundle is not None and load_bundle(end.bundle, tiny.KEY).labels == tiny.LABELS
    done = two.compared()
    assert len(done) == 2 and min(done.values()) > 0, f"both of them took part, as they had time: {done}"
    said = parameters(end.bundle)
    assert said["workers"] == 2
    assert 20 <= said["pipelines_compared"] <= sum(done.values()) <= 32, "some pipelines have no loss"
    assert set().union(*two.observer.run(blas_threads).values()) == {1}


def test_search_result_is_independent_of_workers(
    two: Dask, dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one worker and no cluster compare the same pipelines and find the same model."""
    dask.start(workers=("",))
    window = tiny.window(160, onset=60)
    doubtful = tuple(label if i % 3 else "neutral" for i, label in enumerate(window.labels))  # no pipeline is perfect
    compared: list[tuple[str, float]] = []
    record = Search.record
    monkeypatch.setattr(
        Search, "record", lambda self, made, loss: compared.append((str(made), loss)) or record(self, made, loss)
    )
    found = []
    for address in (two.address, dask.address, ""):
        folder = tmp_path / f"search-{len(found)}"
        compared.clear()
        TpotSearch(generations=3, population=8).fit(
            replace(window, labels=doubtful), task(folder, address), folder / "bundle"
        )
        said = parameters(folder / "bundle")
        probabilities = load_bundle(folder / "bundle", tiny.KEY).predict(tiny.sentences(50, seed=9)[0]).probabilities
        found.append((said.pop("workers"), said, sorted(compared), probabilities))
    assert [workers for workers, *_ in found] == [2, 1, 1]
    for _, said, losses, probabilities in found[1:]:
        assert said == found[0][1]
        assert losses == found[0][2]
        np.testing.assert_allclose(probabilities, found[0][3], atol=1e-6)
    assert len(found[0][2]) > 8, "more than the first generation"


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        (None, "No Dask scheduler answers at tcp://127.0.0.1:1 ("),
        ({"workers": ()}, "has no workers. Start some with `dask worker tcp://127.0.0.1:"),
        ({"workers": ("", BLIND)}, f"No module named 'retrain'\")). {UNFIT}"),
        ({"workers": ("", OLD)}, f"has scikit-learn 1.2.3 for {sklearn.__version__}). {UNFIT}"),
        ({"scheduler": BLIND, "workers": ("",)}, f"Error during deserialization of the task graph. This .*. {UNFIT}"),
    ],
    ids=["nobody there", "no workers", "a worker without driftloop", "another scikit-learn", "a scheduler without it"],
)
def test_unusable_cluster_is_the_candidates_reason(
    dask: Dask, tmp_path: Path, cluster: dict[str, Any] | None, sentence: str
) -> None:
    address = dask.start(**cluster).address if cluster is not None else "tcp://127.0.0.1:1"
    end = search(tmp_path, address)
    assert end.bundle is None and not end.overran
    assert sentence.split(".*")[0] in end.reason and sentence.split(".*")[-1] in end.reason
    assert not (tmp_path / "rescue.log").exists()


def test_lost_scheduler_keeps_best_pipeline_so_far(dask: Dask, tmp_path: Path) -> None:
    dask.start(workers=("",))

    def lose(text: str) -> None:
        if "pipeline 1," in text:
            dask.kill(0)

    end = search(tmp_path, dask.address, progress=lose)
    assert end.reason == (
        f"the Dask scheduler at {dask.address} was lost in the middle of the search; the best so far was kept"
    )
    assert not end.overran and parameters(end.bundle)["pipelines_compared"] >= 1


def test_search_continues_with_replacement_workers(dask: Dask, tmp_path: Path) -> None:
    """The rows were with the workers: they are made again."""
    dask.start(workers=("",))
    lost: list[str] = []

    def lose(text: str) -> None:
        if not lost:
            lost.extend(dask.observer.nthreads())
            dask.kill(1)
            dask.add_worker()

    def enough() -> str | None:
        others = sum(done for worker, done in dask.compared().items() if worker not in lost)
        return "the new one goes on" if lost and others > 10 else None

    assert search(tmp_path, dask.address, progress=lose, cancel=enough).reason == "the new one goes on"


def test_search_without_cluster_listens_on_loopback_only(ground: place.EvaluationData) -> None:
    with place.open_workers("", ground, time.monotonic() + 60, lambda *_: None):
        listening = {c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


class Slow(DummyClassifier):
    """Fits for longer than any search has."""

    def fit(self, features: Any, labels: Any, sample_weight: Any = None) -> Slow:
        time.sleep(40)
        return self


@dataclass
class Individual:
    """What TPOT asks to have compared."""

    pipeline: Any

    def export_pipeline(self) -> Any:
        return self.pipeline


def test_slow_pipeline_is_cancelled_at_the_deadline(two: Dask, ground: place.EvaluationData) -> None:
    two.observer.run(place.versions)  # imports driftloop there
    losses: list[float] = []
    with place.open_workers(two.address, ground, time.monotonic() + 15, lambda _, loss: losses.append(loss)) as workers:
        quick = workers.submit(None, Individual(DummyClassifier(strategy="prior")))
        assert quick.result() == [-losses[0]]
        slow = workers.submit(None, Individual(Slow()))
        assert next(as_completed([slow])).cancelled(), "it was waited for"
        with pytest.raises(TimeoutError):
            workers.submit(None, Individual(Slow()))
    assert len(losses) == 1


def test_cancelled_search_leaves_no_cluster_tasks(two: Dask, tmp_path: Path) -> None:
    begun: list[str] = []
    end = search(tmp_path, two.address, progress=begun.append, cancel=lambda: "a newer drift" if begun else None)
    assert (end.bundle, end.reason) == (None, "a newer drift")
    wait_for(lambda: two.observer.run_on_scheduler(tasks_left) == 0)


def tasks_left(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)
