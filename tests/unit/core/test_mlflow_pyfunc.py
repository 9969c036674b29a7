"""A bundle as an MLflow model: of this version, and of one whose loader module had another name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from driftloop.core.models import mlflow_pyfunc
from driftloop.core.models.bundle import ENCODER, Lineage, write_bundle
from driftloop.core.settings import Settings
from retrain.candidates.linear import learn
from tests import tiny

BEFORE = "driftloop.classifiers.pyfunc"
"""Loader module in the MLmodel files of version 0.1."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model's folder as the registry writes it, with its encoder in a run of a local MLflow store."""
    folder = tmp_path_factory.mktemp("mlflow")
    bundle, key = folder / mlflow_pyfunc.BUNDLE, Settings().signing_key
    head, _ = learn(tiny.window(80))
    write_bundle(
        bundle, encoder=tiny.encoder(), head=head, labels=tiny.LABELS, lineage=Lineage(candidate="test"), key=key
    )
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("test", artifact_location=(folder / "artifacts").as_uri()))
    client.log_artifacts(run.info.run_id, str(bundle / ENCODER), ENCODER)
    shutil.rmtree(bundle / ENCODER)
    mlflow_pyfunc.write_description(folder / "MLmodel")
    mlflow_pyfunc.write_reference(folder, run.info.run_id)
    yield folder
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("loader", [mlflow_pyfunc.__name__, BEFORE])
def test_mlflow_loads_current_and_earlier_loader_name(model: Path, loader: str) -> None:
    description = model / "MLmodel"
    content = yaml.safe_load(description.read_text())
    content["flavors"]["python_function"]["loader_module"] = loader
    description.write_text(yaml.safe_dump(content))
    rows = tiny.window(20)
    answers = mlflow.pyfunc.load_model(str(model)).predict([{"text": text} for text in rows.texts])
    assert list(answers["label"]) == list(rows.labels)
