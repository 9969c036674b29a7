"""Charts of the report, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.report import formatting
from serving.report.run_data import Bin, Durations, ExpertWeights, Mix, RunFacts, Second, Slice
from serving.report.svg_cleanup import BLUE, DIM, GREEN, INK, LINE, ORANGE, PALE, RED, SERIES, VIOLET, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 22
"""Largest number of characters of a name beside an axis."""
VERDICTS = {"detection": GREEN, "repeat": DIM, "false alarm": RED, "unknown": ORANGE}


def accuracy(bins: Sequence[Bin], facts: RunFacts) -> str:
    """Draw the accuracy over the stream with its 95% intervals, true drifts, alerts and changes of the champion.

    Args:
        bins: Correct predictions along the stream.
        facts: The data of the run.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        middle = [(one.start + one.end) / 2 for one in bins]
        bounds = [formatting.wilson(one.right, one.labelled) for one in bins]
        axes.fill_between(middle, [low for low, _ in bounds], [high for _, high in bounds], color=PALE, lw=0)
        axes.plot(middle, [one.right / one.labelled for one in bins], color=BLUE, lw=1.8, label="accuracy")
        for number, drift in enumerate(facts.reached_drifts):
            axes.axvline(drift.true_position, color=INK, lw=1, ls="--", label="" if number else "true drift")
        for verdict, colour in VERDICTS.items():
            at = [alert.position for alert in facts.summary.alerts if alert.verdict == verdict]
            _marks(axes, at, 1.04, "v", colour, "alert" if verdict == "unknown" else f"alert: {verdict}")
        models = [one for one in facts.data.models[1:] if one.first_position >= 0]
        back = [one.first_position for one in models if one.kind == "rollback"]
        _marks(axes, [one.first_position for one in models if one.kind != "rollback"], 0.03, "o", VIOLET, "promotion")
        _marks(axes, back, 0.03, "s", RED, "rollback")
        axes.set(xlabel="event", ylabel="accuracy", ylim=(0, 1.09), xlim=(0, max(one.end for one in bins)))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        _grid(axes)
        figure.legend(loc="outside lower center", ncols=4)

    return draw_svg("accuracy", draw, height=3.3)


def weights(samples: Sequence[ExpertWeights]) -> str:
    """Draw the weights of the experts of a mixture over the labelled events, stacked.

    Args:
        samples: The weights over time, oldest first.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        experts = list(dict.fromkeys(name for one in samples for name in one.weights))
        labelled = [one.labelled for one in samples]
        parts = [[one.weights.get(name, 0.0) for one in samples] for name in experts]
        names = [formatting.safe_text(name, NAME) for name in experts]
        axes.stackplot(labelled, parts, labels=names, colors=SERIES[: len(experts)], alpha=0.85)
        axes.set(xlabel="labelled event", ylabel="weight", ylim=(0, 1), xlim=(labelled[0], labelled[-1]))
        figure.legend(loc="outside lower center", ncols=6)

    return draw_svg("weights", draw, height=2.6)


def mix(mixes: Sequence[Mix], labels: Sequence[str]) -> str:
    """Draw the share of each label in each segment.

    Args:
        mixes: Labels by segment.
        labels: Labels to draw.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = list(reversed(mixes))
        left = [0.0] * len(rows)
        for label, colour in zip(labels, SERIES, strict=False):
            parts = [one.labels.get(label, 0) / sum(one.labels.values()) for one in rows]
            axes.barh(
                range(len(rows)), parts, left=left, color=colour, label=formatting.safe_text(label, NAME), height=0.7
            )
            left = [a + b for a, b in zip(left, parts, strict=True)]
        axes.set_yticks(range(len(rows)), [formatting.safe_text(one.segment, NAME) for one in rows])
        axes.set(xlim=(0, 1), xlabel="share of the labels")
        figure.legend(loc="outside lower center", ncols=4)

    return draw_svg("mix", draw, height=1.4 + 0.3 * len(mixes))


def segments(slices: Sequence[Slice]) -> str:
    """Draw the accuracy of each segment with its 95% interval."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = list(reversed(slices))
        for at, one in enumerate(rows):
            low, high = formatting.wilson(one.right, one.labelled)
            axes.plot([low, high], [at, at], color=PALE, lw=5, solid_capstyle="butt")
            axes.plot([one.right / one.labelled], [at], "o", color=BLUE, ms=5)
        axes.set_yticks(range(len(rows)), [formatting.safe_text(one.name, NAME) for one in rows])
        axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), xlabel="accuracy with its 95% interval")
        _grid(axes, "x")

    return draw_svg("segments", draw, height=0.9 + 0.3 * len(slices))


def candidates(rows: Sequence[tuple[str, str, float, float]]) -> str:
    """Draw comparisons, each with its name, the candidate, and the accuracies of champion and candidate."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = list(dict.fromkeys(row[1] for row in rows))
        for at, (_, name, champion, challenger) in enumerate(reversed(rows)):
            colour = SERIES[names.index(name) % len(SERIES)]
            axes.plot([champion, challenger], [at, at], color=LINE, lw=2, zorder=1)
            axes.plot([champion], [at], "o", color=DIM, ms=5, mfc="none")
            axes.plot([challenger], [at], "o", color=colour, ms=6)
        axes.plot([], [], "o", color=DIM, ms=5, mfc="none", label="champion")
        for number, name in enumerate(names):
            axes.plot([], [], "o", color=SERIES[number % len(SERIES)], ms=6, label=formatting.safe_text(name, NAME))
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        axes.set(xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel="accuracy on the same held-out events")
        _grid(axes, "x")
        figure.legend(loc="outside lower center", ncols=5)

    return draw_svg("candidates", draw, height=1.3 + 0.24 * len(rows))


def latency(measured: Durations) -> str:
    """Draw a histogram of the time in the scorer on a logarithmic scale."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.stairs(measured.counts, measured.edges, fill=True, color=PALE)
        axes.set_xscale("log")
        top = max(measured.counts)
        marks = ((measured.p50, "50%"), (measured.p95, "95%"), (measured.p99, "99%"))
        for height, (value, name) in zip((1.04, 1.13, 1.22), marks, strict=True):
            if value is not None:
                axes.axvline(max(value, measured.edges[0]), ymax=height / 1.32, color=BLUE, lw=1)
                text = f"{name} within {formatting.milliseconds(value)}"
                at = (max(value, measured.edges[0]), top * height)
                axes.annotate(text, at, ha="right", xytext=(-3, -2), textcoords="offset points")
        axes.set(xlabel="milliseconds in the scorer", ylabel="predictions", ylim=(0, top * 1.32))
        ticks = _round_numbers(measured.edges[0], measured.edges[-1])
        axes.set_xlim(ticks[0], ticks[-1])
        axes.set_xticks(ticks)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")

    return draw_svg("latency", draw, height=2.5)


def speed(parts: Sequence[Second]) -> str:
    """Draw the predictions per second over time."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        edges = [one.at for one in parts] + [parts[-1].at + parts[-1].width]
        axes.stairs([one.predictions / one.width for one in parts], edges, color=BLUE, lw=1.4)
        axes.set(xlabel="seconds since the first prediction", ylabel="predictions per second", xlim=(0, edges[-1]))
        axes.set_ylim(bottom=0)
        _grid(axes)

    return draw_svg("speed", draw, height=2.2)


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from the last one below ``low`` to the first one above ``high``."""
    known = [float(f"{digit}e{power}") for power in range(-3, 13) for digit in (1, 2, 5)]
    first = max(number for number in known if number <= max(low, known[0]))
    last = min(number for number in known if number >= min(high, known[-1]))
    return [number for number in known if first <= number <= last]


def _marks(axes: Axes, at: Sequence[int], height: float, shape: str, colour: str, label: str) -> None:
    if at:
        axes.plot(at, [height] * len(at), shape, color=colour, ms=6, ls="", label=label, clip_on=False)


def _grid(axes: Axes, axis: str = "y") -> None:
    axes.grid(axis=axis, color=LINE, lw=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
