"""`driftloop retrain`: retrains the model, compares candidates with the champion, and promotes the better one."""

from __future__ import annotations

import argparse
from functools import partial

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import INTERRUPTED, StackOptions, load_process_settings

DESCRIPTION = """\
Trains the first model on the first labelled events: a mixture of experts, which then learns from every label. Its
changes go to the scorers. Decides when to retrain (the policy), and fits the candidates on the newest outcomes, each
under a hard time limit. A candidate is compared with the champion on events that it was not trained on, and promoted
only if it is significantly better. Every model is registered in MLflow, a rejected candidate with the reason. The
worker runs until it is interrupted. With --once it does the work that is due according to the topics, then exits.

reads   drift-alerts, outcomes; labels and commands from users; events and labels for the first model
writes  retraining, model-updates, mixture-updates; runs and model versions to MLflow
"""

MORE = """
examples
  driftloop retrain --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  DRIFTLOOP_RETRAIN__POLICY=periodic DRIFTLOOP_RETRAIN__PERIOD=1000 driftloop retrain
  DRIFTLOOP_RETRAIN__CANDIDATES=linear driftloop retrain       no slow candidates
  DRIFTLOOP_RETRAIN__MIXTURE=false driftloop retrain           a single champion, which changes after a drift only
  DRIFTLOOP_RETRAIN__DASK=tcp://dask:8786 driftloop retrain    TPOT's search on the workers of a Dask cluster
  driftloop retrain --once                                     as a batch job, from cron or a Kubernetes CronJob
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("retrain", run, "retrain, compare, promote", DESCRIPTION, MORE, stack_options())
    verb.add_argument("--once", action="store_true", help="do the work that is due, then exit")


def run(arguments: argparse.Namespace) -> int:
    """Run the retraining worker and return the exit status."""
    settings = load_process_settings(StackOptions.of(arguments))
    from driftloop.core.health import Heartbeat, serve_health
    from driftloop.core.models.registry import Registry
    from retrain import worker

    # An unreachable MLflow is reported here as one line, before the worker's log reports every retry.
    Registry(settings)
    heartbeat = Heartbeat(settings.health.patience)
    with serve_health(settings.health, heartbeat):
        done = worker.run(settings, once=arguments.once, progress=partial(heartbeat.beat, "waiting or retraining"))
    return 0 if done else INTERRUPTED
