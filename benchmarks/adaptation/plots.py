"""Plots of the adaptation benchmark: accuracy over time, and accuracy against retrainings and fits.

They are drawn with matplotlib, which MLflow depends on. The same rows give the same SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.adaptation.results import BLOCK, Row
from benchmarks.adaptation.tables import SHIPPED, SINGLE, accuracy
from driftloop.core.errors import DriftloopError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("never", SHIPPED, SINGLE, "oracle", "online:softmax")
"""Systems of the plot over time, beside the best periodic one."""
LEVELS = ("iid", "online:")
"""Systems drawn as levels and not as points, because they retrain with every label, or once."""
COLOURS = {
    "never": "#8a8a8a", SHIPPED: "#c2185b", SINGLE: "#0b6e99", "oracle": "#2a9d4e", "online:softmax": "#b07aa1",
    "periodic": "#d98324", "error": "#c0504d", "cost-aware": "#5aa7c7",
}  # fmt: skip


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw two SVG files for each scenario, ``NAME-time.svg`` (its first seed) and ``NAME-frontier.svg`` (all seeds).

    Args:
        rows: Rows of any scenarios, seeds and systems.
        folder: Folder for the files.

    Returns:
        Paths of the files.

    Raises:
        DriftloopError: matplotlib is not installed.
    """
    paths = []
    with svg():
        folder.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(row.scenario for row in rows):
            own = [row for row in rows if row.scenario == name]
            paths += [_over_time(own, folder / f"{name}-time.svg"), _frontier(own, folder / f"{name}-frontier.svg")]
    return paths


@contextmanager
def svg() -> Iterator[None]:
    """Set one SVG style for the figures saved in the context. The same rows give the same files.

    Raises:
        DriftloopError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DriftloopError(
            "The plots need matplotlib, which MLflow depends on: pip install 'driftloop[registry]'."
        ) from error
    matplotlib.use("agg")
    style: Any = {
        "svg.hashsalt": "driftloop", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        yield


def _over_time(rows: Sequence[Row], path: Path) -> Path:
    from matplotlib.figure import Figure

    seed = min(row.seed for row in rows)
    own = [row for row in rows if row.seed == seed]
    periodic = max((r for r in own if r.system.startswith("periodic")), key=lambda r: r.accuracy, default=None)
    shown = [row for row in own if row.system in SHOWN or row is periodic]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.add_subplot()
    ours_row = next((row for name in (SHIPPED, SINGLE) for row in own if row.system == name), None)
    for row in shown:
        ours = row is ours_row
        x = np.arange(len(row.blocks)) * BLOCK + BLOCK / 2
        look = {"ls": "--", "zorder": 5} if row.system == "oracle" else {"zorder": 3 + ours}
        axes.plot(x, row.blocks, color=colour(row.system), lw=2 if ours else 1.2, label=row.system, **look)
    for number, at in enumerate(own[0].drifts or ()):
        axes.axvline(at, color="black", lw=0.8, ls="--", label="" if number else "true drift")
    if ours_row is not None:
        _mark(axes, ours_row)
    axes.set(title=f"{own[0].scenario}, seed {seed}", xlabel="event", ylabel=f"accuracy per {BLOCK} events")
    axes.set_xlim(0, own[0].events)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    return path


def _mark(axes: Axes, row: Row) -> None:
    """Mark the alerts and swaps of a system along the top and the bottom."""
    marks = {"detection": ("v", "#2a9d4e"), "repeat": ("v", "#b5b5b5"), "false alarm": ("v", "#c0504d")}
    top = axes.get_xaxis_transform()
    for verdict, (shape, tint) in marks.items():
        at = [position for position, _, found in row.alerts if found == verdict]
        if at:
            label = f"{row.system}: {verdict}"
            axes.plot(at, [0.97] * len(at), shape, color=tint, transform=top, label=label, ls="", ms=6)
    if row.swapped_at:
        axes.plot(
            row.swapped_at, [0.02] * len(row.swapped_at), "|", color=colour(row.system), transform=top, ls="", ms=7,
            label=f"{row.system}: swap",
        )  # fmt: skip


def _frontier(rows: Sequence[Row], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    systems = {name: [r for r in rows if r.system == name] for name in dict.fromkeys(r.system for r in rows)}
    for axes, count in ((left, "retrainings"), (right, "fits")):
        points = []
        for name, own in systems.items():
            if name.startswith(LEVELS):
                continue
            x = float(np.mean([getattr(row, count) for row in own]))
            points.append((x, accuracy(own), name))
            axes.plot(x, accuracy(own), "o", color=colour(name), ms=9 if name in (SHIPPED, SINGLE) else 6)
        _name_points(axes, points)
        _draw_levels(axes, {name: accuracy(own) for name, own in systems.items() if name.startswith(LEVELS)})
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.2, max([1, *(x for x, _, _ in points)]) * 2.5)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("retrainings" if count == "retrainings" else "fits, refreshes included")
    left.set_ylabel(f"accuracy from event {rows[0].counted_from} on")
    figure.suptitle(rows[0].scenario)
    figure.savefig(path, metadata={"Date": None})
    return path


def _draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Draw a dotted line for each system without a number of retrainings. Lines of similar height share a name."""
    names: dict[float, list[str]] = {}
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        near = next((other for other in names if abs(other - level) < 0.01), level)
        names.setdefault(near, []).append(name)
        axes.axhline(level, color=colour(name), lw=0.8, ls=":")
    for level, some in names.items():
        axes.annotate(", ".join(some), (0.01, level), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name beside each point. The names of near points are spread downwards."""
    span = max((y for _, y, _ in points), default=1.0) - min((y for _, y, _ in points), default=0.0)
    step = max(span, 1e-6) / 32
    taken: list[tuple[float, float]] = []
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        at = y
        while any(abs(np.log1p(x) - np.log1p(other)) < 0.9 and abs(at - level) < step for other, level in taken):
            at -= step
        taken.append((x, at))
        axes.annotate(name, (x, at), textcoords="offset points", xytext=(6, -2), fontsize=7)


def colour(system: str) -> str:
    """Return the colour of a system, or of its family."""
    return COLOURS.get(system) or COLOURS.get(system.partition(":")[0]) or "#4d4d4d"
