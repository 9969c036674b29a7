"""Labelled texts from files, folders, the Hugging Face Hub, packages and generators.

The rows of a local file are cached under the file's digest, because importing the library `datasets` costs seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.files import write_atomic
from driftloop.core.settings import cache_dir
from producers.data import synthetic_texts
from producers.data.library_reader import no_rows_error, read_file, read_folder, read_hub, require_columns
from producers.data.packaged_datasets import PACKAGED, locate
from producers.data.table import Table
from producers.scenarios.scenario_schema import DatasetSpec

_CACHE_FORMAT = "rows-1"


def load(spec: DatasetSpec, base: Path) -> Table:
    """Read the labelled rows of a dataset.

    Args:
        spec: The `[dataset]` table of a scenario.
        base: Folder from which a relative `path` starts.

    Raises:
        DriftloopError: The source is missing, unreachable, empty, has another digest or not the named columns.
    """
    if sum(map(bool, (spec.path, spec.packaged, spec.hub, spec.synthetic))) != 1:
        raise DriftloopError("The [dataset] table needs exactly one of `path`, `packaged`, `hub` and `synthetic`.")
    if spec.synthetic:
        return synthetic_texts.make(spec.synthetic)
    if spec.packaged:
        return _load_packaged(spec)
    if spec.hub:
        return _to_table(read_hub(spec), spec, spec.hub, revision="")
    path = (base / Path(spec.path).expanduser()).resolve()
    if path.is_dir():
        return _to_table(read_folder(spec, path), spec, str(path), revision="")
    return _load_file(spec, path)


def _load_packaged(spec: DatasetSpec) -> Table:
    if spec.packaged not in PACKAGED:
        raise DriftloopError(f"No packaged dataset is called {spec.packaged!r}: choose one of {', '.join(PACKAGED)}.")
    if spec != DatasetSpec(packaged=spec.packaged):
        raise DriftloopError(f"The packaged dataset {spec.packaged!r} fixes its own columns: set nothing but its name.")
    packaged = PACKAGED[spec.packaged]
    table = _load_file(packaged.spec, locate(packaged))
    if not packaged.segments:
        return table
    source = [""] * (max(table.rows) + 1)
    for name, ranges in packaged.segments.items():
        for start, end in ranges:
            source[start:end] = [name] * (end - start)
    return msgspec.structs.replace(table, segments=[source[row] for row in table.rows])


def _load_file(spec: DatasetSpec, path: Path) -> Table:
    if not path.is_file():
        raise DriftloopError(f"There is no dataset at {path}: correct `path`, which is relative to the scenario file.")
    digest = _digest(path)
    if spec.sha256 and digest != spec.sha256.lower():
        raise DriftloopError(
            f"{path} has the digest {digest[:12]}…, not the expected {spec.sha256[:12]}…: it was changed or "
            "damaged. Install or download it again."
        )
    key = hashlib.sha256(f"{_CACHE_FORMAT}\n{digest}\n{path.name}\n{spec}".encode()).hexdigest()
    cached = cache_dir() / "datasets" / "rows" / f"{key}.msgpack"
    try:
        return msgspec.msgpack.decode(cached.read_bytes(), type=Table)
    except (OSError, msgspec.DecodeError):
        pass  # absent or damaged: read the source again
    table = _to_table(read_file(spec, path), spec, str(path), revision=digest)
    _write_cache(table, cached)
    return table


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DriftloopError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


def _write_cache(table: Table, path: Path) -> None:
    # The cache only saves time: a full or read-only disk must not stop the replay.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.msgpack.encode(table))


def _to_table(data: Any, spec: DatasetSpec, source: str, revision: str) -> Table:
    """Convert the three columns to text and drop the rows without a label."""
    require_columns(spec, list(data.column_names), source)
    if not len(data):
        raise no_rows_error(source)
    label_name = _label_names(data.features[spec.label], spec, source)
    texts = [_as_text(value) for value in data[spec.text][:]]
    labels = [label_name(value) for value in data[spec.label][:]]
    segments = [_as_text(value) for value in data[spec.segment][:]] if spec.segment else [""] * len(texts)
    kept = [row for row, label in enumerate(labels) if label]
    if not kept:
        raise DriftloopError(
            f"No row of {source} has a label in the column {spec.label!r}: set `label` to another one."
        )
    table = Table(
        texts=[texts[row] for row in kept],
        labels=[labels[row] for row in kept],
        segments=[segments[row] for row in kept],
        rows=kept,
        revision=revision,
        skipped=len(labels) - len(kept),
    )
    if revision:
        return table
    columns = msgspec.msgpack.encode((table.texts, table.labels, table.segments, table.rows))
    return msgspec.structs.replace(table, revision=hashlib.sha256(columns).hexdigest())


def _label_names(feature: Any, spec: DatasetSpec, source: str) -> Callable[[Any], str]:
    """Return a function from a value of the label column to its name. An empty name marks a row without a label."""
    class_names: list[str] | None = getattr(feature, "names", None)

    def name(value: Any) -> str:
        text = _as_text(value).strip()
        if not text:
            return ""
        if spec.labels:
            if text not in spec.labels:
                raise DriftloopError(f'The label {text!r} of {source} has no name in `labels`: add {text} = "…" to it.')
            return spec.labels[text]
        if class_names is not None and isinstance(value, int):
            return class_names[value] if value >= 0 else ""  # the Hub writes -1 for "not labelled"
        return text

    return name


def _as_text(value: Any) -> str:
    if value is None or value != value:  # NaN is the only value that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
