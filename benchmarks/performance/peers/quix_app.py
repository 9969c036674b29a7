"""Quix Streams application that calls a Hugging Face pipeline for each event."""

from __future__ import annotations

import tempfile
from typing import Any

from quixstreams import Application

from benchmarks.performance.peers.pipeline_model import PipelineModel, parse_job


def main() -> None:
    """Run until SIGTERM."""
    job = parse_job()
    model = PipelineModel(job.bundle)
    app = Application(
        broker_address=job.kafka,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=tempfile.mkdtemp(),
    )

    def score(event: dict[str, Any]) -> dict[str, Any]:
        [label] = model.predict([event["text"]])
        return {"event_id": event["event_id"], "label": label}

    events = app.dataframe(app.topic(job.events, value_deserializer="json"))
    events.apply(score).to_topic(app.topic(job.predictions, value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
