"""A Quix Streams application that calls a pipeline for each event."""

from __future__ import annotations

import tempfile
from typing import Any

from quixstreams import Application

from benchmarks.performance.peers.pipeline_model import Labeller, job


def main() -> None:
    """Until SIGTERM."""
    todo = job()
    labeller = Labeller(todo.bundle)
    app = Application(
        broker_address=todo.kafka,
        consumer_group=todo.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=tempfile.mkdtemp(),
    )

    def score(event: dict[str, Any]) -> dict[str, Any]:
        [label] = labeller.label([event["text"]])
        return {"event_id": event["event_id"], "label": label}

    events = app.dataframe(app.topic(todo.events, value_deserializer="json"))
    events.apply(score).to_topic(app.topic(todo.predictions, value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
