"""`driftloop score`: scores events with the champion."""

from __future__ import annotations

import argparse

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions, load_process_settings

DESCRIPTION = """\
Scores events with the champion, which is a sentence encoder on ONNX Runtime and a head. The scorer waits for the first
model and takes over a new one between two batches while events continue. It acknowledges a batch only when its
predictions are stored, so a crash repeats events and never loses one. A message that cannot be decoded or scored
becomes a dead letter.

reads   events, model-updates, mixture-updates, drift-alerts; bundles from MLflow
writes  predictions, dead-letters; predictions and embeddings by event id to Redis
"""

MORE = """
examples
  driftloop score --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  DRIFTLOOP_SCORER__BATCH=128 driftloop score        larger batches
  DRIFTLOOP_SCORER__GROUP_INSTANCE_ID=second driftloop score
      a second scorer on this machine, which shares the partitions with the first
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verbs.add("score", run, "score events with the champion", DESCRIPTION, MORE, stack_options())


def run(arguments: argparse.Namespace) -> int:
    """Score events until the process is told to stop, and return the exit status."""
    settings = load_process_settings(StackOptions.of(arguments))
    from driftloop.core.observability import tracing
    from stream_processors.scoring import scorer

    with tracing.tracing(settings, "score"):
        scorer.run(settings)
    return 0
