"""What was noticed, and the evidence for it."""

from __future__ import annotations

from serving.cases.model import Case
from serving.report import display_names, formatting
from serving.report.document import Block, Chapter, Column, Heading, Note, Paragraph, Table
from serving.report.run_data import RunFacts
from serving.simulation.drift_scoring import MAX_DELAY

CASES, MOVED, SEGMENTS, CLASSES = 6, 6, 12, 8
"""Alerts told in full, what moved at each, and segments and classes in a table."""


SPOKE = 0.005
"""Least share in the evidence of a signal that is named."""


def drifts(facts: RunFacts) -> Chapter:
    """Each true drift, each alert, and what moved."""
    summary, evidence = facts.summary, facts.evidence
    blocks: list[Block] = [
        Paragraph(
            "The monitor looks at several signals at once. Without any label it watches how sure the model is, which "
            "labels it gives, where the texts lie in the encoder's space, and their words; with labels, the errors "
            "and the loss. An alert says when the change likely began and what moved."
        )
    ]
    if summary.drifts:
        rows = [
            [
                formatting.count(drift.true_position), formatting.position(drift.detected_position),
                formatting.NONE if drift.delay is None else formatting.count(drift.delay),
                formatting.shown(drift.signal or "", 30) if drift in facts.passed else "not reached by this run",
            ]
            for drift in summary.drifts
        ]  # fmt: skip
        columns = [
            Column("true drift at event", "number"), Column("alert at", "number"),
            Column("labelled events between", "number"), Column("signal"),
        ]  # fmt: skip
        blocks.append(Table("True drifts and their detection", columns, rows))
        missed = [drift for drift in facts.passed if drift.detected_position is None]
        if missed:
            where = formatting.listed([formatting.count(drift.true_position) for drift in missed])
            blocks.append(
                Note(
                    f"{formatting.plural(len(missed), 'drift')} not detected",
                    f"No alert came within {formatting.count(MAX_DELAY)} labelled events of event {where}. Either the "
                    "stream ended first, or the change did not move what is watched by enough.",
                )
            )
    if not summary.alerts:
        blocks.append(Paragraph(_silence(facts)))
        return Chapter("Drift: what was noticed, and why", blocks)
    rows = [
        [
            formatting.count(alert.position), formatting.count(alert.onset), formatting.shown(alert.detector, 20),
            formatting.shown(alert.signal, 20), formatting.signed(alert.severity), _judged(alert.verdict),
        ]
        for alert in summary.alerts
    ]  # fmt: skip
    columns = [
        Column("alert at event", "number"), Column("likely onset", "number"), Column("detector"), Column("signal"),
        Column("moved by", "number"), Column("judged"),
    ]  # fmt: skip
    blocks.append(Table("Every alert", columns, rows))
    if not summary.drifts_known:
        blocks.append(Paragraph("Judged unknown: the scenario does not say where the stream truly changes."))
    for case in evidence.cases[:CASES]:
        blocks += _case(case)
    left = len(evidence.cases) - CASES
    if left > 0:
        blocks.append(
            Paragraph(
                f"{formatting.plural(left, 'further alert')} can be looked at with “driftloop case” while the run is up."
            )
        )
    return Chapter("Drift: what was noticed, and why", blocks)


def _silence(facts: RunFacts) -> str:
    summary = facts.summary
    if not summary.predictions:
        return "Nothing was predicted, so there was nothing to watch."
    if not summary.drifts_known:
        return "No alert was raised. Whether there was anything to notice is not known."
    if facts.passed:
        return "No alert was raised."
    due = "the run ended before the first change" if summary.drifts else "the stream is known not to change"
    return f"No alert was raised, which is right: {due}."


def _judged(verdict: str) -> str:
    return {"detection": "detection of a true drift", "repeat": "repeat within a true drift"}.get(verdict, verdict)


def _case(case: Case) -> list[Block]:
    where = f"about event {formatting.count(case.onset)}"
    if 0 <= case.onset_low < case.onset_high:
        where += f", between {formatting.count(case.onset_low)} and {formatting.count(case.onset_high)}"
    spoke = [(name, share) for name, share in case.fired.items() if share >= SPOKE][:6]
    fired = formatting.listed([f"{formatting.shown(name, 20)} {share:.0%}" for name, share in spoke])
    said = (
        f"Likely onset {where}; likely kind: {display_names.KINDS.get(case.kind, 'not known')}. Evidence by signal: "
        f"{fired or formatting.NONE}. What came of it: {formatting.shown(case.came_of_it.words, 500)}."
    )
    guessed = [one for one in case.estimated_accuracy if formatting.known(one.get("estimate")) is not None]
    if guessed:
        last = guessed[-1]
        said += (
            " Without any label, the accuracy of the last block of predictions before the alert (positions "
            f"{formatting.shown(str(last.get('start')), 20)} to {formatting.shown(str(last.get('end')), 20)}) was estimated at "
            f"{formatting.share(formatting.known(last.get('estimate')))}."
        )
    blocks: list[Block] = [Heading(f"Alert at event {formatting.count(case.position)}"), Paragraph(said)]
    if case.moved:
        rows = [
            [
                formatting.shown(one.what, 12), formatting.shown(one.name, 40), formatting.shown(one.measure, 20),
                formatting.share(one.before), formatting.share(one.after), formatting.shown(one.texts[0], 110) if one.texts else "",
            ]
            for one in case.moved[:MOVED]
        ]  # fmt: skip
        columns = [
            Column("what", weight=0.8), Column("name", weight=1.4), Column("measure"), Column("before", "number"),
            Column("after", "number"), Column("example since", weight=3.4),
        ]  # fmt: skip
        blocks.append(Table("What moved, the surest first", columns, rows))
    return blocks
