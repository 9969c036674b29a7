"""The loop's own figures for Prometheus; the processes' are where they are made (`stream_processors.runtime.liveness`)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from driftloop.core.messages import SIGNALS
from serving.live.live_state import ENDS, LiveState


class LoopCollector(Collector):
    """Reads the figures at the moment that Prometheus asks for them. They are counted from the topics, so they go on
    where they were when the process is started again; until then there are none, for a counter that seems to begin at
    zero would be taken for one that has been reset."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """The metric families; see the help text of each."""
        live = self._live
        with live.lock:
            if not live.complete:
                return
            state, board = live.board.state, live.board
            messages = CounterMetricFamily("driftloop_messages", "Messages written to a topic.", labels=["topic"])
            counts = {
                "events": state.events,
                "predictions": state.predictions,
                "labels": state.labels,
                "outcomes": state.outcomes,
                "dead-letters": state.dead_letters,
            }
            for topic, number in counts.items():
                messages.add_metric([topic], number)
            lag = GaugeMetricFamily("driftloop_events_lag", "Events that the scorers have not committed yet.")
            lag.add_metric([], state.lag)
            accuracy = GaugeMetricFamily(
                "driftloop_accuracy_ratio", "Accuracy over a version's newest 500 labelled events.", labels=["version"]
            )
            for version, track in board.versions.items():
                if track.accuracy is not None:
                    accuracy.add_metric([version], track.accuracy)
            champion = GaugeMetricFamily("driftloop_champion_info", "The version that scores.", labels=["version"])
            if live.champion:
                champion.add_metric([live.champion], 1)
            alerts = CounterMetricFamily("driftloop_drift_alerts", "Drift alerts by signal.", labels=["signal"])
            for signal in SIGNALS:  # what begins at zero is seen to rise from it
                alerts.add_metric([signal], live.alerts[signal])
            retrainings = CounterMetricFamily("driftloop_retrainings", "Retrainings by their end.", labels=["end"])
            for end in ENDS:
                retrainings.add_metric([end], live.retrainings[end])
        yield from (messages, lag, accuracy, champion, alerts, retrainings)
