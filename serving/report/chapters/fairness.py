"""Who is served how well: accuracy by segment, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.run_data import RunFacts, Slice

FEW = 30
"""Labelled events below which a figure by segment or class says little, and no gap is computed from it."""


CASES, MOVED, SEGMENTS, CLASSES = 6, 6, 12, 8
"""Alerts told in full, what moved at each, and segments and classes in a table."""


OVERLAP = 0.1
"""Share of the stream that two segments share, up to which they count as one after the other."""


def fairness(facts: RunFacts) -> Chapter:
    """Accuracy by segment with its uncertainty, the largest gap, and what each promotion did to whom."""
    evidence, chosen = facts.evidence, facts.evidence.chosen
    named = [one for one in evidence.segments if one.name]
    if not named:
        return Chapter(
            "Segments and fairness",
            [
                Paragraph(
                    "The events carry no segment, or none of them has a label that counts. So this run can say "
                    "nothing about whether some are served worse than others; a “segment” column in the scenario "
                    "would let it."
                )
            ],
        )
    shown = sorted(named, key=lambda one: -one.labelled)[:SEGMENTS]
    shown = [one for one in named if one in shown]
    columns = [
        Column("segment", weight=2), Column("labelled", "number"), Column("accuracy", "number"),
        Column("95% interval", "number"),
    ]  # fmt: skip
    rows = [
        [
            formatting.shown(one.name, 40), formatting.count(one.labelled), formatting.share(formatting.ratio(one.right, one.labelled)),
            formatting.interval(one.right, one.labelled) + ("" if one.labelled >= FEW else ", too few to tell"),
        ]
        for one in shown
    ]  # fmt: skip
    blocks: list[Block] = [
        Paragraph(
            "A good average can hide that some are served badly. A segment is the group that the data put an event "
            "into: a source, a shop, a language. Unless that is an attribute of persons, this says nothing about "
            "groups of persons; who stands behind an event is not known."
        ),
        Table("Accuracy by segment over the whole run (Wilson intervals)", columns, rows),
    ]
    if len(named) > len(shown):
        blocks.append(Paragraph(f"{formatting.plural(len(named) - len(shown), 'smaller segment')} left out."))
    if len(shown) > 1:
        blocks.append(
            Figure(
                "Accuracy by segment, with the interval that the true value lies in 95 times of 100.",
                "A point and a bar for each segment; the figures are in the table above.",
                charts.segments(shown),
            )
        )
    blocks.append(Paragraph(_gap(named)))
    hurt = [(case, one) for case in evidence.cases if case.swaps for one in case.segments]
    if hurt:
        rows = [
            [
                formatting.position(case.position),
                formatting.shown(one.name, 40),
                formatting.of(one.before),
                formatting.of(one.after),
                formatting.of(one.since),
            ]
            for case, one in hurt[:24]
        ]
        columns = [
            Column("alert at event", "number"), Column("segment", weight=2), Column("before the drift", "number"),
            Column("until the answer", "number"), Column("after it", "number"),
        ]  # fmt: skip
        blocks += [
            Heading("Before and after each answer"),
            Table("Accuracy (of so many labelled events)", columns, rows),
        ]
    blocks.append(
        Paragraph(
            "The gate refuses a successor under which any segment with "
            f"{formatting.plural(chosen.min_rows, 'held-out event')} or more loses over {chosen.max_segment_drop:.0%} of "
            f"accuracy, or any class over {chosen.max_recall_drop:.0%} of recall, beyond chance, however much better "
            "it is on the whole." + _refused(facts)
        )
    )
    return Chapter("Segments and fairness", blocks)


def _gap(named: Sequence[Slice]) -> str:
    enough = [one for one in named if one.labelled >= FEW]
    if len(enough) < 2:
        return (
            f"Only {formatting.plural(len(enough), 'segment')} {'has' if len(enough) == 1 else 'have'} {FEW} labelled "
            "events or more, so no gap between segments can be given."
        )
    best = max(enough, key=lambda one: one.right / one.labelled)
    worst = min(enough, key=lambda one: one.right / one.labelled)
    gap = best.right / best.labelled - worst.right / worst.labelled
    apart = formatting.wilson(best.right, best.labelled)[0] > formatting.wilson(worst.right, worst.labelled)[1]
    said = (
        f"The largest gap between segments with {FEW} labelled events or more is {formatting.share(gap)}: "
        f"{formatting.shown(best.name, 40)} against {formatting.shown(worst.name, 40)}. "
        + (
            "Their intervals do not overlap: that is no chance."
            if apart
            else "Their intervals overlap: it may be chance."
        )
    )
    shared = min(best.last, worst.last) - max(best.first, worst.first)
    span = max(best.last, worst.last) - min(best.first, worst.first)
    if span > 0 and shared < OVERLAP * span:
        said += (
            " But the two came one after the other, so the gap mixes how hard a segment is with how well the model of "
            "that time knew it: it shows the cost of drift rather than a lasting disadvantage."
        )
    return said


def _refused(facts: RunFacts) -> str:
    refused = [
        check
        for one in facts.evidence.rounds
        for candidate in one.candidates
        for check in candidate.checks
        if check.get("name") in ("segment accuracy", "class recall") and not check.get("passed")
    ]
    judged = sum(bool(candidate.checks) for one in facts.evidence.rounds for candidate in one.candidates)
    if not judged:
        return " No candidate came as far as that check in this run."
    return f" In this run {formatting.plural(judged, 'candidate')} went through these checks, and " + (
        f"{formatting.plural(len(refused), 'check')} spoke against a promotion."
        if refused
        else "none was refused by them."
    )
