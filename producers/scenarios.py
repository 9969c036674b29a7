"""Scenarios: which texts come in which order, where the drift is, and when the labels arrive; one TOML file each.

A scenario is fully determined by its file, its data and its seed. See `producers/builtin/` for examples.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from driftloop.errors import DriftloopError
from producers import datasets, transforms
from producers.datasets import Table
from producers.schema import ScenarioSpec, TyposSpec


class Row(NamedTuple):
    """One event to be: its text, true label, segment, and 0-based row in the dataset's split."""

    text: str
    label: str
    segment: str
    row: int


@dataclass(frozen=True)
class Scenario:
    """A stream of labelled texts in order, with what is known about it."""

    name: str
    about: str
    rate: float
    """Events per second; infinite for as fast as the broker takes them."""
    label_delay: int
    bootstrap: int | None
    """None: as many as the settings say."""
    seed: int
    split: str
    revision: str
    """SHA-256 of the data."""
    replay_id: str
    """Part of every event id; the same scenario replayed under another id is a new stream."""
    drifts: tuple[int, ...]
    """True drift positions, ascending; for a gradual drift the position at which it begins."""
    segments: tuple[tuple[str, int, int], ...]
    """(name, start, end) of each part of the stream, end exclusive."""
    labels: tuple[str, ...]
    skipped: int
    """Rows of the dataset left out because they had no label."""
    sequence: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.sequence)

    def rows(self) -> Iterator[Row]:
        """The events in stream order."""
        return iter(self.sequence)

    @cached_property
    def event_ids(self) -> tuple[str, ...]:
        """The id of each event: 32 hex digits from the data's revision, the split, the row and the replay id."""
        prefix = f"{self.revision}\n{self.split}\n{self.replay_id}\n"
        return tuple(hashlib.sha256(f"{prefix}{row.row}".encode()).hexdigest()[:32] for row in self.sequence)


def load_scenario(name_or_path: str, *, seed: int | None = None, replay_id: str | None = None) -> Scenario:
    """A built-in scenario by its name, or the one in a TOML file; ``seed`` and ``replay_id`` replace its own.

    Raises:
        DriftloopError: no such scenario, a key that does not fit, or data that cannot be used.
    """
    spec, base = read_spec(name_or_path)
    if seed is not None:
        spec = msgspec.structs.replace(spec, seed=seed)
    return _build(spec, datasets.load(spec.dataset, base), replay_id)


def read_spec(name_or_path: str) -> tuple[ScenarioSpec, Path]:
    """The scenario file as it stands, and the folder that its paths start at; no data is read.

    Raises:
        DriftloopError: no such scenario, or a key that does not fit.
    """
    if name_or_path in BUILTIN:
        path = Path(str(_FOLDER / f"{name_or_path}.toml"))
    else:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise _unknown(name_or_path)
    try:
        spec = msgspec.toml.decode(path.read_bytes(), type=ScenarioSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DriftloopError(f"The scenario {path} does not fit: {error}; correct that key.") from error
    except OSError as error:
        raise DriftloopError(f"The scenario {path} cannot be read ({error.strerror}).") from error
    return (spec if spec.name else msgspec.structs.replace(spec, name=path.stem)), path.resolve().parent


def parse_rate(rate: float | str) -> float:
    """Events per second as a number above 0; ``"max"`` is infinite.

    Raises:
        DriftloopError: anything else.
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


def _unknown(name: str) -> DriftloopError:
    if name.endswith(".toml") or "/" in name:
        return DriftloopError(f"There is no scenario file {name}: check the path, or use one of {', '.join(BUILTIN)}.")
    close = difflib.get_close_matches(name, BUILTIN, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return DriftloopError(
        f"No scenario is called {name!r}: there is {', '.join(BUILTIN)}, or the path of a TOML file of your own.{guess}"
    )


def _build(spec: ScenarioSpec, table: Table, replay_id: str | None) -> Scenario:
    rate = parse_rate(spec.rate)
    rows, segments, drifts = _arrange(spec, table)
    rows = rows[: spec.limit]
    segments, drifts = _with_typos(spec, segments, drifts)
    sequence = [Row(table.texts[i], table.labels[i], table.segments[i], table.rows[i]) for i in rows]
    if spec.mix or spec.label_mix:
        # The sources are mixed, so it is the parts of the stream that accuracy is worth reading by.
        names = [name for name, start, end in segments for _ in range(start, min(end, len(rows)))]
        sequence = [row._replace(segment=name) for row, name in zip(sequence, names, strict=True)]
    if spec.typos:
        sequence = _mistyped(sequence, spec.typos, spec.seed)
    labels = tuple(sorted({row.label for row in sequence}))
    if len(labels) < 2:
        raise DriftloopError(
            f"The scenario {spec.name} has one class only ({', '.join(labels)!r}): a classifier needs two or more; "
            "check `label`, `order` and `limit`."
        )
    if spec.drifts is not None:
        drifts = sorted(spec.drifts)
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
        drifts=tuple(position for position in drifts if 0 < position < end),
        segments=tuple((name, start, min(stop, end)) for name, start, stop in segments if start < end),
        labels=labels,
        skipped=table.skipped,
        sequence=tuple(sequence),
    )


_Segments = list[tuple[str, int, int]]


def _arrange(spec: ScenarioSpec, table: Table) -> tuple[list[int], _Segments, list[int]]:
    """The rows of the table in stream order, the stream's segments, and its drift positions."""
    if sum(map(bool, (spec.order, spec.mix, spec.label_mix))) > 1:
        raise DriftloopError(f"The scenario {spec.name} can have only one of `order`, `mix` and `label_mix`.")
    if spec.transition and len(spec.order) < 2:
        raise DriftloopError(f"`transition` in the scenario {spec.name} needs an `order` of two segments or more.")
    everything = range(len(table.texts))
    if spec.order:
        return _ordered(spec, table)
    if spec.mix or spec.label_mix:
        pools = transforms.pools(everything, table.segments, spec.cut, spec.shuffle, spec.seed)
        rows = sorted(row for pool in pools.values() for row in pool)
        transforms.generator(spec.seed, "mix").shuffle(rows)
        return _label_shifted(spec, table, rows) if spec.label_mix else (rows, [("all", 0, len(rows))], [])
    names = table.segments
    found = transforms.runs(names)
    if len(found) > len(set(names)):
        found = [("all", 0, len(names))]  # the segments come interleaved: there are no parts to speak of
    return list(everything), found, []


def _ordered(spec: ScenarioSpec, table: Table) -> tuple[list[int], _Segments, list[int]]:
    if not any(table.segments):
        raise DriftloopError(
            f"`order` in the scenario {spec.name} needs a segment column: set `segment` in the [dataset] table."
        )
    pools = transforms.pools(range(len(table.texts)), table.segments, spec.cut, spec.shuffle, spec.seed)
    order = [(entry, None) if isinstance(entry, str) else (entry.segment, entry.count) for entry in spec.order]
    phases = transforms.take_turns(pools, order)
    rows, borders = transforms.blend(phases, spec.transition, spec.seed)
    names = [name for name, _ in order]
    edges = [0, *borders, len(rows)]
    segments = [(name, *edge) for name, edge in zip(names, pairwise(edges), strict=True)]
    changes = [old != new for old, new in pairwise(names)]
    return rows, segments, [at for at, changed in zip(borders, changes, strict=True) if changed]


def _label_shifted(spec: ScenarioSpec, table: Table, pool: list[int]) -> tuple[list[int], _Segments, list[int]]:
    starts = [phase.start for phase in spec.label_mix]
    if spec.limit is None or starts[0] != 0 or sorted({*starts, spec.limit}) != [*starts, spec.limit]:
        raise DriftloopError(
            f"`label_mix` in the scenario {spec.name} needs a `limit`, and starts that rise from 0 and stay below it."
        )
    for phase in spec.label_mix:
        if not math.isclose(sum(phase.shares.values()), 1.0, abs_tol=1e-6):
            raise DriftloopError(
                f"The shares of `label_mix` from position {phase.start} on add up to "
                f"{sum(phase.shares.values()):g}: they must add up to 1."
            )
    shares = [(phase.start, phase.shares) for phase in spec.label_mix]
    rows = transforms.shift_labels(pool, table.labels, shares, spec.limit, spec.seed)
    edges = [*starts, len(rows)]
    segments = [(f"mix-{n + 1}", edges[n], edges[n + 1]) for n in range(len(starts))]
    return rows, segments, starts[1:]


def _typo_borders(spec: ScenarioSpec) -> list[int]:
    if spec.typos is None or not spec.typos.share:
        return []
    return [spec.typos.start, *([] if spec.typos.end is None else [spec.typos.end])]


def _with_typos(spec: ScenarioSpec, segments: _Segments, drifts: list[int]) -> tuple[_Segments, list[int]]:
    """Split the segments where the typos begin and end, and name the parts after it."""
    borders = _typo_borders(spec)
    out: _Segments = []
    for name, start, end in segments:
        edges = [start, *(at for at in borders if start < at < end), end]
        for left, right in pairwise(edges):
            typed = bool(borders) and left >= borders[0] and (len(borders) == 1 or left < borders[1])
            out.append((f"{name}-typos" if typed else name, left, right))
    return out, sorted({*drifts, *borders})


def _mistyped(sequence: list[Row], typos: TyposSpec, seed: int) -> list[Row]:
    out = list(sequence)
    for at in range(typos.start, len(out) if typos.end is None else min(typos.end, len(out))):
        chance = transforms.generator(seed, "typos", out[at].row)
        out[at] = out[at]._replace(text=transforms.mistype(out[at].text, typos.share, chance))
    return out


def _replay_id(spec: ScenarioSpec, revision: str) -> str:
    """From all that decides which event stands where, so that a replay at another rate goes on with the same stream."""
    content = msgspec.structs.replace(
        spec,
        dataset=msgspec.structs.replace(spec.dataset, path=""),  # the revision stands for the file
        about="",
        rate=1.0,
        label_delay=0,
        bootstrap=None,
        drifts=None,
        limit=spec.limit if spec.label_mix else None,
    )
    # Defaults are left out, so that a key added to a later version does not change the ids of this one's scenarios.
    digest = hashlib.sha256(msgspec.json.encode(content) + revision.encode()).hexdigest()
    return f"{spec.name}-{digest[:12]}"
