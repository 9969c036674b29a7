"""Accuracy over time, around each answer to a drift, and by class."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cases.model import AccuracySpan
from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.run_data import Confused, RunFacts, Slice

CASES, MOVED, SEGMENTS, CLASSES = 6, 6, 12, 8
"""Alerts told in full, what moved at each, and segments and classes in a table."""


def accuracy(facts: RunFacts) -> Chapter:
    """Right answers along the stream, before and after each answer to a drift, and by class."""
    summary, evidence = facts.summary, facts.evidence
    counted = summary.accuracy.counted
    if not counted:
        return Chapter(
            "Accuracy over time",
            [
                Paragraph(
                    "No labelled event counts: either no label has met a prediction yet, or all that have are of the "
                    "warm-up, on which the first model was trained. So nothing can be said about accuracy."
                )
            ],
        )
    blocks: list[Block] = [Paragraph(_overall(facts))]
    if len(evidence.bins) > 1:
        lowest = min(evidence.bins, key=lambda one: one.right / one.labelled)
        highest = max(evidence.bins, key=lambda one: one.right / one.labelled)
        size = evidence.bins[0].end - evidence.bins[0].start
        blocks.append(
            Figure(
                f"Prequential accuracy over {formatting.plural(size, 'event')} each, with its 95% interval (band), and what "
                "happened: alerts above, changes of the model below.",
                f"A line of {len(evidence.bins)} points between {formatting.share(lowest.right / lowest.labelled)} near "
                f"event {formatting.count(lowest.start)} and {formatting.share(highest.right / highest.labelled)} near event "
                f"{formatting.count(highest.start)}.",
                charts.accuracy(evidence.bins, facts),
            )
        )
    answered = [case for case in evidence.cases if case.swaps]
    if answered:
        rows = [
            [
                formatting.position(case.position), formatting.of(case.came_of_it.before), formatting.of(case.came_of_it.until),
                formatting.of(case.came_of_it.since), _gain(case.came_of_it.until, case.came_of_it.since),
            ]
            for case in answered
        ]  # fmt: skip
        blocks += [
            Heading("What each answer was worth"),
            Table(
                "Accuracy (of so many labelled events) around each drift that was answered",
                [
                    Column("alert at event", "number"), Column("before the drift", "number"),
                    Column("from its onset until the answer", "number"), Column("after the answer", "number"),
                    Column("gain", "number"),
                ],
                rows,
            ),
            Paragraph(
                "The gain compares two stretches of the stream, not two models on the same events; the gate's "
                "comparison, further below, does that. Where the new world is harder than the old one, accuracy does "
                "not come back to where it was, however good the model."
            ),
        ]  # fmt: skip
    blocks += [Heading("By class"), *_classes(facts), *_calibration(facts)]
    return Chapter("Accuracy over time", blocks)


def _overall(facts: RunFacts) -> str:
    accuracy, evidence = facts.summary.accuracy, facts.evidence
    base = formatting.ratio(evidence.majority_right, accuracy.counted)
    said = [
        f"Over {formatting.plural(accuracy.counted, 'labelled event')} that count, {formatting.share(accuracy.prequential)} of "
        f"the answers were right. Always answering {formatting.shown(evidence.majority, 40)}, the commonest label of the "
        f"warm-up, would have been right for {formatting.share(base)}."
    ]
    if accuracy.prequential is not None and base is not None and accuracy.prequential <= base:
        said.append("So over the whole run the loop was no better than that, which is said plainly here.")
    if accuracy.prequential_after_2000 is not None:
        said.append(f"From event 2,000 on it was {formatting.share(accuracy.prequential_after_2000)}.")
    said.append(
        f"{formatting.plural(accuracy.warm_up, 'event')} of the warm-up {'is' if accuracy.warm_up == 1 else 'are'} left out."
    )
    return " ".join(said)


def _classes(facts: RunFacts) -> list[Block]:
    evidence = facts.evidence
    answered: dict[str, int] = {}
    for one in evidence.confused:
        answered[one.predicted] = answered.get(one.predicted, 0) + one.count
    shown = sorted(evidence.classes, key=lambda one: -one.labelled)[:CLASSES]
    rows = [
        [
            formatting.shown(one.name, 40), formatting.count(one.labelled), formatting.count(answered.get(one.name, 0)),
            formatting.share(formatting.ratio(one.right, one.labelled)),
            formatting.share(formatting.ratio(one.right, answered.get(one.name, 0))), formatting.share(_f1(one, answered)),
        ]
        for one in shown
    ]  # fmt: skip
    columns = [
        Column("label", weight=2), Column("truly so", "number"), Column("answered so", "number"),
        Column("recall", "number"), Column("precision", "number"), Column("F1", "number"),
    ]  # fmt: skip
    macro = sum(_f1(one, answered) or 0.0 for one in evidence.classes) / len(evidence.classes)
    blocks: list[Block] = [
        Table("Right and wrong by class over the whole run", columns, rows),
        Paragraph(
            f"The mean F1 of all {formatting.plural(len(evidence.classes), 'class', 'classes')} is {formatting.share(macro)}; "
            "unlike accuracy it gives a rare class the same weight as a frequent one."
        ),
    ]
    mistakes = sorted((one for one in evidence.confused if one.label != one.predicted), key=lambda one: -one.count)
    if mistakes:
        blocks.append(Paragraph(_confusion(mistakes)))
    return blocks


def _f1(one: Slice, answered: dict[str, int]) -> float | None:
    both = one.labelled + answered.get(one.name, 0)
    return 2 * one.right / both if both else None


def _confusion(mistakes: Sequence[Confused]) -> str:
    total = sum(one.count for one in mistakes)
    most = [
        f"{formatting.shown(one.label, 30)} taken for {formatting.shown(one.predicted, 30)} ({formatting.percent(one.count, total)})"
        for one in mistakes[:3]
    ]
    return f"Of {formatting.plural(total, 'mistake')}, the commonest: {formatting.listed(most)}."


def _calibration(facts: RunFacts) -> list[Block]:
    sure, right = facts.evidence.mean_confidence, facts.summary.accuracy.prequential
    if sure is None or right is None:
        return []
    gap = sure - right
    word = (
        "overconfident: its probabilities must not be read as chances"
        if gap > 0.05
        else ("too modest" if gap < -0.05 else "about as sure as it should be")
    )
    return [
        Paragraph(
            f"On average the model gave its answer a probability of {formatting.share(sure)} and was right "
            f"{formatting.share(right)} of the time ({formatting.signed(gap)}): over the whole run it was {word}."
        )
    ]


def _gain(before: AccuracySpan, after: AccuracySpan) -> str:
    known = before.accuracy is not None and after.accuracy is not None
    return formatting.signed(after.accuracy - before.accuracy) if known else formatting.NONE  # type: ignore[operator]
