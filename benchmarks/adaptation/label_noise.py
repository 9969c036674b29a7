"""What an annotator who lies costs: accuracy and promotions against the share of its labels that are wrong.

One of three sources gives a part of the labels, and from the end of the first model's rows on a share of them is wrong.
The loop learns from what is said; what is scored is the truth. The negative control trusts every label alike.

    driftloop bench label_noise                          # a recurring drift, the liar at 20 and 40%, three seeds
    driftloop bench label_noise --scenarios tweets --part 0.5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import msgspec
import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from benchmarks.adaptation.in_process_loop import SECONDS, Loop, Stream
from benchmarks.adaptation.tables import markdown
from benchmarks.harness.cached_embeddings import embed
from benchmarks.harness.cli import exit_status
from driftloop.core.settings import Settings
from producers.scenarios.scenario_schema import AnnotatorSpec
from producers.scenarios.scenarios import Scenario, build_scenario, read_spec
from retrain.evaluation.paired_slice import correct
from retrain.labels.annotator_trust import weight_labels
from retrain.policies.catalogue import make_policy
from retrain.training_window import TrainingWindow

FOLLOWED = 500
"""Events after a promotion on which the new model and the one before it are compared, with their true labels."""
ALPHA = 0.05


class Row(msgspec.Struct, frozen=True):
    """One run."""

    flipped: float
    weighed: bool
    seed: int
    accuracy: float
    promotions: int
    worse: int
    """Promotions of a model that was worse than the one before it, beyond chance."""


def with_liar(name: str, seed: int, flipped: float, part: float, bootstrap: int) -> Scenario:
    """The scenario with three annotators, one of whom gives ``part`` of the labels.

    It lies once the first model's rows are over: the scenario's own number of them, or else ``bootstrap``.

    Raises:
        DriftloopError: no such scenario, or data that cannot be used.
    """
    spec, base = read_spec(name)
    liar = AnnotatorSpec(name="liar", share=part, flipped=flipped, start=spec.bootstrap or bootstrap)
    others = [AnnotatorSpec(name=one, share=(1 - part) / 2) for one in ("first", "second")]
    return build_scenario(msgspec.structs.replace(spec, seed=seed, annotators=[*others, liar]), base)


def count_worse(loop: Loop, stream: Stream) -> tuple[int, int]:
    """Promotions after the first model, and those that made it worse on the next `FOLLOWED` events of the concept.

    The two models answer the same events; a paired z-test at `ALPHA` decides, on the true labels.
    """
    worse = 0
    for (_, before), (at, after) in pairwise(loop.promoted):
        end = min((drift for drift in stream.scenario.drifts if drift > at), default=len(stream))
        rows = stream.window(range(at, min(at + FOLLOWED, end)))
        if len(rows):
            gains = correct(rows.labels, after.answers(rows)) - correct(rows.labels, before.answers(rows))
            worse += bool(gains.sum() < norm.ppf(ALPHA) * np.sqrt((gains**2).sum()))
    return len(loop.promoted) - 1, worse


def measure(stream: Stream, flipped: float, weighed: bool, settings: Settings, seconds: float) -> Row:
    """Play one stream under the on-drift policy."""
    policy = make_policy(msgspec.structs.replace(settings.retrain, policy="on-drift"))
    trust: Callable[[TrainingWindow], TrainingWindow] = weight_labels if weighed else lambda window: window
    loop = Loop(stream, policy, settings, round(seconds * stream.rate), weigh=trust)
    with threadpool_limits(1):
        loop.run()
        promotions, worse = count_worse(loop, stream)
    counted = loop.correct[loop.bootstrap :]
    return Row(flipped, weighed, stream.scenario.seed, round(float(counted.mean()), 4), promotions, worse)


def make_table(rows: Sequence[Row]) -> str:
    """A line for each share of wrong labels and way of weighing, as means over the seeds."""
    lines = []
    for weighed in (True, False):
        mine = [row for row in rows if row.weighed is weighed]
        clean = {row.seed: row.accuracy for row in mine if row.flipped == 0}
        for flipped in dict.fromkeys(row.flipped for row in mine):
            those = [row for row in mine if row.flipped == flipped]
            damage = [clean[row.seed] - row.accuracy for row in those if row.seed in clean]
            lines.append([
                f"{flipped:.0%}",
                "by annotator" if weighed else "all alike",
                f"{np.mean([row.accuracy for row in those]):.4f}",
                f"{np.mean(damage):+.4f}" if damage else "-",
                str(sum(row.promotions for row in those)),
                str(sum(row.worse for row in those)),
            ])  # fmt: skip
    return markdown(("wrong labels of the liar", "trusted", "accuracy", "damage", "promotions", "of them worse"), lines)


def run(argv: Sequence[str] | None = None) -> None:
    """Print a table for each scenario.

    Raises:
        DriftloopError: a scenario or its data does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="driftloop bench label_noise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", default=["tweets-recurring"], metavar="NAME")
    parser.add_argument("--flipped", nargs="+", type=float, default=[0.0, 0.2, 0.4], help="shares of wrong labels")
    parser.add_argument("--part", type=float, default=0.4, help="share of all labels that the liar gives")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9], metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"from a decision to the new model (default: {SECONDS:g})"
    )
    options = parser.parse_args(argv)
    settings = Settings()
    for name in options.scenarios:
        rows = []
        for seed, flipped in product(options.seeds, options.flipped):
            scenario = with_liar(name, seed, flipped, options.part, settings.retrain.bootstrap)
            stream = Stream(scenario, embed([row.text for row in scenario.sequence], settings.model))
            for weighed in (True, False):
                rows.append(measure(stream, flipped, weighed, settings, options.seconds))
                sys.stderr.write(f"{name} {rows[-1]}\n")
        seeds = ", ".join(map(str, options.seeds))
        print(f"**{name}**: one of three annotators gives {options.part:.0%} of the labels; seeds {seeds}\n")
        print(f"{make_table(rows)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and say in one sentence what does not fit."""
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
