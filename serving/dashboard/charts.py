"""Charts of the dashboard as ECharts options. Text from a topic is data in them, never a key or markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from driftloop.core.terminal_text import escape_control_chars
from serving.live.accuracy import Mark
from serving.live.recent_predictions import SpeedSample

AXIS = "#7a8494"
"""Colour of axes. All colours here are readable on white and on black."""
LINES = ("#1f7ac4", "#c4581f", "#2f8f4e", "#8a5cc2", "#b8860b", "#c23b6b", "#2a8f8f", "#77803a")
SIGNS = {
    "true": ("△", "#7a8494", "true drift"),
    "alert": ("▲", "#d0342c", "alert"),
    "retraining": ("⟳", "#b8860b", "retraining"),
    "promotion": ("●", "#2f8f4e", "promotion"),
    "rollback": ("○", "#8a5cc2", "rollback"),
}
"""Sign, colour and name of each kind of mark."""
ACCURACY = "Rolling accuracy of each model version over the stream. The text below lists the newest values."
Options = dict[str, Any]


def accuracy(rolling: dict[str, list[tuple[int, float]]], marks: Sequence[Mark]) -> Options:
    """Return the chart of the rolling accuracy, with a line for each version and vertical lines for the marks.

    Args:
        rolling: Points (stream position, accuracy) by version; the empty version stands for all together.
        marks: Drifts, alerts, retrainings and changes of the champion.
    """
    versions = sorted((name for name in rolling if name), key=lambda name: rolling[name][0])
    series = [_line("all versions", rolling.get("", []), AXIS, width=1, dashed=True)]
    series += [
        _line(f"v{escape_control_chars(name, 20)}", rolling[name], LINES[at % len(LINES)])
        for at, name in enumerate(versions)
    ]
    series[0]["markLine"] = {
        "symbol": "none",
        "silent": True,
        "animation": False,
        "data": [
            {
                "xAxis": mark.position,
                "lineStyle": {"color": SIGNS[mark.kind][1], "type": "dashed" if mark.kind == "true" else "solid"},
                "label": {"formatter": SIGNS[mark.kind][0], "color": SIGNS[mark.kind][1], "fontSize": 14},
            }
            for mark in marks
        ],
    }
    return _chart(ACCURACY, series, {"type": "value", "min": 0}, {"min": _lowest(rolling), "max": 1, "interval": 0.1})


def weights(samples: Sequence[tuple[int, dict[str, float]]]) -> Options:
    """Return the chart of the weights of a mixture's experts, stacked.

    Args:
        samples: Labelled events so far, and the weight of each expert.
    """
    experts = list(dict.fromkeys(name for _, found in samples for name in found))
    series = []
    for at, name in enumerate(experts):
        points = [(labelled, round(found.get(name, 0.0), 3)) for labelled, found in samples]
        area = {"stack": "weights", "areaStyle": {"opacity": 0.5}, "smooth": False}
        series.append({**_line(escape_control_chars(name, 24), points, LINES[at % len(LINES)], width=1), **area})
    words = "Weights of the experts of the mixture over the labelled events."
    return _chart(words, series, {"type": "value", "min": "dataMin", "max": "dataMax"}, {"min": 0, "max": 1})


def speed(seconds: Sequence[SpeedSample]) -> Options:
    """Return the chart of predictions per second and waiting events."""
    series = [
        _line("predictions/s", [(_ms(one.at), round(one.rate, 1)) for one in seconds], LINES[0]),
        {**_line("events waiting", [(_ms(one.at), one.lag) for one in seconds], LINES[1]), "yAxisIndex": 1},
    ]
    axes = [{"name": "predictions/s", "min": 0}, {"name": "waiting", "min": 0, "splitLine": {"show": False}}]
    words = "Predictions per second and waiting events in the last two minutes."
    return _chart(words, series, {"type": "time"}, *axes)


def latency(seconds: Sequence[SpeedSample]) -> Options:
    """Return the chart of the latency in milliseconds."""
    series = [
        _line("median", [(_ms(one.at), round(one.p50, 1)) for one in seconds], LINES[0]),
        _line("99th percentile", [(_ms(one.at), round(one.p99, 1)) for one in seconds], LINES[1]),
    ]
    words = "Latency in milliseconds, median and 99th percentile, in the last two minutes."
    return _chart(words, series, {"type": "time"}, {"name": "ms", "min": 0})


def _chart(words: str, series: list[Options], x: Options, *y: Options) -> Options:
    """Return a chart; ``words`` is its description for a screen reader, in place of its points."""
    text = {"color": AXIS, "hideOverlap": True}
    line = {"lineStyle": {"color": AXIS}}
    split = {"lineStyle": {"color": AXIS, "opacity": 0.25}}
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": words}},
        "grid": {"left": 12, "right": 12, "top": 46, "bottom": 8, "containLabel": True},
        "legend": {"top": 0, "type": "scroll", "textStyle": text, "pageTextStyle": text, "pageIconColor": AXIS},
        # Text on the canvas. The default is HTML.
        "tooltip": {"trigger": "axis", "renderMode": "richText"},
        "xAxis": {"axisLabel": text, "axisLine": line, "splitLine": {"show": False}, "nameTextStyle": text, **x},
        "yAxis": [{"type": "value", "axisLabel": text, "nameTextStyle": text, "splitLine": split, **one} for one in y],
        "series": series,
    }


def _line(
    name: str, points: Sequence[tuple[float, float]], colour: str, width: int = 2, dashed: bool = False
) -> Options:
    style = {"width": width, "color": colour, "type": "dashed" if dashed else "solid"}
    return {
        "type": "line",
        "name": name,
        "data": points,
        "showSymbol": len(points) == 1,
        "lineStyle": style,
        "itemStyle": {"color": colour},
    }


def _lowest(rolling: dict[str, list[tuple[int, float]]]) -> float:
    """Return the tenth below the lowest point, so that the lines fill the chart."""
    lowest = min((share for line in rolling.values() for _, share in line), default=0.0)
    return max(0.0, int(lowest * 10 - 1e-9) / 10)


def _ms(at: float) -> int:
    return int(at * 1000)
