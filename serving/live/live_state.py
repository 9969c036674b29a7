"""The loop as it is now, followed from its topics by a thread: what the API, the page and the metrics show."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from contextlib import closing, suppress
from typing import Any, TypeVar

from kafka.errors import KafkaError

from driftloop.core import topics
from driftloop.core.health import Heartbeat
from driftloop.core.kafka import clients
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.loop_progress import FOLLOWED, State
from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Retraining
from driftloop.core.settings import Settings
from serving.live.broadcast import Broadcast
from serving.live.loop_view import LoopView
from serving.live.recent_predictions import Recent

log = logging.getLogger(__name__)

T = TypeVar("T")

NEWEST = 20_000
"""Messages of each partition that are read at the start: what is older only counts."""
ALERTS, RUNS = 1000, 1000
"""Alerts and retrainings that are remembered whole, the newest."""
ENDS = ("promoted", "kept", "failed")
"""How a retraining can end; kept: the champion stays."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the offsets."""


class LiveState:
    """Use as a context manager; everything it shows is read under `lock`."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.Lock()
        self.pulse = Heartbeat(settings.health.patience)
        self.broadcast = Broadcast()
        """What has just come, for those who listen."""
        self._settings = settings
        self._state = State(began=time.time())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="live")
        self._begin()

    def _begin(self) -> None:
        """Nothing has been read: what has been is read again from here on, and must not count twice."""
        self.board = LoopView(self._settings.stream, self._settings.retrain.bootstrap, self._settings.api.drifts)
        self.recent = Recent()
        self.alerts: Counter[str] = Counter()
        """Drift alerts by signal."""
        self.alert_log: OrderedDict[str, DriftAlert] = OrderedDict()
        """By id, in the order in which they came."""
        self.runs: OrderedDict[str, list[Retraining]] = OrderedDict()
        """What was said of each retraining, or of what a person did, by its id; oldest first."""
        self.promotions: deque[ModelUpdate] = deque(maxlen=RUNS)
        self.retrainings: Counter[str] = Counter()
        """Retrainings that have ended, by which of `ENDS`."""
        self.champion = ""
        """The version that was promoted last; empty before the first."""
        self.complete = False
        """Whether everything that was on the topics at the beginning is counted."""
        self._promoting: set[str] = set()

    def __enter__(self) -> LiveState:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _follow(self) -> None:
        """Until the end; where the broker stays away, `pulse` says so after a while."""
        while not self._stop.is_set():
            try:
                self._read()
            except Exception as error:
                log.warning("the topics cannot be followed (%s); trying again", error)
                self._stop.wait(1.0)

    def _read(self) -> None:
        group = clients.group("scorer", self._settings)
        with (
            closing(TopicFollower(self._settings, FOLLOWED, NEWEST)) as follower,
            closing(clients.consumer(self._settings, group_id=group)) as members,
        ):
            with self.lock:
                self._begin()
            looked = float("-inf")
            while not self._stop.is_set():
                arrived = [message for _, message in follower.poll() if self._ours(message)]
                with self.lock:
                    for message in arrived:
                        self._take(message)
                for message in arrived if self.complete else ():
                    self.broadcast.publish(message)
                if time.monotonic() - looked >= LOOK_EVERY:
                    looked = time.monotonic()
                    with suppress(KafkaError):  # no beat: a broker that stays away makes the process ill
                        self._look(follower, members)

    def _look(self, follower: TopicFollower, members: Any) -> None:
        """Count what is on the topics; raises where the broker does not answer."""
        written = {topic.name: follower.written(topic) for topic in topics.ALL}
        lag = clients.lag(members, follower.partitions(topics.EVENTS))
        complete = follower.caught_up
        with self.lock:
            self.complete = complete
            state = self._state
            state.events, state.labels = written["events"], written["labels"]
            state.predictions, state.outcomes = written["predictions"], written["outcomes"]
            state.dead_letters, state.lag = written["dead-letters"], lag
            state.phase = "running" if self.champion else "waiting for the first model"
            self.board.tick(state)
            self.recent.tick(self.board.rate, lag)
        self.pulse.beat(f"following {state.events} events")

    def _ours(self, message: Message) -> bool:
        """Whether it is not another stream's, on the same topics."""
        return bool(getattr(message, "stream", self._settings.stream) == self._settings.stream)

    def _take(self, message: Message) -> None:
        self.board.take(message)
        self.recent.take(message)
        if isinstance(message, Retraining):
            _remember(self.runs, message.run_id, [*self.runs.get(message.run_id, ()), message], RUNS)
        match message:
            case DriftAlert():
                self.alerts[message.signal] += 1
                _remember(self.alert_log, message.alert_id, message, ALERTS)
            case ModelUpdate():
                self.champion = message.version
                self.promotions.append(message)
            case Retraining(state="promoted"):
                self._promoting.add(message.run_id)
            case Retraining() if message.ends:
                won = message.run_id in self._promoting
                self._promoting.discard(message.run_id)
                self.retrainings["promoted" if won else "kept" if message.state == "finished" else "failed"] += 1
            case _:
                pass


def _remember(log: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Put a value into a log of bounded length; a known key keeps its place."""
    log[key] = value
    if len(log) > most:
        log.popitem(last=False)
