"""Label noise benchmark: accuracy and promotions against the share of wrong labels of one annotator.

One of three annotators gives a part of the labels. After the first model's rows, a share of its labels is wrong. The
loop learns from the labels that are sent. Predictions are scored against the true labels. The negative control trusts
every label alike.

    driftloop bench label_noise                          # a recurring drift, 20 and 40% wrong labels, three seeds
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

from benchmarks.adaptation.in_process_loop import SECONDS, Loop
from benchmarks.adaptation.playback import Stream
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
"""Events after a promotion on which the new model and its predecessor are compared, by the true labels."""
ALPHA = 0.05
"""Significance level of that comparison."""


class Row(msgspec.Struct, frozen=True):
    """One run."""

    flipped: float
    """Share of the annotator's labels that are wrong."""
    weighed: bool
    """True if labels are weighted by the trust in their annotator."""
    seed: int
    accuracy: float
    promotions: int
    worse: int
    """Promotions of a model that was significantly worse than its predecessor."""


def with_liar(name: str, seed: int, flipped: float, part: float, bootstrap: int) -> Scenario:
    """Load a scenario with three annotators, one of whom gives wrong labels after the first model's rows.

    Args:
        name: Name of a built-in scenario, or path of a TOML file.
        seed: Seed of the scenario.
        flipped: Share of the annotator's labels that are wrong.
        part: Share of all labels that the annotator gives.
        bootstrap: Rows of the first model, unless the scenario has a number.

    Raises:
        DriftloopError: The scenario does not exist, or its data cannot be used.
    """
    spec, base = read_spec(name)
    liar = AnnotatorSpec(name="liar", share=part, flipped=flipped, start=spec.bootstrap or bootstrap)
    others = [AnnotatorSpec(name=one, share=(1 - part) / 2) for one in ("first", "second")]
    return build_scenario(msgspec.structs.replace(spec, seed=seed, annotators=[*others, liar]), base)


def count_worse(loop: Loop, stream: Stream) -> tuple[int, int]:
    """Count the promotions after the first model, and those to a worse model.

    Both models predict the next `FOLLOWED` events of the concept. A paired z-test at `ALPHA` decides.

    Args:
        loop: A loop that has run.
        stream: Its stream.

    Returns:
        Number of promotions, and number of promotions to a worse model.
    """
    worse = 0
    for (_, before), (at, after) in pairwise(loop.promoted):
        end = min((drift for drift in stream.scenario.drifts if drift > at), default=len(stream))
        rows = stream.window(range(at, min(at + FOLLOWED, end)))
        if len(rows):
            gains = correct(rows.labels, after.predict(rows)) - correct(rows.labels, before.predict(rows))
            worse += bool(gains.sum() < norm.ppf(ALPHA) * np.sqrt((gains**2).sum()))
    return len(loop.promoted) - 1, worse


def measure(stream: Stream, flipped: float, weighed: bool, settings: Settings, seconds: float) -> Row:
    """Play one stream under the on-drift policy.

    Args:
        stream: The stream.
        flipped: Share of the annotator's labels that are wrong.
        weighed: Weight labels by the trust in their annotator.
        settings: Settings of the loop.
        seconds: Time from a decision to the new model's first prediction.
    """
    policy = make_policy(msgspec.structs.replace(settings.retrain, policy="on-drift", mixture=False))
    trust: Callable[[TrainingWindow], TrainingWindow] = weight_labels if weighed else lambda window: window
    loop = Loop(stream, policy, settings, round(seconds * stream.rate), weigh=trust)
    with threadpool_limits(1):
        loop.run()
        promotions, worse = count_worse(loop, stream)
    counted = loop.correct[loop.bootstrap :]
    return Row(flipped, weighed, stream.scenario.seed, round(float(counted.mean()), 4), promotions, worse)


def make_table(rows: Sequence[Row]) -> str:
    """Return a table with a line for each share of wrong labels, with and without weights, as means over the seeds."""
    lines = []
    for weighed in (True, False):
        own = [row for row in rows if row.weighed is weighed]
        clean = {row.seed: row.accuracy for row in own if row.flipped == 0}
        for flipped in dict.fromkeys(row.flipped for row in own):
            runs = [row for row in own if row.flipped == flipped]
            damage = [clean[row.seed] - row.accuracy for row in runs if row.seed in clean]
            lines.append([
                f"{flipped:.0%}",
                "by annotator" if weighed else "equally",
                f"{np.mean([row.accuracy for row in runs]):.4f}",
                f"{np.mean(damage):+.4f}" if damage else "-",
                str(sum(row.promotions for row in runs)),
                str(sum(row.worse for row in runs)),
            ])  # fmt: skip
    return markdown(("wrong labels", "trusted", "accuracy", "accuracy lost", "promotions", "to a worse model"), lines)


def run(argv: Sequence[str] | None = None) -> None:
    """Print a table for each scenario.

    Raises:
        DriftloopError: A scenario or its data does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="driftloop bench label_noise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenarios", nargs="+", default=["tweets-recurring"], metavar="NAME", help="built-in names or TOML files"
    )
    parser.add_argument("--flipped", nargs="+", type=float, default=[0.0, 0.2, 0.4], help="shares of wrong labels")
    parser.add_argument("--part", type=float, default=0.4, help="share of all labels from that annotator")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9], metavar="N", help="seeds (default: 7 8 9)")
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
        print(f"**{name}**: seeds {seeds}; one of three annotators gives {options.part:.0%} of the labels\n")
        print(f"{make_table(rows)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
