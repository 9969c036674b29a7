"""The model registry: MLflow runs, model versions, the alias `champion`, lineage."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.models import mlflow_pyfunc
from driftloop.core.models.bundle import ENCODER, BundleError, link, manifest_digest, read_manifest
from driftloop.core.settings import Settings
from driftloop.core.terminal_text import without_password

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

CHAMPION = "champion"
MODEL = "model"
"""Artifact folder of a run: MLflow's description of the model, and the bundle."""


@dataclass(frozen=True)
class CandidateRecord:
    """What is written down about one candidate, promoted or not."""

    name: str
    bundle: Path
    metrics: Mapping[str, float]
    parameters: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    """Alert id, window offsets, dataset revision, parent version, verdict and reason."""


@dataclass(frozen=True)
class Model:
    """A registered version, for people."""

    version: str
    champion: bool
    candidate: str
    trigger: str
    verdict: str
    """promoted, rejected, waiting, rolled-back; empty where nothing was decided."""
    accuracy: float | None
    """On the events that it was compared on; None where it never was."""
    parent: str
    """The champion that it was compared with."""
    restores: str
    reason: str


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What is said of two versions by `Registry.describe`, field by field: name, the first's, the second's."""
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in sorted({*one, *other})]


class Registry:
    """MLflow for one stream: one experiment and one registered model, both named `driftloop-STREAM`."""

    def __init__(self, settings: Settings, *, make: bool = True) -> None:
        """``make`` has experiment and model made where they are missing.

        Raises:
            BundleError: not to be made, they are missing.
            DriftloopError: MLflow does not answer.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._failure: type[Exception] = MlflowException
        self._name = settings.model_name
        self._encoders: dict[str, str] = {}
        """The runs of encoders met so far, by their tag."""
        self._uri = without_password(settings.mlflow)
        mlflow.set_tracking_uri(settings.mlflow)
        self.client = mlflow.MlflowClient(tracking_uri=settings.mlflow)
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

    def register(self, candidacy: CandidateRecord) -> str:
        """Log a candidate as a run with its bundle, register it, and return the new version's number."""
        from mlflow.entities import Metric, Param

        run = self.client.create_run(self._experiment, run_name=candidacy.name, tags=dict(candidacy.tags))
        run_id, now = run.info.run_id, int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(number), now, 0) for key, number in candidacy.metrics.items()],
            params=[Param(key, str(value)[:5000]) for key, value in candidacy.parameters.items()],
        )
        with tempfile.TemporaryDirectory() as scratch:
            mlflow_pyfunc.write_description(Path(scratch) / "MLmodel")
            shutil.copytree(
                candidacy.bundle, Path(scratch) / mlflow_pyfunc.BUNDLE, ignore=lambda *_: [ENCODER], copy_function=link
            )
            mlflow_pyfunc.write_reference(Path(scratch), self._encoder_run(candidacy.bundle))
            self.client.log_artifacts(run_id, scratch, MODEL)
        self.client.set_terminated(run_id)
        version = self.client.create_model_version(
            self._name,
            source=f"runs:/{run_id}/{MODEL}",
            run_id=run_id,
            tags={**candidacy.tags, "digest": manifest_digest(candidacy.bundle)},
            description=candidacy.tags.get("reason", ""),
        )
        return str(version.version)

    def _encoder_run(self, bundle: Path) -> str:
        """The run that holds the encoder of ``bundle``: most models of a stream share one, of 20 MB and more."""
        tag = f"encoder-{read_manifest(bundle).encoder_digest[:24]}"
        if tag in self._encoders:
            return self._encoders[tag]
        known = self.client.get_registered_model(self._name).tags.get(tag)
        if known is not None:
            return self._encoders.setdefault(tag, str(known))
        run = self.client.create_run(self._experiment, run_name="encoder", tags={"encoder": tag})
        self.client.log_artifacts(run.info.run_id, str(bundle / ENCODER), ENCODER)
        self.client.set_terminated(run.info.run_id)
        self.client.set_registered_model_tag(self._name, tag, run.info.run_id)
        return str(run.info.run_id)

    def reject(self, version: str, reason: str) -> None:
        """Mark a version as rejected; it is kept, with its reason."""
        self.set_verdict(version, "rejected", reason)

    def mark_pending(self, version: str, reason: str) -> None:
        """Mark a version as one that waits for a person's word."""
        self.set_verdict(version, "waiting", reason)

    def promote(self, version: str) -> None:
        """Point the alias `champion` at ``version``; servers with webhooks tell their subscribers."""
        self.client.set_registered_model_alias(self._name, CHAMPION, version)

    def set_verdict(self, version: str, verdict: str, reason: str) -> None:
        """Write on a version what became of it: promoted, rejected, waiting or rolled-back."""
        self.client.set_model_version_tag(self._name, version, "verdict", verdict)
        self.client.set_model_version_tag(self._name, version, "reason", reason[:5000])
        self.client.update_model_version(self._name, version, description=reason[:5000])

    def champion(self) -> str | None:
        """The version that the alias points at, None before the first promotion."""
        model = self.client.get_registered_model(self._name)
        found = model.aliases.get(CHAMPION)
        return None if found is None else str(found)

    def tags(self, version: str) -> dict[str, str]:
        """What is written on a version: digest, candidate, trigger, offsets, parent, verdict, reason."""
        return dict(self.client.get_model_version(self._name, version).tags)

    def describe(self, version: str) -> dict[str, str]:
        """All that is written on a version, and the parameters and metrics of the run that made it, by their names.

        Raises:
            BundleError: the registry has no such version.
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
        """Every registered version as MLflow describes it, oldest first."""
        found = self.client.search_model_versions(f"name='{self._name}'", max_results=1000)
        return sorted(found, key=lambda version: int(version.version))

    def models(self) -> list[Model]:
        """Every registered version as people want to see it, oldest first."""
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
        """Fetch the bundle of ``version`` into the folder ``into`` and return the bundle's folder, there as ``name``.

        A bundle or an encoder that is there already is not fetched again; a download cut short leaves nothing behind.

        Raises:
            BundleError: the registry has no such version.
            DriftloopError: it cannot be fetched now.
        """
        if not (version.isascii() and version.isdigit()):  # it becomes a part of a path
            raise BundleError(f"There is no version {version[:40]!r} of {self._name}: versions are numbers.")
        target = into / (name or f"v{version}")
        if target.is_dir():
            return target
        into.mkdir(parents=True, exist_ok=True)
        try:
            run_id = self.client.get_model_version(self._name, version).run_id
            with tempfile.TemporaryDirectory(dir=into) as scratch:
                model = Path(self.client.download_artifacts(run_id, MODEL, scratch))
                encoder = self._encoder(mlflow_pyfunc.read_reference(model), into)
                shutil.copytree(encoder, model / mlflow_pyfunc.BUNDLE / ENCODER, copy_function=link)
                _settle(model / mlflow_pyfunc.BUNDLE, target)
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

    def _encoder(self, run_id: str, into: Path) -> Path:
        """The encoder that a run holds, fetched once into ``into``."""
        target = into / f"encoder-{run_id}"
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=into) as scratch:
                _settle(Path(self.client.download_artifacts(run_id, ENCODER, scratch)), target)
        return target


def _settle(fetched: Path, target: Path) -> None:
    """Give a download its name, unless another process was quicker."""
    try:
        fetched.rename(target)
    except OSError:
        if not target.is_dir():
            raise
