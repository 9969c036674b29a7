"""Mixture of experts: its regressions, its weights, and what it learns from labels and alerts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.expert_features import COLUMNS, Features, WordHasher
from driftloop.core.models.mixture import NEVER, LinearWeights, Mixture
from retrain.mixture import learner, softmax_regression
from retrain.mixture.fixed_share import favour, update_weights
from retrain.mixture.learner import CONCEPT, ONLINE, MixtureLearner, MixtureOptions, Row, make_rows
from retrain.mixture.softmax_regression import fit_softmax_regression
from retrain.mixture.stack import Stack

D = 6


def texts(seed: int, n: int, flipped: bool = False) -> tuple[Features, list[str]]:
    """Return n texts whose class shows in the first dimension and in one of two words."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    embeddings = rng.normal(0, 0.4, (n, D)).astype(np.float32)
    embeddings[:, 0] += 2 * truth - 1
    tokens = [[int(7 + one), int(rng.integers(20, 60)), int(rng.integers(20, 60))] for one in truth]
    words = WordHasher.fit(tokens).transform(tokens)
    names = np.asarray(["no", "yes"])[1 - truth if flipped else truth]
    return Features(embeddings, words), names.tolist()


def rows(seed: int, n: int, flipped: bool = False, start: float = 0.0) -> list[Row]:
    features, labels = texts(seed, n, flipped)
    return make_rows(features, labels, [start + at for at in range(n)])


def accuracy(mixture: Mixture, some: list[Row]) -> float:
    right = 0
    for row in some:
        words = sp.csr_matrix((row.words, row.columns, [0, len(row.words)]), shape=(1, COLUMNS))
        found = mixture.predict_proba(Features(row.embedding[None], words))[0]
        right += mixture.classes[int(found.argmax())] == row.label
    return right / len(some)


def test_regression_agrees_with_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both go on to the minimum. `LogisticRegression` takes one sparse matrix."""
    for name, value in {"MAX_STEPS": 1000, "GRADIENT_TOLERANCE": 1e-7, "LOSS_TOLERANCE": 1e-12}.items():
        monkeypatch.setattr(softmax_regression, name, value)
    features, labels = texts(1, 400)
    labels[:40] = ["maybe"] * 40
    weights = np.random.default_rng(2).uniform(0.2, 1, 400)
    mine = fit_softmax_regression(features, labels, weights)
    whole = sp.hstack([sp.csr_matrix(features.embeddings), features.words], format="csr")
    theirs = LogisticRegression(C=3.0, max_iter=1000, tol=1e-7).fit(whole, labels, sample_weight=weights)
    mixture = Mixture(["one"], mine.classes, D)
    mixture.set_expert("one", mine)
    assert mine.classes == tuple(theirs.classes_)
    assert np.allclose(mixture.predict_proba(features), theirs.predict_proba(whole), atol=2e-3)


def test_regression_goes_on_from_earlier_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = texts(3, 300)
    whole = fit_softmax_regression(features, labels)
    monkeypatch.setattr(softmax_regression, "MAX_STEPS", 1)
    again = fit_softmax_regression(features, labels, start=whole)
    anew = fit_softmax_regression(features, labels)
    assert np.allclose(again.embedding, whole.embedding, atol=0.05)
    assert not np.allclose(anew.embedding, whole.embedding, atol=0.05), "the control: one step is not enough"


def test_regression_needs_two_classes() -> None:
    features, _ = texts(1, 20)
    with pytest.raises(ValueError, match="all labels are equal"):
        fit_softmax_regression(features, ["yes"] * 20)


@pytest.mark.parametrize("switches", [0, 1, 3])
def test_loss_stays_within_the_bound(switches: int) -> None:
    """Regret against any sequence of experts (Herbster and Warmuth, 1998), with a rate of 1."""
    rng = np.random.default_rng(switches)
    share, events, m = 0.01, 800, 4
    best = np.repeat(rng.permutation(m)[: switches + 1], events // (switches + 1))
    given = rng.uniform(0.05, 0.5, (len(best), m))
    given[np.arange(len(best)), best] = rng.uniform(0.6, 0.99, len(best))
    weights, loss = np.full(m, 1 / m), 0.0
    for row in given:
        loss -= math.log(float(weights @ row))
        weights = update_weights(weights, row, rate=1.0, share=share)
    of_best = -float(np.log(given[np.arange(len(best)), best]).sum())
    bound = math.log(m) - switches * math.log(share / m) - (len(best) - switches - 1) * math.log(1 - share)
    assert of_best < loss <= of_best + bound


def test_share_lets_a_bad_expert_return() -> None:
    """Control: without a share the expert that becomes the best one is not found again."""

    def weight_after(share: float) -> float:
        weights = np.full(2, 0.5)
        for given in [[0.9, 0.1]] * 200 + [[0.1, 0.9]] * 60:
            weights = update_weights(weights, np.asarray(given), share=share)
        return float(weights[1])

    assert weight_after(0.01) > 0.9 > 0.01 > weight_after(0.0)


def test_favoured_expert_has_most_weight() -> None:
    assert favour(4, 2).tolist() == pytest.approx([1 / 30, 1 / 30, 0.9, 1 / 30])
    assert favour(1, 0).tolist() == [1.0]


def test_one_text_and_many_have_equal_answers() -> None:
    features, labels = texts(5, 30)
    mixture = Mixture(["a", "b"], ["no", "yes"], D)
    mixture.set_expert("a", fit_softmax_regression(features, labels))
    mixture.set_expert("b", fit_softmax_regression(features, labels[::-1]))
    mixture.weights = np.asarray([0.7, 0.3])
    together = mixture.predict_proba(features)
    alone = [mixture.predict_proba(Features(features.embeddings[i : i + 1], features.words[i]))[0] for i in range(30)]
    assert np.allclose(together, alone, atol=1e-6) and np.allclose(together.sum(axis=1), 1, atol=1e-6)


def test_new_class_leaves_the_other_answers_alone() -> None:
    features, labels = texts(6, 40)
    mixture = Mixture(["a"], ["no", "yes"], D)
    mixture.set_expert("a", fit_softmax_regression(features, labels))
    before = mixture.predict_proba(features)
    mixture.add_classes(["new", "yes"])
    after = mixture.predict_proba(features)
    assert mixture.classes == ("no", "yes", "new") and (after[:, 2] < 1e-3).all()
    assert np.allclose(after[:, :2], before, atol=1e-3)
    weights = LinearWeights(("new",), np.ones((D, 1)), np.zeros((COLUMNS, 1)), np.asarray([1.0]))
    mixture.set_expert("a", weights)
    assert mixture.bias[0].tolist() == [NEVER, NEVER, 1.0], "what it does not know any more is unlikely"


def test_each_row_of_words_has_unit_length() -> None:
    hasher = WordHasher.fit([[5, 6], [5, 7]])
    found = hasher.transform([[5, 6, 6], [5], []])
    assert np.allclose(np.sqrt(found.multiply(found).sum(axis=1)).ravel(), [1, 1, 0])
    rare, common = hasher.transform([[6]]).indices[0], hasher.transform([[5]]).indices[0]
    assert hasher.idf[rare] > hasher.idf[common]


def test_flipped_labels_are_learnt_while_they_come() -> None:
    """The refits are installed at once; the control keeps the first experts and weights."""
    learning, resting = (MixtureLearner.train(rows(1, 200)) for _ in range(2))
    flipped = rows(2, 400, flipped=True, start=1000.0)
    for row in flipped[:300]:
        learning.learn(row)
        for fit in learning.due():
            learning.install(fit.expert, fit.run())
    assert accuracy(learning.mixture, flipped[300:]) > 0.9 > 0.1 > accuracy(resting.mixture, flipped[300:])


def test_experts_are_refitted_when_a_tenth_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert whose refit is under way is not due again."""
    monkeypatch.setattr(learner, "MIN_NEW", 5)
    made = MixtureLearner.train(rows(1, 400), MixtureOptions(shortest=100, windows=3))
    more = rows(2, 60, start=1000.0)
    due = {}
    for at, row in enumerate(more, 1):
        made.learn(row)
        due |= {fit.expert: at for fit in made.due()}
    assert due == {"newest-100": 10, "newest-400": 40, "newest-1600": 40}, (
        "a tenth of 100, or of the 400 that are there"
    )


def test_alert_trusts_the_longest_window() -> None:
    """Labels of events before the onset no longer count for the weights; the same alert again changes nothing."""
    made = MixtureLearner.train(rows(1, 200))
    assert made.notice_drift(500.0) and not made.notice_drift(500.0)
    names = made.mixture.names
    assert made.mixture.weights[names.index("newest-19200")] == 0.9
    before = made.mixture.weights.copy()
    for row in rows(2, 30, start=300.0):
        made.learn(row)
    assert (made.mixture.weights == before).all()
    made.learn(rows(3, 1, start=500.0)[0])
    assert (made.mixture.weights != before).any()


def test_concept_is_fitted_on_labels_since_the_onset() -> None:
    made = MixtureLearner.train(rows(1, 200))
    made.notice_drift(1000.0)
    fits = []
    for row in rows(2, 50, flipped=True, start=990.0):
        made.learn(row)
        fits += [fit for fit in made.due() if fit.expert == CONCEPT]
    (fit,) = fits
    assert len(fit.labels) == 210 + learner.FIRST_LABELS
    assert fit.weights.tolist() == [learner.OLD_WEIGHT] * 210 + [1.0] * learner.FIRST_LABELS


def test_untrusted_label_moves_no_expert() -> None:
    made = MixtureLearner.train(rows(1, 100))
    online = made.mixture.names.index(ONLINE)
    before = made.mixture.embedding[:, online].copy()
    (row,) = rows(2, 1, start=200.0)
    made.learn(Row(row.embedding, row.columns, row.words, row.label, row.occurred_at, weight=0.0))
    assert (made.mixture.embedding[:, online] == before).all()
    made.learn(row)
    assert (made.mixture.embedding[:, online] != before).any()


def test_window_of_equal_labels_is_not_refitted() -> None:
    """The expert stays as it is until two classes are there."""
    made = MixtureLearner.train(rows(1, 60), MixtureOptions(shortest=20, windows=1, concept=False))
    same = [row for row in rows(2, 200, start=100.0) if row.label == "yes"]
    for row in same[:40]:
        made.learn(row)
        assert not any(set(fit.labels) == {"yes"} for fit in made.due())
    for row in rows(3, 30, start=500.0):
        made.learn(row)
    assert [fit.expert for fit in made.due()] == ["newest-20"]


def test_first_events_need_two_classes() -> None:
    with pytest.raises(ValueError, match="all labels are equal"):
        MixtureLearner.train([row for row in rows(1, 60) if row.label == "yes"])


def test_resumed_learner_goes_on_from_mixture_and_rows() -> None:
    """The same labels move both alike, and a refit starts from the expert's last weights."""
    options = MixtureOptions(shortest=50, windows=2)
    first, labels = rows(1, 200), rows(2, 20, start=1000.0)
    made = MixtureLearner.train(first, options)
    made.notice_drift(990.0)
    resumed = MixtureLearner(made.mixture.copy(), 200, options, onset_at=990.0)
    resumed.remember(first)
    for row in labels:
        made.learn(row)
        resumed.learn(row)
    assert np.allclose(resumed.mixture.weights, made.mixture.weights)
    assert np.allclose(resumed.mixture.embedding, made.mixture.embedding)
    for row in rows(3, 20, start=1100.0):
        made.learn(row)
        resumed.learn(row)
    fits = {fit.expert: fit for fit in resumed.due()}
    assert [fit.labels for fit in made.due() if fit.expert == CONCEPT] == [fits[CONCEPT].labels]
    start = fits["newest-50"].start
    assert start is not None and (start.words == made.mixture.expert("newest-50").words).all()
    assert CONCEPT in fits


def test_remembered_labels_move_nothing() -> None:
    """They are rows of the next refit."""
    options = MixtureOptions(shortest=50, windows=1)
    made = MixtureLearner.train(rows(1, 60), options)
    before = made.mixture.copy()
    made.remember(rows(2, 40, start=1000.0))
    assert (made.mixture.weights == before.weights).all() and (made.mixture.embedding == before.embedding).all()
    for row in rows(3, 25, start=2000.0):
        made.learn(row)
    (fit,) = [fit for fit in made.due() if fit.expert == "newest-50"]
    assert fit.labels[:25] == tuple(row.label for row in rows(2, 40)[-25:])


def test_no_refit_on_fewer_labels_than_before() -> None:
    """After a restart the labels that an expert was fitted on may come again one by one."""
    options = MixtureOptions(shortest=50, windows=2, concept=False)
    made = MixtureLearner.train(rows(1, 120), options)
    resumed = MixtureLearner(made.mixture.copy(), 120, options)
    for row in rows(2, 60, start=1000.0):
        resumed.learn(row)
    assert [fit.expert for fit in resumed.due()] == ["newest-50"], "the other one has learnt 120, and 60 are here"
    resumed.remember(rows(1, 60))
    assert [fit.expert for fit in resumed.due()] == ["newest-200"]


def test_corrected_label_is_learnt_by_the_next_refit() -> None:
    options = MixtureOptions(shortest=50, windows=1)
    features, labels = texts(1, 60)
    ids = [f"e{at}" for at in range(60)]
    made = MixtureLearner.train(make_rows(features, labels, range(60), [0.5] * 60, ids), options)
    made.correct("e58", "another")
    made.correct("unknown", "another")
    for row in rows(2, 25, start=1000.0):
        made.learn(row)
    (fit,) = [fit for fit in made.due() if fit.expert == "newest-50"]
    assert [label == "another" for label in fit.labels] == [at == 23 for at in range(50)]
    assert fit.weights[23] == 1.0 and fit.weights[22] == 0.5


def test_mixture_of_other_experts_is_not_resumed() -> None:
    made = MixtureLearner.train(rows(1, 60), MixtureOptions(shortest=50, windows=1))
    with pytest.raises(ValueError, match="newest-50"):
        MixtureLearner(made.mixture, 60)


def test_weight_of_a_guest_follows_its_answers() -> None:
    """A guest that is right gains weight; the same one without answers loses it."""
    made, silent = (MixtureLearner.train(rows(1, 100)) for _ in range(2))
    for one in (made, silent):
        one.mixture.add_guest("guest", 0.2)
    for row in rows(2, 60, flipped=True, start=200.0):
        given = np.asarray([float(name == row.label) for name in made.mixture.classes], dtype=np.float32)
        made.learn(replace(row, guests={"guest": given}))
        silent.learn(row)
    assert made.mixture.weights[-1] > 0.6 > silent.mixture.weights[-1]
    assert "guest" not in {fit.expert for fit in made.due()}, "it is not refitted"
    resumed = MixtureLearner(made.mixture.copy(), 160)
    assert resumed.mixture.guests == ("guest",)


def test_stack_learns_which_of_two_to_trust() -> None:
    stack = Stack()
    right, wrong = {"yes": 0.9, "no": 0.1}, {"yes": 0.2, "no": 0.8}
    assert stack.combine(right, wrong) == pytest.approx({"yes": 0.55, "no": 0.45})
    for _ in range(20):
        stack.learn("yes", right, wrong)
    assert stack.weight < 0.1 and stack.combine(right, wrong)["yes"] > 0.8
    for _ in range(40):
        stack.learn("no", right, wrong)
    assert stack.weight > 0.9
    assert stack.combine({"a": 1.0}, {"b": 1.0}).keys() == {"a", "b"}
