"""Chapter “Drift detection”: the true drifts, the alerts, and the evidence for each alert."""

from __future__ import annotations

from serving.cases.model import Case
from serving.cases.reasons import as_sentence
from serving.report import display_names, formatting
from serving.report.document import Block, Chapter, Column, Heading, Note, Paragraph, Table
from serving.report.run_data import RunFacts
from serving.simulation.drift_scoring import MAX_DELAY

TITLE = "Drift detection"
CASES, MOVED = 6, 6
"""Largest numbers of alerts described in full, and of changes listed for each."""
LEAST_SHARE = 0.005
"""Smallest share of the evidence with which a signal is named."""


def drift(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    summary, data = facts.summary, facts.data
    blocks: list[Block] = [
        Paragraph(
            "The monitor observes several signals, by default six. Four need no labels: the confidence of the model, "
            "the mix of predicted labels, the position of the texts in the embedding space, and the words of the "
            "texts. Two need labels: the errors and the loss. An alert names the likely onset of the change and the "
            "segments, classes and words that changed."
        )
    ]
    if summary.drifts:
        blocks += _true_drifts(facts)
    if not summary.alerts:
        return Chapter(TITLE, [*blocks, Paragraph(_no_alert(facts))])
    blocks.append(_alerts(facts))
    if not summary.drifts_known:
        blocks.append(Paragraph("Verdict “unknown”: the scenario does not list the true changes of the stream."))
    for case in data.cases[:CASES]:
        blocks += _case(case)
    left = len(data.cases) - CASES
    if left > 0:
        blocks.append(
            Paragraph(
                f"{formatting.plural(left, 'further alert')} not shown. While the run's services are running, "
                "“driftloop case” lists all alerts."
            )
        )
    return Chapter(TITLE, blocks)


def _true_drifts(facts: RunFacts) -> list[Block]:
    rows = [
        [
            formatting.count(one.true_position), formatting.position(one.detected_position),
            formatting.NONE if one.delay is None else formatting.count(one.delay),
            formatting.safe_text(one.signal or "", 30) if one in facts.reached_drifts else "not reached by this run",
        ]
        for one in facts.summary.drifts
    ]  # fmt: skip
    columns = [
        Column("true drift at event", "number"), Column("alert at event", "number"),
        Column("delay", "number"), Column("signal"),
    ]  # fmt: skip
    blocks: list[Block] = [
        Table(
            "True drifts and their detection; the delay is the number of labelled events between drift and alert",
            columns,
            rows,
        )
    ]
    missed = [one for one in facts.reached_drifts if one.detected_position is None]
    if missed:
        where = formatting.join_words([formatting.count(one.true_position) for one in missed])
        blocks.append(
            Note(
                f"{formatting.plural(len(missed), 'drift')} not detected",
                f"No alert was raised within {formatting.count(MAX_DELAY)} labelled events of event {where}. Either "
                "the stream ended first, or the signals changed too little.",
            )
        )
    return blocks


def _alerts(facts: RunFacts) -> Table:
    verdicts = {"detection": "detection of a true drift", "repeat": "repeated alert for a true drift"}
    rows = [
        [
            formatting.count(alert.position), formatting.count(alert.onset), formatting.safe_text(alert.detector, 20),
            formatting.safe_text(alert.signal, 20), formatting.signed(alert.severity),
            verdicts.get(alert.verdict, alert.verdict),
        ]
        for alert in facts.summary.alerts
    ]  # fmt: skip
    columns = [
        Column("alert at event", "number"), Column("likely onset", "number"), Column("detector"), Column("signal"),
        Column("change", "number"), Column("verdict"),
    ]  # fmt: skip
    return Table("All alerts", columns, rows)


def _no_alert(facts: RunFacts) -> str:
    summary = facts.summary
    if not summary.predictions:
        return "No event was predicted, so the monitor had no data."
    if not summary.drifts_known:
        return "No alert was raised. It is not known if the stream changed."
    if facts.reached_drifts:
        return "No alert was raised."
    reason = "the run ended before the first change" if summary.drifts else "the stream is known not to change"
    return f"No alert was raised. This is correct, because {reason}."


def _case(case: Case) -> list[Block]:
    where = f"event {formatting.count(case.onset)}"
    if 0 <= case.onset_low < case.onset_high:
        where += f" (between {formatting.count(case.onset_low)} and {formatting.count(case.onset_high)})"
    shares = [(name, share) for name, share in case.fired.items() if share >= LEAST_SHARE][:6]
    signals = formatting.join_words([f"{formatting.safe_text(name, 20)} {share:.0%}" for name, share in shares])
    sentences = [
        f"Likely onset: {where}. Likely kind: {display_names.KINDS.get(case.kind, 'unknown')}.",
        f"Share of each signal in the evidence: {signals or formatting.NONE}.",
        f"Outcome: {as_sentence(formatting.safe_text(case.came_of_it.words, 500))}",
    ]
    estimates = [one for one in case.estimated_accuracy if formatting.number_or_none(one.get("estimate")) is not None]
    if estimates:
        last = estimates[-1]
        sentences.append(
            "The accuracy of the last block of predictions before the alert (positions "
            f"{formatting.safe_text(str(last.get('start')), 20)} to {formatting.safe_text(str(last.get('end')), 20)}) "
            f"was estimated without labels at {formatting.share(formatting.number_or_none(last.get('estimate')))}."
        )
    blocks: list[Block] = [
        Heading(f"Alert at event {formatting.count(case.position)}"),
        Paragraph(" ".join(sentences)),
    ]
    if case.moved:
        rows = [
            [
                formatting.safe_text(one.what, 12), formatting.safe_text(one.name, 40),
                formatting.safe_text(one.measure, 20), formatting.share(one.before), formatting.share(one.after),
                formatting.safe_text(one.texts[0], 110) if one.texts else "",
            ]
            for one in case.moved[:MOVED]
        ]  # fmt: skip
        columns = [
            Column("type", weight=0.8), Column("name", weight=1.4), Column("measure"), Column("before", "number"),
            Column("after", "number"), Column("example after the onset", weight=3.4),
        ]  # fmt: skip
        blocks.append(Table("Changed segments, classes and words, the most certain first", columns, rows))
    return blocks
