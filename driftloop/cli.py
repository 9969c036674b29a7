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

from driftloop import cli_pages, logs
from driftloop.cli_options import (
    INTERRUPTED,
    environ_of,
    find_settings,
    load_settings,
    open_project,
    terminate_as_interrupt,
    write,
)
from driftloop.errors import DriftloopError

if TYPE_CHECKING:
    from driftloop.settings import Settings

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
        logs.complain(str(error))
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
        logs.complain(sentence)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return DriftloopError.exit_code


def _drop_output() -> None:
    """Nothing more may be written, not even at exit, where what is left over would fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(argv: Sequence[str] | None) -> int:
    parser = cli_pages.build()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit:  # a page was shown, or refused: it fails here like everything else, and not at exit
        sys.stdout.flush()
        raise
    if arguments.version:
        import driftloop

        write(f"driftloop {driftloop.__version__}")
        return 0
    if arguments.verb is None:
        parser.print_help(sys.stderr)
        return 2
    return VERBS[arguments.verb](arguments)


def _simulate(arguments: argparse.Namespace) -> int:
    from driftloop import cli_simulate

    return cli_simulate.simulate(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from driftloop import cli_demo

    return cli_demo.demo(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from driftloop import trace
    from driftloop.health import Pulse, answering
    from producers import replay
    from producers.scenarios import load_scenario

    open_project(arguments)
    settings = load_settings(arguments)
    scenario = load_scenario(arguments.scenario, mask=settings.mask)
    last = [float("-inf")]
    pulse = Pulse(settings.health.patience)

    def progress(sent: int, total: int, rate: float) -> None:
        line = f"{sent} of {total} events sent, {rate:.1f}/s"
        pulse.beat(line)
        if sent == total or time.monotonic() - last[0] >= 5:
            last[0] = time.monotonic()
            write(line)

    for page in settings.pages:
        write(page)
    with answering(settings.health, pulse), trace.tracing(settings, "replay"):
        report = replay.run(settings, scenario, rate=arguments.rate, limit=arguments.limit, progress=progress)
    resumed = f" after the {report.resumed_from} that were there" if report.resumed_from else ""
    write(f"{report.events} events{resumed} and {report.labels} labels sent in {report.seconds:.1f} s.")
    return 0 if report.complete else INTERRUPTED


def _score(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop import trace
    from stream_processors import scorer

    with trace.tracing(settings, "score"):
        scorer.run(settings)
    return 0


def _monitor(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop import trace
    from stream_processors import monitor

    with trace.tracing(settings, "monitor"):
        monitor.run(settings)
    return 0


def _retrain(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from driftloop.health import Pulse, answering
    from driftloop.registry import Registry
    from retrain import worker

    Registry(settings)  # no MLflow is said before the worker's log is set up, which would tell of every retry first
    pulse = Pulse(settings.health.patience)
    with answering(settings.health, pulse):
        done = worker.run(settings, once=arguments.once, progress=partial(pulse.beat, "waiting or retraining"))
    return 0 if done else INTERRUPTED


def _serve(arguments: argparse.Namespace) -> int:
    settings = _reach(arguments)
    from serving import api

    api.run(settings)
    return 0


def _topics(arguments: argparse.Namespace) -> int:
    from driftloop import cli_topics

    if arguments.asyncapi:
        from driftloop import asyncapi

        sys.stdout.write(f"{json.dumps(asyncapi.document(), indent=1)}\n")
        return 0
    terminate_as_interrupt()
    settings = find_settings(arguments)
    if arguments.console:
        return cli_topics.console(settings, arguments.console, arguments.max)
    if arguments.acls:
        cli_topics.set_rules(settings)
        return 0
    cli_topics.list_topics(settings)
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from serving import watch

    terminate_as_interrupt()
    filters = watch.Filters.parse(arguments.where, arguments.segment, arguments.wrong)
    filters.check(watch.find_topic(arguments.topic))
    view = watch.View(filters, arguments.from_beginning, arguments.max, arguments.json)
    watch.watch(find_settings(arguments), arguments.topic, view, sys.stdout)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from driftloop import cli_audit

    return cli_audit.audit(arguments)


def _cases(arguments: argparse.Namespace) -> int:
    from driftloop import cli_cases

    return cli_cases.VERBS[arguments.verb](arguments)


def _init(arguments: argparse.Namespace) -> int:
    from driftloop import cli_init

    return cli_init.init(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from driftloop import cli_check

    return cli_check.check(arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from driftloop import cli_compare

    return cli_compare.compare(arguments)


def _backfill(arguments: argparse.Namespace) -> int:
    from driftloop import cli_backfill

    return cli_backfill.backfill(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from driftloop import cli_report

    return cli_report.report(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from importlib import import_module

    sys.argv = [f"driftloop bench {arguments.benchmark}", *arguments.rest]
    status: int = import_module(f"benchmarks.{arguments.benchmark}").main()
    return status


def _doctor(arguments: argparse.Namespace) -> int:
    from driftloop import settings as tree
    from driftloop.lifecycle import doctor

    environ = environ_of(arguments)
    if arguments.settings is not None:
        for setting in doctor.list_settings(tree.load(environ)):
            default = "" if setting.value == setting.default else f"   (default {setting.default or 'empty'})"
            write(f"{setting.variable}={setting.value}{default}")
            if setting.about:
                write(f"    {setting.about}")
        return 0
    missing = False
    marks = {"ok": "✓", "note": "•", "missing": "✗"}
    for finding in doctor.examine(environ, Path("runs")):
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
    from driftloop import access, topics
    from driftloop.store import Store

    settings = load_settings(arguments)
    Store(settings).check()
    topics.create(settings)
    access.check(settings, access.find(access.role_of(arguments.verb)))
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
