"""A loop on kafka-python with batches of 32, by a pipeline or by a model server that is asked over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence

from kafka import KafkaConsumer, KafkaProducer

from benchmarks.performance.peers.pipeline_model import Labeller, answer, job

BATCH = 32


def main() -> None:
    """Until SIGTERM."""
    todo = job()
    label = asking(todo.server) if todo.server else Labeller(todo.bundle).label
    consumer = KafkaConsumer(
        todo.events,
        bootstrap_servers=todo.kafka,
        group_id=todo.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=BATCH,
    )
    producer = KafkaProducer(bootstrap_servers=todo.kafka, acks="all", linger_ms=5)
    while True:
        found = [one for part in consumer.poll(timeout_ms=1000).values() for one in part]
        if not found:
            continue
        events = [json.loads(one.value) for one in found]
        for event, said in zip(events, label([event["text"] for event in events]), strict=True):
            producer.send(todo.predictions, key=event["event_id"].encode(), value=answer(event, said))
        producer.flush()
        consumer.commit()


def asking(address: str) -> Callable[[Sequence[str]], list[str]]:
    """Labels from MLflow's model server."""

    def label(texts: Sequence[str]) -> list[str]:
        body = json.dumps({"inputs": list(texts)}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as found:
            return [row["label"] for row in json.load(found)["predictions"]]

    return label


if __name__ == "__main__":
    main()
