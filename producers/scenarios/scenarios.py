"""Scenarios: which texts come in which order, where the drift is, and when the labels arrive; one TOML file each.

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
from producers.scenarios.drift_injection import KINDS, Injection, Row, borders, inject, kind
from producers.scenarios.ordering import Segments, arrange
from producers.scenarios.scenario_schema import InjectSpec, LabelSwapSpec, NoiseSpec, ScenarioSpec, VocabularySpec
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
    """The events with their true labels."""
    injected: tuple[Injection, ...]
    """What moved at each drift that the scenario's keys make, by onset; those only listed in `drifts` are not here."""
    annotations: tuple[Annotation, ...]
    """What is sent as the label of each event, by position; without `annotators` it is the true one."""
    drifts_known: bool
    """Whether `drifts` is all of them: the file says where the drifts are, be it nowhere."""

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


def load_scenario(
    name_or_path: str,
    *,
    seed: int | None = None,
    replay_id: str | None = None,
    mask: Sequence[Masked] | None = None,
) -> Scenario:
    """A built-in scenario by its name, or the one in a TOML file; ``seed``, ``replay_id`` and ``mask`` replace its own.

    Raises:
        DriftloopError: no such scenario, a key that does not fit, or data that cannot be used.
    """
    spec, base = read_spec(name_or_path)
    if seed is not None:
        spec = msgspec.structs.replace(spec, seed=seed)
    if mask is not None:
        spec = msgspec.structs.replace(spec, mask=list(mask))
    return build_scenario(spec, base, replay_id)


def build_scenario(spec: ScenarioSpec, base: Path, replay_id: str | None = None) -> Scenario:
    """The scenario that ``spec`` describes; the paths in it start at the folder ``base``.

    Raises:
        DriftloopError: data that cannot be used, or does not fit the spec.
    """
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
        kinds = f" (there is {', '.join(KINDS)})" if "kind`" in str(error) else ""
        raise DriftloopError(f"The scenario {path} does not fit: {error}{kinds}; correct that key.") from error
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
    rows, segments, truths = arrange(spec, table)
    texts = {i: pii_masking.mask(table.texts[i], spec.mask) for i in rows}
    sequence = [Row(texts[i], table.labels[i], table.segments[i], table.rows[i]) for i in rows]
    typos = _typos(spec, len(sequence))
    segments = _split(segments, [*([("typos", typos)] if typos else []), *((kind(one), one) for one in spec.inject)])
    if (spec.mix or spec.label_mix) and not spec.inject:
        # The sources are mixed, so it is the parts of the stream that accuracy is worth reading by. With injections
        # the events keep their own segments: a part's name would give the drift away.
        names = [name for name, start, end in segments for _ in range(start, min(end, len(rows)))]
        sequence = [row._replace(segment=name) for row, name in zip(sequence, names, strict=True)]
    for number, one in enumerate([typos, *spec.inject]):
        if isinstance(one, LabelSwapSpec | VocabularySpec | NoiseSpec):
            sequence, truth = inject(sequence, one, spec.seed, number)
            truths.append(truth)
    labels = tuple(sorted({row.label for row in sequence}))
    if len(labels) < 2:
        raise DriftloopError(
            f"The scenario {spec.name} has one class only ({', '.join(labels)!r}): a classifier needs two or more; "
            "check `label`, `order` and `limit`."
        )
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
        drifts=tuple(position for position in _drifts(spec, truths) if 0 < position < end),
        segments=tuple((name, start, min(stop, end)) for name, start, stop in segments if start < end),
        labels=labels,
        skipped=table.skipped,
        sequence=tuple(sequence),
        injected=tuple(sorted((truth for truth in truths if truth.onset < end), key=lambda truth: truth.onset)),
        annotations=annotate(sequence, labels, spec.annotators, spec.seed),
        drifts_known=spec.drifts is not None or bool(spec.order or spec.mix or spec.label_mix or spec.typos),
    )


def _typos(spec: ScenarioSpec, total: int) -> NoiseSpec | None:
    """The `typos` table as an injection, if it changes anything in this stream."""
    typos = spec.typos
    if typos is None or not typos.share or typos.start >= total or (typos.end or total) <= typos.start:
        return None
    return NoiseSpec(start=typos.start, end=typos.end, share=typos.share)


def _split(segments: Segments, injections: list[tuple[str, InjectSpec]]) -> Segments:
    """Split the segments where injections begin and end, and name the parts after those that hold there."""
    cuts = sorted({at for _, one in injections for at in borders(one)})
    out: Segments = []
    for name, start, end in segments:
        for left, right in pairwise([start, *(at for at in cuts if start < at < end), end]):
            holding = [what for what, one in injections if one.start <= left and (one.end is None or left < one.end)]
            out.append(("-".join([name, *holding]), left, right))
    return out


def _drifts(spec: ScenarioSpec, truths: list[Injection]) -> list[int]:
    """Where `drifts` is given, it stands for the drifts of all keys but `inject`."""
    if spec.drifts is not None:
        return sorted({*spec.drifts, *(at for one in spec.inject for at in borders(one))})
    return sorted({at for truth in truths for at in (truth.onset, truth.end) if at is not None})


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
        mask=[],  # the same rows, whatever is taken out of them
        limit=spec.limit if spec.label_mix or spec.inject else None,
    )
    # Defaults are left out, so that a key added to a later version does not change the ids of this one's scenarios.
    digest = hashlib.sha256(msgspec.json.encode(content) + revision.encode()).hexdigest()
    return f"{spec.name}-{digest[:12]}"
