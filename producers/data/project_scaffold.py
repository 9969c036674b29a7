"""A project of the user's own data: the file is looked at, then a scenario and settings are written beside it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import ScorerSettings
from driftloop.core.terminal_text import escape_control_chars
from producers.data import datasets
from producers.data.table import Table
from producers.scenarios.scenario_schema import DatasetSpec
from producers.scenarios.scenarios import parse_rate

FEWEST_ROWS = 100
"""Half of them train the first model, the others are the stream."""
MOST_CLASSES = 100
PER_CLASS = 5
"""Rows that a label has on average at least: a column of other values than that is text, a number or an id."""
LONGEST_LABEL = 100
"""Characters."""
RARE = 20
"""Rows of a class below which the gate says nothing about it."""
SEARCHABLE = 2000
"""Rows from which on TPOT and fine-tuning have something to search in."""
SORTED = 0.1
"""Share of the changes of label that chance would make, below which the rows are sorted by it."""
ENVELOPE = 512
"""Bytes of an event beside its text, at most."""


@dataclass(frozen=True)
class Plan:
    """What the files will say, and what is worth knowing about the data."""

    data: Path
    spec: DatasetSpec
    rate: str
    rows: int
    labels: tuple[str, ...]
    bootstrap: int
    delay: int
    mix: bool
    notes: list[str] = field(default_factory=list)


def plan(data: Path, spec: DatasetSpec, rate: str) -> Plan:
    """Read the file ``data`` by ``spec``, whose path is left empty, and choose what suits its rows.

    Raises:
        DriftloopError: it cannot be read, or cannot become a stream.
    """
    parse_rate(rate)
    if data.is_dir():
        raise DriftloopError(
            f"{data} is a folder: give one file, or write the scenario yourself as `driftloop replay --help` shows."
        )
    if not data.is_file():
        raise DriftloopError(f"There is no file {data}: correct --csv.")
    if spec.text == spec.label:
        raise DriftloopError(f"The column {spec.text!r} cannot be text and label at once: correct --text or --label.")
    table = _read(data, spec)
    counts = Counter(table.labels)
    _refuse(table, counts, spec, data)
    rows = len(table.texts)
    bootstrap = max(FEWEST_ROWS // 2, min(500, rows // 5))
    mix = _is_sorted(table.labels, counts) or len(set(table.labels[:bootstrap])) < 2
    return Plan(
        data=data,
        spec=spec,
        rate=rate,
        rows=rows,
        labels=tuple(sorted(counts)),
        bootstrap=bootstrap,
        delay=min(200, rows // 20),
        mix=mix,
        notes=_notes(table, counts, mix),
    )


def write(chosen: Plan, folder: Path, scenario: str, settings: str) -> None:
    """Make ``folder`` with a copy of the data and the two files; whole, or not at all.

    Raises:
        DriftloopError: it exists already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise DriftloopError(f"{folder} is there already: choose another folder, nothing is overwritten.") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        shutil.copyfile(chosen.data, folder / chosen.data.name)
        (folder / scenario).write_text(scenario_text(chosen, folder.resolve().name), encoding="utf-8")
        (folder / settings).write_text(settings_text(chosen, folder.resolve().name), encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise


def scenario_text(chosen: Plan, name: str) -> str:
    """The scenario file."""
    rate = chosen.rate if chosen.rate != "max" else '"max"'
    spec = chosen.spec
    order = (
        "mix = true          # the file is sorted by its label: played as it stands, each label would look like a drift"
        if chosen.mix
        else "# mix = true        # shuffle the rows; without it they come as they stand in the file"
    )
    columns = [("text", spec.text, "the column with the texts"), ("label", spec.label, "the column with the labels")]
    if spec.segment:
        columns.append(("segment", spec.segment, "a column that says where a row comes from"))
    if spec.encoding != "utf-8":
        columns.append(("encoding", spec.encoding, "of the file"))
    lines = [
        f"# The stream that {chosen.rows} labelled texts become; docs/scenarios.md explains every key, and how drift",
        "# is put into it.",
        f"name = {_quoted(name)}",
        f'rate = {rate:<12} # events per second, or "max" for as fast as the machine goes',
        f"label_delay = {chosen.delay:<5} # a label comes so many events after its event",
        order,
        '# mask = ["email"]   # personal data taken out of the texts: handle, email, phone, link',
        "",
        "[dataset]",
        f"path = {_quoted(chosen.data.name)}   # a copy beside this file, so the folder can be moved",
        *(f"{key} = {_quoted(value)}   # {about}" for key, value, about in columns),
    ]
    return "\n".join(lines) + "\n"


def settings_text(chosen: Plan, name: str) -> str:
    """The settings file."""
    candidates = '["linear", "tpot", "finetune"]' if chosen.rows >= SEARCHABLE else '["linear"]'
    why = "each is tried after a drift" if chosen.rows >= SEARCHABLE else f"add them from {SEARCHABLE} rows on"
    lines = [
        "# Settings of this project; `driftloop doctor --settings` lists all of them with their meaning. An option",
        "# wins over the environment, and that over this file.",
        f"# stream = {_quoted(name)}   # the model's name in MLflow; for a stack that several streams share",
        '# signing_key_file = "/run/secrets/driftloop"   # signs the models; a secret itself does not belong here',
        "",
        "[retrain]",
        f"bootstrap = {chosen.bootstrap}   # labelled events that the first model is trained on",
        f"candidates = {candidates}   # linear, tpot, finetune, or module:Class; {why}",
        'policy = "on-drift"   # never, periodic, on-drift, cost-aware, or module:Class',
        "# period = 2000   # labelled events between two retrainings of the policy periodic",
        '# approval = "manual"   # a better model waits for `driftloop approve`',
        "",
        "[monitor]",
        'detectors = ["fused"]   # all signals together; beside it others, such as "error:adwin" or module:Class',
    ]
    return "\n".join(lines) + "\n"


def _read(data: Path, spec: DatasetSpec) -> Table:
    """The rows; what is wrong is said in the words of the command's options."""
    path = data.resolve()
    try:
        return datasets.load(msgspec.structs.replace(spec, path=str(path)), path.parent)
    except datasets.NoColumn as error:
        raise DriftloopError(
            f"{data} has no column {error.column!r}: set --{error.key} to one of {', '.join(map(repr, error.columns))}."
        ) from error
    except datasets.WrongEncoding as error:
        raise DriftloopError(f"{data} is not {spec.encoding}: say its encoding, as in --encoding latin-1.") from error


def _refuse(table: Table, counts: Counter[str], spec: DatasetSpec, data: Path) -> None:
    """Raise for what cannot become a stream."""
    rows, column = len(table.texts), f"the column {spec.label!r} of {data}"
    if rows < FEWEST_ROWS:
        raise DriftloopError(
            f"{data} has {rows} labelled rows, and a first model with a stream after it needs {FEWEST_ROWS}: give more."
        )
    if len(counts) < 2:
        raise DriftloopError(f"All rows have the label {next(iter(counts))!r} in {column}: give two or more labels.")
    longest = max(map(len, counts))
    if len(counts) > MOST_CLASSES or rows < PER_CLASS * len(counts) or longest > LONGEST_LABEL:
        raise DriftloopError(
            f"There are {len(counts)} different values in {column}, in {rows} rows, the longest of {longest} "
            f"characters: that is no label; set --label to a column with at most {MOST_CLASSES} short values, each on "
            f"{PER_CLASS} rows or more."
        )


def _notes(table: Table, counts: Counter[str], mix: bool) -> list[str]:
    """What is worth knowing, a sentence each."""
    out = []
    if table.skipped:
        out.append(f"{table.skipped} rows have no label and are left out.")
    rare = [
        f"{escape_control_chars(label, 40)} ({n})"
        for label, n in sorted(counts.items(), key=lambda item: item[1])
        if n < RARE
    ]
    if rare:
        out.append(f"Labels with fewer than {RARE} rows are hard to learn and to judge: {', '.join(rare[:10])}.")
    empty = sum(not text.strip() for text in table.texts)
    if empty:
        out.append(f"{empty} texts are empty; they are scored like any other.")
    most = ScorerSettings().max_bytes
    long = sum(len(text.encode("utf-8", "replace")) + ENVELOPE > most for text in table.texts)
    if long:
        out.append(f"{long} texts are too long to be scored, over {most} bytes as events: they become dead letters.")
    if mix:
        out.append("The rows are sorted by their label, so the scenario shuffles them (`mix` in the scenario).")
    else:
        out.append(
            "The rows come in the order of the file; whether that is the order in which they arose cannot be seen. If "
            "not, sort the file by time, or set `mix` in the scenario."
        )
    return out


def _is_sorted(labels: list[str], counts: Counter[str]) -> bool:
    """Whether neighbours have the same label far more often than chance would have it."""
    changes = sum(one != other for one, other in pairwise(labels))
    by_chance = len(labels) * (1 - sum((n / len(labels)) ** 2 for n in counts.values()))
    return changes < SORTED * by_chance


def _quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unwritable(folder: Path, error: OSError) -> DriftloopError:
    return DriftloopError(f"{folder} cannot be written ({error.strerror}): make room, or choose another folder.")
