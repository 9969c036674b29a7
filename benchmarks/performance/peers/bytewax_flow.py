"""Bytewax flow with batches of 32 for a Hugging Face pipeline."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from benchmarks.performance.peers.pipeline_model import PipelineModel, encode_prediction, parse_job

BATCH = 32


def main() -> None:
    """Run until SIGTERM."""
    job = parse_job()
    model = PipelineModel(job.bundle)
    flow = Dataflow("score")

    def score(keyed: tuple[str, list[Any]]) -> list[Any]:
        events = [json.loads(message.value) for message in keyed[1]]
        labels = model.predict([event["text"] for event in events])
        return [
            KafkaSinkMessage(event["event_id"].encode(), encode_prediction(event, label))
            for event, label in zip(events, labels, strict=True)
        ]

    source = KafkaSource([job.kafka], [job.events], batch_size=BATCH)
    messages = op.key_on("one", op.input("events", flow, source), lambda message: "")
    batches = op.collect("batches", messages, timedelta(milliseconds=100), BATCH)
    op.output("predictions", op.flat_map("score", batches, score), KafkaSink([job.kafka], job.predictions))
    run_main(flow)


if __name__ == "__main__":
    main()
