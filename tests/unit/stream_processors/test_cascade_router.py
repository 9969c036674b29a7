"""Cascade router: the first stage answers under load alone, never in a drift, and not once it has come to differ."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.harness.stub_model import StubClassifier
from driftloop.core.models.bundle import BundleClassifier, BundleDraft, Lineage, load_bundle, write_bundle
from driftloop.core.models.first_stage import FIRST_ROUTE, SECOND_ROUTE
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from retrain.promotion.first_stage import MIN_ROWS, make_cascade
from stream_processors.scoring import cascade_router
from stream_processors.scoring.cascade_router import BUSY, Answer, CascadeRouter, EncoderLoad
from tests import tiny

TEXTS = tiny.sentences(400, seed=21)[0]
IDS = [f"event-{number}" for number in range(len(TEXTS))]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascade") / "bundle"
    rows = tiny.window(MIN_ROWS + 500)
    head = Head(LogisticRegression().fit(rows.embeddings, np.asarray(rows.labels)))
    lineage = Lineage(candidate="linear")
    write_bundle(folder, encoder=tiny.encoder(), head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    model, train, held = load_bundle(folder, tiny.KEY), rows.take(slice(None, -300)), rows.take(slice(-300, None))
    draft, settings = BundleDraft.open(folder), Settings(signing_key=tiny.KEY)
    assert make_cascade(model, draft, train, held, lambda rows: model.predict(rows.texts), settings)
    draft.sign(tiny.KEY)
    return folder


@pytest.fixture
def model(bundle: Path) -> BundleClassifier:
    return load_bundle(bundle, tiny.KEY, version="7", threads=1)


def answers(found: CascadeRouter, model: BundleClassifier, n: int = len(TEXTS), **how: bool) -> list[Answer]:
    told: dict[str, Any] = {"full": True, "drifting": False, **how}
    return found.finish(model, found.begin(model, IDS[:n], TEXTS[:n], **told))


def routes(found: list[Answer]) -> set[str]:
    return {answer.route for answer in found}


def test_confident_first_stage_skips_encoder_except_sample(model: BundleClassifier) -> None:
    assert model.first_stage is not None
    found = answers(CascadeRouter("auto"), model)
    first = model.first_stage.predict_proba(model.encoder.tokenise(TEXTS))
    sure, second = model.first_stage.is_sure(first), model.predict(TEXTS)
    by_route = {route: [row for row, answer in enumerate(found) if answer.route == route] for route in routes(found)}
    assert by_route.keys() == {FIRST_ROUTE, SECOND_ROUTE, "encoder+head"}
    assert all(sure[row] for row in by_route[FIRST_ROUTE]) and not any(sure[row] for row in by_route[SECOND_ROUTE])
    assert 0.5 < len(by_route["encoder+head"]) * cascade_router.SAMPLE_EVERY / len(TEXTS) < 2
    for row, answer in enumerate(found):
        asked = answer.route != FIRST_ROUTE
        assert (answer.embedding is not None) == asked
        np.testing.assert_allclose(answer.probabilities, (second.probabilities if asked else first)[row], atol=1e-4)
        if answer.embedding is not None:
            np.testing.assert_allclose(answer.embedding, second.embeddings[row], atol=1e-4)


def test_benchmark_stub_model_passes_through_router() -> None:
    model: Any = StubClassifier("7")
    found = answers(CascadeRouter("auto"), model, 5)
    assert [answer.route for answer in found] == ["stub"] * 5 and {len(one.probabilities) for one in found} == {2}


def test_sample_does_not_depend_on_texts(model: BundleClassifier) -> None:
    one = [answer.route == "encoder+head" for answer in answers(CascadeRouter("auto"), model)]
    found = CascadeRouter("auto")
    other = found.finish(model, found.begin(model, IDS, TEXTS[::-1], full=True, drifting=False))
    assert one == [answer.route == "encoder+head" for answer in other]


@pytest.mark.parametrize(
    ("mode", "how", "used"),
    [
        ("auto", {}, True),
        ("auto", {"full": False}, False),
        ("auto", {"drifting": True}, False),
        ("always", {"full": False}, True),
        ("always", {"drifting": True}, False),
        ("never", {}, False),
    ],
)
def test_first_stage_use_follows_mode_load_and_drift(
    model: BundleClassifier, mode: Any, how: dict[str, bool], used: bool
) -> None:
    found = answers(CascadeRouter(mode), model, **how)
    assert (FIRST_ROUTE in routes(found)) == used
    assert used or routes(found) == {"encoder+head"}
    assert len(found) == len(TEXTS)


def test_model_without_first_stage_uses_encoder(model: BundleClassifier) -> None:
    model.first_stage = None
    assert routes(answers(CascadeRouter("always"), model)) == {"encoder+head"}


def test_empty_batch_gives_no_answers(model: BundleClassifier) -> None:
    assert answers(CascadeRouter("always"), model, n=0) == []


def other_way_round(model: BundleClassifier) -> None:
    """Give the model a first stage that is as sure, and answers something else."""
    assert model.first_stage is not None
    model.first_stage = replace(
        model.first_stage,
        weights=np.roll(model.first_stage.weights, 1, axis=0),
        bias=np.roll(model.first_stage.bias, 1),
    )


@pytest.mark.parametrize("differs", [True, False])
def test_disagreeing_first_stage_is_disabled_until_next_model(
    model: BundleClassifier, differs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if differs:
        other_way_round(model)
    found, used = CascadeRouter("auto"), []
    with caplog.at_level(logging.WARNING):
        for _ in range(12):
            used.append(FIRST_ROUTE in routes(answers(found, model)))
    assert used[0] and used[-1] != differs
    assert ("has come to disagree with its encoder" in caplog.text) == differs
    if differs:
        after = used.index(False)
        sampled = sum(answer.route == "encoder+head" for answer in answers(CascadeRouter("auto"), model))
        assert after * sampled >= cascade_router.MIN_SAMPLE, "it was silenced before it could be told"
        model._version = "8"
        assert FIRST_ROUTE in routes(answers(found, model))


def test_encoder_load_is_needed_share_of_time() -> None:
    """Measurements of long ago do not count."""
    clock = Clock()
    load = EncoderLoad(clock)
    assert load.share == 0.0
    for _ in range(100):
        load.add_arrivals(10)
        began = clock.now
        clock.now += 0.08
        load.add_encoded(10, began)
        clock.now += 0.02
    assert load.share == pytest.approx(0.8, abs=0.05), "100 events a second at 8 ms each"
    clock.now += 3 * cascade_router.LOAD_SECONDS
    load.add_arrivals(10)
    assert load.share < BUSY, "that was long ago"


def test_queued_batches_do_not_inflate_encoder_load() -> None:
    clock = Clock()
    load, ends = EncoderLoad(clock), clock.now
    for _ in range(50):  # two are always under way, each begun long before the encoder comes to it
        load.add_arrivals(10)
        began, ends = clock.now - 0.1, ends + 0.1
        clock.now = ends
        load.add_encoded(10, began)
    assert load.share == pytest.approx(1.0, abs=0.1)


def test_load_enables_first_stage_without_full_batch(model: BundleClassifier) -> None:
    clock = Clock()
    found = CascadeRouter("auto", clock)
    used = []
    for _ in range(60):
        asked = found.begin(model, IDS, TEXTS, full=False, drifting=False)
        clock.now += 0.09
        used.append(FIRST_ROUTE in routes(found.finish(model, asked)))
        clock.now += 0.01
    assert not used[0] and all(used[5:])
    clock.now += 60
    answers(found, model, full=False)
    clock.now += 60
    assert routes(answers(found, model, full=False)) == {"encoder+head"}, "the load is over"
