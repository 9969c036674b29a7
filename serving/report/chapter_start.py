"""The report's beginning: what came of the run, the problem and its data, and the pipeline as it ran."""

from __future__ import annotations

from serving.judgement import MAX_DELAY
from serving.report import charts, diagram, words
from serving.report.costs import Rates
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Note, Pairs, Paragraph, Table
from serving.report.facts import Facts, Source

FEW_SEGMENTS, FEW_LABELS = 12, 7
"""Rows of a table or picture by segment, and labels told apart in a picture; the rest is summed up."""
INJECTED = {
    "order": "texts from another source",
    "prior": "another mix of labels",
    "topic": "a topic that was held back",
    "label-swap": "labels that change their meaning",
    "vocabulary": "words replaced by others",
    "noise": "noise in the texts",
}


def in_short(facts: Facts, rates: Rates) -> Chapter:
    """What driftloop is, and what happened, on one page."""
    summary, evidence = facts.summary, facts.evidence
    accuracy = summary.accuracy
    right = sum(one.right for one in evidence.bins)
    labelled = sum(one.labelled for one in evidence.bins)
    blocks: list[Block] = [
        Paragraph(
            "A model that classifies texts is trained once, and the world goes on: people talk about other things, in "
            "other words, and the model quietly becomes wrong. driftloop runs such a model on a live stream of events, "
            "notices when the stream changes, trains candidates for a successor, lets one take over only where it is "
            "shown to be better on events that it has not seen, and does so while events keep flowing. This report says "
            "what one run of it did. Every figure about the run was computed from the messages of that run."
        ),
        Paragraph(_what_happened(facts)),
    ]
    if not summary.complete:
        blocks.append(
            Note(
                "This run is incomplete",
                f"When it ended, {words.shown(summary.missing, 200)}. The figures cover what was there; those for the "
                "end of the stream may be missing.",
            )
        )
    detected = sum(drift.detected_position is not None for drift in summary.drifts)
    if not summary.drifts_known:
        drifts = f"{words.plural(len(summary.alerts), 'alert')}; where the stream truly changes is not known"
    elif summary.drifts:
        drifts = (
            f"{detected} of {len(summary.drifts)} within {words.count(MAX_DELAY)} labelled events; "
            f"{words.plural(summary.false_alarms, 'false alarm')}, {words.plural(summary.repeat_alerts, 'repeat')}"
        )
    else:
        drifts = f"none to detect; {words.plural(summary.false_alarms, 'false alarm')}"
    cpu = sum(summary.cpu_seconds.values())
    rows = [
        (
            "Events",
            f"{words.count(summary.predictions - summary.duplicates)} of {words.count(summary.events)} predicted; "
            f"{words.plural(summary.duplicates, 'duplicate')}, {words.plural(summary.dead_letters, 'dead letter')}",
        ),
        (
            "Accuracy of the loop",
            f"{words.share(accuracy.prequential)} over {words.plural(accuracy.counted, 'labelled event')} "
            f"(95% interval {words.interval(right, labelled)})"
            if accuracy.counted
            else "no labelled event counts yet",
        ),
        (
            "Always the commonest label",
            f"{words.share(words.ratio(evidence.majority_right, accuracy.counted))}, always saying "
            f"{words.shown(evidence.majority, 40)}"
            if accuracy.counted
            else words.NONE,
        ),
        ("Drifts detected", drifts),
        (
            "Models",
            f"{words.plural(len(summary.retrainings), 'retraining')} and "
            f"{words.plural(len(summary.refreshes), 'refresh', 'refreshes')}; "
            f"{words.count(summary.promotions)} promoted, {words.count(summary.rollbacks)} rolled back",
        ),
        (
            "Time in the scorer",
            f"half of the events within {words.milliseconds(summary.latency.p50)}, 99% within "
            f"{words.milliseconds(summary.latency.p99)}"
            if summary.predictions
            else words.NONE,
        ),
        ("Speed", f"{summary.events_per_second:.1f} events per second, {words.seconds(summary.seconds)} in all"),
        (
            "CPU time, measured; energy, estimated",
            f"{words.count(cpu)} CPU seconds; about {words.figure(rates.watt_hours(cpu))} Wh"
            if cpu
            else "not measured",
        ),
    ]
    blocks += [
        Pairs("The run in figures", rows),
        Paragraph(
            "Accuracy here is prequential: each event is first predicted and only later, when its label has come, used "
            "to judge that prediction and to learn. No prediction is judged by a model that had seen its answer. The "
            "glossary at the end explains the terms."
        ),
    ]
    return Chapter("In short", blocks)


def problem(facts: Facts) -> Chapter:
    """Why, with which data, and which changes of the stream are known."""
    evidence, source = facts.evidence, facts.evidence.source
    total = sum(sum(one.labels.values()) for one in evidence.labels)
    blocks: list[Block] = [
        Paragraph(
            "The task is to give each text one of a few labels at the moment it arrives, for as long as the stream goes "
            "on. Three things make that hard in practice. The stream changes without notice. The true labels, without "
            "which nobody can say whether the model is still right, come late. And a new model can be worse than the "
            "old one, for everybody or for a few. Retraining on a calendar is either too late or mostly for nothing; "
            "retraining by hand needs somebody who watches."
        ),
        Heading("The data"),
        Pairs("The stream and where it comes from", _data_rows(facts)),
    ]
    if source.about:
        blocks.append(Paragraph(f"The scenario says of itself: {words.shown(source.about, 300)}"))
    blocks += [Heading("The labels"), *_labels(facts, total)] if total else [Paragraph("No label has arrived.")]
    blocks += [Heading("What changes in the stream"), *_changes(facts)]
    return Chapter("The problem and the data", blocks)


def pipeline(facts: Facts) -> Chapter:
    """What ran, with the settings that matter."""
    summary, chosen = facts.summary, facts.evidence.chosen
    model = words.shown(chosen.classifier or chosen.encoder, 60)
    first = (
        f"the first model was the ready-made classifier {model}"
        if chosen.classifier
        else f"the first {words.plural(facts.evidence.source.warm_up, 'labelled event')} made the first model"
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
            f"Replay sends {words.count(summary.events)} events to the scorer, whose {words.count(summary.predictions)} "
            f"predictions go to the monitor, where labels join them. The monitor raised "
            f"{words.plural(len(summary.alerts), 'alert')}; the retrainer promoted {words.count(summary.promotions)} "
            "models through MLflow, which the scorer swaps in.",
            diagram.pipeline(facts),
        ),
        Bullets(
            [
                ("Replay", "sends the data as events, each label later on a topic of its own."),
                (
                    "Score",
                    "is a Faust application. It turns each text into numbers with a sentence encoder from Hugging Face, "
                    f"run by ONNX Runtime, and lets the champion's head choose the label; {first}. A batch is "
                    "acknowledged only when its predictions are safe on Kafka, so a crash repeats and never loses.",
                ),
                (
                    "Monitor",
                    "is a second Faust application. It joins predictions with their late labels, and watches "
                    f"{words.listed([_detector(one) for one in chosen.detectors]) or 'nothing'} for drift.",
                ),
                (
                    "Retrain",
                    f"decides by the policy “{words.shown(chosen.policy, 40)}”, fits the candidates "
                    f"{words.listed([words.shown(one, 40) for one in chosen.candidates])}, and compares each with the "
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
                ("Encoder", f"{model}, at most {words.plural(chosen.max_tokens, 'token')} of a text, {_int8(facts)}"),
                (
                    "Batches",
                    f"up to {words.plural(chosen.batch, 'event')}; {words.plural(chosen.partitions, 'partition')}",
                ),
                ("Training window", f"the newest {words.plural(chosen.window, 'labelled event')} at most"),
                (
                    "Time limits",
                    f"AutoML {words.seconds(chosen.tpot_seconds)}, fine-tuning {words.seconds(chosen.finetune_seconds)}",
                ),
                (
                    "After a promotion",
                    f"the predecessor answers in shadow for {words.plural(chosen.probation, 'labelled event')} and comes "
                    "back where it is better",
                ),
            ],
        ),
    ]
    return Chapter("The pipeline as it ran", blocks)


def _detector(name: str) -> str:
    return "six signals, fused into one decision," if name == "fused" else words.shown(name, 60)


def _int8(facts: Facts) -> str:
    return "quantised to int8" if facts.evidence.chosen.quantised else "in fp32"


def _what_happened(facts: Facts) -> str:
    """The story of the run in a few sentences."""
    summary = facts.summary
    name = words.shown(summary.scenario, 60)
    said = [
        f"In this run of the scenario {name}, {words.plural(summary.predictions - summary.duplicates, 'event')} "
        f"{'was' if summary.predictions - summary.duplicates == 1 else 'were'} predicted in {words.seconds(summary.seconds)}."
    ]
    if not summary.alerts:
        said.append(
            "No drift alert was raised"
            + (
                f", though the stream changes at {words.plural(len(summary.drifts), 'known position')}."
                if summary.drifts
                else ", and none was due: the stream is known not to change."
                if summary.drifts_known
                else "; whether the stream changes is not known."
            )
        )
    for case in facts.evidence.cases[:3]:
        said.append(
            f"At event {words.count(case.position)} an alert was raised: {words.shown(case.came_of_it.words, 400)}."
        )
    if len(facts.evidence.cases) > 3:
        said.append(f"{words.plural(len(facts.evidence.cases) - 3, 'further alert')} followed.")
    if summary.alerts and not summary.retrainings:
        said.append("No retraining followed.")
    return " ".join(said)


def _data_rows(facts: Facts) -> list[tuple[str, str]]:
    evidence, source, texts = facts.evidence, facts.evidence.source, facts.evidence.texts
    kinds = {
        "packaged": "packaged with the project or another package",
        "file": "a file of the user",
        "hub": "a dataset of the Hugging Face Hub",
        "synthetic": "texts made up from word distributions",
    }
    labels = sorted({label for one in evidence.labels for label in one.labels})
    named = words.listed([words.shown(one, 40) for one in labels[:FEW_LABELS]])
    more = f" and {len(labels) - FEW_LABELS} more" if len(labels) > FEW_LABELS else ""
    masked = {"handle": "account names", "email": "e-mail addresses", "phone": "phone numbers", "link": "links"}
    return [
        ("Data", f"{words.shown(source.origin, 60)}: {kinds.get(source.kind, 'of a kind that is not known')}"),
        ("Revision", words.shown(source.revision, 64)),
        (
            "Size",
            f"{words.count(facts.summary.events)} of {words.count(source.planned)} planned events on the topic; "
            f"{words.plural(texts.count, 'text')} scored, {words.count(texts.distinct)} of them different, "
            f"{texts.median_characters:.0f} characters long in the middle, {words.count(texts.longest)} at most",
        ),
        ("Labels", f"{len(labels)}: {named}{more}" if labels else words.NONE),
        (
            "Segments",
            words.count(len([one for one in evidence.labels if one.segment])) if evidence.labels else words.NONE,
        ),
        ("Speed of the replay", _rate(source)),
        ("A label comes", f"{words.plural(source.label_delay, 'event')} after its event"),
        (
            "First model",
            f"trained on {words.plural(source.warm_up, 'event')} whose labels come at once; they count nowhere",
        ),
        (
            "Personal data masked",
            words.listed([masked.get(one, one) for one in source.masked]) if source.masked else "nothing was masked",
        ),
        ("Seed", str(source.seed)),
    ]


def _rate(source: Source) -> str:
    return (
        "as fast as the broker takes it"
        if source.rate == "max"
        else f"{words.shown(source.rate, 20)} events per second"
    )


def _labels(facts: Facts, total: int) -> list[Block]:
    evidence = facts.evidence
    counts: dict[str, int] = {}
    for one in evidence.labels:
        for label, number in one.labels.items():
            counts[label] = counts.get(label, 0) + number
    top = sorted(counts, key=lambda label: -counts[label])[:FEW_LABELS]
    mixes = sorted(evidence.labels, key=lambda one: -sum(one.labels.values()))[:FEW_SEGMENTS]
    mixes = [one for one in evidence.labels if one in mixes]
    rows = [[_segment(one.segment), words.count(sum(one.labels.values())), *_shares(one.labels, top)] for one in mixes]
    if len(evidence.labels) > 1:
        rows.append(["all", words.count(total), *_shares(counts, top)])
    columns = [Column("segment", weight=2), Column("labels", "number")]
    columns += [Column(words.shown(label, 20), "number") for label in top]
    often = max(counts, key=lambda label: counts[label])
    blocks: list[Block] = [
        Paragraph(
            f"{words.plural(total, 'label')} met a prediction. The commonest is {words.shown(often, 40)}, with "
            f"{words.percent(counts[often], total)} of them: that is what a model would reach that has learnt nothing "
            "else, and what accuracy has to be held against."
        ),
        Table("Labels by segment, warm-up included", columns, rows),
    ]
    if len(evidence.labels) > 1:
        blocks.append(
            Figure(
                "The mix of labels in each segment.",
                "Bars that show the share of each label in each segment; the figures are in the table above.",
                charts.mix(mixes, top),
            )
        )
    left = len(evidence.labels) - len(mixes)
    if left or len(counts) > len(top):
        blocks.append(
            Paragraph(
                f"Left out of table and picture: {words.plural(left, 'smaller segment')}, "
                f"{words.plural(len(counts) - len(top), 'rarer label')}."
            )
        )
    return blocks


def _shares(labels: dict[str, int], top: list[str]) -> list[str]:
    whole = sum(labels.values())
    return [words.percent(labels.get(label, 0), whole) for label in top]


def _segment(name: str) -> str:
    return words.shown(name, 40) if name else "(without a segment)"


def _changes(facts: Facts) -> list[Block]:
    source, summary = facts.evidence.source, facts.summary
    if not summary.drifts_known:
        return [
            Paragraph(
                "The scenario does not say where the stream changes, as with any data from real life. So no alert can be "
                "called right or false here, and no delay can be given; what follows an alert is judged by the accuracy "
                "before and after it alone."
            )
        ]
    blocks: list[Block] = []
    if summary.drifts:
        at = words.listed([words.count(drift.true_position) for drift in summary.drifts])
        blocks.append(
            Paragraph(
                f"The scenario was built so that the true drifts are known: {words.plural(len(summary.drifts), 'change')}, "
                f"at event {at}. A drift counts as detected when an alert comes within {words.count(MAX_DELAY)} labelled "
                "events after it and before the next one."
            )
        )
    else:
        blocks.append(
            Paragraph("The stream is known not to change. This is the control: every alert would be a false alarm.")
        )
    if len(source.parts) > 1:
        rows = [[words.shown(one.name, 40), words.count(one.start), words.count(one.end)] for one in source.parts[:20]]
        columns = [Column("part", weight=2), Column("from event", "number"), Column("to", "number")]
        blocks.append(Table("The parts of the stream, as the scenario plans them", columns, rows))
    told = [one for one in source.injected if one.kind != "order"]
    if told:
        blocks.append(
            Bullets(
                [
                    (
                        f"Event {words.count(one.onset)}",
                        INJECTED.get(one.kind, words.shown(one.kind, 30))
                        + (f", over {words.plural(one.width, 'event')}" if one.width else "")
                        + (f", until event {words.count(one.end)}" if one.end else "")
                        + _touched(one.classes, one.segments)
                        + ".",
                    )
                    for one in told[:12]
                ]
            )
        )
    if source.annotators:
        blocks.append(
            Bullets(
                [
                    (
                        words.shown(one.name, 40),
                        f"gives {one.share:.0%} of the labels; {one.flipped:.0%} of them are wrong, {one.missing:.0%} "
                        "never come.",
                    )
                    for one in source.annotators[:12]
                ]
            )
        )
    return blocks


def _touched(classes: list[str], segments: list[str]) -> str:
    parts = []
    if classes:
        parts.append(f"labels {words.listed([words.shown(one, 30) for one in classes[:6]])}")
    if segments:
        parts.append(f"segments {words.listed([words.shown(one, 30) for one in segments[:6]])}")
    return f" ({'; '.join(parts)})" if parts else ""
