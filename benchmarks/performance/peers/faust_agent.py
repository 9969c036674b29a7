"""A Faust agent that calls a pipeline for each event."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import faust

from benchmarks.performance.peers.pipeline_model import Labeller, answer, job


def main() -> None:
    """Until SIGTERM."""
    todo = job()
    labeller = Labeller(todo.bundle)
    app = faust.App(
        todo.group,
        broker=f"kafka://{todo.kafka}",
        store="memory://",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        datadir=tempfile.mkdtemp(),
    )
    out = app.topic(todo.predictions)

    @app.agent(app.topic(todo.events))  # type: ignore[untyped-decorator]
    async def score(stream: Any) -> None:
        async for value in stream:
            event = json.loads(value)
            [label] = labeller.label([event["text"]])
            await out.send(key=event["event_id"].encode(), value=answer(event, label))

    worker = faust.Worker(app, loglevel="WARN", quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
