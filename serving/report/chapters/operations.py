"""How the project is tested, delivered and watched, and whether it belongs in a cloud."""

from __future__ import annotations

from serving.report import formatting
from serving.report.document import Block, Bullets, Chapter, Column, Paragraph, Table
from serving.report.run_data import RunFacts

FREE = 0.7
"""Share of a core that is planned with, so that bursts and retrainings find room."""


LOOP = ("score", "monitor")
"""What every further event needs; the rest is there once, or works when there is something to learn."""


def operations() -> Chapter:
    """Tests, CI and CD, and what is watched in production."""
    return Chapter(
        "How it is tested, delivered and watched",
        [
            Paragraph(
                "This chapter describes the project rather than the run. The same commands work on a laptop and in "
                "the hosted pipeline."
            ),
            Bullets(
                [
                    (
                        "Tests",
                        "“make test” runs lint, strict types, architecture rules and four tiers: units and contracts "
                        "(every detector, candidate, policy and classifier goes through the same checks), integration "
                        "on a real Kafka, Redis and MLflow, injected faults, and the whole loop end to end. No "
                        "service is mocked.",
                    ),
                    (
                        "Continuous integration",
                        "“.ci/run” is that command; “.github/workflows/ci.yml” runs its parts on each push and pull "
                        "request.",
                    ),
                    (
                        "Delivery",
                        "A tag builds wheel, container images and a list of all components (SBOM). “docker compose "
                        "up” and the Kubernetes manifests in “deploy/” run the same images.",
                    ),
                    (
                        "Delivery of models",
                        "is the loop itself: candidate, gate, signed bundle, registry, hot swap, probation, rollback. "
                        "A model whose signature or digest is wrong is not loaded.",
                    ),
                    (
                        "Monitoring",
                        "“/metrics” (Prometheus) has messages by topic, lag, accuracy by version, the champion, drift "
                        "alerts by signal, retrainings and their duration; “/health” says whether a process gets on. "
                        "Drift alerts are messages of their own, so anything that reads Kafka can act on them.",
                    ),
                    (
                        "Afterwards",
                        "“driftloop audit” proves that each event was answered once; “driftloop case” shows and "
                        "repeats each decision; the lineage of any prediction leads to offsets, alert and data "
                        "revision.",
                    ),
                ]
            ),
        ],
    )


def cloud(facts: RunFacts) -> Chapter:
    """What speaks for and against running it in a cloud, sized by this run."""
    blocks: list[Block] = [
        Paragraph(
            "Nothing in driftloop depends on a provider: any Kafka, any Redis and any MLflow will do, and the images "
            "run wherever containers run. Whether they should run in a cloud depends on the load and on the texts."
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
                    "somebody else patches brokers, replaces disks and keeps three replicas in three zones. Of your "
                    "own, that is a part of somebody's job; below some thousand events per second it is the larger "
                    "part of the cost.",
                ),
                (
                    "For: autoscaling",
                    "scorers share partitions, and their lag says how many are needed (the manifests scale by it). "
                    "Load that comes and goes, and a search that needs many cores for a minute, are what rented cores "
                    "are good for.",
                ),
                (
                    "For: accelerators by the minute",
                    "fine-tuning on a GPU takes minutes a day; owning one for that does not pay.",
                ),
                (
                    "Against: steady load",
                    "cores that are busy all day cost a multiple of the same cores bought, even with a discount for a "
                    "year.",
                ),
                (
                    "Against: traffic and retention",
                    "each event is copied to replicas and to several readers. Between zones that is paid for, as are "
                    "the gigabytes kept; at a thousand events per second both exceed the scoring.",
                ),
                (
                    "Against: the texts",
                    "predictions and outcomes carry the text. In a cloud they leave the house: a contract on "
                    "processing, a region, encryption with keys of your own, and a short retention become necessary.",
                ),
                (
                    "Against: being tied",
                    "managed model servers and registries of a provider would be quick to adopt and slow to leave. "
                    "Here only open interfaces are used, so the decision can be taken back.",
                ),
            ]
        ),
        Paragraph(
            "Up to some hundred events per second one machine of one's own is enough, and simplest. From there to "
            "some thousand, containers with a managed Kafka cost least of anybody's time. Above that, or with texts "
            "that must not leave, own brokers and own cores win. docs/scaling.md has the arithmetic for 1,000 to "
            "100,000 events per second."
        ),
    ]
    return Chapter("For and against a cloud", blocks)


def _sized(facts: RunFacts) -> Table | None:
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
        *(Column(f"cores at {formatting.count(rate)}/s", "number") for rate in rates),
    ]  # fmt: skip
    return Table(
        f"Cores by this run's CPU time (computed: rate × CPU seconds for each event ÷ {FREE:g}, a share of a core kept "
        "free; start included, so a short run overstates)",
        columns,
        rows,
    )


def _cores(busy: float) -> str:
    return formatting.figure(busy / FREE) if busy / FREE < 10 else formatting.count(busy / FREE)
