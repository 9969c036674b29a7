"""Accuracy over the stream as lines of characters for a terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.live.accuracy import STEP, AccuracyTimeline, Cells, merge_cells

_SIGNS = {"true": "△", "alert": "▲", "promotion": "●", "rollback": "●"}
_ASCII_SIGNS = {"true": "'", "alert": "^", "promotion": "o", "rollback": "o"}
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.,-=+*#"


@dataclass(frozen=True)
class Sparklines:
    """Lines of equal length, one character for each span of the stream."""

    accuracy: str
    """All versions together."""
    marks: str
    versions: dict[str, str]
    low: float
    high: float
    """Accuracies at the bottom and the top of the bars."""


def draw_sparklines(accuracy: AccuracyTimeline, total: int, width: int, ascii_only: bool = False) -> Sparklines:
    """Draw the accuracy over the stream, its marks, and the part of each version.

    Args:
        accuracy: Accuracy and marks to draw.
        total: Events that the scenario will send; `0` if unknown.
        width: Most characters of a line.
        ascii_only: Draw with ASCII characters.
    """
    last = max([(total - 1) // STEP, *accuracy.whole.cells, 0])
    merge = max(1, -(-(last + 1) // max(width, 1)))
    columns = min(width, last // merge + 1)
    cells = merge_cells(accuracy.whole.cells, merge)
    shares = [correct / labelled for labelled, correct in cells.values()]
    low, high = (min(shares), max(shares)) if shares else (0.0, 1.0)
    low, high = math.floor(low * 10) / 10, math.ceil(high * 10) / 10

    def line(drawn: Cells) -> str:
        return "".join(_bar(drawn.get(column), low, high, ascii_only) for column in range(columns))

    marks = [" "] * columns
    signs = _ASCII_SIGNS if ascii_only else _SIGNS
    for mark in accuracy.marks:
        if mark.kind in signs:
            marks[min(mark.position // STEP // merge, columns - 1)] = signs[mark.kind]
    versions = {name: line(merge_cells(track.cells, merge)) for name, track in accuracy.versions.items()}
    return Sparklines(line(cells), "".join(marks), versions, low, high)


def _bar(counts: list[int] | None, low: float, high: float, ascii_only: bool) -> str:
    """Return the character of one span; a blank if nothing in it is labelled."""
    if not counts or not counts[0]:
        return " "
    bars = _ASCII_BARS if ascii_only else _BARS
    height = (counts[1] / counts[0] - low) / ((high - low) or 1.0)
    # In one span a version may be below or above all versions together, by which the scale is chosen.
    return bars[max(0, min(int(height * len(bars)), len(bars) - 1))]
