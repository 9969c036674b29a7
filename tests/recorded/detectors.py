"""Made-up stream with a drift, and the detectors' evidence on it: `python tests/recorded/detectors.py FOLDER`.

The script records the state of the detectors after `STORED` events, and the evidence of the next `NEXT` ones. A later
version must restore that state and find the same evidence.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from driftloop.core.messages import Outcome, Prediction
from stream_processors.drift.drift_monitor import DriftMonitor

SPECS = (
    "fused",
    "fused?rate=1&signals=error+mix",
    "error:stepd",
    "error:adwin",
    "mix:kswin",
    "confidence:page-hinkley",
)
STORED, NEXT = 260, 140
RECORDED = Path(__file__).parent / "detectors-3"
"""State and evidence of driftloop 0.1.0, before the modules and classes of `stream_processors.drift` were renamed."""
DRIFT = 290
"""Number of the event at which texts, embeddings and true labels change."""
CALM, DRIFTED = ("late", "lost", "great", "thanks", "seat", "crew"), ("phone", "battery", "screen", "great", "late")


def made_up(i: int) -> tuple[dict[str, Any], list[float], dict[str, Any]]:
    """Return the i-th prediction, the embedding of its text, and its outcome."""
    rng = random.Random(i)
    drifted = i >= DRIFT
    text = " ".join(rng.choice(DRIFTED if drifted else CALM) for _ in range(4))
    label = rng.choice("ab" if drifted else "aab")
    predicted = label if rng.random() < (0.4 if drifted else 0.85) else "ba"["ab".index(label)]
    confidence = round(rng.uniform(0.55, 0.95), 4)
    probabilities = {predicted: confidence, "ba"["ab".index(predicted)]: round(1 - confidence, 4)}
    shared = {"event_id": f"e{i}", "text": text, "segment": rng.choice("xy"), "occurred_at": float(i), "position": i}
    shared |= {"model_version": "1", "latency_ms": 1.0, "probabilities": probabilities, "route": ""}
    prediction = shared | {"label": predicted, "predicted_at": float(i)}
    outcome = shared | {"predicted": predicted, "confidence": confidence, "label": label}
    outcome |= {"correct": predicted == label, "labelled_at": float(i)}
    embedding = [round(rng.gauss(3.0 if drifted else 0.0, 1.0), 3) for _ in range(4)]
    return prediction, embedding, outcome


def watch(monitor: Any, numbers: range) -> list[dict[str, Any]]:
    """Give a monitor some of the events; return its evidence and its alerts after each."""
    found = []
    for i in numbers:
        prediction, embedding, outcome = made_up(i)
        alerts = monitor.predicted(msgspec.convert(prediction, Prediction), np.array(embedding, dtype=np.float32))
        alerts += monitor.labelled(msgspec.convert(outcome, Outcome), i)
        found.append({
            "levels": {text: fused.levels for text, fused in monitor._fused.items()},
            "alerts": [[one.alert_id, one.detector, one.signal, one.onset, one.severity] for one in alerts],
        })  # fmt: skip
    return found


def record(folder: Path) -> None:
    """Write the state and the evidence that follows it."""
    folder.mkdir(parents=True, exist_ok=True)
    monitor = DriftMonitor(SPECS, "recorded")
    watch(monitor, range(STORED))
    for name, body in (("rows", monitor.rows()), ("state", monitor.save())):
        (folder / f"{name}.msgpack.gz").write_bytes(gzip.compress(body, mtime=0))
    lines = [json.dumps(one) for one in watch(monitor, range(STORED, STORED + NEXT))]
    (folder / "next.jsonl.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
