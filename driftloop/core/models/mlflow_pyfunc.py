"""MLflow flavour of bundles, for ``mlflow.pyfunc.load_model("models:/driftloop-STREAM@champion")``.

`write_description` writes an MLmodel file beside the bundle. MLflow shows its signature and calls `_load_pyfunc`, as
its documentation of custom flavours requires.
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
from driftloop.core.settings_source import load

BUNDLE = "bundle"
REFERENCE = "encoder.run"
"""File beside the bundle with the id of the run that holds the encoder, which several models share."""
TEXT = "text"


def write_description(path: Path) -> None:
    """Write the MLmodel file ``path``. Its input is text, its output a label with its probability."""
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
    """Model with the interface that MLflow calls."""

    def __init__(self, model: BundleClassifier) -> None:
        self._model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Classify n texts.

        Args:
            model_input: A pandas frame with a column `text`, or a list of texts.
            params: Ignored.

        Returns:
            A pandas frame with the columns `label` and `probability` and n rows.
        """
        import pandas

        column: Sequence[Any] = model_input[TEXT] if isinstance(model_input, pandas.DataFrame) else model_input
        answers = self._model.predict([str(text) for text in column])
        best = answers.probabilities.max(axis=1) if len(column) else np.zeros(0)
        return pandas.DataFrame({"label": answers.labels, "probability": best.astype(np.float64)})


def write_reference(model: Path, run_id: str) -> None:
    """Write the reference to the run that holds a model's encoder.

    Args:
        model: Folder of the model.
        run_id: Id of the run in MLflow.
    """
    (model / REFERENCE).write_text(run_id + "\n", encoding="ascii")


def read_reference(model: Path) -> str:
    """Return the run id that `write_reference` wrote."""
    return (model / REFERENCE).read_text(encoding="ascii").strip()


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle at ``path`` with its encoder, and verify it with the signing key of the settings."""
    import mlflow

    bundle = Path(path)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / BUNDLE
        shutil.copytree(bundle, whole, copy_function=link_or_copy)
        run_id = read_reference(bundle.parent)
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=ENCODER, dst_path=str(whole))
        return BundleModel(load_bundle(whole, load().signing_key))
