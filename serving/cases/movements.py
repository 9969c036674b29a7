"""Movements of an alert: the segments, classes and words whose shares or errors changed at the onset."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from serving.cases.model import Movement
from serving.cases.untyped import as_list, as_number


def movements(evidence: Mapping[str, Any]) -> list[Movement]:
    """Return the movements of an alert, the most certain first.

    The evidence of a single detector has no ranked movements. There they are computed from its class mixes and words.
    """
    ranked = []
    for one in as_list(evidence.get("moved")):
        with suppress(msgspec.ValidationError):
            ranked.append(msgspec.convert(one, Movement))
    return ranked or [*_class_movements(evidence), *_word_movements(evidence)]


def _class_movements(evidence: Mapping[str, Any]) -> list[Movement]:
    """Return the larger movement of each class, among predictions and labels, largest first."""
    found: dict[str, Movement] = {}
    for key, measure in (("predicted_mix", "predicted"), ("label_mix", "label")):
        old, new = (one if isinstance(one, dict) else {} for one in [*as_list(evidence.get(key)), {}, {}][:2])
        for name in {*old, *new}:
            was, now = as_number(old.get(name)) or 0.0, as_number(new.get(name)) or 0.0
            if name not in found or abs(now - was) > _size(found[name]):
                found[name] = Movement(what="class", name=name, measure=measure, before=was, after=now)
    return sorted(found.values(), key=lambda movement: (-_size(movement), movement.name))


def _word_movements(evidence: Mapping[str, Any]) -> list[Movement]:
    """Return the words of an alert, whose shares are unknown."""
    return [
        Movement(what="word", name=str(word), measure="share", before=None, after=None)
        for word in as_list(evidence.get("words"))
    ]


def _size(movement: Movement) -> float:
    return abs((movement.after or 0.0) - (movement.before or 0.0))
