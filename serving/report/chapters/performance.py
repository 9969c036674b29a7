"""Chapter “Latency, throughput and reliability” of the run as a system."""

from __future__ import annotations

from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Note, Paragraph, Table
from serving.report.run_data import Durations, RunFacts

TITLE = "Latency, throughput and reliability"


def performance(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    summary, data = facts.summary, facts.data
    if not summary.predictions:
        return Chapter(TITLE, [Paragraph("No event was predicted, so there are no measurements.")])
    blocks = _latency(facts)
    if len(data.speed) > 1:
        blocks += _throughput(facts)
    platform = formatting.safe_text(summary.software.get("platform", "an unknown machine"), 80)
    blocks += [
        Heading("Reliability"),
        Paragraph(_losses(facts)),
        _restarts(facts),
        Paragraph(
            f"First prediction: {_after(summary.first_prediction_seconds)}. First promotion after the first model: "
            f"{_after(summary.first_promotion_seconds)}. Peak memory of all processes together: "
            f"{summary.peak_memory_mb / 1024:.1f} GiB. Machine: {platform}."
        ),
    ]
    return Chapter(TITLE, blocks)


def _latency(facts: RunFacts) -> list[Block]:
    data = facts.data
    rows = [_row("in the scorer: from reading a batch to its predictions", data.latency)]
    if data.end_to_end.count:
        rows.append(_row("end to end: from the event to its prediction", data.end_to_end))
    columns = [
        Column("duration", weight=3), Column("events", "number"), Column("50% within", "number"),
        Column("95% within", "number"), Column("99% within", "number"), Column("longest", "number"),
    ]  # fmt: skip
    return [
        Table("Latency", columns, rows),
        Paragraph(_explanation(facts)),
        Figure(
            "Histogram of the time in the scorer.",
            "A histogram on a logarithmic scale; 50% of the predictions took "
            f"{formatting.milliseconds(data.latency.p50)} or less, 99% took "
            f"{formatting.milliseconds(data.latency.p99)} or less.",
            charts.latency(data.latency),
        ),
    ]


def _row(name: str, measured: Durations) -> list[str]:
    values = (measured.p50, measured.p95, measured.p99, measured.longest)
    return [name, formatting.count(measured.count), *(formatting.milliseconds(value) for value in values)]


def _explanation(facts: RunFacts) -> str:
    data = facts.data
    sentences = [
        f"Events are scored in batches of up to {data.chosen.batch}, so the time in the scorer is the time of a batch. "
        "Smaller batches have a lower latency and a lower throughput."
    ]
    waited = data.backlog - data.source.warm_up
    if waited > 0:
        sentences.append(
            f"{formatting.plural(waited, 'event')} beyond the warm-up waited for the first model, or came before the "
            "scorer had caught up."
        )
        sentences.append(
            "The figures do not include them."
            if data.end_to_end.count
            else "No event came later, so there are no end-to-end figures."
        )
    return " ".join(sentences)


def _throughput(facts: RunFacts) -> list[Block]:
    summary, speed = facts.summary, facts.data.speed
    busiest = max(speed, key=lambda one: one.predictions / one.width)
    return [
        Paragraph(
            f"Between the first and the last prediction, {summary.events_per_second:.1f} events per second were "
            f"predicted on average. The highest rate was {busiest.predictions / busiest.width:.0f} per second, over "
            f"{formatting.seconds(busiest.width)}. {_pace(facts)}"
        ),
        Figure(
            "Predictions per second over the run.",
            "A stepped line of predictions per second; the text above has its highest value.",
            charts.speed(speed),
        ),
    ]


def _pace(facts: RunFacts) -> str:
    """Return the meaning of the average, given the rate at which events were sent."""
    try:
        sent = float(facts.data.source.rate)
    except ValueError:
        return "The replay sent events as fast as the broker accepted them, so the average is the speed of the scorer."
    rate = f"The replay sent {sent:g} events per second"
    if facts.summary.events_per_second > sent:
        return f"{rate}. The average is higher, because events that had waited for the first model were in the queue."
    return f"{rate}, so the average is the rate of the events and not the highest rate of the scorer."


def _losses(facts: RunFacts) -> str:
    summary = facts.summary
    missing = max(summary.events - (summary.predictions - summary.duplicates) - summary.dead_letters, 0)
    if missing and not summary.complete:
        lost = (
            f"{formatting.plural(missing, 'event')} had no prediction when the run ended. The run is incomplete; these "
            "events are not lost."
        )
    elif missing:
        lost = f"{formatting.plural(missing, 'event')} had neither a prediction nor a dead letter: they are missing."
    else:
        events = formatting.plural(summary.events, "event")
        lost = f"No event was lost: each of {events} has a prediction or a dead letter."
    doubled = (
        f"{formatting.plural(summary.duplicates, 'prediction')} {'was' if summary.duplicates == 1 else 'were'} "
        "repeated, as “at least once” delivery allows. Each event is counted once."
        if summary.duplicates
        else "No prediction was repeated."
    )
    dead = (
        f"{formatting.plural(summary.dead_letters, 'message')} could not be processed and "
        f"{'is' if summary.dead_letters == 1 else 'are'} kept unchanged as dead letters."
        if summary.dead_letters
        else "No message became a dead letter."
    )
    return f"{lost} {doubled} {dead}"


def _restarts(facts: RunFacts) -> Block:
    restarts = {name: number for name, number in facts.summary.restarts.items() if number}
    if not restarts:
        return Paragraph("No process was restarted.")
    times = formatting.join_words(
        [f"{formatting.safe_text(name, 30)} {formatting.plural(number, 'time')}" for name, number in restarts.items()]
    )
    return Note("Restarted processes", f"{times}. Messages that they had not acknowledged were read again.")


def _after(seconds: float | None) -> str:
    return "none" if seconds is None else f"{formatting.seconds(seconds)} after the start"
