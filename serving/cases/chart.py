"""Accuracy around a drift as an SVG drawing for the page of a case. It contains no text from the stream."""

from __future__ import annotations

from serving.cases.model import Case

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 180, 40, 24


def draw(case: Case) -> str:
    """Return an `svg` element, or an empty text if fewer than two points have a position.

    It has a line for the accuracy of each part of the course, a band for the likely onset, a line for the alert, and
    a line for each change of the champion. The style sheet gives the colours.
    """
    course = [share for share in case.course if share.accuracy is not None and share.first_position >= 0]
    if len(course) < 2:
        return ""
    first, last = course[0].first_position, max(share.last_position for share in course)
    span = max(last - first, 1)

    def x(position: float) -> float:
        return round(LEFT + (WIDTH - LEFT) * min(max((position - first) / span, 0.0), 1.0), 1)

    def y(accuracy: float) -> float:
        return round((HEIGHT - BOTTOM) * (1 - accuracy), 1)

    floor = y(0.0)
    low, high = (case.onset_low, case.onset_high) if case.onset_low >= 0 else (case.onset, case.onset)
    parts = [f'<line class="grid" x1="{LEFT}" y1="{y(a)}" x2="{WIDTH}" y2="{y(a)}"></line>' for a in (0.0, 0.5, 1.0)]
    parts.append(
        f'<rect class="onset" x="{x(low)}" y="0" width="{max(x(high) - x(low), 3):.1f}" height="{floor}"></rect>'
    )
    parts.append(f'<line class="alert" x1="{x(case.position)}" y1="0" x2="{x(case.position)}" y2="{floor}"></line>')
    for swap in case.swaps:
        if swap.position >= 0:
            at = x(swap.position)
            parts.append(f'<line class="{swap.action}" x1="{at}" y1="0" x2="{at}" y2="{floor}"></line>')
    middle = [((share.first_position + share.last_position) / 2, share.accuracy or 0.0) for share in course]
    line = " ".join(f"{x(position)},{y(accuracy)}" for position, accuracy in middle)
    parts.append(f'<polyline points="{line}"></polyline>')
    parts += [f'<text x="0" y="{y(a) + (10 if a == 1.0 else 0)}">{a:.1f}</text>' for a in (0.0, 0.5, 1.0)]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT}">position {first}</text>')
    parts.append(f'<text class="end" x="{WIDTH}" y="{HEIGHT}">{last}</text>')
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n{"".join(parts)}\n</svg>'
