"""`driftloop serve`: the live page, the API and the loop's metrics."""

from __future__ import annotations

import argparse

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions, load_process_settings

DESCRIPTION = """\
Serves the live page at /, the loop's metrics for Prometheus at /metrics, /health, and an API with its documentation at
/docs. The API scores texts with the champion, also for clients of the Open Inference Protocol below /v2. It shows where
a prediction comes from, streams predictions and alerts, and accepts labels. Admins can promote, roll back and retrain.
A browser user enters a token once, in a form.

The server listens on the loopback address by default. A token identifies the caller (DRIFTLOOP_API__TOKENS). If no
token is configured, every user of this machine has all rights, and remote clients can read and score.

reads   every topic; predictions by id from Redis; models from MLflow
writes  labels (from users), commands (which `driftloop retrain` executes)
"""

MORE = """
examples
  driftloop serve --kafka broker:9092 --redis redis://cache:6379/0
  DRIFTLOOP_API__PORT=8080 driftloop serve
  curl http://127.0.0.1:8000/v1/status
  curl -H 'Content-Type: application/json' -d '{"text": "late again", "explain": true}' \\
      http://127.0.0.1:8000/v1/predict
  curl -N http://127.0.0.1:8000/v1/stream/predictions
  DRIFTLOOP_API__TOKENS=ann:annotator:TOKEN,bob:admin:OTHER driftloop serve     tokens of 16 characters or more
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verbs.add("serve", run, "the live page, the API and the loop's metrics", DESCRIPTION, MORE, stack_options())


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to stop, and return the exit status."""
    settings = load_process_settings(StackOptions.of(arguments))
    from serving import app

    app.run(settings)
    return 0
