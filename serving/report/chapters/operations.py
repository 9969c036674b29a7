"""Chapters “Testing, delivery and monitoring” and “Cloud deployment” of the project."""

from __future__ import annotations

from serving.report import formatting
from serving.report.chapters.cost import LOOP
from serving.report.document import Block, Bullets, Chapter, Column, Paragraph, Table
from serving.report.run_data import RunFacts

PLANNED_LOAD = 0.7
"""Planned load of a core. The rest is reserved for bursts and retrainings."""
RATES = (100, 1000, 10_000)
"""Events per second for which the number of cores is computed."""


def operations() -> Chapter:
    """Return the chapter on tests, continuous integration, delivery and monitoring."""
    return Chapter(
        "Testing, delivery and monitoring",
        [
            Paragraph(
                "This chapter describes the project, not the run. The same commands work on a laptop and in the hosted "
                "pipeline."
            ),
            Bullets(
                [
                    (
                        "Tests",
                        "the Makefile runs lint, strict type checks, architecture rules and tests in several tiers. "
                        "Unit and contract tests apply the same checks to every detector, candidate, policy and "
                        "classifier. Integration tests use a real Kafka, Redis and MLflow. Other tiers inject faults "
                        "and run the whole loop end to end. No service is mocked.",
                    ),
                    (
                        "Continuous integration",
                        "“.ci/run” runs the tests with one command. “.github/workflows/ci.yml” runs them on each push "
                        "and pull request.",
                    ),
                    (
                        "Delivery of software",
                        "a tag builds the wheel, the container images and a list of all components (SBOM). “docker "
                        "compose up” and the Kubernetes manifests in “deploy/” use the same images.",
                    ),
                    (
                        "Delivery of models",
                        "the loop delivers models: candidate, gate, signed bundle, registry, replacement without a "
                        "restart, probation, rollback. A model with a wrong signature or digest is not loaded.",
                    ),
                    (
                        "Monitoring",
                        "“/metrics” (Prometheus) has messages by topic, lag, accuracy by version, the champion, drift "
                        "alerts by signal, and retrainings with their duration. “/health” reports if a process is "
                        "healthy. Drift alerts are messages on Kafka, so any consumer can react to them.",
                    ),
                    (
                        "Audit",
                        "“driftloop audit” verifies that each event was predicted once. “driftloop case” shows and "
                        "repeats each decision. The lineage of a prediction leads to offsets, alert and data revision.",
                    ),
                ]
            ),
        ],
    )


def cloud(facts: RunFacts) -> Chapter:
    """Return the chapter on the advantages and disadvantages of a cloud, with cores computed from this run."""
    blocks: list[Block] = [
        Paragraph(
            "driftloop does not depend on a provider. It works with any Kafka, any Redis and any MLflow, and its "
            "images run on any container platform. The load and the texts decide if a cloud is the right place."
        )
    ]
    blocks += [
        *_cores_by_rate(facts),
        Bullets(
            [
                (
                    "Advantage: managed Kafka",
                    "the provider updates brokers, replaces disks and keeps three replicas in three zones. Your own "
                    "cluster needs part of an administrator's working time. Below some thousand events per second, "
                    "this is the larger part of the cost.",
                ),
                (
                    "Advantage: autoscaling",
                    "scorers share the partitions, and their lag shows how many are needed (the manifests scale by "
                    "it). Rented cores suit a load that varies, and a search that needs many cores for a minute.",
                ),
                (
                    "Advantage: accelerators by the minute",
                    "fine-tuning needs a GPU for minutes a day. Buying one for that does not pay.",
                ),
                (
                    "Disadvantage: steady load",
                    "cores that are busy all day cost several times as much as bought ones, even with a discount for a "
                    "year.",
                ),
                (
                    "Disadvantage: traffic and retention",
                    "each event is copied to replicas and to several readers. Traffic between zones costs money, and "
                    "so does storage. At a thousand events per second, both cost more than the scoring.",
                ),
                (
                    "Disadvantage: privacy",
                    "predictions and outcomes contain the text. In a cloud, the texts leave your organisation. This "
                    "requires a data processing agreement, a choice of region, encryption with your own keys, and a "
                    "short retention.",
                ),
                (
                    "Disadvantage: lock-in",
                    "a provider's model server or registry is quick to adopt and slow to leave. driftloop uses only "
                    "open interfaces, so the decision can be reversed.",
                ),
            ]
        ),
        Paragraph(
            "Recommendation: up to some hundred events per second, your own single machine is sufficient and simplest. "
            "Up to some thousand, containers with a managed Kafka need the least working time. Above that, or with "
            "texts that must not leave the organisation, your own brokers and cores are better. docs/scaling.md has "
            "the computation for 1,000 to 100,000 events per second."
        ),
    ]
    return Chapter("Cloud deployment: advantages and disadvantages", blocks)


def _cores_by_rate(facts: RunFacts) -> list[Block]:
    """Return the cores for higher rates, computed from the CPU time of scorer and monitor; empty without it."""
    predicted = facts.summary.predictions - facts.summary.duplicates
    used = facts.summary.cpu_seconds
    if not predicted or not used.get("score"):
        return []
    rows = [
        [
            name,
            f"{1000 * used.get(name, 0.0) / predicted:.2f}",
            *(_cores(used.get(name, 0.0) / predicted * rate) for rate in RATES),
        ]
        for name in LOOP
    ]
    columns = [
        Column("process", weight=2), Column("CPU ms for each event in this run", "number"),
        *(Column(f"cores at {formatting.count(rate)}/s", "number") for rate in RATES),
    ]  # fmt: skip
    return [
        Table("Cores for higher rates, computed from the CPU time of this run", columns, rows),
        Paragraph(
            f"Cores = rate × CPU seconds for each event ÷ planned load of a core ({PLANNED_LOAD:g}). The CPU time "
            "includes the start, so the numbers of a short run are too high."
        ),
    ]


def _cores(busy: float) -> str:
    return (
        formatting.significant(busy / PLANNED_LOAD)
        if busy / PLANNED_LOAD < 10
        else formatting.count(busy / PLANNED_LOAD)
    )
