"""Diagram of the pipeline with the number of messages on each topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.report import formatting
from serving.report.run_data import RunFacts
from serving.report.svg_cleanup import BLUE, DIM, INK, VIOLET, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pipeline(facts: RunFacts) -> str:
    """Draw the processes as boxes and the topics as arrows with their message counts. Returns an `svg` element."""
    summary = facts.summary
    labelled = summary.accuracy.counted + summary.accuracy.warm_up
    rounds = len(summary.retrainings) + len(summary.refreshes)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xlim=(0, 100), ylim=(0, 50))
        axes.axis("off")
        _box(axes, 0, 30, "replay", "sends events,\nand labels later")
        _box(axes, 39, 30, "score", "encoder and head\nof the champion")
        _box(axes, 78, 30, "monitor", "joins labels,\ndetects drift")
        _box(axes, 39, 4, "MLflow", "registry of promoted\nand rejected models", colour=DIM)
        _box(axes, 78, 4, "retrain", "fits, compares,\npromotes")
        _arrow(axes, (22, 38), (39, 38), f"events\n{formatting.count(summary.events)}", (30.5, 40))
        _arrow(axes, (61, 38), (78, 38), f"predictions\n{formatting.count(summary.predictions)}", (69.5, 40))
        joined = f"labels joined with a prediction: {formatting.count(labelled)}"
        _arrow(axes, (11, 44), (89, 44), joined, (50, 48.2), bend=True)
        alerts = formatting.plural(len(summary.alerts), "alert")
        _arrow(axes, (89, 30), (89, 18), f"{alerts},\n{formatting.count(labelled)} outcomes", (88, 22.2), align="right")
        models = f"{formatting.plural(rounds, 'retraining')},\n{summary.promotions} promoted"
        _arrow(axes, (78, 11), (61, 11), models, (69.5, 13))
        champions = f"{formatting.plural(len(facts.data.models), 'champion')},\nloaded while running"
        _arrow(axes, (50, 18), (50, 30), champions, (49, 22.2), colour=VIOLET, align="right")
        _box(axes, 0, 4, "serve", "API, live page,\nmetrics (optional)", colour=DIM, line="--")

    return draw_svg("pipeline", draw, height=3.6)


def _box(axes: Axes, x: float, y: float, name: str, text: str, colour: str = BLUE, line: str = "-") -> None:
    from matplotlib.patches import FancyBboxPatch

    round_ = "round,pad=0,rounding_size=1.2"
    axes.add_patch(FancyBboxPatch((x, y), 22, 14, boxstyle=round_, fc="none", ec=colour, lw=1.4, ls=line))
    axes.text(x + 11, y + 10.4, name, ha="center", va="center", weight="bold", color=INK, size=10)
    axes.text(x + 11, y + 5, text, ha="center", va="center", color=DIM, size=8)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    at: tuple[float, float],
    *,
    colour: str = BLUE,
    align: str = "center",
    bend: bool = False,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    if bend:
        (left, low), (right, _) = start, end
        axes.plot([left, left, right], [low, 47.4, 47.4], color=colour, lw=1.3)
        start = (right, 47.4)
    axes.annotate("", end, start, arrowprops=style)
    axes.text(*at, text, ha=align, va="bottom", size=7.5, color=INK)
