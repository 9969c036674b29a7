"""Hostile input made by Hypothesis: the messages of every topic, bent in every way that their writers may bend them.

`table` is printed at the end of a session that has put anything to a door: how much, and what became of it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from driftloop.core.messages import Message, encode
from driftloop.core.topics import Topic
from tests.unit.serving.test_views import made

FULL = os.environ.get("HOSTILE") == "full"
"""Set by `make test-hostile`; without it, a tenth is tried."""
BATCH = 50
"""Inputs of one example: Hypothesis's own bookkeeping costs more than a door does."""

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""Lone surrogates too: JSON can write them, UTF-8 cannot."""
ODD_TEXTS = st.sampled_from(
    ["", " \t\n", "a:b:c", "x\x00y", "\ud800", "\udfff\ud800", "\u202e\u2066gnol", "😀" * 50, "²", "9" * 5000, "-1",
     "../../etc/passwd", "a" * 70_000, "\x1b[2J", "nan", "\ufeff", "0:0", "(no event) 0:0"]
)  # fmt: skip
ODD_NUMBERS = st.sampled_from(
    [0, -1, 2**31, 2**53, 2**63, 2**64, 10**30, 1e308, -1e308, 5e-324, -0.0, float("nan"), float("inf"), -float("inf")]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | ODD_TEXTS | ODD_NUMBERS
VALUES = LEAVES | st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)
RAW = st.binary(max_size=60) | st.sampled_from(
    [b"", b"null", b"[]", b"{}", b"0", b'"', b"{", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00", b"\x00" * 40, b"[" * 5000,
     b'{"a":' * 5000, b'{"schema":2}', b'{"schema":1e9}', b"a" * 70_000]
)  # fmt: skip


def bodies(kind: type[Message]) -> st.SearchStrategy[bytes]:
    """Values for the topic of ``kind``."""
    return st.one_of(bent(json.loads(encode(whole(kind)))), RAW)


def whole(kind: type[Message]) -> Any:
    """A message that nothing is wrong with."""
    return made(kind, position=5, onset=1, action="promote", state="queued", reason="r", error="e")


def bent(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """JSON of an object with some of its fields changed, added, left out, given twice, or its bytes damaged."""
    names = st.sampled_from(sorted(whole))
    changed = st.builds(
        lambda other, added, gone: {k: v for k, v in (whole | other | added).items() if k not in gone},
        st.dictionaries(names, VALUES, max_size=2),
        st.dictionaries(TEXT | st.just("schema"), VALUES, max_size=1),
        st.sets(names, max_size=1),
    ).map(_json)
    twice = st.builds(lambda body, name, value: body[:-1] + b"," + _json({name: value})[1:], changed, names, VALUES)
    damaged = st.builds(_damaged, changed, st.integers(0, 10_000), st.binary(max_size=3), st.booleans())
    return st.one_of(changed, changed, twice, damaged)


def _json(value: Any) -> bytes:
    """JSON as Python writes it, NaN, Infinity and lone surrogates included."""
    return json.dumps(value).encode()


def _damaged(body: bytes, place: int, put: bytes, cut: bool) -> bytes:
    place %= len(body) + 1
    return body[:place] + put + (b"" if cut else body[place + len(put) :])


TRIED: defaultdict[str, Counter[str]] = defaultdict(Counter)


def count(door: str, answer: str, number: int = 1) -> None:
    """Note what became of an input."""
    TRIED[door][answer] += number


def each(inputs: st.SearchStrategy[Any], most: int, few: int | None = None) -> Callable[[Callable[..., None]], Any]:
    """Call the test with ``most`` inputs of a full run, ``few`` of a quick one (a tenth), in batches."""
    number = most if FULL else few or max(most // 10, 1)
    batch = max(min(BATCH, number // 10), 1)
    return _hypothesis(st.lists(inputs, min_size=batch, max_size=batch), number // batch)


def collected(inputs: st.SearchStrategy[Any], number: int) -> list[Any]:
    """So many inputs, the same ones each time, for a door that cannot be called from within Hypothesis."""
    found: list[Any] = []

    @_hypothesis(st.lists(inputs, min_size=BATCH, max_size=BATCH), -(-number // BATCH))
    def collect(batch: list[Any]) -> None:
        found.extend(batch)

    collect()
    return found[:number]


def _hypothesis(inputs: st.SearchStrategy[Any], examples: int) -> Callable[[Callable[..., None]], Any]:
    chosen = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a batch that fails is not shrunk, which takes minutes: the traceback has the input
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: chosen(given(inputs)(test))


def table() -> Iterator[str]:
    """What was put to each door, line by line."""
    yield f"{'door':44} {'inputs':>8}  what became of them"
    for door, answers in TRIED.items():
        yield f"{door:44} {answers.total():>8}  " + ", ".join(f"{n} {what}" for what, n in answers.most_common())
    yield f"{'in all':44} {sum(answers.total() for answers in TRIED.values()):>8}"


def topic_door(topic: Topic) -> str:
    """The door's name in the table."""
    return f"codec: {topic.name}"
