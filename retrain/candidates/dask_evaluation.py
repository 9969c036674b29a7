"""Evaluation of TPOT's pipelines in a thread of this process, or on the workers of a Dask cluster.

Both ways use the same code: the rows are sent once, then each unfitted pipeline is sent and its loss comes back.
Features and labels leave this process; the texts and the signing key do not. Scheduler and workers import this module,
so they need driftloop's own environment.
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
from retrain.candidates import training_rows
from retrain.candidates.base import Interrupted

CONNECT_SECONDS = 5.0
"""Timeout of connecting to a scheduler, of waiting for its first worker, and of disconnecting."""

OnScored = Callable[[Any, float], None]
"""Takes a pipeline and its log loss, in nats per row."""


@dataclass(frozen=True)
class EvaluationData:
    """Rows and folds that pipelines are compared on."""

    features: NDArray[Any]
    """Dense, shape (n, d + w)."""
    labels: NDArray[Any]
    """Shape (n,)."""
    folds: list[training_rows.Fold]
    loss_limits: list[float]
    """Limit of each fold, in nats per row. A pipeline with a greater loss is not tried on the remaining folds."""
    given: NDArray[np.float64] | None = None
    """Probability that a mixture gave to each label, shape (n,); see `TrainingWindow.given`. `None`: there is none."""


def minus_log_loss(pipeline: Any, data: EvaluationData, seconds: float) -> list[Any]:
    """Return the score of a pipeline as TPOT expects it: minus its mean log loss, or `INVALID` if it cannot be fitted.

    It runs on a worker, whose clock may differ from that of the search.

    Args:
        pipeline: Unfitted pipeline.
        data: Rows and folds.
        seconds: Time that is left, on the worker's own clock.
    """
    deadline = time.monotonic() + seconds
    # Not restored: restoring the limit would lift it for the pipeline in the worker's next thread.
    threadpool_limits(1)
    try:
        with warnings.catch_warnings(action="ignore"):
            losses = training_rows.fold_losses(
                lambda: clone(pipeline), data.features, data.labels, data.folds, data.loss_limits, deadline, data.given
            )
    except Exception:
        return ["INVALID"]
    return [-float(np.mean(losses))]


@contextlib.contextmanager
def open_workers(address: str, data: EvaluationData, deadline: float, record: OnScored) -> Iterator[PipelineWorkers]:
    """Connect to the workers of a Dask scheduler, or start one in this process, and send the rows.

    Args:
        address: Address of the scheduler; empty for this process.
        data: Rows and folds.
        deadline: Time of `time.monotonic` at which pending evaluations are cancelled.
        record: Called with each pipeline and its loss.

    Raises:
        DriftloopError: No scheduler answers, it has no workers, or they cannot run driftloop's pipelines.
    """
    with contextlib.ExitStack() as stack:
        # Threads of a BLAS spin, and cost more than they give on a few thousand rows. The limit ends with the search.
        stack.enter_context(threadpool_limits(1))
        client = _connect(address) if address else Client(stack.enter_context(_local_cluster()))
        stack.callback(_disconnect, client)
        if address:
            _check_workers(client, address)
        found = PipelineWorkers(client, address, data, deadline, record)
        timer = threading.Timer(deadline - time.monotonic(), found.cancel_pending)
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        yield found


class PipelineWorkers:
    """The Dask client that TPOT uses; it needs only `cluster.workers`, `submit`, `scatter` and `run` of a client.

    TPOT itself would send each individual with its search space, and would return the losses only at its end.

    Args:
        client: Client of the scheduler.
        address: Address of the scheduler, for error messages.
        data: Rows and folds, which are sent to the workers.
        deadline: Time of `time.monotonic` after which nothing is submitted.
        record: Called with each pipeline and its loss.

    Raises:
        DriftloopError: The workers cannot import driftloop.
    """

    def __init__(self, client: Client, address: str, data: EvaluationData, deadline: float, record: OnScored) -> None:
        self._client = client
        self._address = address
        self._deadline = deadline
        self._record = record
        self._sent: list[Future] = []
        self.cluster = self
        # A result and not scattered data: it is computed again if the workers that hold it are lost.
        self._data = client.submit(_identity, data, pure=False)
        with contextlib.suppress(TimeoutError):  # `submit` reports the timeout
            wait(self._data, timeout=max(deadline - time.monotonic(), 0.1))
        if self._data.status == "error":
            raise _unusable_cluster(address, self._data.exception())

    @property
    def workers(self) -> range:
        """Return one number for each worker thread; TPOT counts them before each generation."""
        return range(max(sum(self._client.nthreads().values()), 1))

    def submit(self, function: Any, individual: Any, *args: Any, **options: Any) -> Future:
        """Submit one individual for evaluation; TPOT's own evaluation function is not used.

        Args:
            function: Not used.
            individual: TPOT's individual.
            *args: Not used.
            **options: Not used.

        Raises:
            TimeoutError: The time of the search is up, or its cluster is lost. This ends TPOT's evolution.
        """
        left = self._deadline - time.monotonic()
        if left <= 0 or self.scheduler_lost:
            raise TimeoutError("the search is over")
        pipeline = individual.export_pipeline()
        sent = self._client.submit(minus_log_loss, pipeline, self._data, left, pure=False)
        answer = _LossFuture(sent.key, self._client)
        answer.record = partial(self._record, pipeline)
        self._sent.append(answer)
        return answer

    def scatter(self, data: Any) -> Any:
        """Return TPOT's own rows unchanged; they are not sent."""
        return data

    def run(self, function: Any) -> None:
        """Do nothing; TPOT would have the workers collect their garbage."""

    @property
    def scheduler_lost(self) -> bool:
        """Return True if the connection to the scheduler broke; the rows are lost with it, also if it comes back."""
        return bool(self._data.cancelled())

    def check(self) -> None:
        """Check the connection to the scheduler.

        Raises:
            Interrupted: The connection was lost during the search.
        """
        if self.scheduler_lost:
            raise Interrupted(f"the Dask scheduler at {self._address} was lost in the middle of the search")

    def cancel_pending(self) -> None:
        """Cancel the pending evaluations, so that TPOT does not wait for them after the deadline."""
        with contextlib.suppress(Exception):
            self._client.cancel([answer for answer in tuple(self._sent) if not answer.done()], force=True)


class _LossFuture(Future):  # type: ignore[misc]
    """A loss under evaluation. TPOT asks for it once, in the thread of the search."""

    record: Callable[[float], None]

    def result(self, timeout: float | None = None) -> Any:
        scores = super().result(timeout)
        if "INVALID" not in scores:
            self.record(-scores[0])
        return scores


def versions() -> dict[str, str]:
    """Return the versions that a worker must share with this process."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "driftloop": driftloop.__version__,
        "scikit-learn": sklearn.__version__,
    }


def _identity(data: EvaluationData) -> EvaluationData:
    return data


def _local_cluster() -> LocalCluster:
    loopback = "127.0.0.1:0"  # the default would listen on all addresses of the machine, the scheduler on port 8787
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=loopback,
        worker_dashboard_address=loopback,
        scheduler_kwargs={"dashboard": False},
        silence_logs=50,
        memory_limit=None,
    )


def _connect(address: str) -> Client:
    try:
        client = Client(address, timeout=CONNECT_SECONDS, name="driftloop-tpot")
    except (OSError, ValueError, TypeError) as error:  # TypeError: an address such as tls:// needs more settings
        raise DriftloopError(
            f"No Dask scheduler answers at {address} ({_first_words(error)}). Start one with `dask scheduler`, or set "
            "DRIFTLOOP_RETRAIN__DASK to its address, or to nothing for a search on this machine."
        ) from error
    return client


def _check_workers(client: Client, address: str) -> None:
    """Raise `DriftloopError` if there are no workers, or if their versions differ from this process."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise DriftloopError(
            f"The Dask scheduler at {address} has no workers. Start some with `dask worker {address}`, from the same "
            "image or environment as `driftloop retrain`."
        ) from error
    ours = versions()
    try:
        found = client.run(versions)
    except Exception as error:
        raise _unusable_cluster(address, error) from error
    for worker, theirs in found.items():
        if theirs != ours:
            differing = ", ".join(
                f"{name} {theirs[name]} for {ours[name]}" for name in ours if theirs[name] != ours[name]
            )
            raise _unusable_cluster(address, ValueError(f"{worker} has {differing}"))


def _unusable_cluster(address: str, error: BaseException | None) -> DriftloopError:
    return DriftloopError(
        f"The Dask cluster at {address} cannot compare driftloop's pipelines ({_first_words(error)}). Start its "
        "scheduler and its workers from the same image or environment as `driftloop retrain`."
    )


def _first_words(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _disconnect(client: Client) -> None:
    with contextlib.suppress(Exception):  # the scheduler may be lost
        client.close(timeout=CONNECT_SECONDS)
