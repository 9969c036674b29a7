"""A network that is slow, cut, or silent between the loop and its broker, its store and its registry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.proxy import Proxy
from benchmarks.world import World
from driftloop import topics
from driftloop.lifecycle.embedded.ports import free_port
from driftloop.lifecycle.embedded.stack import EmbeddedStack
from driftloop.settings import Settings
from driftloop.topics import PREDICTIONS
from serving.audit import Audit, audit

pytestmark = [pytest.mark.stack, pytest.mark.timeout(500)]


class Network:
    """A stack, each of its services behind a proxy, and a world that knows the proxies alone."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.kafka = Proxy(port)
        with_kafka = self.kafka.__enter__()
        self.stack = EmbeddedStack(folder / "run", ports={"kafka": port}, advertised=with_kafka.port)
        self.stack.start()
        self.redis = Proxy(self.stack.ports["valkey"]).__enter__()
        self.mlflow = Proxy(self.stack.ports["mlflow"]).__enter__()
        settings = replace(
            self.stack.settings(Settings(stream="net", topic_prefix="net.", partitions=2)),
            kafka=f"127.0.0.1:{self.kafka.port}",
            redis=f"redis://127.0.0.1:{self.redis.port}/0",
            mlflow=f"http://127.0.0.1:{self.mlflow.port}",
        )
        topics.create(settings)
        self.world = World(settings, folder)
        self.world.promote()

    def close(self) -> None:
        for proxy in (self.kafka, self.redis, self.mlflow):
            proxy.mend()
        for child in self.world.children:
            child.stop()
        self.world.outbox.close()
        self.stack.stop()
        for proxy in (self.kafka, self.redis, self.mlflow):
            proxy.__exit__()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


def through(world: World, complaint: str = "") -> Audit:
    """What the ledger says once all is through, or, where there is to be one, once it has that complaint."""
    said: list[Audit] = []

    def done() -> bool:
        said[:] = [audit(world.settings)]
        counts = said[0].counts
        if complaint:
            return any(complaint in finding.what for finding in said[0].findings)
        return said[0].clean and counts["waiting"] == 0 and counts["outcomes"] == counts["labels"]

    world.until(done, 150)
    return said[0]


@pytest.mark.parametrize("changes", [(), ("no-acks",)], ids=["protected", "control"])
def test_what_the_network_swallows_on_its_way_to_the_broker_is_sent_again(
    network: Network, changes: tuple[str, ...]
) -> None:
    """First it is silent, so that what is sent is under way; then every connection is reset."""
    world = network.world
    world.start("monitor")
    world.start("score", changes=changes, DRIFTLOOP_SCORER__BATCH="16", DRIFTLOOP_SCORER__FLOOR_MS="10")
    world.send(events=range(600), labels=range(600))
    world.until(lambda: world.count(PREDICTIONS) > 50)
    network.kafka.silence()
    time.sleep(4)
    network.kafka.cut()
    time.sleep(2)
    network.kafka.mend()
    said = through(world, "neither a prediction nor a dead letter" if changes else "")
    assert said.verdict == ("PROCESSED-LESS" if changes else "ALL-RECORDS-DELIVERED"), said
    if not changes:
        assert said.counts["predictions"] == said.counts["outcomes"] == 600


@pytest.mark.parametrize("service", ["kafka", "redis", "mlflow"])
def test_a_service_behind_a_bad_network_holds_up_and_loses_nothing(network: Network, service: str) -> None:
    world, proxy = network.world, getattr(network, service)
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
    for trouble in (proxy.cut, proxy.silence):
        goes_on()
        trouble()
        time.sleep(12)
        proxy.mend()
        through(world)
    if service == "mlflow":  # a promotion that was registered comes through as well
        world.promote(flipped=True)
        goes_on()
    said = through(world)
    assert said.verdict == "ALL-RECORDS-DELIVERED" and said.counts["predictions"] == sent, said
