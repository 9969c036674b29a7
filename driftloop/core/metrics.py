"""The metrics that several kinds of processes have, each under its own role; docs/metrics.md lists all there are."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, disable_created_metrics

# When a series began is a second series for each; Prometheus sees that by itself.
disable_created_metrics()  # type: ignore[no-untyped-call]

RECORDS = Counter("driftloop_records", "Messages taken off the topics and answered for.", ["role"])
DEAD_LETTERS = Counter("driftloop_dead_letters", "Messages that could not be processed.", ["role"])
LAG = Gauge("driftloop_lag_records", "Messages that this process has still to answer for.", ["role"])
