"""CPU seconds as measured; energy and money as estimated from them, with the formula."""

from __future__ import annotations

from serving.report import formatting
from serving.report.costs import OVERHEAD, Rates
from serving.report.document import Block, Bullets, Chapter, Column, Paragraph, Table
from serving.report.run_data import RunFacts

PROCESSES = {
    "replay": "sends the events", "score": "scores them", "monitor": "joins labels, watches for drift",
    "retrain": "trains and compares", "kafka": "keeps the topics", "valkey": "keeps predictions by id",
    "mlflow": "keeps the models", "serve": "the live page and the API",
    "simulate": "starts, watches and counts the others",
}  # fmt: skip


LOOP = ("score", "monitor")
"""What every further event needs; the rest is there once, or works when there is something to learn."""


def cost(facts: RunFacts, rates: Rates) -> Chapter:
    """CPU seconds as measured; energy and money as estimated from them, with the formula."""
    summary = facts.summary
    used = summary.cpu_seconds
    total = sum(used.values())
    if not total:
        return Chapter(
            "Cost and energy",
            [Paragraph("The CPU time of this run was not measured, so neither energy nor cost can be estimated.")],
        )
    rows = [
        [
            formatting.shown(name, 20), PROCESSES.get(name, ""), f"{seconds:.1f}", formatting.percent(seconds, total),
            formatting.figure(rates.watt_hours(seconds)),
        ]
        for name, seconds in sorted(used.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    rows.append(["all", "", f"{total:.1f}", "100%", formatting.figure(rates.watt_hours(total))])
    columns = [
        Column("process"), Column("what it does", weight=2), Column("CPU seconds, measured", "number"),
        Column("share", "number"), Column("watt-hours, estimated", "number"),
    ]  # fmt: skip
    low, high = rates.watt_hours(total), rates.watt_hours(total) * OVERHEAD
    blocks: list[Block] = [
        Paragraph(
            "Measured is the CPU time of each process with all that it started, as the operating system counts it, "
            "loading and start included. Energy and money are estimates made of it, and no measurement."
        ),
        Table("CPU time by process", columns, rows),
        Bullets(
            [
                (
                    "Energy",
                    f"CPU seconds × watts of a busy core ÷ 3,600 = {total:,.0f} × {rates.watts:g} ÷ 3,600 = "
                    f"{formatting.figure(low)} Wh for the cores alone, and {formatting.figure(high)} Wh with the {OVERHEAD:g} "
                    "times that an average data centre draws (Uptime Institute, 2024). Unless given otherwise, the "
                    "watts are what the Cloud Carbon Footprint methodology derives for a virtual core at full load; a "
                    "core of a desktop machine may take three times as much. Memory, disks, network and the making of "
                    "the machine are not in it.",
                ),
                (
                    "Money",
                    f"CPU seconds ÷ 3,600 × price of a core hour = {total:,.0f} ÷ 3,600 × {rates.price:g} = "
                    f"{formatting.figure(rates.cost(total))} {formatting.shown(rates.currency, 8)} for the run, as if no core "
                    "were paid for while idle. The price is an assumption; “driftloop report --price” takes another, "
                    "“--watts” other watts.",
                ),
            ]
        ),
    ]
    predicted = summary.predictions - summary.duplicates
    if predicted:
        loop = sum(used.get(name, 0.0) for name in LOOP)
        parts = [
            ("scoring and monitoring", loop),
            ("retraining", used.get("retrain", 0.0)),
            ("everything, start included", total),
        ]
        rows = [
            [
                name, formatting.figure(1000 * seconds / predicted),
                formatting.figure(rates.watt_hours(seconds) / predicted * 1e6 / 1000),
                formatting.figure(rates.cost(seconds) / predicted * 1e6),
            ]
            for name, seconds in parts
        ]  # fmt: skip
        columns = [
            Column("part", weight=2), Column("CPU ms for each event, measured", "number"),
            Column("kWh for a million events, estimated", "number"),
            Column(f"{formatting.shown(rates.currency, 8)} for a million events, estimated", "number"),
        ]  # fmt: skip
        blocks += [
            Table("Scaled to a million events like these", columns, rows),
            Paragraph(
                f"A run of {formatting.plural(predicted, 'event')} pays for its start (loading libraries, exporting the "
                "encoder) with few events, and for its retrainings with few as well, so the last two rows overstate "
                "what a long stream costs; the first row does so less."
            ),
        ]
    if facts.evidence.chosen.stack == "own":
        blocks.append(
            Paragraph("Kafka, Redis and MLflow were not started by this run, so their CPU time is not in it.")
        )
    return Chapter("Cost and energy", blocks)
