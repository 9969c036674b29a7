"""Keys of a scenario file, as typed structs. An unknown key is an error.

The built-in scenarios in `producers/builtin/` are examples.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from driftloop.core.settings import Masked

Count = Annotated[int, msgspec.Meta(ge=1)]
Position = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SyntheticSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Texts made from word distributions: `synthetic` in the `[dataset]` table.

    `producers/data/synthetic_texts.py` makes the texts.
    """

    events: Count = 4000
    classes: Annotated[int, msgspec.Meta(ge=2, le=5)] = 2
    topics: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Number of segments. They come in turn and have equal length."""
    sentences: Annotated[int, msgspec.Meta(ge=1, le=50)] = 2
    """Maximum number of sentences of a text. The minimum is 1."""
    signal: Share = 0.6
    """Share of the class words drawn from the words of the text's own class. The others come from all classes."""
    shared: Share = 0.5
    """Share of a class's words that are the same in all topics."""
    shares: list[Share] = []
    """Share of each class. Equal if empty."""
    seed: int = 0


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Source of the labelled texts: the `[dataset]` table of a scenario. Exactly one of the first four is set."""

    path: str = ""
    """A CSV, TSV, JSON lines or Parquet file, or a folder. Relative paths start at the scenario file."""
    packaged: str = ""
    """Name of data in a Python package: `tweets`, which comes with driftloop, or another of `packaged_datasets.py`."""
    hub: str = ""
    """Id of a dataset on the Hugging Face Hub, such as `cardiffnlp/tweet_eval`."""
    synthetic: SyntheticSpec | None = None
    config: str = ""
    split: str = "train"
    """Slices work too: `train[:50000]`."""
    revision: str = ""
    text: str = "text"
    label: str = "label"
    segment: str = ""
    """Column of the rows' origin. Empty if the data has none."""
    labels: dict[str, str] = {}
    """Names for the values of the label column: `{0 = "negative", 1 = "positive"}`."""
    encoding: str = "utf-8"
    sha256: str = ""
    """Digest that the file must have. Not checked if empty."""


class PhaseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `order`: rows of a segment."""

    segment: str
    count: Count | None = None
    """Number of rows. Default: an equal share of the segment's remaining rows."""


class TyposSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Typos in a share of all letters, from position `start` to `end` (default: the last). The labels stay."""

    start: Position
    end: Position | None = None
    share: Share = 0.15


class LabelMixSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of the labels from position `start` on. Their sum is 1."""

    start: Position
    shares: dict[str, Share]


class _Inject(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"
):
    """Keys of every entry of `inject`. The change lasts from position `start` to `end` (default: the last event)."""

    start: Position
    end: Count | None = None
    width: Position = 0
    """Events over which the probability of the change rises from 0 to 1, and from `end` on falls again."""


class PriorSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="prior"):
    """Other shares of the labels. Their sum is 1. The texts of a label stay as they are."""

    shares: dict[str, Share]


class TopicSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="topic"):
    """Texts of a segment, of a label, or of both together, that are held back until `start`."""

    segment: str = ""
    label: str = ""
    share: Share | None = None
    """Share of these texts from `start` on. Default: their share in the data."""


class LabelSwapSpec(
    _Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="label-swap"
):
    """Other labels for the same texts. Exactly one of `swap` and `relabel` is set."""

    swap: list[str] = []
    """Two labels that change places."""
    relabel: dict[str, str] = {}
    """Old label to new label."""
    segment: str = ""
    """Segment of the data that changes. All if empty."""


class VocabularySpec(
    _Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="vocabulary"
):
    """Replaced words, each by the same other word every time. The labels stay."""

    words: dict[str, str] = {}
    """Old word to new word. If empty, `count` words of the texts from `start` on are chosen."""
    count: Count = 20
    pick: Literal["frequent", "informative"] = "informative"
    """Choose the words in most texts, or those that depend most on the label (chi-squared)."""
    by: Literal["new", "each other"] = "new"
    """Replace by made-up words, or by one another, so that known words change their meaning."""
    segment: str = ""
    """Segment of the data that changes. All if empty."""


class NoiseSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="noise"):
    """Typos in a share of the letters, or random tokens in place of a share of the words. The labels stay."""

    of: Literal["typos", "tokens"] = "typos"
    share: Share = 0.15
    """Share of the letters, or of the words, of a changed text."""
    texts: Share = 1.0
    """Share of the texts that change."""
    segment: str = ""
    """Segment of the data that changes. All if empty."""


InjectSpec = PriorSpec | TopicSpec | LabelSwapSpec | VocabularySpec | NoiseSpec


class AnnotatorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A simulated annotator. The annotator `dataset` labels all remaining events, without errors."""

    name: str
    share: Share
    """Share of all events that this annotator labels."""
    flipped: Share = 0.0
    """Share of the labels that are wrong, from position `start` on."""
    to: str = ""
    """Label that a wrong one becomes. If empty, any other label with equal probability."""
    missing: Share = 0.0
    """Share of the labels that never come."""
    start: Position = 0
    """Position of the first wrong label."""


class ScenarioSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A scenario's TOML file. Without `order`, `mix` and `label_mix` the rows keep the order of the data."""

    dataset: DatasetSpec
    name: str = ""
    """Name of the scenario. Default: the file's name."""
    about: str = ""
    """One sentence about the scenario."""
    seed: int = 7
    rate: float | str = 40.0
    """Events per second, or "max"."""
    label_delay: Position = 200
    """Events between an event and its label."""
    bootstrap: Position | None = None
    """Events for the first champion, sent at full speed with their labels. Default: the number in the settings."""
    order: list[str | PhaseSpec] = []
    """Segments in turn. A segment that occurs again continues with its next rows."""
    cut: Count | None = None
    """Maximum number of rows of each segment. Default: all."""
    shuffle: bool = True
    """Shuffle inside each segment of `order`."""
    transition: Position = 0
    """Events over which one entry of `order` blends into the next, centred on the border."""
    mix: bool = False
    """Shuffle all rows together: a stationary stream."""
    label_mix: list[LabelMixSpec] = []
    """Shares of the labels, phase by phase."""
    typos: TyposSpec | None = None
    """Short form of an `inject` entry of the kind noise."""
    inject: list[InjectSpec] = []
    """Drifts injected into the stream, applied in this order."""
    annotators: list[AnnotatorSpec] = []
    """Simulated annotators. Without any, all labels are true."""
    mask: list[Masked] = []
    """Personal data removed from the texts: handle, email, phone, link. See `producers/pii_masking.py`."""
    limit: Count | None = None
    """Maximum number of events. Default: all."""
    drifts: list[Count] | None = None
    """True drift positions, if they do not follow from the keys above."""
