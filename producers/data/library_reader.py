"""Files, folders and Hub datasets, read with the Hugging Face library `datasets`.

Every failure becomes one sentence that names the source, the cause and the remedy.
"""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import cache_dir
from producers.scenarios.scenario_schema import DatasetSpec

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_FORMATS = {
    **dict.fromkeys(_SEPARATORS, "csv"),
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR}


class MissingColumn(DriftloopError):
    """The data has no column of a name that the spec gives.

    Args:
        source: Name of the data, for the message.
        key: Key of the `[dataset]` table that names the column.
        column: Name that was not found.
        columns: Names that the data has.
    """

    def __init__(self, source: str, key: str, column: str, columns: list[str]) -> None:
        super().__init__(
            f"{_capitalise(source)} has no column {column!r}: set `{key}` in the [dataset] table to one of "
            f"{', '.join(map(repr, columns))}."
        )
        self.key = key
        self.column = column
        self.columns = columns


class WrongEncoding(DriftloopError):
    """The file does not have the encoding of the spec."""


def read_file(spec: DatasetSpec, path: Path) -> Any:
    """Read a CSV, TSV, JSON lines or Parquet file.

    Args:
        spec: The `[dataset]` table of a scenario.
        path: An existing file.

    Returns:
        A `datasets.Dataset`.

    Raises:
        DriftloopError: The kind of file is unknown, or it is empty, damaged or without the named columns.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((_FORMATS[suffix] for suffix in reversed(suffixes) if suffix in _FORMATS), None)
    if kind is None:
        raise DriftloopError(f"{path} is of no known kind: its name must end in {', '.join(_FORMATS)} (or that + .gz).")
    if not path.stat().st_size:
        raise no_rows_error(str(path))
    options: dict[str, Any] = {}
    if kind == "csv":
        separator = next(_SEPARATORS[suffix] for suffix in reversed(suffixes) if suffix in _SEPARATORS)
        columns = _read_header(path, suffixes[-1], spec.encoding, separator)
        require_columns(spec, columns, str(path))
        # Everything is text: a column of numbers with gaps must not become 1.0, nor the word "null" be lost.
        options = {"sep": separator, "encoding": spec.encoding, "keep_default_na": False, "na_filter": False}
        options["features"] = columns
    elif kind == "json" and spec.encoding != "utf-8":
        options = {"encoding": spec.encoding}
    split = spec.split.split("[")[0]
    return _load_dataset(str(path), kind, data_files={split: str(path)}, split=spec.split, **options)


def read_folder(spec: DatasetSpec, path: Path) -> Any:
    """Read a local folder in the layout of the Hub.

    Args:
        spec: The `[dataset]` table of a scenario.
        path: An existing folder.

    Returns:
        A `datasets.Dataset`.

    Raises:
        DriftloopError: The folder cannot be read.
    """
    return _load_dataset(str(path), str(path), name=spec.config or None, split=spec.split)


def read_hub(spec: DatasetSpec) -> Any:
    """Read a dataset of the Hugging Face Hub and return it as a `datasets.Dataset`.

    Raises:
        DriftloopError: The dataset cannot be fetched or read.
    """
    return _load_dataset(
        f"the Hub's dataset {spec.hub}",
        spec.hub,
        name=spec.config or None,
        split=spec.split,
        revision=spec.revision or None,
    )


def require_columns(spec: DatasetSpec, columns: list[str], source: str) -> None:
    """Check that the data has the columns of the spec.

    Args:
        spec: The `[dataset]` table of a scenario.
        columns: Names that the data has.
        source: Name of the data, for the message.

    Raises:
        MissingColumn: A named column is absent.
    """
    for key, column in (("text", spec.text), ("label", spec.label), ("segment", spec.segment)):
        if column and column not in columns:
            raise MissingColumn(source, key, column, columns)


def no_rows_error(source: str) -> DriftloopError:
    """Return the error for a source without rows."""
    return DriftloopError(f"{_capitalise(source)} has no rows: give one with labelled texts.")


def _read_header(path: Path, suffix: str, encoding: str, separator: str) -> list[str]:
    opener: Callable[..., IO[str]] = _OPENERS.get(suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
            header = next((row for row in csv.reader(file, delimiter=separator) if row), [])
    except (OSError, EOFError, LookupError, UnicodeDecodeError, csv.Error) as error:
        raise _read_error(str(path), error) from error
    if not header:
        raise no_rows_error(str(path))
    # A table saved with its index has a column without a name. pandas, which reads the file, gives it this one.
    return [name or f"Unnamed: {at}" for at, name in enumerate(header)]


def _load_dataset(source: str, path: str, **options: Any) -> Any:
    datasets = _import_datasets()
    if "features" in options:
        options["features"] = datasets.Features(dict.fromkeys(options["features"], datasets.Value("string")))
    try:
        return datasets.load_dataset(path, cache_dir=str(cache_dir() / "datasets"), **options)
    # The library fails in a dozen ways of its own. The sentence names the first cause.
    except Exception as error:
        if isinstance(error, datasets.exceptions.DatasetNotFoundError | ConnectionError):
            raise DriftloopError(
                f"{_capitalise(source)} could not be fetched ({_first_line(error)}): check its id and the "
                "network, or download it and set `path` to the local copy."
            ) from error
        if "corresponds to no data" in str(error):  # the library's message for a split without rows
            raise no_rows_error(source) from error
        raise _cache_error(error) or _read_error(source, error) from error


def _import_datasets() -> Any:
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


def _cache_error(error: BaseException | None) -> DriftloopError | None:
    """Return the error for a full, read-only or forbidden cache folder, or None if the cause is another one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return DriftloopError(
                f"The cache {cache_dir()} cannot be written ({error.strerror}): free some space, or set "
                "DRIFTLOOP_CACHE to another folder."
            )
        error = error.__cause__ or error.__context__
    return None


def _read_error(source: str, error: BaseException) -> DriftloopError:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    problem = f"{_capitalise(source)} could not be read ({_first_line(cause)})"
    if isinstance(cause, UnicodeDecodeError | LookupError) or "codec can't decode" in f"{error} {cause}":
        return WrongEncoding(f'{problem}: set `encoding` in the [dataset] table, for example encoding = "latin-1".')
    return DriftloopError(f"{problem}: check the file and the [dataset] table.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def _capitalise(source: str) -> str:
    return source[0].upper() + source[1:]
