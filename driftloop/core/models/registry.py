"""Model registry in MLflow: runs, model versions, lineage and the alias `champion`."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.files import link_or_copy
from driftloop.core.models import mlflow_pyfunc
from driftloop.core.models.manifest import ENCODER, BundleError, manifest_digest, read_manifest
from driftloop.core.settings import Settings
from driftloop.core.terminal_text import without_password

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

CHAMPION = "champion"
SOON = 0.05
"""Seconds in which MLflow usually answers."""
MODEL = "model"
"""Artifact folder of a run, with MLflow's description of the model and the bundle."""


@dataclass(frozen=True)
class CandidateRecord:
    """Record of one candidate, promoted or not."""

    name: str
    bundle: Path
    metrics: Mapping[str, float]
    parameters: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    """Alert id, window offsets, dataset revision, parent version, verdict and reason."""


@dataclass(frozen=True)
class Model:
    """A registered version, as the user interfaces show it."""

    version: str
    champion: bool
    candidate: str
    trigger: str
    verdict: str
    """`promoted`, `rejected`, `waiting` or `rolled-back`; empty before a decision."""
    accuracy: float | None
    """Accuracy on the events of its comparison; `None` if it was never compared."""
    parent: str
    """Version of the champion that it was compared with."""
    restores: str
    """Version whose bundle it has again; empty if the bundle is new."""
    reason: str


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Compare two results of `Registry.describe` field by field.

    Args:
        one: Description of the first version.
        other: Description of the second version.

    Returns:
        Rows of (field, value of the first, value of the second). A missing value is "–".
    """
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in sorted({*one, *other})]


class Registry:
    """MLflow for one stream: one experiment and one registered model, both named `driftloop-STREAM`.

    Args:
        settings: Settings with the stream and the address of MLflow.
        make: Create the experiment and the model if they are missing.

    Raises:
        BundleError: The model is missing and ``make`` is `False`.
        DriftloopError: MLflow does not answer.
    """

    def __init__(self, settings: Settings, *, make: bool = True) -> None:
        import mlflow
        from mlflow.exceptions import MlflowException

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._failure: type[Exception] = MlflowException
        self._name = settings.model_name
        self._encoder_runs: dict[str, str] = {}  # run id of each known encoder, by its tag
        self._uri = without_password(settings.mlflow)
        mlflow.set_tracking_uri(settings.mlflow)
        self.client: Any = mlflow.MlflowClient(tracking_uri=settings.mlflow)
        try:
            if not make and not self.client.search_registered_models(filter_string=f"name='{self._name}'"):
                raise BundleError(
                    f"The registry at {self._uri} has no model {self._name}: correct --stream or --mlflow."
                )
            found = self.client.get_experiment_by_name(self._name)
            self._experiment = found.experiment_id if found else self.client.create_experiment(self._name)
            if not self.client.search_registered_models(filter_string=f"name='{self._name}'"):
                self.client.create_registered_model(self._name)
        except self._failure as error:
            why = str(error).replace(settings.mlflow, "it").splitlines()[0][:160]
            raise DriftloopError(
                f"No MLflow answers at {self._uri} ({why}): start one, or set DRIFTLOOP_MLFLOW to its address."
            ) from error

    def keep_busy(self, meanwhile: Callable[[], None]) -> None:
        """Call a function again and again while MLflow takes long to answer.

        Args:
            meanwhile: The function. It does not use this registry.
        """
        self.client = _BusyClient(self.client, meanwhile)

    def register(self, candidate: CandidateRecord) -> str:
        """Log a candidate as a run with its bundle, register it, and return the number of the new version."""
        from mlflow.entities import Metric, Param

        run = self.client.create_run(self._experiment, run_name=candidate.name, tags=dict(candidate.tags))
        run_id, now = run.info.run_id, int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(number), now, 0) for key, number in candidate.metrics.items()],
            params=[Param(key, str(value)[:5000]) for key, value in candidate.parameters.items()],
        )
        with tempfile.TemporaryDirectory() as scratch:
            mlflow_pyfunc.write_description(Path(scratch) / "MLmodel")
            shutil.copytree(
                candidate.bundle,
                Path(scratch) / mlflow_pyfunc.BUNDLE,
                ignore=lambda *_: [ENCODER],
                copy_function=link_or_copy,
            )
            mlflow_pyfunc.write_reference(Path(scratch), self._encoder_run(candidate.bundle))
            self.client.log_artifacts(run_id, scratch, MODEL)
        self.client.set_terminated(run_id)
        version = self.client.create_model_version(
            self._name,
            source=f"runs:/{run_id}/{MODEL}",
            run_id=run_id,
            tags={**candidate.tags, "digest": manifest_digest(candidate.bundle)},
            description=candidate.tags.get("reason", ""),
        )
        return str(version.version)

    def _encoder_run(self, bundle: Path) -> str:
        """Return the run that holds the encoder of ``bundle``, and log the encoder if no run has it yet.

        Most models of a stream share one encoder of 20 MB or more, so it is stored once.
        """
        tag = f"encoder-{read_manifest(bundle).encoder_digest[:24]}"
        if tag in self._encoder_runs:
            return self._encoder_runs[tag]
        known = self.client.get_registered_model(self._name).tags.get(tag)
        if known is not None:
            return self._encoder_runs.setdefault(tag, str(known))
        run = self.client.create_run(self._experiment, run_name="encoder", tags={"encoder": tag})
        self.client.log_artifacts(run.info.run_id, str(bundle / ENCODER), ENCODER)
        self.client.set_terminated(run.info.run_id)
        self.client.set_registered_model_tag(self._name, tag, run.info.run_id)
        return str(run.info.run_id)

    def set_champion(self, version: str) -> None:
        """Point the alias `champion` at ``version``; a server with webhooks notifies its subscribers."""
        self.client.set_registered_model_alias(self._name, CHAMPION, version)

    def set_verdict(self, version: str, verdict: str, reason: str) -> None:
        """Tag a version with its verdict.

        Args:
            version: Registered version.
            verdict: `promoted`, `rejected`, `waiting` or `rolled-back`.
            reason: Sentence for the description; it is cut to 5,000 characters.
        """
        self.client.set_model_version_tag(self._name, version, "verdict", verdict)
        self.client.set_model_version_tag(self._name, version, "reason", reason[:5000])
        self.client.update_model_version(self._name, version, description=reason[:5000])

    def champion(self) -> str | None:
        """Return the version that the alias points at; `None` before the first promotion."""
        model = self.client.get_registered_model(self._name)
        found = model.aliases.get(CHAMPION)
        return None if found is None else str(found)

    def tags(self, version: str) -> dict[str, str]:
        """Return the tags of a version: digest, candidate, trigger, offsets, parent, verdict, reason."""
        return dict(self.client.get_model_version(self._name, version).tags)

    def describe(self, version: str) -> dict[str, str]:
        """Return the tags of a version, and the parameters and metrics of its run, by name.

        Raises:
            BundleError: The registry has no such version.
        """
        try:
            found = self.client.get_model_version(self._name, version)
        except self._failure as error:
            raise BundleError(f"There is no version {version[:40]!r} in the registry.") from error
        known = {**found.tags}
        if found.run_id:
            data = self.client.get_run(found.run_id).data
            known |= {**data.params, **{name: f"{number:.6g}" for name, number in data.metrics.items()}}
        return {name: str(value) for name, value in sorted(known.items())}

    def versions(self) -> list[Any]:
        """Return every registered version as MLflow describes it, oldest first."""
        found = self.client.search_model_versions(f"name='{self._name}'", max_results=1000)
        return sorted(found, key=lambda version: int(version.version))

    def models(self) -> list[Model]:
        """Return every registered version as the user interfaces show it, oldest first."""
        champion = self.champion()
        return [self._model(one, champion) for one in self.versions()]

    def _model(self, one: Any, champion: str | None) -> Model:
        accuracy = self.client.get_run(one.run_id).data.metrics.get("accuracy") if one.run_id else None
        return Model(
            version=str(one.version),
            champion=str(one.version) == champion,
            candidate=one.tags.get("candidate", ""),
            trigger=one.tags.get("trigger", ""),
            verdict=one.tags.get("verdict", ""),
            accuracy=None if accuracy is None else round(float(accuracy), 4),
            parent=one.tags.get("parent_version", ""),
            restores=one.tags.get("restores", ""),
            reason=one.tags.get("reason", ""),
        )

    def download(self, version: str, into: Path, name: str = "") -> Path:
        """Fetch the bundle of a version.

        A bundle or an encoder that exists in ``into`` is not fetched again. An interrupted download leaves no files.

        Args:
            version: Registered version.
            into: Folder for bundles and encoders; it is created if missing.
            name: Name of the bundle's folder; empty for `v` and the version.

        Returns:
            The bundle's folder.

        Raises:
            BundleError: The registry has no such version.
            DriftloopError: The bundle cannot be fetched now.
        """
        if not (version.isascii() and version.isdigit()):  # it becomes a part of a path
            raise BundleError(f"There is no version {version[:40]!r} of {self._name}: a version is a number.")
        target = into / (name or f"v{version}")
        if target.is_dir():
            return target
        into.mkdir(parents=True, exist_ok=True)
        try:
            run_id = self.client.get_model_version(self._name, version).run_id
            with tempfile.TemporaryDirectory(dir=into) as scratch:
                model = Path(self.client.download_artifacts(run_id, MODEL, scratch))
                encoder = self._download_encoder(mlflow_pyfunc.read_reference(model), into)
                shutil.copytree(encoder, model / mlflow_pyfunc.BUNDLE / ENCODER, copy_function=link_or_copy)
                _move_unless_present(model / mlflow_pyfunc.BUNDLE, target)
        except self._failure as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                raise BundleError(
                    f"The registry at {self._uri} has no version {version} of {self._name}: register the model there."
                ) from error
            raise DriftloopError(
                f"Version {version} of {self._name} could not be fetched from {self._uri}: "
                f"{str(error).splitlines()[0][:160]}."
            ) from error
        return target

    def _download_encoder(self, run_id: str, into: Path) -> Path:
        """Return the folder of the encoder that a run holds, fetched once into ``into``."""
        target = into / f"encoder-{run_id}"
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=into) as scratch:
                _move_unless_present(Path(self.client.download_artifacts(run_id, ENCODER, scratch)), target)
        return target


class _BusyClient:
    """MLflow client whose calls run in a thread, with another function called until they have an answer."""

    def __init__(self, client: Any, meanwhile: Callable[[], None]) -> None:
        self._client = client
        self._meanwhile = meanwhile
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._client, name))

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        answer = self._pool.submit(function, *arguments, **named)
        wait([answer], SOON)
        while not answer.done():
            self._meanwhile()
        return answer.result()


def _move_unless_present(fetched: Path, target: Path) -> None:
    """Rename a download to ``target``, unless another process has created that folder."""
    try:
        fetched.rename(target)
    except OSError:
        if not target.is_dir():
            raise
