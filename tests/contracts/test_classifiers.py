"""The contract of classifiers on every one of them: a new one is tested by being listed in `MAKERS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from driftloop.core.models import encoder
from driftloop.core.models.bundle import Lineage, load_bundle, write_bundle
from driftloop.core.models.classifier import Classifier
from driftloop.core.models.head import Head
from driftloop.core.models.mixture_head import AnyHead
from driftloop.testing.classifier_checks import CHECKS, TEXTS
from tests import tiny


def plain_head(folder: Path) -> Classifier:
    rows = tiny.window(80)
    return loaded(folder, Head(LogisticRegression().fit(rows.embeddings, np.asarray(rows.labels))))


def words_head(folder: Path) -> Classifier:
    rows = tiny.window(80)
    vectorizer = TfidfVectorizer(dtype=np.float32).fit(rows.texts)
    features = sp.hstack([sp.csr_matrix(rows.embeddings), vectorizer.transform(rows.texts)], format="csr")
    return loaded(folder, Head(LogisticRegression().fit(features, np.asarray(rows.labels)), vectorizer))


def mixture(folder: Path) -> Classifier:
    return loaded(folder, tiny.mixture(tiny.window(80))[1])


def logits(folder: Path) -> Classifier:
    return loaded(folder, None)


def loaded(folder: Path, head: AnyHead | None) -> Classifier:
    encoder = tiny.classifier() if head is None else tiny.encoder()
    lineage = Lineage(candidate="test")
    write_bundle(folder, encoder=encoder, head=head, labels=tiny.LABELS, lineage=lineage, key=tiny.KEY)
    return load_bundle(folder, tiny.KEY, version="3", threads=1)


MAKERS: tuple[Callable[[Path], Classifier], ...] = (plain_head, words_head, mixture, logits)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return request.param(tmp_path_factory.mktemp("classifier") / "bundle")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds(model: Classifier, check: Callable[[Classifier], None]) -> None:
    check(model)


def test_labels_and_version_are_those_of_the_bundle(model: Classifier) -> None:
    assert model.labels == tiny.LABELS
    assert model.version == "3"
    said = model.predict(TEXTS)
    assert [model.labels[i] for i in said.probabilities.argmax(axis=1)] == said.labels


def test_embedding_width_is_two_encoder_layers(model: Classifier) -> None:
    assert model.predict(TEXTS).embeddings.shape == (len(TEXTS), 64)
    assert model.embed([]).shape == (0, 64)


@pytest.mark.parametrize("text", tiny.HOSTILE, ids=lambda text: ascii(text)[:12])
def test_hostile_text_embedding_layers_have_unit_length(model: Classifier, text: str) -> None:
    layers = model.predict([text]).embeddings.reshape(2, -1)
    np.testing.assert_allclose(np.linalg.norm(layers, axis=1), 1.0, atol=1e-4)


def test_given_embeddings_yield_the_same_answer(model: Classifier) -> None:
    """Probabilities and embeddings agree with computed ones to the fifth decimal place."""
    embeddings = model.embed(TEXTS)
    given, computed = model.predict(TEXTS, embeddings), model.predict(TEXTS)
    np.testing.assert_allclose(given.probabilities, computed.probabilities, atol=1e-5)
    np.testing.assert_allclose(given.embeddings, embeddings, atol=1e-5)


def test_wrong_number_of_embeddings_is_refused(model: Classifier) -> None:
    with pytest.raises(ValueError, match="2 embeddings for 3 texts"):
        model.predict(TEXTS[:3], model.embed(TEXTS[:2]))


def test_batches_group_texts_of_similar_length() -> None:
    lengths = [3, 40, 4, 41, 3, 64, 1] + [20] * 40
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = encoder.make_batches(order, lengths)
    assert [row for batch in batches for row in batch] == order, "each row once, in its order"
    assert max(len(batch) for batch in batches) == encoder.MAX_BATCH
    assert all(lengths[batch[-1]] <= encoder.MAX_PADDING * lengths[batch[0]] for batch in batches)
    assert len(batches) < len(lengths) / 4
