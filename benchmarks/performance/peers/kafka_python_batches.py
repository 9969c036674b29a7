"""Loop on kafka-python with batches of 32, for a Hugging Face pipeline or for a model server over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence

from kafka import KafkaConsumer, KafkaProducer

from benchmarks.performance.peers.pipeline_model import PipelineModel, encode_prediction, parse_job

BATCH = 32


def main() -> None:
    """Run until SIGTERM."""
    job = parse_job()
    predict = server_client(job.server) if job.server else PipelineModel(job.bundle).predict
    consumer = KafkaConsumer(
        job.events,
        bootstrap_servers=job.kafka,
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=BATCH,
    )
    producer = KafkaProducer(bootstrap_servers=job.kafka, acks="all", linger_ms=5)
    while True:
        found = [one for part in consumer.poll(timeout_ms=1000).values() for one in part]
        if not found:
            continue
        events = [json.loads(one.value) for one in found]
        for event, label in zip(events, predict([event["text"] for event in events]), strict=True):
            producer.send(job.predictions, key=event["event_id"].encode(), value=encode_prediction(event, label))
        producer.flush()
        consumer.commit()


def server_client(address: str) -> Callable[[Sequence[str]], list[str]]:
    """Return a function that gets labels from MLflow's model server."""

    def predict(texts: Sequence[str]) -> list[str]:
        body = json.dumps({"inputs": list(texts)}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as found:
            return [row["label"] for row in json.load(found)["predictions"]]

    return predict


if __name__ == "__main__":
    main()
