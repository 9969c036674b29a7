"""A small world on the stack that the whole session shares; see `benchmarks.harness.stream_harness`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.fork_server import ForkServer
from benchmarks.harness.stream_harness import LINEAGE, StreamHarness, event, label, text_and_label
from driftloop.core.settings import Settings

__all__ = ["LINEAGE", "StreamHarness", "event", "label", "text_and_label"]


@pytest.fixture
def world(settings: Settings, tmp_path: Path, fork_server: ForkServer) -> Iterator[StreamHarness]:
    """A world without processes; those it starts are stopped at the end."""
    made = StreamHarness(settings, tmp_path, fork_server)
    yield made
    made.close()
