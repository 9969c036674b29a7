"""Chapter “Segments and fairness”: accuracy by segment with its uncertainty, and the effect of each promotion."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.run_data import RunFacts, Slice

TITLE = "Segments and fairness"
FEW = 30
"""Labelled events below which a segment is too small for a conclusion."""
SEGMENTS, ROWS = 12, 24
"""Largest numbers of segments in a table, and of rows in the table of promotions."""
OVERLAP = 0.1
"""Largest shared part of two segments' range of the stream at which they count as one after the other."""


def fairness(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    named = [one for one in facts.data.segments if one.name]
    if not named:
        return Chapter(
            TITLE,
            [
                Paragraph(
                    "The events carry no segment, or no event with a segment has a label that counts. Therefore this "
                    "run cannot show differences between groups of events. A “segment” column in the scenario makes it "
                    "possible."
                )
            ],
        )
    largest = sorted(named, key=lambda one: -one.labelled)[:SEGMENTS]
    shown = [one for one in named if one in largest]
    blocks: list[Block] = [
        Paragraph(
            "A good average accuracy can hide a low accuracy for some events. A segment is the group that the data "
            "assigns to an event, for example a source, a shop or a language. Unless it is an attribute of persons, "
            "this chapter does not cover groups of persons. The data does not tell which person wrote a text."
        ),
        _table(shown),
    ]
    if len(named) > len(shown):
        blocks.append(Paragraph(f"{formatting.plural(len(named) - len(shown), 'smaller segment')} not shown."))
    if len(shown) > 1:
        blocks.append(
            Figure(
                "Accuracy by segment, with the 95% interval of the true value.",
                "A point and a bar for each segment; the table above has the figures.",
                charts.segments(shown),
            )
        )
    return Chapter(TITLE, [*blocks, Paragraph(_gap(named)), *_promotions(facts), Paragraph(_gate(facts))])


def _table(shown: Sequence[Slice]) -> Table:
    columns = [
        Column("segment", weight=2), Column("labelled events", "number"), Column("accuracy", "number"),
        Column("95% interval", "number"),
    ]  # fmt: skip
    rows = [
        [
            formatting.safe_text(one.name, 40), formatting.count(one.labelled),
            formatting.share(formatting.ratio(one.right, one.labelled)),
            formatting.interval(one.right, one.labelled) + ("" if one.labelled >= FEW else ", too few events"),
        ]
        for one in shown
    ]  # fmt: skip
    return Table("Accuracy by segment over the whole run (Wilson intervals)", columns, rows)


def _promotions(facts: RunFacts) -> list[Block]:
    affected = [(case, one) for case in facts.data.cases if case.swaps for one in case.segments]
    if not affected:
        return []
    rows = [
        [
            formatting.position(case.position), formatting.safe_text(one.name, 40),
            formatting.accuracy_of(one.before), formatting.accuracy_of(one.after), formatting.accuracy_of(one.since),
        ]
        for case, one in affected[:ROWS]
    ]  # fmt: skip
    columns = [
        Column("alert at event", "number"), Column("segment", weight=2), Column("before the drift", "number"),
        Column("until the promotion", "number"), Column("after the promotion", "number"),
    ]  # fmt: skip
    return [
        Heading("Segments before and after each promotion"),
        Table("Accuracy by segment (and number of labelled events)", columns, rows),
    ]


def _gap(named: Sequence[Slice]) -> str:
    enough = [one for one in named if one.labelled >= FEW]
    if len(enough) < 2:
        return (
            f"Only {formatting.plural(len(enough), 'segment')} {'has' if len(enough) == 1 else 'have'} {FEW} labelled "
            "events or more. Therefore no gap between segments is given."
        )
    best = max(enough, key=lambda one: one.right / one.labelled)
    worst = min(enough, key=lambda one: one.right / one.labelled)
    gap = best.right / best.labelled - worst.right / worst.labelled
    apart = formatting.wilson(best.right, best.labelled)[0] > formatting.wilson(worst.right, worst.labelled)[1]
    sentences = [
        f"The largest accuracy gap between segments with {FEW} labelled events or more is {formatting.share(gap)}: "
        f"{formatting.safe_text(best.name, 40)} compared with {formatting.safe_text(worst.name, 40)}.",
        "Their intervals do not overlap, so chance is an unlikely explanation."
        if apart
        else "Their intervals overlap, so the gap may be due to chance.",
    ]
    shared = min(best.last, worst.last) - max(best.first, worst.first)
    span = max(best.last, worst.last) - min(best.first, worst.first)
    if span > 0 and shared < OVERLAP * span:
        sentences.append(
            "However, the two segments came one after the other. The gap therefore mixes two effects: the difficulty "
            "of a segment, and the training of the model at that time. It shows the cost of drift rather than a "
            "permanent disadvantage."
        )
    return " ".join(sentences)


def _gate(facts: RunFacts) -> str:
    chosen = facts.data.chosen
    limits = (
        "The gate rejects a candidate that harms a group, however much better it is on average. The limits are a loss "
        f"of {chosen.max_segment_drop:.0%} accuracy in a segment and {chosen.max_recall_drop:.0%} recall in a class, "
        "if the loss is significant. A segment is checked if it has "
        f"{formatting.plural(chosen.min_rows, 'held-out event')} or more."
    )
    judged = [c for one in facts.data.rounds for c in one.candidates if c.checks]
    if not judged:
        return f"{limits} No candidate reached these checks in this run."
    failed = sum(
        check.get("name") in ("segment accuracy", "class recall") and not check.get("passed")
        for candidate in judged
        for check in candidate.checks
    )
    result = f"{formatting.plural(failed, 'check')} failed" if failed else "none of them failed"
    reached = formatting.plural(len(judged), "candidate")
    return f"{limits} In this run, {reached} passed through these checks, and {result}."
