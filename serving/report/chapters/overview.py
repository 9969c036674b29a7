"""Chapter “Summary”: the purpose of driftloop, the outcome of the run, and its main figures."""

from __future__ import annotations

from serving.cases.reasons import as_sentence
from serving.report import formatting
from serving.report.chapters.cost import Rates
from serving.report.document import Block, Chapter, Note, Pairs, Paragraph
from serving.report.run_data import RunFacts
from serving.simulation.drift_scoring import MAX_DELAY

CASES = 3
"""Alerts that the summary describes."""


def overview(facts: RunFacts, rates: Rates) -> Chapter:
    """Return the chapter.

    Args:
        facts: The data of the run.
        rates: Watts and price of a core, for the estimate of the energy.
    """
    summary = facts.summary
    blocks: list[Block] = [
        Paragraph(
            "A text classifier is trained once, but its input keeps changing. New topics and new words appear, and the "
            "accuracy falls without notice. driftloop runs a classifier on a live stream of events and detects such "
            "changes. It trains candidates for a new model while events keep arriving. A candidate replaces the "
            "current model only if it is better on events that it was not trained on. This report describes one run. "
            "All figures about the run were computed from its messages."
        ),
        Paragraph(_outcome(facts)),
    ]
    if not summary.complete:
        blocks.append(
            Note(
                "This run is incomplete",
                f"State at its end: {as_sentence(formatting.safe_text(summary.missing, 200))} The figures cover the "
                "messages up to that point. Figures about the end of the stream may be missing.",
            )
        )
    blocks += [
        Pairs("Main figures of the run", _main_figures(facts, rates)),
        Paragraph(
            "Accuracy in this report is prequential. Each event is first predicted. When its label arrives later, the "
            "prediction is judged and the event can be used for training. So no model had seen the label of an event "
            "before it predicted the event. The glossary at the end explains the terms."
        ),
    ]
    return Chapter("Summary", blocks)


def _main_figures(facts: RunFacts, rates: Rates) -> list[tuple[str, str]]:
    summary, data = facts.summary, facts.data
    accuracy = summary.accuracy
    right = sum(one.right for one in data.bins)
    labelled = sum(one.labelled for one in data.bins)
    cpu = sum(summary.cpu_seconds.values())
    return [
        (
            "Events",
            f"{formatting.count(summary.predictions - summary.duplicates)} of {formatting.count(summary.events)} "
            f"predicted; {formatting.plural(summary.duplicates, 'duplicate')}, "
            f"{formatting.plural(summary.dead_letters, 'dead letter')}",
        ),
        (
            "Accuracy of the loop",
            f"{formatting.share(accuracy.prequential)} over {formatting.plural(accuracy.counted, 'labelled event')} "
            f"(95% interval {formatting.interval(right, labelled)})"
            if accuracy.counted
            else "no labelled events that count yet",
        ),
        (
            "Baseline: most frequent label",
            f"{formatting.share(formatting.ratio(data.majority_right, accuracy.counted))} if every prediction were "
            f"{formatting.safe_text(data.majority, 40)}"
            if accuracy.counted
            else formatting.NONE,
        ),
        ("Drifts detected", _detected(facts)),
        (
            "Models",
            f"{formatting.plural(len(summary.retrainings), 'retraining')} and "
            f"{formatting.plural(len(summary.refreshes), 'refresh', 'refreshes')}; "
            f"{formatting.count(summary.promotions)} promoted, {formatting.count(summary.rollbacks)} rolled back",
        ),
        (
            "Time in the scorer",
            f"50% of the events within {formatting.milliseconds(summary.latency.p50)}, 99% within "
            f"{formatting.milliseconds(summary.latency.p99)}"
            if summary.predictions
            else formatting.NONE,
        ),
        (
            "Throughput",
            f"{summary.events_per_second:.1f} events per second; duration of the run "
            f"{formatting.seconds(summary.seconds)}",
        ),
        (
            "CPU time and energy",
            f"{formatting.count(cpu)} CPU seconds measured; about {formatting.significant(rates.watt_hours(cpu))} Wh, "
            "estimated from the CPU time"
            if cpu
            else "not measured",
        ),
    ]


def _detected(facts: RunFacts) -> str:
    summary, reached = facts.summary, facts.reached_drifts
    if not summary.drifts_known:
        return f"{formatting.plural(len(summary.alerts), 'alert')}; the true drifts are not known"
    alarms = formatting.plural(summary.false_alarms, "false alarm")
    if not reached:
        return f"no drift{' so far' if summary.drifts else ' in the stream'}; {alarms}"
    found = sum(drift.detected_position is not None for drift in reached)
    repeats = formatting.plural(summary.repeat_alerts, "repeated alert")
    return f"{found} of {len(reached)} within {formatting.count(MAX_DELAY)} labelled events; {alarms}, {repeats}"


def _outcome(facts: RunFacts) -> str:
    summary, cases = facts.summary, facts.data.cases
    predicted = summary.predictions - summary.duplicates
    sentences = [
        f"This run used the scenario {formatting.safe_text(summary.scenario, 60)}. "
        f"{formatting.plural(predicted, 'event')} {'was' if predicted == 1 else 'were'} predicted in "
        f"{formatting.seconds(summary.seconds)}."
    ]
    if not summary.alerts:
        sentences.append(_no_alert(facts))
    for case in cases[:CASES]:
        outcome = as_sentence(formatting.safe_text(case.came_of_it.words, 400))
        sentences.append(f"A drift alert was raised at event {formatting.count(case.position)}. {outcome}")
    if len(cases) > CASES:
        sentences.append(f"{formatting.plural(len(cases) - CASES, 'further alert')} followed.")
    if summary.alerts and not summary.retrainings:
        sentences.append("No retraining followed.")
    return " ".join(sentences)


def _no_alert(facts: RunFacts) -> str:
    summary = facts.summary
    if facts.reached_drifts:
        changes = formatting.plural(len(facts.reached_drifts), "known position")
        return f"No drift alert was raised, although the stream had changed at {changes}."
    if summary.drifts:
        return "No drift alert was raised. The run ended before the first known change."
    if summary.drifts_known:
        return "No drift alert was raised. This is correct, because the stream is known not to change."
    return "No drift alert was raised. It is not known if the stream changes."
