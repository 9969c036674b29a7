"""Names for people: candidates, kinds of personal data, kinds of change."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import formatting

FAMILIES = {
    "linear": "logistic regression over the embeddings and over words and word pairs (scikit-learn), fitted within "
    "seconds",
    "tpot": "AutoML: TPOT's genetic search for a pipeline over the embeddings, under a hard time limit",
    "finetune": "the Hugging Face encoder itself, trained further with transformers' Trainer, then exported to ONNX",
    "archive": "a model of an earlier concept, tried again before anything is trained",
    "hub": "a ready-made classifier of Hugging Face",
}
"""What each candidate is."""
SHORT = {"tpot": "TPOT", "finetune": "fine-tuning"}
PERSONAL = {"handle": "account names", "email": "e-mail addresses", "phone": "phone numbers", "link": "links"}
INJECTED = {
    "order": "texts from another source",
    "prior": "another mix of labels",
    "topic": "a topic that was held back",
    "label-swap": "labels that change their meaning",
    "vocabulary": "words replaced by others",
    "noise": "noise in the texts",
}
KINDS = {
    "covariate": "the texts changed",
    "label": "the mix of labels changed",
    "concept": "the labels changed their meaning",
}
"""Of drift, as an alert names them."""


def called(candidate: str) -> str:
    """A candidate's short name."""
    return SHORT.get(candidate) or formatting.shown(candidate, 24)


def family(candidate: str) -> str:
    """What a candidate is."""
    return FAMILIES.get(candidate) or f"{formatting.shown(candidate, 40)}, a candidate of the user's own"


def masked(kinds: Sequence[str]) -> str:
    """The kinds of personal data that were taken out."""
    return formatting.listed([PERSONAL.get(kind) or formatting.shown(kind, 20) for kind in kinds])


def segment(name: str) -> str:
    """A segment's name, which may be empty."""
    return formatting.shown(name, 40) if name else "(without a segment)"
