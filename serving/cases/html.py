"""Drift case as one self-contained web page: no script, nothing loaded from elsewhere, and every text shown as text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from driftloop.core.terminal_text import escape_control_chars
from serving.cases import chart
from serving.cases.model import AccuracySpan, Candidate, Case, Movement, Round, SliceImpact
from serving.cases.reasons import (
    CHECK_COLUMNS,
    COMPARISON_COLUMNS,
    as_sentence,
    check_rows,
    comparison_rows,
    count_passed,
    first_sentence,
    has_more,
)
from serving.cases.terminal import alert_facts, headline, training_data

BAR = 160
"""Width in pixels of a bar for an accuracy of 1."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fbfbfc; --dim: #5b6474; --line: #d5d9e0; --bar: #1457a8;
  --red: #b3261e; --green: #1c6e35; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ee; --paper: #12151c; --dim: #9aa3b5; --line: #343a46;
  --bar: #86b7ff; --red: #ff8a80; --green: #7fd89a; } }
body { margin: 0; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 0.95rem/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: auto; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: 0.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; max-width: 36rem; }
th { color: var(--dim); font-weight: normal; white-space: nowrap; }
ul { margin: 0; padding-left: 1.2rem; }
details { margin: 0.3rem 0; } details > :not(summary) { margin: 0.4rem 0; }
summary { cursor: pointer; color: var(--bar); }
.chart { width: 100%; height: auto; font-size: 11px; }
.bar { fill: var(--bar); } .onset { fill: var(--red); opacity: 0.25; } text { fill: var(--dim); }
.end { text-anchor: end; } line { stroke-width: 1.5; } polyline { fill: none; stroke: var(--bar); stroke-width: 2; }
.grid { stroke: var(--line); } .alert { stroke: var(--red); } .promote { stroke: var(--green); }
.rollback { stroke: var(--ink); }
.lead { font-size: 1.05rem; } .dim { color: var(--dim); }
.passed, .excused { color: var(--green); } .failed { color: var(--red); }
"""
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""


def render(case: Case) -> str:
    """Return the page. Text from a topic is escaped."""
    body = [
        f"<h1>Case {_text(case.case_id)}: {_text(headline(case))}</h1>",
        f'<p class="lead">{_text(case.came_of_it.words)}</p>',
        _chart(case),
        _accuracies(case),
        "<h2>Alert</h2>",
        _table((), ([_text(name), _text(value)] for name, value in alert_facts(case))),
        _movements(case.moved),
        _slices("Accuracy by segment", case.segments),
        _slices("Accuracy by class", case.classes),
        *(_round(number, one) for number, one in enumerate(case.rounds, 1)),
        _swaps(case),
    ]
    title = f"Case {case.case_id}"
    return _HTML.format(
        policy=escape(content_security_policy()), title=_text(title), style=_STYLE, body="\n".join(filter(None, body))
    )


def content_security_policy() -> str:
    """Return the policy of the page: its own style sheet and nothing else. The server sends the same policy."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _chart(case: Case) -> str:
    drawing = chart.draw(case)
    legend = (
        "Accuracy by stream position. Band: likely onset. Red line: alert. Green line: promotion. Dark line: rollback."
    )
    return f'{drawing}\n<p class="dim">{legend}</p>' if drawing else ""


def _accuracies(case: Case) -> str:
    outcome = case.came_of_it
    spans = (
        ("before the drift", outcome.before),
        ("from the onset", outcome.until),
        ("after the promotion", outcome.since),
    )
    rows = [[_text(name), _bar(share), _number(share.accuracy), str(share.labelled)] for name, share in spans]
    return _table(("", "accuracy", "", "labelled events"), rows)


def _movements(moved: Sequence[Movement]) -> str:
    if not moved:
        return ""
    rows = [
        [
            _text(one.what), f"<strong>{_text(one.name)}</strong>", _text(one.measure),
            _number(one.before), _number(one.after), _items(_text(text) for text in one.texts),
        ]
        for one in moved
    ]  # fmt: skip
    heads = ("type", "name", "measure", "before", "after", "examples")
    return "<h2>Changed segments, classes and words</h2>\n" + _table(heads, rows)


def _slices(title: str, slices: Sequence[SliceImpact]) -> str:
    if not slices:
        return ""
    rows = [
        [
            _text(one.name), _bar(one.before), _of(one.before), _bar(one.after), _of(one.after), f"{one.lost:.0f}",
        ]
        for one in slices
    ]  # fmt: skip
    heads = ("name", "before the drift", "", "from the onset", "", "correct predictions lost")
    return f"<h2>{title}</h2>\n" + _table(heads, rows)


def _round(number: int, one: Round) -> str:
    head = f"<h2>Retraining {number}: {_text(one.kind)}, {_text(one.state)}</h2>"
    facts = " ".join(filter(None, (as_sentence(first_sentence(one.reason)), training_data(one))))
    run = f'<p>{_text(facts)} <span class="dim">(run {_text(one.run_id)})</span></p>'
    return "\n".join([head, run, _full_reason(one.reason), *map(_candidate, one.candidates)])


def _candidate(one: Candidate) -> str:
    version = f", version {_text(one.version)}" if one.version else ""
    parts = [
        f"<h3>{_text(one.name)}{version}: {_text(one.state)}</h3>",
        f"<p>{_text(as_sentence(first_sentence(one.reason)))}</p>",
        _full_reason(one.reason),
    ]
    if one.checks:
        rows = [
            [_text(name), f'<span class="{result}">{result}</span>', limit, _text(finding)]
            for name, result, limit, finding in check_rows(one.checks)
        ]
        parts.append(_details(f"Gate checks: {count_passed(one.checks)}", _table(CHECK_COLUMNS, rows)))
    if one.figures:
        rows = [[_text(name), value] for name, value in comparison_rows(one)]
        parts.append(_details("Comparison with the champion", _table(COMPARISON_COLUMNS, rows)))
    for title, groups in (("segment", one.segments), ("class", one.classes)):
        if groups:
            keys = ("name", "rows", "champion", "challenger")
            rows = [[_text(str(group.get(key, ""))) for key in keys] for group in groups]
            table = _table((title, "events", "champion", "challenger"), rows)
            parts.append(_details(f"Accuracy by {title} on the held-out events", table))
    return "\n".join(filter(None, parts))


def _swaps(case: Case) -> str:
    if not case.swaps:
        return ""
    rows = [
        [
            _text(one.version), one.action, str(one.position) if one.position >= 0 else "–",
            _text(first_sentence(one.reason)) + _full_reason(one.reason),
        ]
        for one in case.swaps
    ]  # fmt: skip
    return "<h2>Champions</h2>\n" + _table(("version", "action", "from position", "reason"), rows)


def _full_reason(reason: str) -> str:
    """Return the whole reason behind a click; empty if its first sentence is all of it."""
    return _details("Full reason", f"<p>{_text(reason)}</p>") if has_more(reason) else ""


def _details(summary: str, inside: str) -> str:
    """Return an expandable part; ``inside`` is HTML."""
    return f"<details><summary>{_text(summary)}</summary>\n{inside}\n</details>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are HTML."""
    top = f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>\n" if heads else ""
    return (
        f"<table>\n{top}" + "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>\n" for row in rows) + "</table>"
    )


def _items(items: Iterable[str]) -> str:
    inside = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{inside}</ul>" if inside else ""


def _bar(share: AccuracySpan) -> str:
    if share.accuracy is None:
        return ""
    width = round(BAR * share.accuracy)
    return f'<svg width="{BAR}" height="12" role="img"><rect class="bar" width="{width}" height="12"></rect></svg>'


def _of(share: AccuracySpan) -> str:
    return f"{_number(share.accuracy)} of {share.labelled}" if share.labelled else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _text(value: str) -> str:
    return escape(escape_control_chars(value))
