"""Chapter “Cost and energy”: measured CPU seconds, and the energy and money estimated from them."""

from __future__ import annotations

from dataclasses import dataclass

from serving.report import formatting
from serving.report.document import Block, Bullets, Chapter, Column, Paragraph, Table
from serving.report.run_data import RunFacts

TITLE = "Cost and energy"
WATTS = 3.5
"""Power in watts of one vCPU at full load. It is the average that the Cloud Carbon Footprint methodology derives for
AWS from SPECpower (appendix I; 3.76 for Azure)."""
OVERHEAD = 1.56
"""Power of a data centre for each watt of its computers: the average of Uptime Institute's survey of 2024."""
PRICE = 0.05
"""Price in US dollars of one vCPU for one hour. It is an assumption, a round figure near the list prices of
general-purpose virtual machines of the large clouds."""
PROCESSES = {
    "replay": "sends the events", "score": "scores the events", "monitor": "joins labels, detects drift",
    "retrain": "trains and compares models", "kafka": "stores the topics", "valkey": "stores predictions by id",
    "mlflow": "stores the models", "serve": "serves the live page and the API",
    "simulate": "starts and monitors the other processes",
}  # fmt: skip
"""Task of each process of a run."""
LOOP = ("score", "monitor")
"""Processes whose cost grows with every event. The others are fixed, or work only during a retraining."""


@dataclass(frozen=True)
class Rates:
    """Factors for the estimates of energy and cost."""

    watts: float = WATTS
    """Power of one busy core in watts."""
    price: float = PRICE
    """Price of one core for one hour."""
    currency: str = "USD"

    def watt_hours(self, cpu_seconds: float) -> float:
        """Return the energy of the cores alone, in watt-hours."""
        return cpu_seconds * self.watts / 3600

    def cost(self, cpu_seconds: float) -> float:
        """Return the price of the core hours, if cores are paid for only while they are busy."""
        return cpu_seconds / 3600 * self.price


def cost(facts: RunFacts, rates: Rates) -> Chapter:
    """Return the chapter.

    Args:
        facts: The data of the run.
        rates: Watts and price of a core.
    """
    used = facts.summary.cpu_seconds
    if not sum(used.values()):
        return Chapter(
            TITLE,
            [Paragraph("The CPU time of this run was not measured. Therefore energy and cost cannot be estimated.")],
        )
    blocks: list[Block] = [
        Paragraph(
            "The CPU time of each process and its children is measured, as counted by the operating system. It "
            "includes the start and the loading of libraries. Energy and cost are estimates computed from it, and no "
            "measurement."
        ),
        _cpu_time(facts, rates),
        Bullets(_formulas(sum(used.values()), rates)),
    ]
    if facts.summary.predictions - facts.summary.duplicates:
        blocks += _per_event(facts, rates)
    if facts.data.chosen.stack == "own":
        blocks.append(
            Paragraph("Kafka, Redis and MLflow were not started by this run, so their CPU time is not included.")
        )
    return Chapter(TITLE, blocks)


def _cpu_time(facts: RunFacts, rates: Rates) -> Table:
    used = facts.summary.cpu_seconds
    total = sum(used.values())
    rows = [
        [
            formatting.safe_text(name, 20), PROCESSES.get(name, ""), f"{seconds:.1f}",
            formatting.percent(seconds, total), formatting.significant(rates.watt_hours(seconds)),
        ]
        for name, seconds in sorted(used.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    rows.append(["all", "", f"{total:.1f}", "100%", formatting.significant(rates.watt_hours(total))])
    columns = [
        Column("process"), Column("task", weight=2), Column("CPU seconds, measured", "number"),
        Column("share", "number"), Column("watt-hours, estimated", "number"),
    ]  # fmt: skip
    return Table("CPU time by process", columns, rows)


def _formulas(total: float, rates: Rates) -> list[tuple[str, str]]:
    low, high = rates.watt_hours(total), rates.watt_hours(total) * OVERHEAD
    return [
        (
            "Energy",
            f"CPU seconds × watts of a busy core ÷ 3,600 = {total:,.0f} × {rates.watts:g} ÷ 3,600 = "
            f"{formatting.significant(low)} Wh for the cores alone. It is {formatting.significant(high)} Wh with the "
            f"overhead factor {OVERHEAD:g} of an average data centre (Uptime Institute, 2024). Unless given "
            "otherwise, the watts are the value of the Cloud Carbon Footprint methodology for a virtual core at full "
            "load. A core of a desktop computer may need three times as much. Memory, disks, network and the "
            "production of the machine are not included.",
        ),
        (
            "Cost",
            f"CPU seconds ÷ 3,600 × price of a core hour = {total:,.0f} ÷ 3,600 × {rates.price:g} = "
            f"{formatting.significant(rates.cost(total))} {formatting.safe_text(rates.currency, 8)} for the run. "
            "This assumes that cores are paid for only while they are busy. The price is an assumption, too. "
            "“driftloop report” accepts another price (“--price”) and other watts (“--watts”).",
        ),
    ]


def _per_event(facts: RunFacts, rates: Rates) -> list[Block]:
    used = facts.summary.cpu_seconds
    predicted = facts.summary.predictions - facts.summary.duplicates
    parts = [
        ("scoring and monitoring", sum(used.get(name, 0.0) for name in LOOP)),
        ("retraining", used.get("retrain", 0.0)),
        ("all processes, start included", sum(used.values())),
    ]
    rows = [
        [
            name, formatting.significant(1000 * seconds / predicted),
            formatting.significant(rates.watt_hours(seconds) / predicted * 1e6 / 1000),
            formatting.significant(rates.cost(seconds) / predicted * 1e6),
        ]
        for name, seconds in parts
    ]  # fmt: skip
    columns = [
        Column("part", weight=2), Column("CPU ms for each event, measured", "number"),
        Column("kWh for a million events, estimated", "number"),
        Column(f"{formatting.safe_text(rates.currency, 8)} for a million events, estimated", "number"),
    ]  # fmt: skip
    return [
        Table("Cost of a million events, extrapolated from this run", columns, rows),
        Paragraph(
            f"This run had only {formatting.plural(predicted, 'event')}. The costs of the start (loading libraries, "
            "exporting the encoder) and of the retrainings are divided by this small number. Therefore the last two "
            "rows are too high for a long stream. The first row is less affected."
        ),
    ]
