"""How the run behaved as a system: latency, speed, what was lost, and what it cost; and how the project is operated."""

from __future__ import annotations

from serving.report import charts, words
from serving.report.costs import OVERHEAD, Rates
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Note, Paragraph, Table
from serving.report.facts import Durations, Facts

FREE = 0.7
"""Share of a core that is planned with, so that bursts and retrainings find room."""
PROCESSES = {
    "replay": "sends the events", "score": "scores them", "monitor": "joins labels, watches for drift",
    "retrain": "trains and compares", "kafka": "keeps the topics", "valkey": "keeps predictions by id",
    "mlflow": "keeps the models", "simulate": "starts, watches and counts the others",
}  # fmt: skip
LOOP = ("score", "monitor")
"""What every further event needs; the rest is there once, or works when there is something to learn."""


def behaviour(facts: Facts) -> Chapter:
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
            f"A histogram on a logarithmic scale; half of the predictions took {words.milliseconds(evidence.latency.p50)} or "
            f"less, 99% {words.milliseconds(evidence.latency.p99)} or less.",
            charts.latency(evidence.latency),
        ),
    ]
    if len(evidence.speed) > 1:
        busiest = max(evidence.speed, key=lambda one: one.predictions / one.width)
        blocks += [
            Paragraph(
                f"Between the first and the last prediction {summary.events_per_second:.1f} events per second were predicted "
                f"on average; the busiest {words.seconds(busiest.width)} reached "
                f"{busiest.predictions / busiest.width:.0f} per second. The replay sent {_pace(facts)}, so the average says "
                "how fast events came rather than how fast they could have been scored."
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
        said = words.listed(
            [f"{words.shown(name, 30)} {words.plural(number, 'time')}" for name, number in restarts.items()]
        )
        blocks.append(Note("Processes were started again", f"{said}. What they had not acknowledged was read again."))
    else:
        blocks.append(Paragraph("No process had to be started again."))
    blocks.append(
        Paragraph(
            f"The first prediction: {_after(summary.first_prediction_seconds)}; the first promotion after the first "
            f"model: {_after(summary.first_promotion_seconds)}. All processes together took "
            f"{summary.peak_memory_mb / 1024:.1f} GiB of memory at most. It ran on "
            f"{words.shown(summary.software.get('platform', 'a machine that is not known'), 80)}."
        )
    )
    return Chapter("Latency, throughput, reliability", blocks)


def cost(facts: Facts, rates: Rates) -> Chapter:
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
            words.shown(name, 20), PROCESSES.get(name, ""), f"{seconds:.1f}", words.percent(seconds, total),
            words.figure(rates.watt_hours(seconds)),
        ]
        for name, seconds in sorted(used.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    rows.append(["all", "", f"{total:.1f}", "100%", words.figure(rates.watt_hours(total))])
    columns = [
        Column("process"), Column("what it does", weight=2), Column("CPU seconds, measured", "number"),
        Column("share", "number"), Column("watt-hours, estimated", "number"),
    ]  # fmt: skip
    low, high = rates.watt_hours(total), rates.watt_hours(total) * OVERHEAD
    blocks: list[Block] = [
        Paragraph(
            "Measured is the CPU time of each process with all that it started, as the operating system counts it, loading "
            "and start included. Energy and money are estimates made of it, and no measurement."
        ),
        Table("CPU time by process", columns, rows),
        Bullets(
            [
                (
                    "Energy",
                    f"CPU seconds × watts of a busy core ÷ 3,600 = {total:,.0f} × {rates.watts:g} ÷ 3,600 = "
                    f"{words.figure(low)} Wh for the cores alone, and {words.figure(high)} Wh with the {OVERHEAD:g} times "
                    "that an average data centre draws (Uptime Institute, 2024). Unless given otherwise, the watts are "
                    "what the Cloud Carbon Footprint methodology derives for a virtual core at full load; a core of a "
                    "desktop machine may take three times as much. Memory, disks, network and the making of the machine "
                    "are not in it.",
                ),
                (
                    "Money",
                    f"CPU seconds ÷ 3,600 × price of a core hour = {total:,.0f} ÷ 3,600 × {rates.price:g} = "
                    f"{words.figure(rates.cost(total))} {words.shown(rates.currency, 8)} for the run, as if no core were paid "
                    "for while idle. The price is an assumption; “driftloop report --price” takes another, “--watts” other "
                    "watts.",
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
                name, words.figure(1000 * seconds / predicted), words.figure(rates.watt_hours(seconds) / predicted * 1e6 / 1000),
                words.figure(rates.cost(seconds) / predicted * 1e6),
            ]
            for name, seconds in parts
        ]  # fmt: skip
        columns = [
            Column("part", weight=2), Column("CPU ms for each event, measured", "number"),
            Column("kWh for a million events, estimated", "number"),
            Column(f"{words.shown(rates.currency, 8)} for a million events, estimated", "number"),
        ]  # fmt: skip
        blocks += [
            Table("Scaled to a million events like these", columns, rows),
            Paragraph(
                f"A run of {words.plural(predicted, 'event')} pays for its start (loading libraries, exporting the encoder) with "
                "few events, and for its retrainings with few as well, so the last two rows overstate what a long stream "
                "costs; the first row does so less."
            ),
        ]
    if facts.evidence.chosen.stack == "own":
        blocks.append(
            Paragraph("Kafka, Redis and MLflow were not started by this run, so their CPU time is not in it.")
        )
    return Chapter("Cost and energy", blocks)


def operations(facts: Facts) -> Chapter:
    """Tests, CI and CD, and what is watched in production."""
    return Chapter(
        "How it is tested, delivered and watched",
        [
            Paragraph(
                "This chapter describes the project rather than the run. The same commands work on a laptop and in the "
                "hosted pipeline."
            ),
            Bullets(
                [
                    (
                        "Tests",
                        "“make test” runs lint, strict types, architecture rules and four tiers: units and contracts (every "
                        "detector, candidate, policy and classifier goes through the same checks), integration on a real "
                        "Kafka, Redis and MLflow, injected faults, and the whole loop end to end. No service is mocked.",
                    ),
                    (
                        "Continuous integration",
                        "“.ci/run” is that command; “.github/workflows/ci.yml” runs its parts on each push and pull request.",
                    ),
                    (
                        "Delivery",
                        "A tag builds wheel, container images and a list of all components (SBOM). “docker compose up” and "
                        "the Kubernetes manifests in “deploy/” run the same images.",
                    ),
                    (
                        "Delivery of models",
                        "is the loop itself: candidate, gate, signed bundle, registry, hot swap, probation, rollback. A model "
                        "whose signature or digest is wrong is not loaded.",
                    ),
                    (
                        "Monitoring",
                        "“/metrics” (Prometheus) has messages by topic, lag, accuracy by version, the champion, drift alerts "
                        "by signal, retrainings and their duration; “/health” says whether a process gets on. Drift alerts are "
                        "messages of their own, so anything that reads Kafka can act on them.",
                    ),
                    (
                        "Afterwards",
                        "“driftloop audit” proves that each event was answered once; “driftloop case” shows and repeats each "
                        "decision; the lineage of any prediction leads to offsets, alert and data revision.",
                    ),
                ]
            ),
        ],
    )


def cloud(facts: Facts) -> Chapter:
    """What speaks for and against running it in a cloud, sized by this run."""
    blocks: list[Block] = [
        Paragraph(
            "Nothing in driftloop depends on a provider: any Kafka, any Redis and any MLflow will do, and the images run "
            "wherever containers run. Whether they should run in a cloud depends on the load and on the texts."
        )
    ]
    sized = _sized(facts)
    if sized is not None:
        blocks.append(sized)
    blocks += [
        Bullets(
            [
                (
                    "For: managed Kafka",
                    "somebody else patches brokers, replaces disks and keeps three replicas in three zones. Of your own, that is "
                    "a part of somebody's job; below some thousand events per second it is the larger part of the cost.",
                ),
                (
                    "For: autoscaling",
                    "scorers share partitions, and their lag says how many are needed (the manifests scale by it). Load that "
                    "comes and goes, and a search that needs many cores for a minute, are what rented cores are good for.",
                ),
                (
                    "For: accelerators by the minute",
                    "fine-tuning on a GPU takes minutes a day; owning one for that does not pay.",
                ),
                (
                    "Against: steady load",
                    "cores that are busy all day cost a multiple of the same cores bought, even with a discount for a year.",
                ),
                (
                    "Against: traffic and retention",
                    "each event is copied to replicas and to several readers. Between zones that is paid for, as are the "
                    "gigabytes kept; at a thousand events per second both exceed the scoring.",
                ),
                (
                    "Against: the texts",
                    "predictions and outcomes carry the text. In a cloud they leave the house: a contract on processing, a "
                    "region, encryption with keys of your own, and a short retention become necessary.",
                ),
                (
                    "Against: being tied",
                    "managed model servers and registries of a provider would be quick to adopt and slow to leave. Here "
                    "only open interfaces are used, so the decision can be taken back.",
                ),
            ]
        ),
        Paragraph(
            "Up to some hundred events per second one machine of one's own is enough, and simplest. From there to some "
            "thousand, containers with a managed Kafka cost least of anybody's time. Above that, or with texts that must not "
            "leave, own brokers and own cores win. docs/scaling.md has the arithmetic for 1,000 to 100,000 events per second."
        ),
    ]
    return Chapter("For and against a cloud", blocks)


def _sized(facts: Facts) -> Table | None:
    """Cores for higher rates, from the CPU time that this run's scorer and monitor took for each event."""
    predicted = facts.summary.predictions - facts.summary.duplicates
    used = facts.summary.cpu_seconds
    if not predicted or not used.get("score"):
        return None
    rates = (100, 1000, 10_000)
    rows = [
        [
            name,
            f"{1000 * used.get(name, 0.0) / predicted:.2f}",
            *(_cores(used.get(name, 0.0) / predicted * rate) for rate in rates),
        ]
        for name in LOOP
    ]
    columns = [
        Column("process", weight=2), Column("CPU ms for each event in this run", "number"),
        *(Column(f"cores at {words.count(rate)}/s", "number") for rate in rates),
    ]  # fmt: skip
    return Table(
        f"Cores by this run's CPU time (computed: rate × CPU seconds for each event ÷ {FREE:g}, a share of a core kept free; "
        "start included, so a short run overstates)",
        columns,
        rows,
    )


def _cores(busy: float) -> str:
    return words.figure(busy / FREE) if busy / FREE < 10 else words.count(busy / FREE)


def _durations(name: str, measured: Durations) -> list[str]:
    values = (measured.p50, measured.p95, measured.p99, measured.longest)
    return [name, words.count(measured.count), *(words.milliseconds(value) for value in values)]


def _latency(facts: Facts) -> str:
    evidence = facts.evidence
    said = (
        f"Events are scored in batches of up to {evidence.chosen.batch}, so the time in the scorer is that of a batch; smaller "
        "batches would answer sooner and score fewer events per second."
    )
    waited = evidence.backlog - evidence.source.warm_up
    if waited > 0:
        said += (
            f" Before the first model was there, {words.plural(waited, 'event')} beyond the warm-up had piled up. They are left "
            "out of the end-to-end figures, but those behind them had to wait in the queue as well, which the end-to-end "
            "figures contain."
        )
    return said


def _pace(facts: Facts) -> str:
    rate = facts.evidence.source.rate
    return "as fast as the broker took it" if rate == "max" else f"{words.shown(rate, 20)} events per second"


def _losses(facts: Facts) -> str:
    summary = facts.summary
    lost = max(summary.events - (summary.predictions - summary.duplicates) - summary.dead_letters, 0)
    if lost and not summary.complete:
        first = (
            f"{words.plural(lost, 'event')} had no prediction when the run ended: it is incomplete, they are not lost."
        )
    elif lost:
        first = f"{words.plural(lost, 'event')} had neither a prediction nor a dead letter: they are missing."
    else:
        first = f"Every one of {words.plural(summary.events, 'event')} has a prediction or a dead letter: none is lost."
    doubled = (
        f"{words.plural(summary.duplicates, 'prediction')} came twice, as “at least once” allows; each counts once."
        if summary.duplicates
        else "No prediction came twice."
    )
    dead = (
        f"{words.plural(summary.dead_letters, 'message')} could not be processed and {'is' if summary.dead_letters == 1 else 'are'} "
        "kept byte for byte as dead letters."
        if summary.dead_letters
        else "No message had to be set aside as a dead letter."
    )
    return f"{first} {doubled} {dead}"


def _after(seconds: float | None) -> str:
    return "none came" if seconds is None else f"{words.seconds(seconds)} after the start"
