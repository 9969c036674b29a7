"""Scenarios: texts in order, true drift positions and label delays, each described by one TOML file.

A scenario is fully determined by its file, its data and its seed. See `producers/builtin/` for examples.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Masked
from producers import pii_masking
from producers.data import datasets
from producers.data.table import Table
from producers.scenarios.drift_injection import KINDS, Injection, borders, inject, kind
from producers.scenarios.ordering import Segments, arrange
from producers.scenarios.row import Row
from producers.scenarios.scenario_schema import LabelSwapSpec, NoiseSpec, ScenarioSpec, VocabularySpec
from producers.simulated_annotators import Annotation, annotate

__all__ = [
    "BUILTIN",
    "Annotation",
    "Injection",
    "Row",
    "Scenario",
    "build_scenario",
    "load_scenario",
    "parse_rate",
    "read_spec",
]


@dataclass(frozen=True)
class Scenario:
    """A stream of labelled texts in order, with its true drifts."""

    name: str
    about: str
    rate: float
    """Events per second. Infinite for full speed."""
    label_delay: int
    """Events between an event and its label."""
    bootstrap: int | None
    """Events for the first champion. None for the number in the settings."""
    seed: int
    split: str
    revision: str
    """SHA-256 of the data."""
    replay_id: str
    """Part of every event id. The same scenario replayed under another id is a new stream."""
    drifts: tuple[int, ...]
    """True drift positions, ascending. The position of a gradual drift is its beginning."""
    segments: tuple[tuple[str, int, int], ...]
    """(name, start, end) of each part of the stream, end exclusive."""
    labels: tuple[str, ...]
    skipped: int
    """Rows of the dataset left out because they had no label."""
    sequence: tuple[Row, ...]
    """The events with their true labels."""
    injected: tuple[Injection, ...]
    """Truth about each drift that the scenario's keys make, by onset. Drifts only listed in `drifts` are absent."""
    annotations: tuple[Annotation, ...]
    """Label sent for each event, by position. It is the true one unless the scenario has annotators."""
    drifts_known: bool
    """True if `drifts` is complete, because the file fixes the drifts or states that there are none."""

    def __len__(self) -> int:
        return len(self.sequence)

    def rows(self) -> Iterator[Row]:
        """Return the events in stream order."""
        return iter(self.sequence)

    @cached_property
    def event_ids(self) -> tuple[str, ...]:
        """Ids of the events: 32 hex digits from the data's revision, the split, the row and the replay id."""
        prefix = f"{self.revision}\n{self.split}\n{self.replay_id}\n"
        return tuple(hashlib.sha256(f"{prefix}{row.row}".encode()).hexdigest()[:32] for row in self.sequence)


def load_scenario(
    name_or_path: str,
    *,
    seed: int | None = None,
    replay_id: str | None = None,
    mask: Sequence[Masked] | None = None,
) -> Scenario:
    """Load a scenario and its data.

    Args:
        name_or_path: Name of a built-in scenario, or path of a TOML file.
        seed: Replaces the seed of the file.
        replay_id: Replaces the id derived from the content. Another id makes a new stream.
        mask: Replaces the list of personal data to mask.

    Raises:
        DriftloopError: The scenario does not exist, a key does not fit, or the data cannot be used.
    """
    spec, base = read_spec(name_or_path)
    if seed is not None:
        spec = msgspec.structs.replace(spec, seed=seed)
    if mask is not None:
        spec = msgspec.structs.replace(spec, mask=list(mask))
    return build_scenario(spec, base, replay_id)


def build_scenario(spec: ScenarioSpec, base: Path, replay_id: str | None = None) -> Scenario:
    """Build a scenario from its keys and load its data.

    Args:
        spec: Keys of the scenario.
        base: Folder from which relative paths start.
        replay_id: Replaces the id derived from the content.

    Raises:
        DriftloopError: The data cannot be used or does not fit the keys.
    """
    return _build(spec, datasets.load(spec.dataset, base), replay_id)


def read_spec(name_or_path: str) -> tuple[ScenarioSpec, Path]:
    """Read a scenario file without its data.

    Returns:
        The keys, and the folder from which relative paths start.

    Raises:
        DriftloopError: The scenario does not exist, or a key does not fit.
    """
    if name_or_path in BUILTIN:
        path = Path(str(_FOLDER / f"{name_or_path}.toml"))
    else:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise _unknown_scenario(name_or_path)
    try:
        spec = msgspec.toml.decode(path.read_bytes(), type=ScenarioSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        kinds = f" (kinds: {', '.join(KINDS)})" if "kind`" in str(error) else ""
        raise DriftloopError(f"The scenario {path} does not fit: {error}{kinds}. Correct that key.") from error
    except OSError as error:
        raise DriftloopError(f"The scenario {path} cannot be read ({error.strerror}).") from error
    return (spec if spec.name else msgspec.structs.replace(spec, name=path.stem)), path.resolve().parent


def parse_rate(rate: float | str) -> float:
    """Return events per second as a number above 0, infinite for ``"max"``.

    Raises:
        DriftloopError: ``rate`` is anything else.
    """
    try:
        value = math.inf if rate == "max" else float(rate)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise DriftloopError(f'The rate must be events per second above 0, or "max", not {rate!r}.')
    return value


def _list_builtin() -> tuple[str, ...]:
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


_FOLDER = importlib.resources.files("producers") / "builtin"
BUILTIN = _list_builtin()


def _unknown_scenario(name: str) -> DriftloopError:
    if name.endswith(".toml") or "/" in name:
        return DriftloopError(f"There is no scenario file {name}: check the path, or use one of {', '.join(BUILTIN)}.")
    close = difflib.get_close_matches(name, BUILTIN, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return DriftloopError(
        f"No scenario is called {name!r}: give one of {', '.join(BUILTIN)}, or the path of your own TOML file.{guess}"
    )


def _build(spec: ScenarioSpec, table: Table, replay_id: str | None) -> Scenario:
    rate = parse_rate(spec.rate)
    order = arrange(spec, table)
    typos = _typos_as_noise(spec, len(order.rows))
    segments = _split_segments(order.segments, spec, typos)
    sequence, injected = _inject(spec, _make_sequence(spec, table, order.rows, segments), typos)
    truths = [*order.drifts, *injected]
    labels = _labels(spec, sequence)
    end = len(sequence)
    return Scenario(
        name=spec.name,
        about=spec.about,
        rate=rate,
        label_delay=spec.label_delay,
        bootstrap=spec.bootstrap,
        seed=spec.seed,
        split=spec.dataset.split,
        revision=table.revision,
        replay_id=replay_id or _replay_id(spec, table.revision),
        drifts=tuple(position for position in _drift_positions(spec, truths) if 0 < position < end),
        segments=tuple((name, start, min(stop, end)) for name, start, stop in segments if start < end),
        labels=labels,
        skipped=table.skipped,
        sequence=tuple(sequence),
        injected=tuple(sorted((truth for truth in truths if truth.onset < end), key=lambda truth: truth.onset)),
        annotations=annotate(sequence, labels, spec.annotators, spec.seed),
        drifts_known=spec.drifts is not None or bool(spec.order or spec.mix or spec.label_mix or spec.typos),
    )


def _typos_as_noise(spec: ScenarioSpec, total: int) -> NoiseSpec | None:
    """Return the `typos` table as an injection, or None if it changes nothing in a stream of ``total`` events."""
    typos = spec.typos
    if typos is None or not typos.share or typos.start >= total or (typos.end or total) <= typos.start:
        return None
    return NoiseSpec(start=typos.start, end=typos.end, share=typos.share)


def _split_segments(segments: Segments, spec: ScenarioSpec, typos: NoiseSpec | None) -> Segments:
    """Split the segments where injections begin and end. Append the active injections to the name of each part."""
    injections = [*([("typos", typos)] if typos else []), *((kind(one), one) for one in spec.inject)]
    cuts = sorted({at for _, one in injections for at in borders(one)})
    out: Segments = []
    for name, start, end in segments:
        for left, right in pairwise([start, *(at for at in cuts if start < at < end), end]):
            active = [what for what, one in injections if one.start <= left and (one.end is None or left < one.end)]
            out.append(("-".join([name, *active]), left, right))
    return out


def _make_sequence(spec: ScenarioSpec, table: Table, rows: Sequence[int], segments: Segments) -> list[Row]:
    """Return the events in order, masked, before any injection changes them."""
    texts = {i: pii_masking.mask(table.texts[i], spec.mask) for i in rows}
    sequence = [Row(texts[i], table.labels[i], table.segments[i], table.rows[i]) for i in rows]
    if spec.inject or not (spec.mix or spec.label_mix):
        return sequence
    # The sources are mixed, so accuracy is read by the parts of the stream. With injections the events keep their own
    # segments: a part's name would give the drift away.
    names = [name for name, start, end in segments for _ in range(start, min(end, len(rows)))]
    return [row._replace(segment=name) for row, name in zip(sequence, names, strict=True)]


def _inject(spec: ScenarioSpec, sequence: list[Row], typos: NoiseSpec | None) -> tuple[list[Row], list[Injection]]:
    """Apply the injections that change texts or labels. Return the new events and the truth of each injection."""
    truths = []
    for number, one in enumerate([typos, *spec.inject]):
        if isinstance(one, LabelSwapSpec | VocabularySpec | NoiseSpec):
            sequence, truth = inject(sequence, one, spec.seed, number)
            truths.append(truth)
    return sequence, truths


def _labels(spec: ScenarioSpec, sequence: Sequence[Row]) -> tuple[str, ...]:
    labels = tuple(sorted({row.label for row in sequence}))
    if len(labels) < 2:
        raise DriftloopError(
            f"The scenario {spec.name} has one class only ({', '.join(labels)!r}): a classifier needs two or more. "
            "Check `label`, `order` and `limit`."
        )
    return labels


def _drift_positions(spec: ScenarioSpec, truths: Sequence[Injection]) -> list[int]:
    """Return all drift positions. If `drifts` is given, it replaces the drifts of all keys but `inject`."""
    if spec.drifts is not None:
        return sorted({*spec.drifts, *(at for one in spec.inject for at in borders(one))})
    return sorted({at for truth in truths for at in (truth.onset, truth.end) if at is not None})


def _replay_id(spec: ScenarioSpec, revision: str) -> str:
    """Derive the id from the content that fixes each event's position, so that another rate continues the stream."""
    content = msgspec.structs.replace(
        spec,
        dataset=msgspec.structs.replace(spec.dataset, path=""),  # the revision stands for the file
        about="",
        rate=1.0,
        label_delay=0,
        bootstrap=None,
        drifts=None,
        mask=[],  # masked or not, the rows are the same
        limit=spec.limit if spec.label_mix or spec.inject else None,
    )
    # Defaults are left out, so that a key added in a later version does not change the ids of existing scenarios.
    digest = hashlib.sha256(msgspec.json.encode(content) + revision.encode()).hexdigest()
    return f"{spec.name}-{digest[:12]}"
