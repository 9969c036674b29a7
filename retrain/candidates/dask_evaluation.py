"""Where TPOT's pipelines are compared: in a thread of this process, or on the workers of a Dask cluster.

Both ways are the same one: the rows travel first, then each pipeline, unfitted, and its loss comes back. Features and
labels leave this process, the texts and the signing key do not. Scheduler and workers import this module, so they need
driftloop's own environment.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sklearn
from distributed import Client, Future, LocalCluster, wait
from numpy.typing import NDArray
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import driftloop
from driftloop.core.errors import DriftloopError
from retrain.candidates import training_rows as choice
from retrain.candidates.base import Interrupted

CONNECT_SECONDS = 5.0
"""Seconds within which a scheduler answers and has a worker, and within which it is left again."""

OnScored = Callable[[Any, float], None]


@dataclass(frozen=True)
class EvaluationData:
    """What pipelines are compared on."""

    features: NDArray[Any]
    """Dense, shape (n, d + w)."""
    labels: NDArray[Any]
    """Shape (n,)."""
    folds: list[choice.Fold]
    loss_limits: list[float]
    """For each fold: a pipeline with a greater loss on it, in nats per row, is not tried on the others."""


def minus_log_loss(pipeline: Any, ground: EvaluationData, seconds: float) -> list[Any]:
    """The scores of an unfitted pipeline as TPOT wants them: minus its mean log loss, or `INVALID` where it has none.

    Runs on a worker. ``seconds`` are left to it by the worker's own clock, which need not be that of the search.
    """
    deadline = time.monotonic() + seconds
    # For the life of the worker: put back at the end, the limit would be lifted for the pipeline in its next thread.
    threadpool_limits(1)
    try:
        with warnings.catch_warnings(action="ignore"):
            losses = choice.fold_losses(
                lambda: clone(pipeline), ground.features, ground.labels, ground.folds, ground.loss_limits, deadline
            )
    except Exception:
        return ["INVALID"]
    return [-float(np.mean(losses))]


@contextlib.contextmanager
def open_workers(address: str, ground: EvaluationData, deadline: float, record: OnScored) -> Iterator[PipelineWorkers]:
    """The workers of the Dask scheduler at ``address``, or of this process where it is empty, with the rows sent.

    Raises:
        DriftloopError: no scheduler answers, it has no workers, or they cannot run driftloop's pipelines.
    """
    with contextlib.ExitStack() as stack:
        # Threads of a BLAS spin, and cost more than they give on a few thousand rows; put back for who called us.
        stack.enter_context(threadpool_limits(1))
        client = _connect(address) if address else Client(stack.enter_context(_in_this_process()))
        stack.callback(_leave, client)
        if address:
            _check(client, address)
        found = PipelineWorkers(client, address, ground, deadline, record)
        timer = threading.Timer(deadline - time.monotonic(), found.cancel_pending)
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        yield found


class PipelineWorkers:
    """What TPOT takes for its Dask client; of a client it needs `cluster.workers`, `submit`, `scatter` and `run`.

    TPOT itself would send the individual with its search space, and would keep the losses to itself until its end.
    """

    def __init__(self, client: Client, address: str, ground: EvaluationData, deadline: float, record: OnScored) -> None:
        self._client = client
        self._address = address
        self._deadline = deadline
        self._record = record
        self._sent: list[Future] = []
        self.cluster = self
        # Not scattered: a result is computed again where the workers that hold it are lost.
        self._ground = client.submit(_hold, ground, pure=False)
        with contextlib.suppress(TimeoutError):  # `submit` says so
            wait(self._ground, timeout=max(deadline - time.monotonic(), 0.1))
        if self._ground.status == "error":
            raise _unfit(address, self._ground.exception())

    @property
    def workers(self) -> range:
        """One for each thread; TPOT counts them before each generation."""
        return range(max(sum(self._client.nthreads().values()), 1))

    def submit(self, function: Any, individual: Any, *args: Any, **options: Any) -> Future:
        """Have one individual compared; what TPOT would have had done to it is not needed.

        Raises:
            TimeoutError: the time of the search is up, or its cluster is lost: what ends TPOT's evolution.
        """
        left = self._deadline - time.monotonic()
        if left <= 0 or self.scheduler_lost:
            raise TimeoutError("the search is over")
        pipeline = individual.export_pipeline()
        sent = self._client.submit(minus_log_loss, pipeline, self._ground, left, pure=False)
        answer = _Answer(sent.key, self._client)
        answer.record = partial(self._record, pipeline)
        self._sent.append(answer)
        return answer

    def scatter(self, data: Any) -> Any:
        """TPOT's own rows stay here."""
        return data

    def run(self, function: Any) -> None:
        """TPOT would have the workers collect their garbage."""

    @property
    def scheduler_lost(self) -> bool:
        """Whether the connection to the scheduler broke; the rows went with it, also where it is there again."""
        return bool(self._ground.cancelled())

    def check(self) -> None:
        """Raise `Interrupted` where the scheduler was lost during the search."""
        if self.scheduler_lost:
            raise Interrupted(f"the Dask scheduler at {self._address} was lost in the middle of the search")

    def cancel_pending(self) -> None:
        """The time is up: TPOT shall not wait for what is under way."""
        with contextlib.suppress(Exception):
            self._client.cancel([answer for answer in tuple(self._sent) if not answer.done()], force=True)


class _Answer(Future):  # type: ignore[misc]
    """A loss on its way back. TPOT asks for it once, in the thread of the search."""

    record: Callable[[float], None]

    def result(self, timeout: float | None = None) -> Any:
        scores = super().result(timeout)
        if "INVALID" not in scores:
            self.record(-scores[0])
        return scores


def _hold(ground: EvaluationData) -> EvaluationData:
    return ground


def _in_this_process() -> LocalCluster:
    here = "127.0.0.1:0"  # without an address, both would listen on all of the machine's, the scheduler on port 8787
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=here,
        worker_dashboard_address=here,
        scheduler_kwargs={"dashboard": False},
        silence_logs=50,
        memory_limit=None,
    )


def _connect(address: str) -> Client:
    try:
        client = Client(address, timeout=CONNECT_SECONDS, name="driftloop-tpot")
    except (OSError, ValueError, TypeError) as error:  # the last from an address whose kind needs more, such as TLS
        raise DriftloopError(
            f"No Dask scheduler answers at {address} ({_in_short(error)}): start one with `dask scheduler`, or set "
            "DRIFTLOOP_RETRAIN__DASK to its address, or to nothing for a search on this machine."
        ) from error
    return client


def _check(client: Client, address: str) -> None:
    """Raise `DriftloopError` where there are no workers, or not with our versions."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise DriftloopError(
            f"The Dask scheduler at {address} has no workers: start some with `dask worker {address}`, from the same "
            "image or environment as `driftloop retrain`."
        ) from error
    ours = versions()
    try:
        found = client.run(versions)
    except Exception as error:
        raise _unfit(address, error) from error
    for worker, theirs in found.items():
        if theirs != ours:
            differing = ", ".join(
                f"{name} {theirs[name]} for {ours[name]}" for name in ours if theirs[name] != ours[name]
            )
            raise _unfit(address, ValueError(f"{worker} has {differing}"))


def versions() -> dict[str, str]:
    """What a worker must have as we have it."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "driftloop": driftloop.__version__,
        "scikit-learn": sklearn.__version__,
    }


def _unfit(address: str, error: BaseException | None) -> DriftloopError:
    return DriftloopError(
        f"The Dask cluster at {address} cannot compare driftloop's pipelines ({_in_short(error)}): start its "
        "scheduler and its workers from the same image or environment as `driftloop retrain`."
    )


def _in_short(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _leave(client: Client) -> None:
    with contextlib.suppress(Exception):  # a scheduler that was lost is left as well
        client.close(timeout=CONNECT_SECONDS)
