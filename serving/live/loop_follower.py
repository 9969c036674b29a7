"""Thread that follows the topics of a loop for `driftloop serve` and feeds a `LoopState`."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing, suppress
from typing import Any

from kafka.errors import KafkaError

from driftloop.core import topics
from driftloop.core.health import Heartbeat
from driftloop.core.kafka import clients
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.messages import Message
from driftloop.core.settings import Settings
from serving.live.broadcast import Broadcast
from serving.live.loop_state import FOLLOWED, LoopState

log = logging.getLogger(__name__)

NEWEST = 20_000
"""Messages of each partition that are read at the start; older ones count only in the totals."""
OFFSETS_EVERY = 1.0
"""Seconds between two reads of the end offsets."""


class LoopFollower:
    """Follows the topics in a thread. Use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self.heartbeat = Heartbeat(settings.health.patience)
        self.broadcast = Broadcast()
        """Hands new messages to the listeners of the event streams."""
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="live")
        self.loop = self._new_state()
        """Replaced by a new one whenever the topics are read again from the start."""

    def __enter__(self) -> LoopFollower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _new_state(self) -> LoopState:
        settings = self._settings
        return LoopState(settings.stream, settings.retrain.bootstrap, settings.api.drifts)

    def _run(self) -> None:
        """Follow until the end. If the broker stays away, the heartbeat stops."""
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:
                log.warning("the topics cannot be followed (%s); trying again", error)
                self._stop.wait(1.0)

    def _follow(self) -> None:
        """Read the topics from the start into a new state, so that no message counts twice."""
        group = clients.group_id("scorer", self._settings)
        with (
            closing(TopicFollower(self._settings, FOLLOWED, NEWEST)) as follower,
            closing(clients.consumer(self._settings, group_id=group)) as members,
        ):
            self.loop = loop = self._new_state()
            read_at = float("-inf")
            while not self._stop.is_set():
                arrived = [message for _, message in follower.poll() if self._is_own(message)]
                with loop.lock:
                    for message in arrived:
                        loop.take(message)
                for message in arrived if loop.complete else ():
                    self.broadcast.publish(message)
                if time.monotonic() - read_at >= OFFSETS_EVERY:
                    read_at = time.monotonic()
                    with suppress(KafkaError):  # no heartbeat: if the broker stays away, the process is unhealthy
                        self._read_offsets(follower, members)

    def _read_offsets(self, follower: TopicFollower, members: Any) -> None:
        """Read the totals and the lag of the scorers.

        Raises:
            kafka.errors.KafkaError: The broker does not answer.
        """
        written = {topic.name: follower.message_count(topic) for topic in topics.ALL}
        lag = clients.lag(members, follower.partitions(topics.EVENTS))
        complete = follower.caught_up
        loop = self.loop
        with loop.lock:
            loop.complete = complete
            status = loop.status
            status.events, status.labels = written["events"], written["labels"]
            status.predictions, status.outcomes = written["predictions"], written["outcomes"]
            status.dead_letters, status.lag = written["dead-letters"], lag
            status.phase = "running" if loop.history.champion else "waiting for the first model"
            loop.tick()
        self.heartbeat.beat(f"following {status.events} events")

    def _is_own(self, message: Message) -> bool:
        """Return False if the message belongs to another stream on the same topics."""
        return bool(getattr(message, "stream", self._settings.stream) == self._settings.stream)
