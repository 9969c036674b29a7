"""The report's first page: what driftloop is, and what came of the run."""

from __future__ import annotations

from serving.report import formatting
from serving.report.costs import Rates
from serving.report.document import Block, Chapter, Note, Pairs, Paragraph
from serving.report.run_data import RunFacts
from serving.simulation.drift_scoring import MAX_DELAY


def in_short(facts: RunFacts, rates: Rates) -> Chapter:
    """What driftloop is, and what happened, on one page."""
    summary, evidence = facts.summary, facts.evidence
    accuracy = summary.accuracy
    right = sum(one.right for one in evidence.bins)
    labelled = sum(one.labelled for one in evidence.bins)
    blocks: list[Block] = [
        Paragraph(
            "A model that classifies texts is trained once, and the world goes on: people talk about other things, in "
            "other words, and the model quietly becomes wrong. driftloop runs such a model on a live stream of "
            "events, notices when the stream changes, trains candidates for a successor, lets one take over only "
            "where it is shown to be better on events that it has not seen, and does so while events keep flowing. "
            "This report says what one run of it did. Every figure about the run was computed from the messages of "
            "that run."
        ),
        Paragraph(_what_happened(facts)),
    ]
    if not summary.complete:
        blocks.append(
            Note(
                "This run is incomplete",
                f"When it ended, {formatting.shown(summary.missing, 200)}. The figures cover what was there; those for the "
                "end of the stream may be missing.",
            )
        )
    cpu = sum(summary.cpu_seconds.values())
    rows = [
        (
            "Events",
            f"{formatting.count(summary.predictions - summary.duplicates)} of {formatting.count(summary.events)} predicted; "
            f"{formatting.plural(summary.duplicates, 'duplicate')}, {formatting.plural(summary.dead_letters, 'dead letter')}",
        ),
        (
            "Accuracy of the loop",
            f"{formatting.share(accuracy.prequential)} over {formatting.plural(accuracy.counted, 'labelled event')} (95% "
            f"interval {formatting.interval(right, labelled)})"
            if accuracy.counted
            else "no labelled event counts yet",
        ),
        (
            "Always the commonest label",
            f"{formatting.share(formatting.ratio(evidence.majority_right, accuracy.counted))}, always saying "
            f"{formatting.shown(evidence.majority, 40)}"
            if accuracy.counted
            else formatting.NONE,
        ),
        ("Drifts detected", _detected(facts)),
        (
            "Models",
            f"{formatting.plural(len(summary.retrainings), 'retraining')} and "
            f"{formatting.plural(len(summary.refreshes), 'refresh', 'refreshes')}; {formatting.count(summary.promotions)} "
            f"promoted, {formatting.count(summary.rollbacks)} rolled back",
        ),
        (
            "Time in the scorer",
            f"half of the events within {formatting.milliseconds(summary.latency.p50)}, 99% within "
            f"{formatting.milliseconds(summary.latency.p99)}"
            if summary.predictions
            else formatting.NONE,
        ),
        ("Speed", f"{summary.events_per_second:.1f} events per second, {formatting.seconds(summary.seconds)} in all"),
        (
            "CPU time and energy",
            f"{formatting.count(cpu)} CPU seconds measured, about {formatting.figure(rates.watt_hours(cpu))} Wh estimated from it"
            if cpu
            else "not measured",
        ),
    ]
    blocks += [
        Pairs("The run in figures", rows),
        Paragraph(
            "Accuracy here is prequential: each event is first predicted and only later, when its label has come, "
            "used to judge that prediction and to learn. No prediction is judged by a model that had seen its answer. "
            "The glossary at the end explains the terms."
        ),
    ]
    return Chapter("In short", blocks)


def _detected(facts: RunFacts) -> str:
    summary, passed = facts.summary, facts.passed
    if not summary.drifts_known:
        return f"{formatting.plural(len(summary.alerts), 'alert')}; where the stream truly changes is not known"
    alarms = formatting.plural(summary.false_alarms, "false alarm")
    if not passed:
        return f"none to detect{' so far' if summary.drifts else ''}; {alarms}"
    found = sum(drift.detected_position is not None for drift in passed)
    repeats = formatting.plural(summary.repeat_alerts, "repeat")
    return f"{found} of {len(passed)} within {formatting.count(MAX_DELAY)} labelled events; {alarms}, {repeats}"


def _what_happened(facts: RunFacts) -> str:
    """The story of the run in a few sentences."""
    summary = facts.summary
    name = formatting.shown(summary.scenario, 60)
    said = [
        f"In this run of the scenario {name}, {formatting.plural(summary.predictions - summary.duplicates, 'event')} "
        f"{'was' if summary.predictions - summary.duplicates == 1 else 'were'} predicted in "
        f"{formatting.seconds(summary.seconds)}."
    ]
    if not summary.alerts:
        said.append(
            "No drift alert was raised"
            + (
                f", though the stream had changed at {formatting.plural(len(facts.passed), 'known position')}."
                if facts.passed
                else "; the run ended before the first known change."
                if summary.drifts
                else ", and none was due: the stream is known not to change."
                if summary.drifts_known
                else "; whether the stream changes is not known."
            )
        )
    for case in facts.evidence.cases[:3]:
        said.append(
            f"At event {formatting.count(case.position)} an alert was raised: {formatting.shown(case.came_of_it.words, 400)}."
        )
    if len(facts.evidence.cases) > 3:
        said.append(f"{formatting.plural(len(facts.evidence.cases) - 3, 'further alert')} followed.")
    if summary.alerts and not summary.retrainings:
        said.append("No retraining followed.")
    return " ".join(said)
