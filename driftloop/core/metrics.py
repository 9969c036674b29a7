"""Prometheus metrics that several roles share. docs/metrics.md lists all metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, disable_created_metrics

# The creation time would be a second series for each metric; Prometheus finds it without.
disable_created_metrics()  # type: ignore[no-untyped-call]

RECORDS = Counter("driftloop_records", "Messages processed.", ["role"])
DEAD_LETTERS = Counter("driftloop_dead_letters", "Messages that could not be processed.", ["role"])
LAG = Gauge("driftloop_lag_records", "Consumer lag of this process, in messages.", ["role"])
