"""How the run behaved as a system: latency, speed, and what was lost."""

from __future__ import annotations

from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Note, Paragraph, Table
from serving.report.run_data import Durations, RunFacts


def behaviour(facts: RunFacts) -> Chapter:
    """Latency, throughput, and whether anything was lost or doubled."""
    summary, evidence = facts.summary, facts.evidence
    if not summary.predictions:
        return Chapter(
            "Latency, throughput, reliability", [Paragraph("Nothing was predicted, so nothing was measured.")]
        )
    rows = [_durations("in the scorer, from reading a batch to its predictions", evidence.latency)]
    if evidence.end_to_end.count:
        rows.append(_durations("end to end, from the event to its prediction", evidence.end_to_end))
    columns = [
        Column("measured", weight=3), Column("events", "number"), Column("half within", "number"),
        Column("95% within", "number"), Column("99% within", "number"), Column("longest", "number"),
    ]  # fmt: skip
    blocks: list[Block] = [
        Table("Latency", columns, rows),
        Paragraph(_latency(facts)),
        Figure(
            "Time in the scorer: how many predictions took how long.",
            "A histogram on a logarithmic scale; half of the predictions took "
            f"{formatting.milliseconds(evidence.latency.p50)} or less, 99% {formatting.milliseconds(evidence.latency.p99)} or "
            "less.",
            charts.latency(evidence.latency),
        ),
    ]
    if len(evidence.speed) > 1:
        busiest = max(evidence.speed, key=lambda one: one.predictions / one.width)
        blocks += [
            Paragraph(
                f"Between the first and the last prediction {summary.events_per_second:.1f} events per second were "
                f"predicted on average; the busiest {formatting.seconds(busiest.width)} reached "
                f"{busiest.predictions / busiest.width:.0f} per second. {_pace(facts)}"
            ),
            Figure(
                "Predictions per second over the run.",
                "A stepped line of predictions per second; the busiest stretch is named in the text above.",
                charts.speed(evidence.speed),
            ),
        ]
    blocks += [Heading("Was anything lost?"), Paragraph(_losses(facts))]
    restarts = {name: number for name, number in summary.restarts.items() if number}
    if restarts:
        said = formatting.listed(
            [f"{formatting.shown(name, 30)} {formatting.plural(number, 'time')}" for name, number in restarts.items()]
        )
        blocks.append(Note("Processes were started again", f"{said}. What they had not acknowledged was read again."))
    else:
        blocks.append(Paragraph("No process had to be started again."))
    blocks.append(
        Paragraph(
            f"The first prediction: {_after(summary.first_prediction_seconds)}; the first promotion after the first "
            f"model: {_after(summary.first_promotion_seconds)}. All processes together took "
            f"{summary.peak_memory_mb / 1024:.1f} GiB of memory at most. It ran on "
            f"{formatting.shown(summary.software.get('platform', 'a machine that is not known'), 80)}."
        )
    )
    return Chapter("Latency, throughput, reliability", blocks)


def _durations(name: str, measured: Durations) -> list[str]:
    values = (measured.p50, measured.p95, measured.p99, measured.longest)
    return [name, formatting.count(measured.count), *(formatting.milliseconds(value) for value in values)]


def _latency(facts: RunFacts) -> str:
    evidence = facts.evidence
    said = (
        f"Events are scored in batches of up to {evidence.chosen.batch}, so the time in the scorer is that of a batch; "
        "smaller batches would answer sooner and score fewer events per second."
    )
    waited = evidence.backlog - evidence.source.warm_up
    if waited > 0:
        said += (
            f" Before the first prediction, {formatting.plural(waited, 'event')} beyond the warm-up had piled up: they "
            "waited for the first model. "
        )
        said += (
            "They are left out of the end-to-end figures, but those behind them had to wait in the queue as well, "
            "which those figures contain."
            if evidence.end_to_end.count
            else "No event came later, so there are no end-to-end figures of a loop that was up."
        )
    return said


def _pace(facts: RunFacts) -> str:
    """What the average says about the scorer, next to the rate at which events came."""
    rate = facts.evidence.source.rate
    try:
        sent = float(rate)
    except ValueError:
        return "The replay sent as fast as the broker took it, so this is about what the scorer could do here."
    came = f"The replay sent {sent:g} events per second"
    if facts.summary.events_per_second > sent:
        return f"{came}; the average is above that because a queue from before the first model was worked off."
    return f"{came}, so the average says how fast events came rather than how fast they could have been scored."


def _losses(facts: RunFacts) -> str:
    summary = facts.summary
    lost = max(summary.events - (summary.predictions - summary.duplicates) - summary.dead_letters, 0)
    if lost and not summary.complete:
        first = f"{formatting.plural(lost, 'event')} had no prediction when the run ended: it is incomplete, they are not lost."
    elif lost:
        first = f"{formatting.plural(lost, 'event')} had neither a prediction nor a dead letter: they are missing."
    else:
        first = f"Every one of {formatting.plural(summary.events, 'event')} has a prediction or a dead letter: none is lost."
    doubled = (
        f"{formatting.plural(summary.duplicates, 'prediction')} came twice, as “at least once” allows; each counts once."
        if summary.duplicates
        else "No prediction came twice."
    )
    dead = (
        f"{formatting.plural(summary.dead_letters, 'message')} could not be processed and "
        f"{'is' if summary.dead_letters == 1 else 'are'} kept byte for byte as dead letters."
        if summary.dead_letters
        else "No message had to be set aside as a dead letter."
    )
    return f"{first} {doubled} {dead}"


def _after(seconds: float | None) -> str:
    return "none came" if seconds is None else f"{formatting.seconds(seconds)} after the start"
