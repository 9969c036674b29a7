"""A Bytewax flow that collects batches of 32 for a pipeline."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from benchmarks.performance.peers.pipeline_model import Labeller, answer, job

BATCH = 32


def main() -> None:
    """Until SIGTERM."""
    todo = job()
    labeller = Labeller(todo.bundle)
    flow = Dataflow("score")

    def score(keyed: tuple[str, list[Any]]) -> list[Any]:
        events = [json.loads(message.value) for message in keyed[1]]
        labels = labeller.label([event["text"] for event in events])
        return [
            KafkaSinkMessage(event["event_id"].encode(), answer(event, label))
            for event, label in zip(events, labels, strict=True)
        ]

    source = KafkaSource([todo.kafka], [todo.events], batch_size=BATCH)
    messages = op.key_on("one", op.input("events", flow, source), lambda message: "")
    batches = op.collect("batches", messages, timedelta(milliseconds=100), BATCH)
    op.output("predictions", op.flat_map("score", batches, score), KafkaSink([todo.kafka], todo.predictions))
    run_main(flow)


if __name__ == "__main__":
    main()
