"""Prometheus collector of the loop's own metrics.

The metrics of the processes are in `stream_processors.runtime.liveness`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from driftloop.core.messages import SIGNALS
from serving.live.loop_follower import LoopFollower
from serving.live.loop_history import ENDS


class LoopCollector(Collector):
    """Reads the metrics from the loop's state when Prometheus asks for them.

    They are counted from the topics, so a restarted process goes on with the old values. Until it has read them it
    reports nothing: a counter that starts at zero would be taken for a reset.
    """

    def __init__(self, follower: LoopFollower) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        loop = self._follower.loop
        with loop.lock:
            if not loop.complete:
                return
            status, history = loop.status, loop.history
            messages = CounterMetricFamily("driftloop_messages", "Messages written to a topic.", labels=["topic"])
            counts = {
                "events": status.events,
                "predictions": status.predictions,
                "labels": status.labels,
                "outcomes": status.outcomes,
                "dead-letters": status.dead_letters,
            }
            for topic, number in counts.items():
                messages.add_metric([topic], number)
            lag = GaugeMetricFamily("driftloop_events_lag", "Events that the scorers have not committed yet.")
            lag.add_metric([], status.lag)
            accuracy = GaugeMetricFamily(
                "driftloop_accuracy_ratio", "Accuracy over a version's newest 500 labelled events.", labels=["version"]
            )
            for version, track in loop.accuracy.versions.items():
                if track.accuracy is not None:
                    accuracy.add_metric([version], track.accuracy)
            champion = GaugeMetricFamily("driftloop_champion_info", "The version that scores.", labels=["version"])
            if history.champion:
                champion.add_metric([history.champion], 1)
            # Every signal and every end is reported from zero on, so that its first rise is seen.
            alerts = CounterMetricFamily("driftloop_drift_alerts", "Drift alerts by signal.", labels=["signal"])
            for signal in SIGNALS:
                alerts.add_metric([signal], history.alerts_by_signal[signal])
            retrainings = CounterMetricFamily("driftloop_retrainings", "Retrainings by their end.", labels=["end"])
            for end in ENDS:
                retrainings.add_metric([end], history.retrainings_by_end[end])
        yield from (messages, lag, accuracy, champion, alerts, retrainings)
