"""A bundle as an MLflow model: ``mlflow.pyfunc.load_model("models:/driftloop-STREAM@champion")`` answers texts.

MLflow finds `write_description`'s MLmodel file beside the bundle, shows its signature, and calls `_load_pyfunc`, as
its manual on custom flavours asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import driftloop
from driftloop.classifiers.bundle import BundleClassifier, load_bundle
from driftloop.settings import load

BUNDLE = "bundle"
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


class Answers:
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


def _load_pyfunc(path: str) -> Answers:
    """The bundle at ``path``, verified with the signing key of the settings."""
    return Answers(load_bundle(Path(path), load().signing_key))
