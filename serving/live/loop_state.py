"""State of a running loop, accumulated from its topics. All views read it.

`driftloop simulate` and `driftloop serve` each follow the topics and feed one `LoopState`. The terminal view, the
demo, the dashboard, the API and the Prometheus collector read from it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from driftloop.core import topics
from driftloop.core.messages import Message
from serving.live.accuracy import AccuracyTimeline
from serving.live.loop_history import LoopHistory
from serving.live.loop_progress import LoopProgress
from serving.live.news import News, describe_step
from serving.live.recent_predictions import RecentPredictions
from serving.live.status import LoopStatus

FOLLOWED = (
    topics.PREDICTIONS,
    topics.OUTCOMES,
    topics.DRIFT_ALERTS,
    topics.MODEL_UPDATES,
    topics.MIXTURE_UPDATES,
    topics.RETRAINING,
    topics.DEAD_LETTERS,
)
"""Topics whose messages are read one by one. Events and labels are counted by their end offsets."""
RATE_OVER = 5.0
"""Seconds over which the events per second are measured."""


class LoopState:
    """Accumulated state of one loop. Feed and read it with `lock` held.

    Args:
        title: Name of the scenario or the stream.
        bootstrap: Events at the beginning that the first model is trained on.
        drifts: Stream positions of the scenario's drifts, if known.
        status: Counts and processes, which the owner updates; a new one by default.
    """

    def __init__(
        self, title: str, bootstrap: int = 0, drifts: Sequence[int] = (), status: LoopStatus | None = None
    ) -> None:
        self.lock = threading.Lock()
        self.title = title
        self.status = status or LoopStatus(began=time.time())
        self.accuracy = AccuracyTimeline(bootstrap, drifts)
        self.history = LoopHistory()
        self.news = News()
        self.recent = RecentPredictions()
        self.progress: LoopProgress | None = None
        """Set in a simulation only: it counts each event once, and so keeps every event id in memory."""
        self.complete = False
        """True if the topics have been read up to where they ended at the start."""
        self.rate = 0.0
        """Predictions per second over the last `RATE_OVER` seconds."""
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, message: Message) -> None:
        """Add one message, in the order of its topic."""
        self.accuracy.take(message)
        self.history.take(message)
        self.news.take(message)
        self.recent.take(message)
        if self.progress is not None:
            self.progress.take(message)

    def tick(self) -> None:
        """Measure the speed and read new notes and restarts from `status`; call it about once a second."""
        now = time.monotonic()
        self._samples.append((now, self.status.predictions))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_OVER:
            self._samples.popleft()
        (then, before), (_, after) = self._samples[0], self._samples[-1]
        self.rate = (after - before) / (now - then) if now > then else 0.0
        self.recent.tick(self.rate, self.status.lag)
        self.news.take_status(self.status)

    @property
    def retraining(self) -> str:
        """The newest step of any retraining as one line of text. It is not escaped."""
        step = self.history.newest_step
        return "no retraining yet" if step is None else f"{describe_step(step)}  [{step.trigger}]"
