"""Search space of TPOT: an optional scaler, an optional reduction, and a classifier with probabilities.

Every class is scikit-learn's own, so that skops can store it and a bundle may contain it. Every class fits a few
thousand rows of a few hundred columns in seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_selection import SelectPercentile
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import Normalizer, QuantileTransformer, StandardScaler

BALANCED = "balanced"


def search_space(rows: int, columns: int, seed: int) -> Any:
    """Return TPOT's search space for dense features.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        seed: Seed of the estimators.
    """
    from tpot.search_spaces.pipelines import ChoicePipeline, SequentialPipeline

    scalers = ChoicePipeline([_node(kind, {}) for kind in (StandardScaler, Normalizer)])
    quantiles = _node(QuantileTransformer, {"n_quantiles": min(rows // 2, 200), "output_distribution": "normal"})
    max_components = max(2, min(columns, rows // 4) - 1)
    reductions = ChoicePipeline(
        [
            _node(PCA, {"n_components": ("int-log", 2, max_components), "whiten": (True, False), "random_state": seed}),
            _node(SelectPercentile, {"percentile": ("int", 10, 90)}),
        ]
    )
    # A radial basis function of some rows: the linear classifier after it bends, and fits in a tenth of a second.
    kernel = _node(
        Nystroem,
        {"gamma": ("float-log", 0.1, 10.0), "n_components": ("int-log", 50, min(rows // 2, 500)), "random_state": seed},
    )
    classifiers = ChoicePipeline(_classifiers(rows, seed))
    return ChoicePipeline(
        [
            classifiers,
            SequentialPipeline([scalers, classifiers]),
            SequentialPipeline([reductions, classifiers]),
            SequentialPipeline([scalers, reductions, classifiers]),
            SequentialPipeline([quantiles, reductions, classifiers]),
            SequentialPipeline([kernel, ChoicePipeline(_linear(seed))]),
        ]
    )


def _classifiers(rows: int, seed: int) -> list[Any]:
    return [
        *_linear(seed),
        _node(
            ExtraTreesClassifier,
            {
                "n_estimators": 100,
                "min_samples_leaf": ("int", 1, 10),
                "max_features": ("float", 0.02, 0.3),
                "class_weight": ("none", BALANCED),
                "random_state": seed,
            },
        ),
        _node(
            KNeighborsClassifier,
            {"n_neighbors": ("int-log", 3, max(4, min(100, rows // 4))), "weights": ("uniform", "distance")},
        ),
        _node(
            MLPClassifier,
            {
                "hidden_layer_sizes": ("int-log", 16, 128),
                "alpha": ("float-log", 1e-4, 10.0),
                "learning_rate_init": ("float-log", 3e-4, 1e-2),
                "max_iter": ("int", 5, 40),
                "random_state": seed,
            },
        ),
    ]


def _linear(seed: int) -> list[Any]:
    return [
        _node(
            LogisticRegression,
            {"C": ("float-log", 1e-3, 100.0), "class_weight": ("none", BALANCED), "max_iter": 200, "tol": 1e-3},
        ),
        _node(LinearDiscriminantAnalysis, {"solver": "lsqr", "shrinkage": ("float", 0.0, 1.0)}),
        _node(
            SGDClassifier,
            {
                "loss": ("log_loss", "modified_huber"),
                "alpha": ("float-log", 1e-5, 1e-1),
                "penalty": ("l2", "elasticnet"),
                "average": True,
                "random_state": seed,
            },
        ),
    ]


def _node(kind: type, parameters: dict[str, Any]) -> Any:
    """Return one estimator. A tuple is a range (`int`, `float`, `-log`) or the choices; other values are fixed."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer
    from tpot.search_spaces.nodes import EstimatorNode

    ranges: dict[str, Any] = {"int": Integer, "float": Float}
    fixed = {name: value for name, value in parameters.items() if not isinstance(value, tuple)}
    space = ConfigurationSpace()
    for name, value in parameters.items():
        if not isinstance(value, tuple):
            continue
        make = ranges.get(str(value[0]).removesuffix("-log"))
        if make is None:
            space.add(Categorical(name, list(value)))
        elif value[1] < value[2]:
            space.add(make(name, (value[1], value[2]), log=value[0].endswith("-log")))
        else:
            fixed[name] = value[1]
    return EstimatorNode(kind, space, _Parser(fixed))


class _Parser:
    """Converts a sampled configuration to the estimator's arguments, in plain Python types."""

    def __init__(self, fixed: dict[str, Any]) -> None:
        self.fixed = fixed

    def __call__(self, sampled: dict[str, Any]) -> dict[str, Any]:
        arguments = {name: value.item() if isinstance(value, np.generic) else value for name, value in sampled.items()}
        return {name: None if value == "none" else value for name, value in arguments.items()} | self.fixed
