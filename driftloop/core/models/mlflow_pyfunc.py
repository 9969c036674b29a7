"""A bundle as an MLflow model: ``mlflow.pyfunc.load_model("models:/driftloop-STREAM@champion")`` answers texts.

MLflow finds `write_description`'s MLmodel file beside the bundle, shows its signature, and calls `_load_pyfunc`, as
its manual on custom flavours asks for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import driftloop
from driftloop.core.files import link_or_copy
from driftloop.core.models.bundle import ENCODER, BundleClassifier, load_bundle
from driftloop.core.settings import load

BUNDLE = "bundle"
REFERENCE = "encoder.run"
"""File beside the bundle: the id of the run that holds its encoder, which other models share."""
TEXT = "text"


def write_description(path: Path) -> None:
    """Write the MLmodel file ``path``: text in; label and its probability out."""
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, TEXT)]),
        outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")]),
    )
    model = Model(signature=signature, metadata={"driftloop": driftloop.__version__})
    model.add_flavor("python_function", loader_module=__name__, data=BUNDLE)
    model.save(str(path))


class BundleModel:
    """What MLflow calls: a frame with a column `text`, or a list of texts, to labels and probabilities."""

    def __init__(self, model: BundleClassifier) -> None:
        self._model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A pandas frame with the columns `label` and `probability`, a row for each of the n texts."""
        import pandas

        column: Sequence[Any] = model_input[TEXT] if isinstance(model_input, pandas.DataFrame) else model_input
        said = self._model.predict([str(text) for text in column])
        best = said.probabilities.max(axis=1) if len(column) else np.zeros(0)
        return pandas.DataFrame({"label": said.labels, "probability": best.astype(np.float64)})


def write_reference(model: Path, run_id: str) -> None:
    """Write into the folder ``model`` which run holds the encoder of its bundle."""
    (model / REFERENCE).write_text(run_id + "\n", encoding="ascii")


def read_reference(model: Path) -> str:
    """The run that `write_reference` named."""
    return (model / REFERENCE).read_text(encoding="ascii").strip()


def _load_pyfunc(path: str) -> BundleModel:
    """The bundle at ``path`` with its encoder, verified with the signing key of the settings."""
    import mlflow

    bundle = Path(path)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / BUNDLE
        shutil.copytree(bundle, whole, copy_function=link_or_copy)
        run_id = read_reference(bundle.parent)
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=ENCODER, dst_path=str(whole))
        return BundleModel(load_bundle(whole, load().signing_key))
