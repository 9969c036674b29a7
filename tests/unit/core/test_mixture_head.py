"""Bundle of a mixture: it answers as the mixture did, and no altered or damaged file is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from driftloop.core.models.bundle import (
    MIXTURE,
    BundleClassifier,
    BundleDraft,
    BundleError,
    Lineage,
    load_bundle,
    write_bundle,
)
from driftloop.core.models.mixture_head import MixtureHead, load_mixture_head
from tests import tiny


@pytest.fixture(scope="module")
def made() -> MixtureHead:
    return tiny.mixture(tiny.window(80))[1]


def write(folder: Path, made: MixtureHead) -> Path:
    lineage = Lineage(candidate="mixture")
    write_bundle(folder, encoder=tiny.encoder(), head=made, labels=made.classes, lineage=lineage, key=tiny.KEY)
    return folder


def test_mixture_bundle_answers_as_the_mixture(made: MixtureHead, tmp_path: Path) -> None:
    model = load_bundle(write(tmp_path / "bundle", made), tiny.KEY)
    rows = tiny.window(80)
    expected = made.predict_proba(rows.texts, rows.embeddings)
    assert isinstance(model.head, MixtureHead) and model.head.mixture.names == made.mixture.names
    assert np.allclose(model.predict(rows.texts, rows.embeddings).probabilities, expected, atol=1e-6)
    assert np.mean([a == b for a, b in zip(model.predict(rows.texts).labels, rows.labels, strict=True)]) > 0.8


def test_updated_version_answers_by_the_new_mixture(made: MixtureHead, tmp_path: Path) -> None:
    """The probabilities of the registered one are beside it, and the model that a batch is scored with stays."""
    model = load_bundle(write(tmp_path / "bundle", made), tiny.KEY, version="4")
    rows = tiny.window(80)
    before = model.predict(rows.texts, rows.embeddings)
    mixture = made.mixture.copy()
    mixture.bias[:, 0] += 5.0
    mixture.add_classes(["new"])
    model.first_stage = object()  # type: ignore[assignment]
    updated = model.with_mixture(mixture, 3).with_mixture(mixture, 4)
    after = updated.predict(rows.texts, rows.embeddings)
    assert (updated.version, updated.revision, updated.labels) == ("4", 4, (*made.classes, "new"))
    expected = MixtureHead(mixture, made.feature_map, made.tokenise).predict_proba(rows.texts, rows.embeddings)
    assert np.allclose(after.probabilities, expected)
    assert after.reference is not None and np.allclose(after.reference[:, :-1], before.probabilities, atol=1e-6)
    assert (after.reference[:, -1] == 0).all() and before.reference is None
    assert updated.first_stage is None, "it does not know the new class"
    assert (
        model.revision == 0 and (model.predict(rows.texts, rows.embeddings).probabilities == before.probabilities).all()
    )


def test_other_heads_take_no_updates(made: MixtureHead) -> None:
    with pytest.raises(ValueError, match="is not a mixture"):
        BundleClassifier(tiny.encoder(), None, tiny.LABELS).with_mixture(made.mixture, 1)


def test_another_encoder_keeps_the_mixture(made: MixtureHead, tmp_path: Path) -> None:
    draft = BundleDraft.open(write(tmp_path / "bundle", made))
    draft.set_encoder(tiny.encoder())
    draft.sign(tiny.KEY)
    assert isinstance(load_bundle(tmp_path / "bundle", tiny.KEY).head, MixtureHead)


def test_altered_mixture_is_not_loaded(made: MixtureHead, tmp_path: Path) -> None:
    path = write(tmp_path / "bundle", made) / MIXTURE
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(BundleError, match="missing or was altered"):
        load_bundle(tmp_path / "bundle", tiny.KEY)


def unequal(parts: dict[str, Any]) -> None:
    parts["weights"] = parts["weights"] * 2


def negative(parts: dict[str, Any]) -> None:
    parts["weights"] = np.asarray([-1.0, *([2.0 / (len(parts["weights"]) - 1)] * (len(parts["weights"]) - 1))])


def unsorted(parts: dict[str, Any]) -> None:
    parts["columns"] = parts["columns"][::-1].copy()


def beyond(parts: dict[str, Any]) -> None:
    parts["columns"] = parts["columns"] + np.int32(1 << 20)


def endless(parts: dict[str, Any]) -> None:
    parts["bias"] = np.full_like(parts["bias"], np.inf)


def whole_numbers(parts: dict[str, Any]) -> None:
    parts["embedding"] = parts["embedding"].astype(np.int32)


def another_size(parts: dict[str, Any]) -> None:
    parts["embedding"] = parts["embedding"][:-1].copy()


def another_kernel(parts: dict[str, Any]) -> None:
    parts["landmarks"] = parts["landmarks"][:, :-1].copy()


def no_width(parts: dict[str, Any]) -> None:
    parts["width"] = np.zeros_like(parts["width"])


def incomplete(parts: dict[str, Any]) -> None:
    del parts["idf"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (unequal, "not shares of a whole"),
        (negative, "not shares of a whole"),
        (unsorted, "not increasing"),
        (beyond, "not increasing"),
        (endless, "not finite"),
        (whole_numbers, "not finite"),
        (another_size, "is not one of"),
        (another_kernel, "is not one of"),
        (no_width, "has no width"),
        (incomplete, "lacks a part"),
    ],
)
def test_damaged_mixture_is_refused(
    made: MixtureHead, tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    """Control: the unchanged file loads."""
    path, mixture = tmp_path / MIXTURE, made.mixture
    made.save(path)
    names = (mixture.names, mixture.classes, tiny.encoder().dimension, tiny.encoder().tokenise)
    load_mixture_head(path, *names)
    parts = load_file(path)
    change(parts)
    save_file(parts, path)
    with pytest.raises(ValueError, match=why):
        load_mixture_head(path, *names)


def test_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / MIXTURE).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="cannot be read"):
        load_mixture_head(tmp_path / MIXTURE, ["a"], ["no", "yes"], 4, tiny.encoder().tokenise)
