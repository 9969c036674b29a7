"""The keys of a scenario file, as typed structs; an unknown key is an error.

The built-in scenarios in `producers/builtin/` are examples of all of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from driftloop.core.settings import Masked

Count = Annotated[int, msgspec.Meta(ge=1)]
Position = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SyntheticSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Texts made from word distributions (`producers/data/synthetic_texts.py`): `synthetic` in the `[dataset]` table."""

    events: Count = 4000
    classes: Annotated[int, msgspec.Meta(ge=2, le=5)] = 2
    topics: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """The segments, in turn and of equal length."""
    sentences: Annotated[int, msgspec.Meta(ge=1, le=50)] = 2
    """Most sentences of a text; each text has 1 to so many."""
    signal: Share = 0.6
    """Share of the telling words drawn from the words of the text's own class; the others come from all classes."""
    shared: Share = 0.5
    """Share of a class's words that are the same in all topics."""
    shares: list[Share] = []
    """Of each class; empty: equal."""
    seed: int = 0


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the labelled texts come from: the `[dataset]` table of a scenario. One of the first four is set."""

    path: str = ""
    """A CSV, TSV, JSON lines or Parquet file, or a folder; relative to the scenario file."""
    packaged: str = ""
    """The name of data in a Python package: `tweets`, which comes with driftloop, or another of `packaged.py`."""
    hub: str = ""
    """A dataset's id on the Hugging Face Hub, such as `cardiffnlp/tweet_eval`."""
    synthetic: SyntheticSpec | None = None
    config: str = ""
    split: str = "train"
    """Slices work too: `train[:50000]`."""
    revision: str = ""
    text: str = "text"
    label: str = "label"
    segment: str = ""
    """Column that says where a row comes from; empty: there is none."""
    labels: dict[str, str] = {}
    """Names for the values of the label column: `{0 = "negative", 1 = "positive"}`."""
    encoding: str = "utf-8"
    sha256: str = ""
    """When set, the file must have this digest."""


class PhaseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `order`: so many rows of a segment; without a count, an equal share of what is left of it."""

    segment: str
    count: Count | None = None


class TyposSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From position `start` to `end` (default: the last) a share of all letters is mistyped; labels stay."""

    start: Position
    end: Position | None = None
    share: Share = 0.15


class LabelMixSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From position `start` on, the labels come in these shares (their sum is 1)."""

    start: Position
    shares: dict[str, Share]


class _Inject(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"
):
    """What every entry of `inject` has: from position `start` to `end` (default: the last event) something moves."""

    start: Position
    end: Count | None = None
    width: Position = 0
    """Events over which the probability of the moved state rises from 0 to 1, and from `end` on falls again."""


class PriorSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="prior"):
    """The labels come in these shares (their sum is 1); the texts of a label stay as they are."""

    shares: dict[str, Share]


class TopicSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="topic"):
    """The texts of a segment, of a label, or of both together, are held back until `start`."""

    segment: str = ""
    label: str = ""
    share: Share | None = None
    """Of the events from then on; default: what they have in the data."""


class LabelSwapSpec(
    _Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="label-swap"
):
    """The same texts get other labels: two change places (`swap`), or old ones become others (`relabel`)."""

    swap: list[str] = []
    relabel: dict[str, str] = {}
    segment: str = ""
    """Only in this segment of the data; so too in the next two kinds."""


class VocabularySpec(
    _Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="vocabulary"
):
    """Words are replaced, each by the same other word every time; the labels stay."""

    words: dict[str, str] = {}
    """Old word to new word; empty: `count` words of the texts from `start` on are chosen."""
    count: Count = 20
    pick: Literal["frequent", "informative"] = "informative"
    """The words in most texts, or those that say most about the label (chi-squared)."""
    by: Literal["new", "each other"] = "new"
    """Replaced by made-up words, or by one another, so that known words come to mean something else."""
    segment: str = ""


class NoiseSpec(_Inject, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="noise"):
    """Typos in a share of the letters, or random tokens in place of a share of the words; the labels stay."""

    of: Literal["typos", "tokens"] = "typos"
    share: Share = 0.15
    """Of the letters, or of the words, of a text that is hit."""
    texts: Share = 1.0
    """Share of the texts that are hit."""
    segment: str = ""


InjectSpec = PriorSpec | TopicSpec | LabelSwapSpec | VocabularySpec | NoiseSpec


class AnnotatorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who labels a share of the events, and how well. What no annotator labels, `dataset` labels without fault."""

    name: str
    share: Share
    """Of all events."""
    flipped: Share = 0.0
    """Share of the labels that are wrong, from position `start` on."""
    to: str = ""
    """What a flipped label becomes; empty: any other, all alike."""
    missing: Share = 0.0
    """Share of the labels that never come."""
    start: Position = 0


class ScenarioSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A scenario's TOML file. Without `order`, `mix` and `label_mix` the rows come as they stand in the data."""

    dataset: DatasetSpec
    name: str = ""
    """Empty: the file's name."""
    about: str = ""
    seed: int = 7
    rate: float | str = 40.0
    """Events per second, or "max"."""
    label_delay: Position = 200
    """A label comes so many events after its event."""
    bootstrap: Position | None = None
    """Events sent at full speed with their labels at once, for the first champion; default: the settings'."""
    order: list[str | PhaseSpec] = []
    """Segments in turn; a segment may come again and then goes on with its next rows."""
    cut: Count | None = None
    """Most rows used of each segment."""
    shuffle: bool = True
    """Shuffle inside each segment of `order`."""
    transition: Position = 0
    """Events over which one entry of `order` blends into the next, centred on the border."""
    mix: bool = False
    """Shuffle everything together: a stationary stream."""
    label_mix: list[LabelMixSpec] = []
    typos: TyposSpec | None = None
    """The same as an `inject` of the kind noise."""
    inject: list[InjectSpec] = []
    """Drifts put into the stream, applied in this order."""
    annotators: list[AnnotatorSpec] = []
    mask: list[Masked] = []
    """Personal data that is taken out of the texts: handle, email, phone, link; see `producers/pii_masking.py`."""
    limit: Count | None = None
    """Events in all."""
    drifts: list[Count] | None = None
    """True drift positions, where they do not follow from the keys above."""
