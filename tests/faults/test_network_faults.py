"""A network that is slow, cut, or silent between the loop and its broker, its store and its registry."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.harness.fork_server import ForkServer
from benchmarks.harness.network_proxy import NetworkProxy
from benchmarks.harness.stream_harness import StreamHarness
from driftloop.core import topics
from driftloop.core.settings import Settings
from driftloop.core.topics import PREDICTIONS
from driftloop.devstack.ports import free_port
from driftloop.devstack.stack import EmbeddedStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


class Network:
    """Use as a context manager: a stack, each of its services behind a proxy that its clients are told of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()

    def __enter__(self) -> Network:
        port = free_port()
        self.kafka = self._open.enter_context(NetworkProxy(port))
        stack = EmbeddedStack(self._folder / "run", ports={"kafka": port}, advertised=self.kafka.port)
        self._open.enter_context(stack)
        self.redis = self._open.enter_context(NetworkProxy(stack.ports["valkey"]))
        self.mlflow = self._open.enter_context(NetworkProxy(stack.ports["mlflow"]))
        self.settings = replace(
            stack.settings(Settings(partitions=2)),
            kafka=f"127.0.0.1:{self.kafka.port}",
            redis=f"redis://127.0.0.1:{self.redis.port}/0",
            mlflow=f"http://127.0.0.1:{self.mlflow.port}",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def mend(self) -> None:
        """Everything gets through, at once."""
        for proxy in (self.kafka, self.redis, self.mlflow):
            proxy.delay = 0.0
            proxy.restore()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("network")) as made:
        yield made


EVENTS = 1200
"""Twelve seconds of work: on a slow machine, too, most of it is still to be done when the network fails."""


@pytest.fixture
def world(network: Network, tmp_path: Path, fork_server: ForkServer) -> Iterator[StreamHarness]:
    """A world with a champion, that knows the proxies alone."""
    mark = uuid.uuid4().hex[:8]
    settings = replace(network.settings, stream=f"net-{mark}", topic_prefix=f"n{mark}.")
    topics.create(settings)
    made = StreamHarness(settings, tmp_path, fork_server)
    made.promote()
    yield made
    network.mend()
    made.close()


@pytest.mark.parametrize("changes", [(), ("no-acks",)], ids=["protected", "control"])
def test_messages_lost_in_network_are_sent_again(
    network: Network, world: StreamHarness, changes: tuple[str, ...]
) -> None:
    """First it is silent, so that what is sent is under way; then every connection is reset."""
    world.start("monitor")
    world.start("score", changes=changes, DRIFTLOOP_SCORER__BATCH="16", DRIFTLOOP_SCORER__MIN_MS_PER_EVENT="10")
    world.send(events=range(EVENTS), labels=range(EVENTS))
    world.until(lambda: world.count(PREDICTIONS) > 50)
    network.kafka.drop_packets()
    time.sleep(4)
    network.kafka.reset_connections()
    time.sleep(2)
    network.kafka.restore()
    said = world.wait_for_audit("neither a prediction nor a dead letter" if changes else "", 150)
    assert said.verdict == ("PROCESSED-LESS" if changes else "ALL-RECORDS-DELIVERED"), said
    if not changes:
        assert said.counts["predictions"] == said.counts["outcomes"] == EVENTS


@pytest.mark.parametrize("service", ["kafka", "redis", "mlflow"])
def test_network_faults_before_service_lose_no_event(network: Network, world: StreamHarness, service: str) -> None:
    """Delays, reset connections and dropped packets between the loop and one of its services."""
    proxy: NetworkProxy = getattr(network, service)
    world.start("monitor")
    world.start("score")
    sent = 0

    def goes_on() -> None:
        nonlocal sent
        world.send(events=range(sent, sent + 100), labels=range(sent, sent + 100))
        sent += 100

    goes_on()
    world.until(lambda: world.count(PREDICTIONS) >= 50)
    proxy.delay = 0.2
    goes_on()
    time.sleep(5)
    proxy.delay = 0.0
    # Clients give up on Redis after 10 s without a response.
    for trouble, seconds in ((proxy.reset_connections, 4), (proxy.drop_packets, 12)):
        goes_on()
        trouble()
        time.sleep(seconds)
        proxy.restore()
        world.wait_for_audit(seconds=150)
    if service == "mlflow":  # a promotion that was registered comes through as well
        world.promote(flipped=True)
        goes_on()
    said = world.wait_for_audit(seconds=150)
    assert said.verdict == "ALL-RECORDS-DELIVERED" and said.counts["predictions"] == sent, said
