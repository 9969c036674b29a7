"""The command line: every verb of driftloop, wired to the room that does the work.

This module and the others whose names begin with `cli_` are the only ones of the kernel that know the rooms. Each room
is imported where it is needed, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli import parser
from driftloop.cli.options import (
    INTERRUPTED,
    environ_of,
    find_settings,
    load_settings,
    open_project,
    terminate_as_interrupt,
    write,
)
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs

if TYPE_CHECKING:
    from driftloop.core.settings import Settings

BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; a failure is one sentence on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without the character gets its number, not a failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except DriftloopError as error:
        logs.print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`driftloop watch … | head`).
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        sentence = _service_failure(error)
        if sentence is None:
            raise
        logs.print_error(sentence)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return DriftloopError.exit_code


def _drop_output() -> None:
    """Nothing more may be written, not even at exit, where what is left over would fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(argv: Sequence[str] | None) -> int:
    cli = parser.build()
    try:
        arguments = cli.parse_args(argv)
    except SystemExit:  # a page was shown, or refused: it fails here like everything else, and not at exit
        sys.stdout.flush()
        raise
    if arguments.version:
        import driftloop

        write(f"driftloop {driftloop.__version__}")
        return 0
    if arguments.verb is None:
        cli.print_help(sys.stderr)
        return 2
    return VERBS[arguments.verb](arguments)


def _simulate(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import simulate

    return simulate.simulate(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import demo

    return demo.demo(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from driftloop.core.health import Heartbeat, serve_health
    from driftloop.core.observability import tracing
    from producers import replay
    from producers.scenarios.scenarios import load_scenario

    open_project(arguments)
    settings = load_settings(arguments)
    scenario = load_scenario(arguments.scenario, mask=settings.mask)
    last = [float("-inf")]
    pulse = Heartbeat(settings.health.patience)

    def progress(sent: int, total: int, rate: float) -> None:
        line = f"{sent} of {total} events sent, {rate:.1f}/s"
        pulse.beat(line)
        if sent == total or time.monotonic() - last[0] >= 5:
            last[0] = time.monotonic()
            write(line)

    for page in settings.pages:
        write(page)
    with serve_health(settings.health, pulse), tracing.tracing(settings, "replay"):
        report = replay.run(settings, scenario, rate=arguments.rate, limit=arguments.limit, progress=progress)
    resumed = f" after the {report.resumed_from} that were there" if report.resumed_from else ""
    write(f"{report.events} events{resumed} and {report.labels} labels sent in {report.seconds:.1f} s.")
    return 0 if report.complete else INTERRUPTED


def _score(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop.core.observability import tracing
    from stream_processors.scoring import scorer

    with tracing.tracing(settings, "score"):
        scorer.run(settings)
    return 0


def _monitor(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop.core.observability import tracing
    from stream_processors.monitoring import monitor

    with tracing.tracing(settings, "monitor"):
        monitor.run(settings)
    return 0


def _retrain(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop.core.health import Heartbeat, serve_health
    from driftloop.core.models.registry import Registry
    from retrain import worker

    Registry(settings)  # no MLflow is said before the worker's log is set up, which would tell of every retry first
    pulse = Heartbeat(settings.health.patience)
    with serve_health(settings.health, pulse):
        done = worker.run(settings, once=arguments.once, progress=partial(pulse.beat, "waiting or retraining"))
    return 0 if done else INTERRUPTED


def _serve(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from serving import app

    app.run(settings)
    return 0


def _topics(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import topics

    if arguments.asyncapi:
        from driftloop.core.kafka import asyncapi

        sys.stdout.write(f"{json.dumps(asyncapi.document(), indent=1)}\n")
        return 0
    terminate_as_interrupt()
    settings = find_settings(arguments)
    if arguments.console:
        return topics.console(settings, arguments.console, arguments.max)
    if arguments.acls:
        topics.set_rules(settings)
        return 0
    topics.list_topics(settings)
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from serving import topic_console

    terminate_as_interrupt()
    filters = topic_console.Filters.parse(arguments.where, arguments.segment, arguments.wrong)
    filters.check(topic_console.find_topic(arguments.topic))
    view = topic_console.View(filters, arguments.from_beginning, arguments.max, arguments.json)
    topic_console.watch(find_settings(arguments), arguments.topic, view, sys.stdout)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import audit

    return audit.audit(arguments)


def _cases(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import case

    return case.VERBS[arguments.verb](arguments)


def _init(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import init

    return init.init(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import check

    return check.check(arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import compare

    return compare.compare(arguments)


def _backfill(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import backfill

    return backfill.backfill(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from driftloop.cli.commands import report

    return report.report(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from importlib.metadata import entry_points

    # An entry point and not an import: the benchmarks are a layer above the command line.
    (found,) = entry_points(group="driftloop.benchmarks", name=arguments.benchmark)
    sys.argv = [f"driftloop bench {arguments.benchmark}", *arguments.rest]
    status: int = found.load()()
    return status


def _doctor(arguments: argparse.Namespace) -> int:
    from driftloop.cli import diagnostics
    from driftloop.core import settings as tree

    environ = environ_of(arguments)
    if arguments.settings is not None:
        for setting in diagnostics.list_settings(tree.load(environ)):
            default = "" if setting.value == setting.default else f"   (default {setting.default or 'empty'})"
            write(f"{setting.variable}={setting.value}{default}")
            if setting.about:
                write(f"    {setting.about}")
        return 0
    missing = False
    marks = {"ok": "✓", "note": "•", "missing": "✗"}
    for finding in diagnostics.examine(environ, Path("runs")):
        write(f"{marks[finding.status]} {finding.name}: {finding.detail}")
        if finding.remedy:
            write(f"    → {finding.remedy}")
        missing = missing or finding.status == "missing"
    write("Something is missing." if missing else "`driftloop simulate` can run here.")
    return 1 if missing else 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "simulate": _simulate,
    "demo": _demo,
    "replay": _replay,
    "score": _score,
    "monitor": _monitor,
    "retrain": _retrain,
    "serve": _serve,
    "topics": _topics,
    "watch": _watch,
    "audit": _audit,
    "report": _report,
    "case": _cases,
    "models": _cases,
    "approve": _cases,
    "reject": _cases,
    "rollback": _cases,
    "ask": _cases,
    "init": _init,
    "check": _check,
    "compare": _compare,
    "backfill": _backfill,
    "bench": _bench,
    "doctor": _doctor,
}


def _reach(arguments: argparse.Namespace) -> Settings:
    """The settings of a processor, its topics made: no broker or no Redis is said here, and not by Faust's traceback.

    Raises:
        DriftloopError: one of the two does not answer, or does not let this process do what its role does.
    """
    from driftloop.core import topics
    from driftloop.core.kafka import acls
    from driftloop.core.online_store import OnlineStore

    settings = load_settings(arguments)
    OnlineStore(settings).check()
    topics.create(settings)
    acls.check(settings, acls.find(acls.role_of(arguments.verb)))
    return settings


def _service_failure(error: Exception) -> str | None:
    """One sentence for a failure of the disk or of a service's client library; None for a mistake of ours."""
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"The operating system says: {error.strerror}{place}; make room or check that path, then try again."
    names = {"kafka": "Kafka", "redis": "Redis", "mlflow": "MLflow", "aiokafka": "Kafka", "requests": "MLflow"}
    service = names.get(type(error).__module__.partition(".")[0])
    if service is None:
        return None
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return f"{service} failed ({said}): see whether it runs, then run the same command again."
