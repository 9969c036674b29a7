"""The same checks for every `Classifier`: a new one is tested by being listed in `MAKERS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from driftloop.classifiers import encoder
from driftloop.classifiers.base import Classifier
from driftloop.classifiers.bundle import Lineage, load_bundle, write_bundle
from driftloop.classifiers.heads import Head
from tests import tiny

TEXTS = [*tiny.sentences(70, seed=5)[0], *tiny.HOSTILE]


def plain_head(folder: Path) -> Classifier:
    rows = tiny.window(80)
    return loaded(folder, Head(LogisticRegression().fit(rows.embeddings, np.asarray(rows.labels))))


def words_head(folder: Path) -> Classifier:
    rows = tiny.window(80)
    vectorizer = TfidfVectorizer(dtype=np.float32).fit(rows.texts)
    features = sp.hstack([sp.csr_matrix(rows.embeddings), vectorizer.transform(rows.texts)], format="csr")
    return loaded(folder, Head(LogisticRegression().fit(features, np.asarray(rows.labels)), vectorizer))


def logits(folder: Path) -> Classifier:
    return loaded(folder, None)


def loaded(folder: Path, head: Head | None) -> Classifier:
    encoder = tiny.classifier() if head is None else tiny.encoder()
    lineage = Lineage(candidate="test")
    write_bundle(folder, encoder=encoder, head=head, labels=tiny.LABELS, lineage=lineage, key=tiny.KEY)
    return load_bundle(folder, tiny.KEY, version="3", threads=1)


MAKERS: tuple[Callable[[Path], Classifier], ...] = (plain_head, words_head, logits)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return request.param(tmp_path_factory.mktemp("classifier") / "bundle")


def test_it_is_a_classifier_with_labels_and_a_version(model: Classifier) -> None:
    assert isinstance(model, Classifier)
    assert model.labels == tiny.LABELS
    assert model.version == "3"


def test_shapes_and_rows_that_sum_to_one(model: Classifier) -> None:
    said = model.predict(TEXTS)
    assert said.classes == model.labels
    assert said.probabilities.shape == (len(TEXTS), 3)
    assert said.probabilities.dtype == np.float32
    assert np.isfinite(said.probabilities).all()
    assert (said.probabilities >= 0).all()
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert said.embeddings.shape == (len(TEXTS), 64)
    assert said.embeddings.dtype == np.float32
    assert [model.labels[i] for i in said.probabilities.argmax(axis=1)] == said.labels
    assert said.route
    assert said.cost_ms > 0


def test_it_tells_texts_apart(model: Classifier) -> None:
    assert model.predict(TEXTS[:70]).probabilities.std(axis=0).max() > 0.01


def test_an_empty_list_has_no_rows(model: Classifier) -> None:
    said = model.predict([])
    assert said.probabilities.shape == (0, 3)
    assert said.embeddings.shape == (0, 64)
    assert said.labels == []
    assert model.embed([]).shape == (0, 64)


@pytest.mark.parametrize("text", tiny.HOSTILE, ids=lambda text: ascii(text)[:12])
def test_a_hostile_text_is_answered_alone(model: Classifier, text: str) -> None:
    said = model.predict([text])
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1.0, atol=1e-5)
    layers = said.embeddings.reshape(2, -1)
    np.testing.assert_allclose(np.linalg.norm(layers, axis=1), 1.0, atol=1e-4)


def test_embeddings_given_and_computed_agree(model: Classifier) -> None:
    embeddings = model.embed(TEXTS)
    given, computed = model.predict(TEXTS, embeddings), model.predict(TEXTS)
    np.testing.assert_allclose(given.probabilities, computed.probabilities, atol=1e-5)
    np.testing.assert_allclose(given.embeddings, embeddings, atol=1e-5)


def test_embeddings_of_other_texts_are_refused(model: Classifier) -> None:
    with pytest.raises(ValueError, match="2 embeddings for 3 texts"):
        model.predict(TEXTS[:3], model.embed(TEXTS[:2]))


def test_neither_order_nor_neighbours_change_an_answer(model: Classifier) -> None:
    together = model.predict(TEXTS).probabilities
    order = np.random.default_rng(1).permutation(len(TEXTS))
    shuffled = model.predict([TEXTS[i] for i in order]).probabilities
    np.testing.assert_allclose(shuffled, together[order], atol=1e-4)
    alone = np.vstack([model.predict([text]).probabilities for text in TEXTS[-12:]])
    np.testing.assert_allclose(alone, together[-12:], atol=1e-4)


def test_batches_hold_texts_of_like_length() -> None:
    lengths = [3, 40, 4, 41, 3, 64, 1] + [20] * 40
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = encoder.batches_of(order, lengths)
    assert [row for batch in batches for row in batch] == order, "each row once, in its order"
    assert max(len(batch) for batch in batches) == encoder.BATCH
    assert all(lengths[batch[-1]] <= encoder.PADDED * lengths[batch[0]] for batch in batches)
    assert len(batches) < len(lengths) / 4
