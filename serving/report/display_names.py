"""Display names of candidates, kinds of personal data and kinds of change."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import formatting

FAMILIES = {
    "linear": "logistic regression over embeddings, words and word pairs (scikit-learn), fitted in seconds",
    "mixture": "a mixture of experts that learns from every label: softmax regressions on windows of several lengths",
    "tpot": "AutoML: TPOT's genetic search for a pipeline over the embeddings, with a time limit",
    "finetune": "the Hugging Face encoder itself, fine-tuned with transformers' Trainer and exported to ONNX",
    "archive": "a model of an earlier concept, tried again before a new one is trained",
    "hub": "a ready-made classifier from Hugging Face",
}
"""Description of each candidate."""
SHORT = {"tpot": "TPOT", "finetune": "fine-tuning"}
"""Short names that differ from the candidate's name."""
PERSONAL = {"handle": "account names", "email": "e-mail addresses", "phone": "phone numbers", "link": "links"}
"""Kinds of personal data that are masked."""
INJECTED = {
    "order": "texts from another source",
    "prior": "another mix of labels",
    "topic": "a topic that was held back before",
    "label-swap": "labels that change their meaning",
    "vocabulary": "words replaced by others",
    "noise": "noise in the texts",
}
"""Kinds of change that a scenario injects."""
KINDS = {
    "covariate": "the texts changed",
    "label": "the mix of labels changed",
    "concept": "the meaning of labels changed",
}
"""Kinds of drift in an alert."""


def short_name(candidate: str) -> str:
    """Return the short name of a candidate."""
    return SHORT.get(candidate) or formatting.safe_text(candidate, 24)


def description(candidate: str) -> str:
    """Return the description of a candidate."""
    return FAMILIES.get(candidate) or f"{formatting.safe_text(candidate, 40)}, a candidate supplied by the user"


def masked_kinds(kinds: Sequence[str]) -> str:
    """Return the kinds of masked personal data as an enumeration; empty if nothing was masked."""
    return formatting.join_words([PERSONAL.get(kind) or formatting.safe_text(kind, 20) for kind in kinds])


def segment(name: str) -> str:
    """Return the name of a segment, also of events without one."""
    return formatting.safe_text(name, 40) if name else "(no segment)"
