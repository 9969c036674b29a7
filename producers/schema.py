"""The keys of a scenario file, as typed structs; an unknown key is an error.

The built-in scenarios in `producers/builtin/` are examples of all of them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Position = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the labelled texts come from: the `[dataset]` table of a scenario. One of the first three is set."""

    path: str = ""
    """A CSV, TSV, JSON lines or Parquet file, or a folder; relative to the scenario file."""
    packaged: str = ""
    """The name of data that comes with driftloop: `tweets`."""
    hub: str = ""
    """A dataset's id on the Hugging Face Hub, such as `cardiffnlp/tweet_eval`."""
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
    limit: Count | None = None
    """Events in all."""
    drifts: list[Count] | None = None
    """True drift positions, where they do not follow from the keys above."""
