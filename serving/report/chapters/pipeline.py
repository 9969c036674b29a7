"""Chapter “Pipeline”: the processes of the run and their main settings."""

from __future__ import annotations

from serving.report import formatting, pipeline_diagram
from serving.report.document import Block, Bullets, Chapter, Figure, Pairs, Paragraph
from serving.report.run_data import RunFacts


def pipeline(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    summary = facts.summary
    blocks: list[Block] = [
        Figure(
            "Pipeline with the number of messages on each topic in this run.",
            f"Replay sends {formatting.count(summary.events)} events to the scorer. Its "
            f"{formatting.count(summary.predictions)} predictions go to the monitor, which joins them with their "
            f"labels. The monitor raised {formatting.plural(len(summary.alerts), 'alert')}. The retrainer promoted "
            f"{formatting.count(summary.promotions)} models through MLflow, and the scorer loaded them.",
            pipeline_diagram.pipeline(facts),
        ),
        Bullets(_processes(facts)),
        Paragraph(_services(facts)),
        Pairs("Main settings", _settings(facts)),
    ]
    return Chapter("Pipeline", blocks)


def _processes(facts: RunFacts) -> list[tuple[str, str]]:
    chosen = facts.data.chosen
    first = (
        f"The first model was the ready-made classifier {_encoder(facts)}"
        if chosen.classifier
        else "The first model was trained on the first "
        f"{formatting.plural(facts.data.source.warm_up, 'labelled event')}"
    )
    detectors = formatting.join_words([_detector(one) for one in chosen.detectors]) or "no detector"
    candidates = formatting.join_words([formatting.safe_text(one, 40) for one in chosen.candidates])
    approval = " An operator had to approve each promotion." if chosen.approval == "manual" else ""
    return [
        ("Replay", "sends the data as events. Each label follows later on its own topic."),
        (
            "Score",
            "is a Faust application. A sentence encoder from Hugging Face, run by ONNX Runtime, turns each text into "
            f"an embedding. The head of the champion chooses the label. {first}. A batch is acknowledged only after "
            "its predictions are stored on Kafka. Therefore a crash can repeat predictions but cannot lose them.",
        ),
        (
            "Monitor",
            "is a second Faust application. It joins predictions with their late labels and looks for drift. "
            f"Detectors: {detectors}.",
        ),
        (
            "Retrain",
            f"starts retrainings by the policy “{formatting.safe_text(chosen.policy, 40)}” and fits the candidates "
            f"{candidates}. Each candidate is compared with the champion on the newest {chosen.holdout:.0%} of the "
            "events since the change. The candidate was not trained on these events. The confidence of the comparison "
            f"is {chosen.confidence:.0%}. The winner is registered in MLflow with its lineage. The scorer loads it "
            f"between two batches.{approval}",
        ),
    ]


def _services(facts: RunFacts) -> str:
    chosen = facts.data.chosen
    services = (
        "Kafka, Valkey (a fork of Redis) and MLflow ran as real servers on the same machine, started for this run."
        if chosen.stack == "embedded"
        else "Kafka, Redis and MLflow were the user's own servers, used over the network."
    )
    if chosen.secured:
        services += " Every connection was encrypted, and each process had its own identity with its own rights."
    return services


def _settings(facts: RunFacts) -> list[tuple[str, str]]:
    chosen = facts.data.chosen
    return [
        (
            "Encoder",
            f"{_encoder(facts)}, at most {formatting.plural(chosen.max_tokens, 'token')} of a text, "
            f"{'quantised to int8' if chosen.quantised else 'in fp32'}",
        ),
        (
            "Batches",
            f"up to {formatting.plural(chosen.batch, 'event')}; {formatting.plural(chosen.partitions, 'partition')}",
        ),
        ("Training window", f"the newest {formatting.plural(chosen.window, 'labelled event')} at most"),
        (
            "Time limits",
            f"AutoML {formatting.seconds(chosen.tpot_seconds)}, fine-tuning "
            f"{formatting.seconds(chosen.finetune_seconds)}"
            + (f", or {formatting.percent(chosen.finetune_share, 1)} of the time that a concept has lasted")
            * bool(chosen.finetune_share),
        ),
        (
            "Probation",
            f"after a promotion the previous model runs in shadow for "
            f"{formatting.plural(chosen.probation, 'labelled event')}; it is restored if it is better",
        ),
    ]


def _encoder(facts: RunFacts) -> str:
    chosen = facts.data.chosen
    return formatting.safe_text(chosen.classifier or chosen.encoder, 60)


def _detector(name: str) -> str:
    return "fused (six signals combined into one decision)" if name == "fused" else formatting.safe_text(name, 60)
