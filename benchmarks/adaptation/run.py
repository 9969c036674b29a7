"""What adapting is worth: policies, detectors and references played over streams with known drift, in one table.

The loop is the live one without Kafka (`benchmarks.adaptation.in_process_loop`), on cached embeddings. Labels come late and as they are sent,
faults included; what is scored is the truth.

    driftloop bench adaptation                                # six kinds of drift, few systems, some minutes
    driftloop bench adaptation --full --seeds 7 8 9 10 11     # everything, some hours
    driftloop bench adaptation --csv reviews.csv --text review --label stars --systems never on-drift iid
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
from threadpoolctl import threadpool_limits

from benchmarks.adaptation import baselines, plots
from benchmarks.adaptation.baselines import Cara, Flags, ScriptedAlerts, with_detectors
from benchmarks.adaptation.in_process_loop import SECONDS, Loop, Stream
from benchmarks.adaptation.recurrence import recoveries
from benchmarks.adaptation.tables import BLOCK, Measured, Row, key, make_tables, put_into, read, write
from benchmarks.harness.cached_embeddings import embed
from benchmarks.harness.cli import exit_status
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import DriftAlert
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import Scenario, load_scenario
from retrain.candidates.base import CannotFit
from retrain.policies.base import Policy
from retrain.policies.builtin import Never
from retrain.policies.catalogue import make_policy
from serving.simulation.drift_scoring import MAX_DELAY, Truth, judge_alerts
from stream_processors.drift.detectors import FAMILIES, make_detector

COUNTED_FROM = 2000
"""Accuracy is taken over the events from here on, as in `summary.json`; from half of a shorter stream on."""

KINDS = ("tweets", "tweets-gradual", "tweets-recurring", "tweets-label-shift", "tweets-typos", "tweets-stationary")
"""Abrupt, gradual, recurring, label shift, covariates only, and the control."""
OTHERS = ("prior", "topic", "swap", "relabel", "vocabulary", "noise", "liar")
"""One drift of a kind put into the stationary stream; in the last one an annotator who lies."""
QUICK = ("never", "periodic:2000", "on-drift", "online:softmax", "iid")
SYSTEMS = (
    "never", *(f"periodic:{period}" for period in (5000, 2000, 1000, 500, 250, 125)), "on-drift", "cost-aware",
    *(f"error:{name}" for name in FAMILIES), "oracle", "always-fire", "never-fire", "cara",
    *(f"online:{name}" for name in baselines.ONLINE), "iid", "iid-concepts",
)  # fmt: skip
"""What a row can be: a policy, a detector alone under the on-drift policy (any `signal:detector`), or a reference."""
NEED_DRIFTS = frozenset({"oracle", "iid-concepts"})
"""Systems that are told where the drifts are: left out where nobody knows."""


def measure(stream: Stream, system: str, settings: Settings, seconds: float) -> Measured:
    """Play one stream under one system.

    ``seconds`` is the time from a decision to the new model's first prediction, at the scenario's rate.

    Raises:
        DriftloopError: no such system, or a first model that cannot be fitted.
    """
    settings = _fitting(settings, stream.scenario)
    began = time.process_time()
    with threadpool_limits(1):  # as the sandbox of the live loop does
        if system.startswith("online:"):
            row = _measure_online(stream, system, settings)
            cpu = {"watch": 0.0, "retrain": time.process_time() - began}
        elif system in ("iid", "iid-concepts"):
            borders = stream.scenario.drifts if system == "iid-concepts" else ()
            correct = baselines.cross_validate(stream, settings.retrain.seed, borders)
            row = _row(stream, system, correct, settings, fits=baselines.FOLDS)
            cpu = {"watch": 0.0, "retrain": time.process_time() - began}
        else:
            row, cpu = _measure_loop(stream, system, settings, seconds)
    cpu = {name: round(spent, 2) for name, spent in {**cpu, "whole": time.process_time() - began}.items()}
    return Measured(row, cpu)


def _fitting(settings: Settings, scenario: Scenario) -> Settings:
    """On a short stream the first model learns from a quarter of it at most."""
    bootstrap = scenario.bootstrap or min(settings.retrain.bootstrap, max(1, len(scenario) // 4))
    return msgspec.structs.replace(settings, retrain=msgspec.structs.replace(settings.retrain, bootstrap=bootstrap))


def _measure_online(stream: Stream, system: str, settings: Settings) -> Row:
    name = system.partition(":")[2]
    if name not in baselines.ONLINE:
        raise DriftloopError(f"There is no online learner {name!r}: choose one of {', '.join(baselines.ONLINE)}.")
    retrain = settings.retrain
    correct, learnt = baselines.learn_online(stream, name, retrain.bootstrap, retrain.seed)
    return _row(stream, system, correct, settings, fits=learnt)


def _measure_loop(stream: Stream, system: str, settings: Settings, seconds: float) -> tuple[Row, dict[str, float]]:
    lag = round(seconds * stream.rate)
    began = time.process_time()
    policy, settings = _system(stream, system, settings, lag)
    chosen = time.process_time() - began
    loop = Loop(stream, policy, settings, lag)
    try:
        loop.run()
    except CannotFit as error:
        raise DriftloopError(
            f"The first model of {stream.scenario.name} cannot be fitted on {settings.retrain.bootstrap} events "
            f"({error}): set `bootstrap` in the scenario higher."
        ) from error
    alerts: Sequence[DriftAlert] | None = loop.alerts if settings.monitor.detectors else None
    if isinstance(policy, ScriptedAlerts) and system != "oracle":
        alerts = policy.alerts
    return _row(stream, system, loop.correct, settings, alerts, loop), {
        "watch": loop.cpu["watch"],
        "retrain": loop.cpu["retrain"] + chosen,
    }


def _system(stream: Stream, system: str, settings: Settings, lag: int) -> tuple[Policy, Settings]:
    """The policy that a name stands for, and the settings with its detectors."""
    word, _, rest = system.partition(":")
    on_drift = make_policy(msgspec.structs.replace(settings.retrain, policy="on-drift"))
    quiet = with_detectors(settings)
    told = {
        "oracle": baselines.oracle_alerts(stream.scenario),
        "always-fire": baselines.dummy_alerts(stream.scenario, settings.retrain.bootstrap),
        "never-fire": (),
    }
    if system == "never":
        return Never(), settings
    if system in ("on-drift", "cost-aware"):
        return make_policy(msgspec.structs.replace(settings.retrain, policy=word)), settings
    if word == "periodic" and rest.isdigit() and int(rest) > 0:
        return make_policy(msgspec.structs.replace(settings.retrain, policy=word, period=int(rest))), quiet
    if system in told:
        return ScriptedAlerts(on_drift, told[system]), quiet
    if system == "cara":
        rows = _counted_from(stream, settings)
        return Cara(baselines.choose_threshold(stream, settings, lag, rows)), quiet
    if word in ("error", "confidence", "mix") or system.startswith("fused"):
        if not system.startswith("fused"):
            make_detector(system)
        return on_drift, with_detectors(settings, system)
    raise DriftloopError(
        f"There is no system {system!r}: choose of {', '.join(SYSTEMS)}, periodic:EVENTS, or a detector such as "
        "error:adwin?delta=0.01."
    )


def _counted_from(stream: Stream, settings: Settings) -> int:
    return max(min(COUNTED_FROM, len(stream) // 2), settings.retrain.bootstrap)


def _row(
    stream: Stream, system: str, correct: Flags, settings: Settings,
    alerts: Sequence[DriftAlert] | None = None, loop: Loop | None = None, fits: int = 0,
) -> Row:  # fmt: skip
    scenario, start = stream.scenario, _counted_from(stream, settings)
    known = scenario.drifts_known
    truth = Truth(scenario.name, scenario.drifts, known, settings.retrain.bootstrap)
    found, judged = judge_alerts(alerts or (), truth, range(len(stream)))
    ends = [*scenario.drifts[1:], len(stream)][: len(scenario.drifts)]
    busy = sum(min(end - at, MAX_DELAY) for at, end in zip(scenario.drifts, ends, strict=True))
    past = loop.past if loop else []
    refreshes = sum(one.kind == "refresh" for one in past)
    watched = alerts is not None and known
    return Row(
        scenario=scenario.name,
        seed=scenario.seed,
        system=system,
        events=len(stream),
        counted_from=start,
        accuracy=round(float(correct[start:].mean()), 4),
        blocks=[round(float(correct[at : at + BLOCK].mean()), 4) for at in range(0, len(correct), BLOCK)],
        retrainings=len(past) - refreshes,
        refreshes=refreshes,
        fits=len(past) if loop else fits,
        swaps=len(loop.promoted) - 1 if loop else 0,
        rollbacks=len(loop.rollbacks) if loop else 0,
        drifts=list(scenario.drifts) if known else None,
        detected=sum(one.delay is not None for one in found) if watched else None,
        delays=[one.delay for one in found if one.delay is not None] if watched else [],
        false_alarms=sum(one.verdict == "false alarm" for one in judged) if watched else None,
        repeats=sum(one.verdict == "repeat" for one in judged) if watched else None,
        quiet_events=max(0, len(stream) - settings.retrain.bootstrap - busy),
        alerts=[(one.position, one.signal, one.verdict) for one in judged],
        swapped_at=[at for at, _ in loop.promoted[1:]] if loop else [],
        recoveries=recoveries(
            correct, [row.segment for row in scenario.sequence], scenario.drifts, scenario.label_delay
        )
        if known
        else [],
    )


def streams(options: argparse.Namespace, settings: Settings) -> Iterator[Stream]:
    """Each scenario with each seed, its texts embedded."""
    with tempfile.TemporaryDirectory() as folder:
        names = [_own(options, Path(folder))] if options.csv else options.scenarios
        for name, seed in itertools.product(names, options.seeds):
            scenario = load_scenario(str(name), seed=seed)
            yield Stream(scenario, embed([row.text for row in scenario.sequence], settings.model))


def _own(options: argparse.Namespace, folder: Path) -> Path:
    """A scenario file for a CSV file: its rows as they stand."""
    text = {"path": str(options.csv.resolve()), "text": options.text, "label": options.label}
    if options.segment:
        text["segment"] = options.segment
    lines = [f"label_delay = {options.label_delay}"]
    lines += [f"drifts = {json.dumps(options.drifts)}"] if options.drifts is not None else []
    lines += ["[dataset]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in text.items())]
    path = folder / f"{options.csv.name.split('.')[0] or 'csv'}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class _Parser(argparse.ArgumentParser):
    """Its errors are one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        raise DriftloopError(f"{message}; see `{self.prog} --help`.")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the lists that stand for `--full` and for nothing said."""
    parser = _Parser(
        prog="driftloop bench adaptation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="built-in names or TOML files")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help=f"of {', '.join(SYSTEMS)}, or signal:detector")
    parser.add_argument("--full", action="store_true", help="all systems; without --scenarios all built-in ones too")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7], metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"from a decision to the new model (default: {SECONDS:g})"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a CSV file of your own, its rows as they stand")
    parser.add_argument("--text", default="text", metavar="COLUMN")
    parser.add_argument("--label", default="label", metavar="COLUMN")
    parser.add_argument("--segment", default="", metavar="COLUMN")
    parser.add_argument("--label-delay", type=int, default=200, metavar="EVENTS", help="with --csv (default: 200)")
    parser.add_argument("--drifts", nargs="*", type=int, metavar="POSITION", help="with --csv: where they are known")
    parser.add_argument("--cpu", action="store_true", help="print the columns of CPU seconds too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON, after each one")
    parser.add_argument(
        "--read", nargs="+", type=Path, default=[], metavar="FILE", help="measure nothing: rows of such files"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw accuracy over time and the frontier, as SVG")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="put the tables between a page's table marks")
    options = parser.parse_args(argv)
    if not options.scenarios:
        options.scenarios = [*KINDS, *(f"tweets-{name}" for name in OTHERS if options.full)]
    options.systems = options.systems or list(SYSTEMS if options.full else QUICK)
    return options


def measure_all(options: argparse.Namespace) -> Iterator[Measured]:
    """A row for each stream and system, in this order."""
    settings = Settings()
    for stream in streams(options, settings):
        for system in options.systems:
            if system not in NEED_DRIFTS or stream.scenario.drifts_known:
                yield measure(stream, system, settings, options.seconds)


def run(argv: Sequence[str] | None = None) -> list[Measured]:
    """Measure (or read), print a table for each scenario and a summary, write what was asked for.

    Raises:
        DriftloopError: a scenario, a system, a file or an option does not fit.
    """
    options = parse(argv)
    measured = list({key(one.row): one for path in options.read for one in read(path)}.values())
    for one in () if options.read else measure_all(options):
        row = one.row
        measured.append(one)
        sys.stderr.write(f"{row.scenario} {row.seed} {row.system}: {row.accuracy:.4f}, {one.cpu['whole']:.0f} s\n")
        if options.out is not None:
            write(options.out, measured)
    tables = make_tables(measured, cpu=options.cpu)
    print("\n\n".join(tables.values()))
    if options.tables is not None:
        put_into(options.tables, tables)
    if options.plots is not None:
        plots.draw([one.row for one in measured], options.plots)
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and say in one sentence what does not fit."""
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
