"""Fixtures that every test may use: the embedded stack, started once, and settings of a fresh stream on it."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from driftloop.core import topics
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was put to each door, where a test put anything there."""
    hostile = sys.modules.get("tests.hostile")
    if hostile is not None and hostile.TRIED:
        terminalreporter.write_line("")
        for line in hostile.table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A started stack: Kafka, Valkey and MLflow on free ports, shared by the whole session."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack"), progress=print) as started:
        yield started


@pytest.fixture
def settings(stack: EmbeddedStack) -> Settings:
    """Settings of a stream of its own on the shared stack, its topics created."""
    mark = uuid.uuid4().hex[:8]
    chosen = stack.settings(Settings(stream=f"test-{mark}", topic_prefix=f"t{mark}."))
    topics.create(chosen)
    return chosen
