"""One retrainer writes at a time: on the real Redis and Kafka, with processes that are killed and paused."""

from __future__ import annotations

import io
import os
import signal
import time
from contextlib import closing
from typing import Any

import msgspec
import pytest

from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.messages import ModelUpdate, Prediction, Retraining
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import MODEL_UPDATES, PREDICTIONS, RETRAINING
from serving.simulation.summarise import collect
from serving.topic_console import Filters, View, watch
from tests.integration.conftest import StreamHarness
from tests.integration.test_worker import QUICK, alert, put

SHORT = QUICK | {"DRIFTLOOP_RETRAIN__LEASE": "4"}


def quietly(line: str) -> None:
    """Nothing is said."""


def forget(settings: Settings) -> None:
    """Empty the store of all that it has of this stream."""
    store = OnlineStore(settings)
    assert store.client.delete(*store.client.scan_iter(store.key("*")))


def office(settings: Settings, seconds: float = 1.0) -> LeaderLease:
    return LeaderLease(OnlineStore(settings), "retrainer", seconds)


def test_lease_has_one_holder_and_growing_token(settings: Settings) -> None:
    first, second = office(settings), office(settings)
    assert first.acquire(lambda: False, quietly, lambda: 5) and first.fence > 5
    time.sleep(2.5)
    first.check()  # it has been renewed
    said: list[str] = []
    began = time.monotonic()
    assert not second.acquire(lambda: time.monotonic() - began > 1.5, said.append, lambda: 0)
    assert said == [
        f"process {os.getpid()} on {os.uname().nodename} is the retrainer of this stream: waiting until it ends"
    ]
    first.release()
    assert second.acquire(lambda: False, quietly, lambda: 0) and second.fence > first.fence
    with pytest.raises(DriftloopError, match="had no contact to Redis"):
        first.check()
    second.release()


def test_token_grows_after_store_is_emptied(settings: Settings) -> None:
    """A new token is greater than the greatest one that readers know."""
    first = office(settings)
    assert first.acquire(lambda: False, quietly, lambda: 0)
    far = first.fence + 1000
    forget(settings)
    time.sleep(1.5)
    first.check()  # the lock was gone and nobody else had come: it is its again
    first.release()
    second = office(settings)
    assert second.acquire(lambda: False, quietly, lambda: far) and second.fence == far + 1
    second.release()


def test_lost_lease_is_not_taken_back(settings: Settings) -> None:
    first, second = office(settings, 2.0), office(settings, 2.0)
    assert first.acquire(lambda: False, quietly, lambda: 0)
    forget(settings)
    assert second.acquire(lambda: False, quietly, lambda: 0)
    deadline = time.monotonic() + 5
    while first.held:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.check()
    first.release()
    time.sleep(1)
    second.check()  # its lock was not released by the other
    second.release()


def test_standby_retrainer_takes_over_after_kill(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    first = world.start("retrain", restart=False, **QUICK)
    world.until(lambda: any(m.state == "promoted" for m in diary(world)))
    second = world.start("retrain", restart=False, **QUICK)
    world.until(lambda: "waiting until it ends" in second.log_tail())
    put(world, range(200, 330), [alert(220, "another-alert")])
    world.until(lambda: "another-alert" in {message.trigger for message in diary(world)})
    first.kill()
    world.until(lambda: ("finished", "another-alert") in ended(world))
    told = [m for m in world.read(MODEL_UPDATES) if isinstance(m, ModelUpdate)]
    assert [m.fence for m in told] == sorted(m.fence for m in told)
    assert second.exit_code is None


def test_paused_retrainer_writes_nothing_after_takeover(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, range(200), [])
    paused = world.start("retrain", restart=False, **SHORT)
    world.until(
        lambda: OnlineStore(world.settings).client.exists(OnlineStore(world.settings).key("fence", "retrainer"))
    )
    os.kill(paused.pid or 0, signal.SIGSTOP)
    try:
        world.start("retrain", restart=False, **SHORT)
        put(world, range(0), [alert(20)])
        world.until(lambda: ("finished", "an-alert") in ended(world), 120)
    finally:
        os.kill(paused.pid or 0, signal.SIGCONT)
    world.until(lambda: paused.exit_code is not None)
    assert "had no contact to Redis for more than 4 s" in paused.log_tail() and paused.exit_code != 0
    assert len({message.run_id for message in diary(world)}) == 1, (
        "the paused one has not begun a retraining of its own"
    )


def test_update_from_replaced_retrainer_is_ignored(world: StreamHarness) -> None:
    """With the control: the same update under a token that stands is followed. Who watches is told the same."""
    good = world.promote()
    (standing,) = [m for m in world.read(MODEL_UPDATES) if isinstance(m, ModelUpdate)]
    tell(world, msgspec.structs.replace(standing, fence=20))
    late = world.promote(flipped=True, announce=False)
    update = msgspec.structs.replace(standing, version=late, digest=registered(world, late))
    world.start("score")
    world.send(events=range(10))
    world.until(lambda: world.count(PREDICTIONS) == 10)
    tell(world, msgspec.structs.replace(update, fence=19))
    time.sleep(2)
    world.send(events=range(10, 20))
    world.until(lambda: world.count(PREDICTIONS) == 20)
    assert versions(world) == {good}
    tell(world, msgspec.structs.replace(update, fence=20))
    time.sleep(3)
    world.send(events=range(20, 30))
    world.until(lambda: world.count(PREDICTIONS) == 30)
    assert versions(world) == {good, late}
    counted = [(good, 0), (good, 20), (late, 20)]
    assert [(m.version, m.fence) for m in collect(world.settings).model_updates] == counted
    with closing(TopicFollower(world.settings, (MODEL_UPDATES,))) as follower:
        followed: list[Any] = []
        while not follower.caught_up:
            followed += [message for _, message in follower.poll()]
    assert [(m.version, m.fence) for m in followed] == counted
    assert void(world, View(from_beginning=True, most=4)) == [False, False, True, False]
    # The update that made the first of these void is not one of them.
    of_late = Filters(where=(("version", late),))
    assert void(world, View(filters=of_late, from_beginning=True, most=2)) == [True, False]


def void(world: StreamHarness, view: View) -> list[bool]:
    """Whether `watch` calls each update void that it shows."""
    lines = io.StringIO()
    watch(world.settings, MODEL_UPDATES.name, view, lines)
    return ["ignored, from a retrainer" in line for line in lines.getvalue().splitlines()]


def diary(world: StreamHarness) -> list[Retraining]:
    return [message for message in world.read(RETRAINING) if isinstance(message, Retraining)]


def ended(world: StreamHarness) -> set[tuple[str, str]]:
    return {(message.state, message.trigger) for message in diary(world)}


def versions(world: StreamHarness) -> set[str]:
    return {message.model_version for message in world.read(PREDICTIONS) if isinstance(message, Prediction)}


def registered(world: StreamHarness, version: str) -> str:
    from driftloop.core.models.registry import Registry

    return Registry(world.settings).tags(version)["digest"]


def tell(world: StreamHarness, update: ModelUpdate) -> None:
    world.outbox.put(MODEL_UPDATES.name, f"{update.stream}/{update.fence}", update)
    world.outbox.flush()
