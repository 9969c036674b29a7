"""The pipeline as it ran, with the settings that matter."""

from __future__ import annotations

from serving.report import formatting, pipeline_diagram
from serving.report.document import Block, Bullets, Chapter, Figure, Pairs, Paragraph
from serving.report.run_data import RunFacts


def pipeline(facts: RunFacts) -> Chapter:
    """What ran, with the settings that matter."""
    summary, chosen = facts.summary, facts.evidence.chosen
    model = formatting.shown(chosen.classifier or chosen.encoder, 60)
    first = (
        f"the first model was the ready-made classifier {model}"
        if chosen.classifier
        else f"the first {formatting.plural(facts.evidence.source.warm_up, 'labelled event')} made the first model"
    )
    where = (
        "Kafka, Valkey (a Redis) and MLflow ran as real servers on the same machine, started for this run."
        if chosen.stack == "embedded"
        else "Kafka, Redis and MLflow were those of the user, reached over the network."
    )
    secured = " Every connection was encrypted, and each process had an identity with its own rights." * chosen.secured
    manual = " A person had to approve each promotion." if chosen.approval == "manual" else ""
    blocks: list[Block] = [
        Figure(
            "The pipeline with the number of messages that each topic carried in this run.",
            f"Replay sends {formatting.count(summary.events)} events to the scorer, whose "
            f"{formatting.count(summary.predictions)} predictions go to the monitor, where labels join them. The monitor "
            f"raised {formatting.plural(len(summary.alerts), 'alert')}; the retrainer promoted "
            f"{formatting.count(summary.promotions)} models through MLflow, which the scorer swaps in.",
            pipeline_diagram.pipeline(facts),
        ),
        Bullets(
            [
                ("Replay", "sends the data as events, each label later on a topic of its own."),
                (
                    "Score",
                    "is a Faust application. It turns each text into numbers with a sentence encoder from Hugging "
                    f"Face, run by ONNX Runtime, and lets the champion's head choose the label; {first}. A batch is "
                    "acknowledged only when its predictions are safe on Kafka, so a crash repeats and never loses.",
                ),
                (
                    "Monitor",
                    "is a second Faust application. It joins predictions with their late labels, and watches "
                    f"{formatting.listed([_detector(one) for one in chosen.detectors]) or 'nothing'} for drift.",
                ),
                (
                    "Retrain",
                    f"decides by the policy “{formatting.shown(chosen.policy, 40)}”, fits the candidates "
                    f"{formatting.listed([formatting.shown(one, 40) for one in chosen.candidates])}, and compares each with the "
                    f"champion on the newest {chosen.holdout:.0%} of the events since the change, which the candidate "
                    f"has not seen, at a confidence of {chosen.confidence:.0%}. Winners go to MLflow with their "
                    f"lineage, and from there into the scorer between two batches.{manual}",
                ),
            ]
        ),
        Paragraph(where + secured),
        Pairs(
            "Settings that matter here",
            [
                (
                    "Encoder",
                    f"{model}, at most {formatting.plural(chosen.max_tokens, 'token')} of a text, {_int8(facts)}",
                ),
                (
                    "Batches",
                    f"up to {formatting.plural(chosen.batch, 'event')}; {formatting.plural(chosen.partitions, 'partition')}",
                ),
                ("Training window", f"the newest {formatting.plural(chosen.window, 'labelled event')} at most"),
                (
                    "Time limits",
                    f"AutoML {formatting.seconds(chosen.tpot_seconds)}, fine-tuning "
                    f"{formatting.seconds(chosen.finetune_seconds)}",
                ),
                (
                    "After a promotion",
                    f"the predecessor answers in shadow for {formatting.plural(chosen.probation, 'labelled event')} and "
                    "comes back where it is better",
                ),
            ],
        ),
    ]
    return Chapter("The pipeline as it ran", blocks)


def _detector(name: str) -> str:
    return "six signals, fused into one decision," if name == "fused" else formatting.shown(name, 60)


def _int8(facts: RunFacts) -> str:
    return "quantised to int8" if facts.evidence.chosen.quantised else "in fp32"
