"""Reasons of the gate and the policy: a short first sentence, and nothing lost behind it."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from serving.cases import html, terminal
from serving.cases.builder import cases
from serving.cases.model import Case
from serving.cases.reasons import (
    LONGEST,
    as_sentence,
    check_rows,
    comparison_rows,
    count_passed,
    first_sentence,
    has_more,
)
from tests.unit.serving.test_case import ANSWER, GATED, Page, alert, history, stream

PROMOTED = (
    "better: 0.633 against 0.233 on the newest 30 events, accuracy +0.400 [+0.133, +0.633], Brier score -0.920 "
    "[-1.264, -0.542]; forgetting: 0.055 against 0.885 on 200 events from before the drift: excused, since the "
    "champion fell to 0.233 on the newest, so what it knew no longer holds"
)
"""As a retrainer of version 0.1.0 wrote it."""
REFUSED = (
    "refused by a guard: forgetting: 0.700 against 0.885 on 200 events from before the drift, and the champion (0.880 "
    "on the newest) has not become worse beyond chance; though better: 0.900 against 0.880 on the newest 60 events"
)
CHECKS = [
    {"name": "minimum gain", "passed": True, "words": "a gain of +0.400", "excused": False, "limit": 0.0125},
    {"name": "forgetting", "passed": True, "words": "0.055 against 0.885", "excused": True},
    {"name": "latency", "passed": False, "words": "9.00 ms per event", "excused": False},
]


@pytest.mark.parametrize(
    ("reason", "first"),
    [
        (f"The challenger is better. {'Accuracy rose. ' * 9}", "The challenger is better."),
        ("drift of 0.151 (fused); 59 labelled events", "drift of 0.151 (fused); 59 labelled events"),
        (PROMOTED, "better: 0.633 against 0.233 on the newest 30 events, accuracy +0.400 [+0.133, +0.633]"),
        (REFUSED, "refused by a guard: forgetting: 0.700 against 0.885 on 200 events from before the drift"),
        ("accuracy 0.5 against 0.4", "accuracy 0.5 against 0.4"),
        ("", ""),
        ("x" * 300, "x" * (LONGEST - 1) + "…"),
    ],
)
def test_the_first_sentence_of_new_and_old_reasons(reason: str, first: str) -> None:
    assert first_sentence(reason) == first and len(first) <= LONGEST
    assert has_more(reason) == (first != reason.strip())


def test_sentence_gets_capital_and_full_stop() -> None:
    assert [as_sentence(text) for text in ("because", "Because.", "cut…", " ")] == ["Because.", "Because.", "Cut…", ""]


def test_checks_have_one_of_three_results() -> None:
    assert [row[1:3] for row in check_rows(CHECKS)] == [("passed", "0.013"), ("excused", "–"), ("failed", "–")]
    assert count_passed(CHECKS) == "2 of 3 passed; excused: forgetting"
    assert check_rows([{}]) == [("", "failed", "–", "")] and count_passed([]) == "0 of 0 passed"


FIGURES = {
    "difference_low": 0.1333, "difference_high": 0.6333, "held_out": 30.0, "refresh": True, "other_figure": 0.25,
    "quantisation": {"agreement": 0.981, "int8": True},
}  # fmt: skip


def long_case() -> Case:
    scores = {**GATED, "checks": CHECKS, **FIGURES}
    lines = [replace(one, reason=PROMOTED, scores=scores) if one.candidate else one for one in ANSWER]
    (found,) = cases(history([alert()], stream(), lines))
    return found


def test_the_figures_of_the_decision_are_named() -> None:
    (candidate,) = long_case().rounds[0].candidates
    assert candidate.figures == {
        "difference_low": 0.1333, "difference_high": 0.6333, "held_out": 30.0, "other_figure": 0.25,
        "quantisation_agreement": 0.981,
    }  # fmt: skip
    assert comparison_rows(candidate) == [
        ("accuracy of the candidate", "0.800"), ("accuracy of the champion", "0.600"),
        ("difference in accuracy, interval", "+0.133 to +0.633"), ("held-out events", "30"), ("other figure", "0.250"),
        ("share of equal labels in int8 and full precision", "0.981"),
    ]  # fmt: skip
    page = html.render(long_case())
    assert "<summary>Comparison with the champion</summary>" in page and "<td>+0.133 to +0.633</td>" in page


def test_case_page_folds_long_reasons_and_checks() -> None:
    page = html.render(long_case())
    read = Page(page)
    assert "<p>Better: 0.633 against 0.233 on the newest 30 events, accuracy +0.400 [+0.133, +0.633].</p>" in page
    assert PROMOTED not in read.text["h3"] and PROMOTED in read.text["details"]
    assert "Gate checks: 2 of 3 passed; excused: forgetting" in read.text["summary"]
    assert "Full reason" in read.text["summary"] and " open" not in page
    assert (
        '<td>forgetting</td><td><span class="excused">excused</span></td><td>–</td><td>0.055 against 0.885</td>' in page
    )


def test_short_reason_is_not_folded() -> None:
    (found,) = cases(history([alert()], stream(), ANSWER))
    assert "Full reason" not in html.render(found)


def test_terminal_orders_first_sentence_checks_full_reason() -> None:
    out = io.StringIO()
    terminal.show(long_case(), Console(file=out, width=200, highlight=False, markup=False, emoji=False))
    said = out.getvalue()
    first = said.index("linear v2 promoted: better: 0.633 against 0.233 on the newest 30 events, accuracy")
    assert first < said.index("excused  –      0.055 against 0.885") < said.index("Full reason: Better: 0.633")
    assert "so what it knew no longer holds." in said
