"""The tiny encoder and the made-up texts of the contract checks, and a tiny classifier in the Hub's layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.expert_features import FeatureMap
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.onnx_export import exported_classifier
from driftloop.core.models.sample_texts import FILLER, HOSTILE, LABELS, WORDS, sentences
from retrain.mixture.learner import DEFAULTS, MixtureLearner, MixtureOptions, make_rows
from retrain.testing.tiny_encoder import KEY, MAX_TOKENS, encoder, encoder_folder, root, save, tokenizer, window
from retrain.training_window import TrainingWindow

__all__ = [
    "FILLER",
    "HOSTILE",
    "KEY",
    "LABELS",
    "MAX_TOKENS",
    "WORDS",
    "classifier",
    "classifier_folder",
    "encoder",
    "encoder_folder",
    "mixture",
    "root",
    "save",
    "sentences",
    "tokenizer",
    "window",
]


@cache
def classifier_folder() -> Path:
    """The tiny classifier in the Hub's layout."""
    return save(root() / "classifier", classifier=True)


@cache
def classifier() -> OnnxEncoder:
    """The tiny classifier as a graph with logits, in fp32."""
    from driftloop.core.settings import ModelSettings

    model = ModelSettings(max_tokens=MAX_TOKENS, quantise=False)
    return exported_classifier(str(classifier_folder()), root() / "classifier-graph", model)[0]


def mixture(rows: TrainingWindow, options: MixtureOptions = DEFAULTS) -> tuple[MixtureLearner, MixtureHead]:
    """A mixture that has learnt the rows, and the head with it."""
    tokenise = encoder().tokenise
    tokens = tokenise(rows.texts)
    feature_map = FeatureMap.fit(rows.embeddings, tokens)
    features = feature_map.transform(rows.embeddings, tokens)
    learner = MixtureLearner.train(make_rows(features, rows.labels, range(len(rows))), options)
    return learner, MixtureHead(learner.mixture, feature_map, tokenise)
