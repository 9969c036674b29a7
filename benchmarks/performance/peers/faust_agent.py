"""Faust agent that calls a Hugging Face pipeline for each event."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import faust

from benchmarks.performance.peers.pipeline_model import PipelineModel, encode_prediction, parse_job


def main() -> None:
    """Run until SIGTERM."""
    job = parse_job()
    model = PipelineModel(job.bundle)
    app = faust.App(
        job.group,
        broker=f"kafka://{job.kafka}",
        store="memory://",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        datadir=tempfile.mkdtemp(),
    )
    out = app.topic(job.predictions)

    @app.agent(app.topic(job.events))  # type: ignore[untyped-decorator]
    async def score(stream: Any) -> None:
        async for value in stream:
            event = json.loads(value)
            [label] = model.predict([event["text"]])
            await out.send(key=event["event_id"].encode(), value=encode_prediction(event, label))

    worker = faust.Worker(app, loglevel="WARN", quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
