"""A small world on the stack that the whole session shares; see `benchmarks.world`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.world import LINEAGE, World, event, label, text_and_label
from driftloop.settings import Settings

__all__ = ["LINEAGE", "World", "event", "label", "text_and_label"]


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> Iterator[World]:
    """A world without processes; those it starts are stopped at the end."""
    made = World(settings, tmp_path)
    yield made
    made.close()
