"""Project scaffold: a scenario file and a settings file for a user's own data."""

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
from producers.data.library_reader import MissingColumn, WrongEncoding
from producers.data.table import Table
from producers.scenarios.scenario_schema import DatasetSpec
from producers.scenarios.scenarios import parse_rate

MIN_ROWS = 100
"""Labelled rows of the file. Half of them train the first model, the others are the stream."""
MAX_CLASSES = 100
MIN_ROWS_PER_CLASS = 5
"""Rows of a label on average. A column with fewer holds texts, numbers or ids."""
MAX_LABEL_LENGTH = 100
"""Characters."""
RARE_CLASS_ROWS = 20
"""Rows of a class below which the gate does not judge it."""
SEARCH_MIN_ROWS = 2000
"""Rows from which TPOT and fine-tuning are worth their time."""
SORTED_SHARE = 0.1
"""Share of the label changes expected by chance. Rows with fewer changes are sorted by their label."""
ENVELOPE_BYTES = 512
"""Maximum size of an event without its text."""


@dataclass(frozen=True)
class Plan:
    """Content of the project's files, chosen from the data."""

    data: Path
    spec: DatasetSpec
    """Columns and encoding of the data. Its `path` is empty."""
    rate: str
    """Events per second, or `max`."""
    rows: int
    labels: tuple[str, ...]
    bootstrap: int
    """Labelled events for the first model."""
    delay: int
    """Events between an event and its label."""
    mix: bool
    """True if the scenario shuffles the rows."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the data, a sentence each."""


def plan(data: Path, spec: DatasetSpec, rate: str) -> Plan:
    """Read a data file and choose the settings that suit its rows.

    Args:
        data: A CSV, TSV, JSON lines or Parquet file.
        spec: Columns and encoding of the file. Its `path` is empty.
        rate: Events per second, or `max`.

    Raises:
        DriftloopError: The file cannot be read, or its rows cannot become a stream.
    """
    parse_rate(rate)
    if data.is_dir():
        raise DriftloopError(
            f"{data} is a folder: give one file, or write the scenario yourself as `driftloop replay --help` shows."
        )
    if not data.is_file():
        raise DriftloopError(f"There is no file {data}: correct --csv.")
    if spec.text == spec.label:
        raise DriftloopError(f"The column {spec.text!r} cannot be both text and label: correct --text or --label.")
    table = _read_rows(data, spec)
    counts = Counter(table.labels)
    _check_rows(table, counts, spec, data)
    rows = len(table.texts)
    bootstrap = max(MIN_ROWS // 2, min(500, rows // 5))
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
    """Create the project folder with a copy of the data and the two files. A failure leaves no folder behind.

    Args:
        chosen: Content of the files.
        folder: Folder to create.
        scenario: Name of the scenario file.
        settings: Name of the settings file.

    Raises:
        DriftloopError: The folder exists already or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise DriftloopError(f"{folder} already exists: choose another folder, nothing is overwritten.") from error
    except OSError as error:
        raise _write_error(folder, error) from error
    try:
        shutil.copyfile(chosen.data, folder / chosen.data.name)
        (folder / scenario).write_text(scenario_text(chosen, folder.resolve().name), encoding="utf-8")
        (folder / settings).write_text(settings_text(chosen, folder.resolve().name), encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _write_error(folder, error) from error
        raise


def scenario_text(chosen: Plan, name: str) -> str:
    """Return the text of the scenario file.

    Args:
        chosen: Content of the file.
        name: Name of the scenario.
    """
    rate = chosen.rate if chosen.rate != "max" else '"max"'
    spec = chosen.spec
    order = (
        "mix = true          # shuffle: the file is sorted by its label, so each label would look like a drift"
        if chosen.mix
        else "# mix = true        # shuffle the rows; by default they keep the order of the file"
    )
    columns = [("text", spec.text, "column of the texts"), ("label", spec.label, "column of the labels")]
    if spec.segment:
        columns.append(("segment", spec.segment, "column of the rows' origin"))
    if spec.encoding != "utf-8":
        columns.append(("encoding", spec.encoding, "encoding of the file"))
    lines = [
        f"# A stream of {chosen.rows} labelled texts. docs/scenarios.md explains every key, and how to inject drift.",
        f"name = {_toml_string(name)}",
        f'rate = {rate:<12} # events per second, or "max" for full speed',
        f"label_delay = {chosen.delay:<5} # events between an event and its label",
        order,
        '# mask = ["email"]   # personal data removed from the texts: handle, email, phone, link',
        "",
        "[dataset]",
        f"path = {_toml_string(chosen.data.name)}   # a copy beside this file, so the folder can be moved",
        *(f"{key} = {_toml_string(value)}   # {about}" for key, value, about in columns),
    ]
    return "\n".join(lines) + "\n"


def settings_text(chosen: Plan, name: str) -> str:
    """Return the text of the settings file.

    Args:
        chosen: Content of the file.
        name: Name of the stream.
    """
    candidates = '["linear", "tpot", "finetune"]' if chosen.rows >= SEARCH_MIN_ROWS else '["linear"]'
    why = (
        "each is tried after a drift" if chosen.rows >= SEARCH_MIN_ROWS else f"add them from {SEARCH_MIN_ROWS} rows on"
    )
    lines = [
        "# Settings of this project. `driftloop doctor --settings` lists every setting with its meaning.",
        "# Options override environment variables, which override this file.",
        f"# stream = {_toml_string(name)}   # the model's name in MLflow, for a stack that several streams share",
        '# signing_key_file = "/run/secrets/driftloop"   # signs the models; never write the key itself here',
        "",
        "[retrain]",
        f"bootstrap = {chosen.bootstrap}   # labelled events that train the first model",
        f"candidates = {candidates}   # linear, tpot, finetune, or module:Class; {why}",
        'policy = "on-drift"   # never, periodic, on-drift, cost-aware, or module:Class',
        "# period = 2000   # labelled events between two retrainings of the policy periodic",
        '# approval = "manual"   # a better model waits for `driftloop approve`',
        "",
        "[monitor]",
        'detectors = ["fused"]   # all signals together; add others, such as "error:adwin" or module:Class',
    ]
    return "\n".join(lines) + "\n"


def _read_rows(data: Path, spec: DatasetSpec) -> Table:
    """Read the rows. Errors name the options of the command instead of the keys of a scenario."""
    path = data.resolve()
    try:
        return datasets.load(msgspec.structs.replace(spec, path=str(path)), path.parent)
    except MissingColumn as error:
        raise DriftloopError(
            f"{data} has no column {error.column!r}: set --{error.key} to one of {', '.join(map(repr, error.columns))}."
        ) from error
    except WrongEncoding as error:
        raise DriftloopError(
            f"{data} is not {spec.encoding}: set its encoding, for example --encoding latin-1."
        ) from error


def _check_rows(table: Table, counts: Counter[str], spec: DatasetSpec, data: Path) -> None:
    """Raise if the rows cannot become a stream."""
    rows, column = len(table.texts), f"the column {spec.label!r} of {data}"
    if rows < MIN_ROWS:
        raise DriftloopError(
            f"{data} has {rows} labelled rows: a first model and a stream after it need {MIN_ROWS} or more."
        )
    if len(counts) < 2:
        raise DriftloopError(f"All rows have the label {next(iter(counts))!r} in {column}: give two or more labels.")
    longest = max(map(len, counts))
    if len(counts) > MAX_CLASSES or rows < MIN_ROWS_PER_CLASS * len(counts) or longest > MAX_LABEL_LENGTH:
        raise DriftloopError(
            f"There are {len(counts)} different values in {column}, in {rows} rows, the longest of {longest} "
            f"characters: this is not a label. Set --label to a column with at most {MAX_CLASSES} short values, each "
            f"on {MIN_ROWS_PER_CLASS} rows or more."
        )


def _notes(table: Table, counts: Counter[str], mix: bool) -> list[str]:
    """Return remarks on the rows, a sentence each."""
    out = []
    if table.skipped:
        out.append(f"{table.skipped} rows have no label and are left out.")
    rare = [
        f"{escape_control_chars(label, 40)} ({n})"
        for label, n in sorted(counts.items(), key=lambda item: item[1])
        if n < RARE_CLASS_ROWS
    ]
    if rare:
        out.append(
            f"Labels with fewer than {RARE_CLASS_ROWS} rows are hard to learn and to judge: {', '.join(rare[:10])}."
        )
    empty = sum(not text.strip() for text in table.texts)
    if empty:
        out.append(f"{empty} texts are empty; they are scored like any other text.")
    limit = ScorerSettings().max_bytes
    long = sum(len(text.encode("utf-8", "replace")) + ENVELOPE_BYTES > limit for text in table.texts)
    if long:
        out.append(f"{long} texts are too long to score (over {limit} bytes as events): they become dead letters.")
    if mix:
        out.append("The rows are sorted by their label, so the scenario shuffles them (`mix` in the scenario).")
    else:
        out.append(
            "The rows keep the order of the file. If that is not their order in time, sort the file by time, or set "
            "`mix` in the scenario."
        )
    return out


def _is_sorted(labels: list[str], counts: Counter[str]) -> bool:
    """Return True if neighbours have the same label far more often than by chance."""
    changes = sum(one != other for one, other in pairwise(labels))
    by_chance = len(labels) * (1 - sum((n / len(labels)) ** 2 for n in counts.values()))
    return changes < SORTED_SHARE * by_chance


def _toml_string(text: str) -> str:
    """Return a quoted TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_error(folder: Path, error: OSError) -> DriftloopError:
    return DriftloopError(f"{folder} cannot be written ({error.strerror}): make room, or choose another folder.")
