"""What an annotator who lies costs: accuracy and promotions against the share of its labels that are wrong.

One of three sources gives a part of the labels, and from the end of the first model's rows on a share of them is wrong.
The loop learns from what is said; what is scored is the truth. The negative control trusts every label alike.

    driftloop bench label_noise                          # a recurring drift, the liar at 20 and 40%, three seeds
    driftloop bench label_noise --scenarios tweets --part 0.5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from benchmarks.embeddings import embed
from benchmarks.loop import Loop, Stream
from benchmarks.tables import markdown
from driftloop.errors import DriftloopError
from driftloop.settings import Settings
from producers.scenarios import Scenario, build_scenario, read_spec
from producers.schema import AnnotatorSpec
from retrain.policies import make_policy
from retrain.trust import weigh
from retrain.window import Window

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


def with_liar(name: str, seed: int, flipped: float, part: float, start: int) -> Scenario:
    """The scenario with three annotators, one of whom gives ``part`` of the labels and lies from ``start`` on.

    Raises:
        DriftloopError: no such scenario, or data that cannot be used.
    """
    spec, base = read_spec(name)
    liar = AnnotatorSpec(name="liar", share=part, flipped=flipped, start=start)
    others = [AnnotatorSpec(name=one, share=(1 - part) / 2) for one in ("first", "second")]
    return build_scenario(msgspec.structs.replace(spec, seed=seed, annotators=[*others, liar]), base)


def count_worse(loop: Loop, stream: Stream) -> tuple[int, int]:
    """Promotions after the first model, and those that made it worse on the next `FOLLOWED` events of the concept.

    The two models answer the same events; a paired z-test at `ALPHA` decides, on the true labels.
    """
    ends = [*stream.scenario.drifts, len(stream)]
    promotions = worse = 0
    for (_, before), (at, after) in zip(loop.promoted, loop.promoted[1:], strict=False):
        promotions += 1
        rows = stream.window(range(at, min(at + FOLLOWED, next(end for end in ends if end > at or end == ends[-1]))))
        if not len(rows):
            continue
        truth = np.asarray(rows.labels)
        gains = (np.asarray(after.answers(rows).labels) == truth) * 1.0
        gains -= np.asarray(before.answers(rows).labels) == truth
        worse += bool(gains.sum() < norm.ppf(ALPHA) * np.sqrt((gains**2).sum()))
    return promotions, worse


def measure(scenario: Scenario, flipped: float, weighed: bool, settings: Settings, seconds: float) -> Row:
    """Play one stream under the on-drift policy."""
    stream = Stream(scenario, embed([row.text for row in scenario.sequence], settings.model))
    policy = make_policy(msgspec.structs.replace(settings.retrain, policy="on-drift"))
    loop = Loop(
        stream, policy, settings, round(seconds * min(scenario.rate, 1000.0)), weigh=weigh if weighed else _as_is
    )
    with threadpool_limits(1):
        loop.run()
        promotions, worse = count_worse(loop, stream)
    counted = loop.correct[settings.retrain.bootstrap :]
    return Row(flipped, weighed, scenario.seed, round(float(counted.mean()), 4), promotions, worse)


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


def _as_is(window: Window, seed: int = 7) -> Window:
    return window


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each scenario."""
    parser = argparse.ArgumentParser(
        prog="driftloop bench label_noise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", default=["tweets-recurring"], metavar="NAME")
    parser.add_argument("--flipped", nargs="+", type=float, default=[0.0, 0.2, 0.4], help="shares of wrong labels")
    parser.add_argument("--part", type=float, default=0.4, help="share of all labels that the liar gives")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9], metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, help="from a decision to the new model (default: 4)")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        for name in options.scenarios:
            rows = []
            for seed in options.seeds:
                for flipped in options.flipped:
                    scenario = with_liar(name, seed, flipped, options.part, settings.retrain.bootstrap)
                    for weighed in (True, False):
                        rows.append(measure(scenario, flipped, weighed, settings, options.seconds))
                        sys.stderr.write(f"{name} {rows[-1]}\n")
            seeds = ", ".join(map(str, options.seeds))
            print(f"**{name}**: one of three annotators gives {options.part:.0%} of the labels; seeds {seeds}\n")
            print(f"{make_table(rows)}\n")
    except DriftloopError as error:
        print(f"driftloop: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
