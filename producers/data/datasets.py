"""Labelled texts from anything `datasets.load_dataset` reads, and the tweets that come with driftloop.

Sources: a CSV, TSV, JSON lines or Parquet file, a local folder in the Hub's layout, a Hub id, a packaged name, or
texts made up from word distributions.
Importing `datasets` costs seconds, so the rows of a local file are kept in the user cache under the file's digest.
"""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import hashlib
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import cache_dir
from producers.data import synthetic_texts
from producers.data.packaged_datasets import PACKAGED, locate
from producers.data.table import Table
from producers.scenarios.scenario_schema import DatasetSpec


class NoColumn(DriftloopError):
    """The data has no column of a name that the spec gives."""

    def __init__(self, what: str, key: str, column: str, columns: list[str]) -> None:
        super().__init__(
            f"{what[0].upper() + what[1:]} has no column {column!r}: set `{key}` in the [dataset] table to one of "
            f"{', '.join(map(repr, columns))}."
        )
        self.key = key
        self.column = column
        self.columns = columns


class WrongEncoding(DriftloopError):
    """The file is not encoded as the spec says."""


_TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_FORMATS = {
    **dict.fromkeys(_TABLES, "csv"),
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_CACHE_FORMAT = "rows-1"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR}


def load(spec: DatasetSpec, base: Path) -> Table:
    """Read the rows that ``spec`` names; relative paths start at ``base``.

    Raises:
        DriftloopError: the source is missing, unreachable, empty, has another digest or not the named columns.
    """
    if sum(map(bool, (spec.path, spec.packaged, spec.hub, spec.synthetic))) != 1:
        raise DriftloopError("The [dataset] table needs exactly one of `path`, `packaged`, `hub` and `synthetic`.")
    if spec.synthetic:
        return synthetic_texts.make(spec.synthetic)
    if spec.packaged:
        return _load_packaged(spec)
    if spec.hub:
        return _normalise(_hub(spec), spec, spec.hub, revision="")
    path = (base / Path(spec.path).expanduser()).resolve()
    if path.is_dir():
        return _normalise(_folder(spec, path), spec, str(path), revision="")
    return _load_file(spec, path)


def _load_packaged(spec: DatasetSpec) -> Table:
    if spec.packaged not in PACKAGED:
        raise DriftloopError(f"No packaged dataset is called {spec.packaged!r}: there is {', '.join(PACKAGED)}.")
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
            "damaged; install or download it again."
        )
    key = hashlib.sha256(f"{_CACHE_FORMAT}\n{digest}\n{path.name}\n{spec}".encode()).hexdigest()
    kept = cache_dir() / "datasets" / "rows" / f"{key}.msgpack"
    try:
        return msgspec.msgpack.decode(kept.read_bytes(), type=Table)
    except (OSError, msgspec.DecodeError):
        pass  # not there yet, or damaged: read the source again
    table = _normalise(_file(spec, path), spec, str(path), revision=digest)
    _keep(table, kept)
    return table


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DriftloopError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


def _keep(table: Table, path: Path) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.msgpack.encode(table))
        draft.replace(path)
    except OSError:
        # The cache only saves time; a full or read-only disk must not stop the replay.
        draft.unlink(missing_ok=True)


def _file(spec: DatasetSpec, path: Path) -> Any:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((_FORMATS[suffix] for suffix in reversed(suffixes) if suffix in _FORMATS), None)
    if kind is None:
        raise DriftloopError(f"{path} is of no known kind: its name must end in {', '.join(_FORMATS)} (or that + .gz).")
    if not path.stat().st_size:
        raise _no_rows(str(path))
    options: dict[str, Any] = {}
    if kind == "csv":
        separator = next(_TABLES[suffix] for suffix in reversed(suffixes) if suffix in _TABLES)
        columns = _header(path, suffixes[-1], spec.encoding, separator)
        _require(spec, columns, str(path))
        # Everything is text: a column of numbers with gaps must not become 1.0, nor the word "null" be lost.
        options = {"sep": separator, "encoding": spec.encoding, "keep_default_na": False, "na_filter": False}
        options["features"] = columns
    elif kind == "json" and spec.encoding != "utf-8":
        options = {"encoding": spec.encoding}
    split = spec.split.split("[")[0]
    return _read(str(path), kind, data_files={split: str(path)}, split=spec.split, **options)


def _header(path: Path, suffix: str, encoding: str, separator: str) -> list[str]:
    opener: Callable[..., IO[str]] = _OPENERS.get(suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
            header = next((row for row in csv.reader(file, delimiter=separator) if row), [])
    except (OSError, EOFError, LookupError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(str(path), error) from error
    if not header:
        raise _no_rows(str(path))
    # A table saved with its index has a column without a name; this is what pandas, which reads it, calls it.
    return [name or f"Unnamed: {at}" for at, name in enumerate(header)]


def _folder(spec: DatasetSpec, path: Path) -> Any:
    return _read(str(path), str(path), name=spec.config or None, split=spec.split)


def _hub(spec: DatasetSpec) -> Any:
    return _read(
        f"the Hub's dataset {spec.hub}",
        spec.hub,
        name=spec.config or None,
        split=spec.split,
        revision=spec.revision or None,
    )


def _read(what: str, source: str, **options: Any) -> Any:
    datasets = _datasets()
    if "features" in options:
        options["features"] = datasets.Features(dict.fromkeys(options["features"], datasets.Value("string")))
    try:
        return datasets.load_dataset(source, cache_dir=str(cache_dir() / "datasets"), **options)
    # A foreign reader with a dozen kinds of failure of its own; the sentence names the first cause.
    except Exception as error:
        if isinstance(error, datasets.exceptions.DatasetNotFoundError | ConnectionError):
            raise DriftloopError(
                f"{what[0].upper() + what[1:]} could not be fetched ({_first_line(error)}): check its id and the "
                "network, or download it and set `path` to the local copy."
            ) from error
        if "corresponds to no data" in str(error):  # what the library says of a split without rows
            raise _no_rows(what) from error
        raise _unwritable(error) or _unreadable(what, error) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DriftloopError(
            "Reading a dataset needs the package `datasets`: install driftloop with its extra `replay` "
            "(pip install 'driftloop[replay]')."
        ) from error
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _no_rows(what: str) -> DriftloopError:
    return DriftloopError(f"{what[0].upper() + what[1:]} has no rows: give one with labelled texts.")


def _unwritable(error: BaseException | None) -> DriftloopError | None:
    """The sentence for a full, read-only or forbidden cache folder, if that is what went wrong."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return DriftloopError(
                f"The cache {cache_dir()} cannot be written ({error.strerror}): free some space, or set "
                "DRIFTLOOP_CACHE to another folder."
            )
        error = error.__cause__ or error.__context__
    return None


def _unreadable(what: str, error: BaseException) -> DriftloopError:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = f"{what[0].upper() + what[1:]} could not be read ({_first_line(cause)})"
    if isinstance(cause, UnicodeDecodeError | LookupError) or "codec can't decode" in f"{error} {cause}":
        return WrongEncoding(f'{said}: set `encoding` in the [dataset] table, for example encoding = "latin-1".')
    return DriftloopError(f"{said}: check the file and the [dataset] table.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def _require(spec: DatasetSpec, columns: list[str], what: str) -> None:
    for key, column in (("text", spec.text), ("label", spec.label), ("segment", spec.segment)):
        if column and column not in columns:
            raise NoColumn(what, key, column, columns)


def _normalise(data: Any, spec: DatasetSpec, what: str, revision: str) -> Table:
    """The three columns as text, without the rows that have no label."""
    _require(spec, list(data.column_names), what)
    if not len(data):
        raise _no_rows(what)
    names = _label_names(data.features[spec.label], spec, what)
    texts = [_plain(value) for value in data[spec.text][:]]
    labels = [names(value) for value in data[spec.label][:]]
    segments = [_plain(value) for value in data[spec.segment][:]] if spec.segment else [""] * len(texts)
    kept = [row for row, label in enumerate(labels) if label]
    if not kept:
        raise DriftloopError(f"No row of {what} has a label in the column {spec.label!r}: set `label` to another one.")
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


def _label_names(feature: Any, spec: DatasetSpec, what: str) -> Callable[[Any], str]:
    """From a value of the label column to its name; an empty name means that the row has no label."""
    class_names: list[str] | None = getattr(feature, "names", None)

    def name(value: Any) -> str:
        plain = _plain(value).strip()
        if not plain:
            return ""
        if spec.labels:
            if plain not in spec.labels:
                raise DriftloopError(f'The label {plain!r} of {what} has no name in `labels`: add {plain} = "…" to it.')
            return spec.labels[plain]
        if class_names is not None and isinstance(value, int):
            return class_names[value] if value >= 0 else ""  # -1 is the Hub's word for "not labelled"
        return plain

    return name


def _plain(value: Any) -> str:
    if value is None or value != value:  # NaN is the only value that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
