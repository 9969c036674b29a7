"""How an encoder works through texts: equal ones once, in threads, and what it remembers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from driftloop.core.models import encoder as encoders
from driftloop.core.models.encoder import OnnxEncoder
from tests import tiny

TEXTS = tiny.sentences(90, seed=4)[0]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Any]]:
    """The batches that the graph was run on."""
    found: list[Sequence[Any]] = []
    run = OnnxEncoder._run

    def count(self: OnnxEncoder, batch: Sequence[Any]) -> Any:
        found.append(batch)
        return run(self, batch)

    monkeypatch.setattr(OnnxEncoder, "_run", count)
    return found


def made(threads: int = 1, cache_size: int = 0) -> OnnxEncoder:
    return OnnxEncoder(tiny.encoder().folder, tiny.MAX_TOKENS, threads, cache_size)


def texts_in(runs: list[Sequence[Any]]) -> int:
    return sum(map(len, runs))


def test_thread_count_does_not_change_embeddings() -> None:
    np.testing.assert_allclose(made(3).embed(TEXTS), made(1).embed(TEXTS), atol=1e-6)


def test_equal_texts_are_encoded_once(runs: list[Sequence[Any]]) -> None:
    """Copies of a text, also in capitals, get the same embedding."""
    found = made().embed([*TEXTS[:5], *TEXTS[:5], TEXTS[0].upper()])
    assert texts_in(runs) == 5, "the tokeniser makes no difference of capitals either"
    np.testing.assert_array_equal(found[:5], found[5:10])
    np.testing.assert_array_equal(found[0], found[10])
    assert len({row.tobytes() for row in found}) == 5


def test_cache_keeps_most_recent_texts_up_to_limit(runs: list[Sequence[Any]]) -> None:
    small = made(cache_size=20)
    first = small.embed(TEXTS[:20])
    np.testing.assert_array_equal(small.embed(TEXTS[:20]), first)
    assert texts_in(runs) == 20
    small.embed(TEXTS[:1])  # asked for last
    small.embed(TEXTS[20:39])
    assert texts_in(runs) == 39 and len(small._recent._kept) == 20
    small.embed(TEXTS[:1])
    assert texts_in(runs) == 39, "the one asked for last has been kept"
    small.embed(TEXTS[1:2])
    assert texts_in(runs) == 40, "and those before it were not"


def test_cache_of_size_zero_remembers_no_text(runs: list[Sequence[Any]]) -> None:
    plain = made()
    plain.embed(TEXTS[:5])
    plain.embed(TEXTS[:5])
    assert texts_in(runs) == 10


def test_second_batch_starts_before_first_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches, a thread each: the first ends only once the second has begun."""
    both, run = threading.Barrier(2), OnnxEncoder._run

    def together(self: OnnxEncoder, batch: Sequence[Any]) -> Any:
        both.wait(10)
        return run(self, batch)

    found = made(threads=2)
    expected = found.embed(TEXTS[:2])
    monkeypatch.setattr(OnnxEncoder, "_run", together)
    one, two = (found.begin(found.tokenise([text])) for text in TEXTS[:2])
    np.testing.assert_allclose(np.vstack([two.result()[0], one.result()[0]]), expected[::-1], atol=1e-6)


def test_empty_input_gives_empty_output() -> None:
    embeddings, logits = made().run([])
    assert embeddings.shape == (0, made().dimension) and logits is None


@pytest.mark.parametrize(("speeds", "chosen"), [((1.0, 1.9, 2.0), 2), ((1.0, 1.02, 0.9), 1), ((1.0, 1.5, 3.0), 4)])
def test_tuning_adds_threads_only_when_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, speeds: tuple[float, ...], chosen: int
) -> None:
    """By a clock that says what one, two and four threads take."""
    found, at = made(threads=4), iter([moment for speed in speeds for moment in (0.0, 1.0 / speed)])
    monkeypatch.setattr(encoders.time, "perf_counter", lambda: next(at))
    assert list(found.tune(TEXTS)) == [1, 2, 4]
    assert found.threads == found._pool._max_workers == chosen
    assert found.embed(TEXTS[:3]).shape == (3, found.dimension)
