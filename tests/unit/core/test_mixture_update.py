"""Updates of a mixture: they change what they name, and nothing that was altered is applied."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load, save

from driftloop.core import messages
from driftloop.core.messages import MixtureUpdate
from driftloop.core.models.mixture import COLUMNS, LinearWeights, Mixture
from driftloop.core.models.mixture_update import (
    apply_update,
    check_signature,
    encode_expert,
    signed,
)

D, KEY = 5, "a key"


def weights(seed: int, classes: tuple[str, ...] = ("no", "yes")) -> LinearWeights:
    rng = np.random.default_rng(seed)
    words = np.zeros((COLUMNS, len(classes)), dtype=np.float32)
    words[rng.choice(COLUMNS, 30, replace=False)] = rng.normal(size=(30, len(classes)))
    embedding = rng.normal(size=(D, len(classes))).astype(np.float32)
    return LinearWeights(classes, embedding, words, rng.normal(size=len(classes)).astype(np.float32))


def mixture() -> Mixture:
    made = Mixture(["a", "b"], ["no", "yes"], D)
    made.set_expert("a", weights(1))
    made.set_expert("b", weights(2))
    return made


def update(carried: LinearWeights, **fields: Any) -> MixtureUpdate:
    return MixtureUpdate(
        **{
            "stream": "s", "version": "3", "revision": 1, "outcome_offset": 9, "weights": {"a": 0.25, "b": 0.75},
            "expert": "b", "classes": list(carried.classes), "body": encode_expert(carried), "published_at": 0.0,
            **fields,
        }
    )  # fmt: skip


def test_update_replaces_one_expert_and_all_weights() -> None:
    """Parameters travel in half precision."""
    before, after, expert = mixture(), mixture(), weights(3, ("yes", "new"))
    sent = messages.decode(MixtureUpdate, messages.encode(signed(update(expert), KEY)))
    check_signature(sent, KEY)
    apply_update(after, sent)
    assert after.classes == ("no", "yes", "new") and after.weights.tolist() == [0.25, 0.75]
    found = after.expert("b")
    assert np.allclose(found.embedding[:, 1:], expert.embedding, atol=2e-3)
    assert np.allclose(found.words[:, 1:], expert.words, atol=2e-3) and (found.words[:, 0] == 0).all()
    assert (after.expert("a").embedding[:, :2] == before.expert("a").embedding).all()


@pytest.mark.parametrize("change", [{"revision": 2}, {"expert": "a"}, {"weights": {"a": 1.0, "b": 0.0}}, {"fence": 1}])
def test_altered_update_has_no_valid_signature(change: dict[str, Any]) -> None:
    sent = signed(update(weights(3)), KEY)
    check_signature(sent, KEY)
    for altered, key in ((replace(sent, **change), KEY), (sent, "another key"), (update(weights(3)), KEY)):
        with pytest.raises(ValueError, match="not signed with this key"):
            check_signature(altered, key)


def changed_body(**parts: Any) -> str:
    found = load(base64.b64decode(encode_expert(weights(3))))
    return base64.b64encode(save({name: np.ascontiguousarray(part) for name, part in (found | parts).items()})).decode()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"body": "?"}, "cannot be read"),
        ({"body": base64.b64encode(b"\x80\x04.").decode()}, "cannot be read"),
        ({"body": changed_body(bias=np.zeros(3, np.float16))}, "is not one for 2 classes"),
        ({"body": changed_body(embedding=np.zeros((D + 1, 2), np.float16))}, "is not one for 2 classes"),
        ({"body": changed_body(bias=np.full(2, np.nan, np.float16))}, "not finite"),
        ({"body": changed_body(bias=np.zeros(2, np.int16))}, "not finite"),
        ({"body": changed_body(columns=np.arange(30, dtype=np.int32)[::-1])}, "not increasing"),
        ({"body": changed_body(columns=np.arange(30, dtype=np.int64))}, "not increasing"),
        ({"body": changed_body(columns=np.arange(30, dtype=np.int32) + COLUMNS)}, "out of range"),
        ({"classes": ["yes", "yes"]}, "is not one for 2 classes"),
        ({"classes": []}, "is not one for 0 classes"),
        ({"expert": "c"}, "which are others here"),
        ({"weights": {"a": 1.0}}, "which are others here"),
        ({"weights": {"a": 0.9, "b": 0.9}}, "sum to 1.8"),
    ],
)
def test_update_that_does_not_fit_is_refused(fields: dict[str, Any], why: str) -> None:
    untouched = mixture()
    with pytest.raises(ValueError, match=why):
        apply_update(untouched, update(weights(3), **fields))
    assert untouched.classes == ("no", "yes") and (untouched.embedding == mixture().embedding).all()


def test_large_update_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftloop.core.models.mixture_update.MAX_BODY", 10)
    with pytest.raises(ValueError, match="more than 10 characters"):
        apply_update(mixture(), update(weights(3)))
