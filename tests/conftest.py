"""Fixtures of every tier: the embedded stack, a fork server, and settings of a stream of its own."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.harness.fork_server import ForkServer
from driftloop.core import topics
from driftloop.core.settings import RetrainSettings, Settings
from driftloop.devstack.stack import EmbeddedStack
from tests import shared_stack

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folder of its tier."""
    for item in items:
        item.add_marker(item.path.relative_to(HERE).parts[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many hostile inputs each door was given, if a test gave any."""
    hostile = sys.modules.get("tests.hostile")
    if hostile is not None and hostile.TRIED:
        terminalreporter.write_line("")
        for line in hostile.table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Kafka, Valkey and MLflow on free ports, shared by all workers: its services must not be stopped or frozen."""
    base = tmp_path_factory.getbasetemp()
    with shared_stack.joined((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared") as started:
        yield started


@pytest.fixture(scope="session")
def private_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A stack of this worker alone, whose services a test may stop and freeze."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack"), progress=print) as started:
        yield started


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of a stream of its own, its topics created: on the private stack where a test asks for that."""
    stack = request.getfixturevalue("private_stack" if "private_stack" in request.fixturenames else "stack")
    mark = uuid.uuid4().hex[:8]
    retrain = RetrainSettings().until_labels_end
    chosen: Settings = stack.settings(Settings(stream=f"test-{mark}", topic_prefix=f"t{mark}.", retrain=retrain))
    topics.create(chosen)
    return chosen


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """A process that has imported the loop and forks the processes of the tests."""
    with ForkServer() as started:
        yield started
