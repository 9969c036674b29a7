"""The problem, the data, and which changes of the stream are known."""

from __future__ import annotations

from serving.report import charts, display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Pairs, Paragraph, Table
from serving.report.run_data import RunFacts, Source
from serving.simulation.drift_scoring import MAX_DELAY

FEW_SEGMENTS, FEW_LABELS = 12, 7
"""Rows of a table or picture by segment, and labels told apart in a picture; the rest is summed up."""


def problem(facts: RunFacts) -> Chapter:
    """Why, with which data, and which changes of the stream are known."""
    evidence, source = facts.evidence, facts.evidence.source
    total = sum(sum(one.labels.values()) for one in evidence.labels)
    blocks: list[Block] = [
        Paragraph(
            "The task is to give each text one of a few labels at the moment it arrives, for as long as the stream "
            "goes on. Three things make that hard in practice. The stream changes without notice. The true labels, "
            "without which nobody can say whether the model is still right, come late. And a new model can be worse "
            "than the old one, for everybody or for a few. Retraining on a calendar is either too late or mostly for "
            "nothing; retraining by hand needs somebody who watches."
        ),
        Heading("The data"),
        Pairs("The stream and where it comes from", _data_rows(facts)),
    ]
    if source.about:
        blocks.append(Paragraph(f"The scenario says of itself: {formatting.shown(source.about, 300)}"))
    blocks += [Heading("The labels"), *_labels(facts, total)] if total else [Paragraph("No label has arrived.")]
    blocks += [Heading("What changes in the stream"), *_changes(facts)]
    return Chapter("The problem and the data", blocks)


def _data_rows(facts: RunFacts) -> list[tuple[str, str]]:
    evidence, source, texts = facts.evidence, facts.evidence.source, facts.evidence.texts
    kinds = {
        "packaged": "packaged with the project or another package",
        "file": "a file of the user",
        "hub": "a dataset of the Hugging Face Hub",
        "synthetic": "texts made up from word distributions",
    }
    labels = sorted({label for one in evidence.labels for label in one.labels})
    named = formatting.listed([formatting.shown(one, 40) for one in labels[:FEW_LABELS]])
    more = f" and {len(labels) - FEW_LABELS} more" if len(labels) > FEW_LABELS else ""
    return [
        ("Data", f"{formatting.shown(source.origin, 60)}: {kinds.get(source.kind, 'of a kind that is not known')}"),
        ("Revision", formatting.shown(source.revision, 64)),
        (
            "Size",
            f"{formatting.count(facts.summary.events)} of {formatting.count(source.planned)} planned events on the topic; "
            f"{formatting.plural(texts.count, 'text')} scored, {formatting.count(texts.distinct)} of them different, "
            f"{texts.median_characters:.0f} characters long in the middle, {formatting.count(texts.longest)} at most",
        ),
        ("Labels", f"{len(labels)}: {named}{more}" if labels else formatting.NONE),
        (
            "Segments",
            formatting.count(len([one for one in evidence.labels if one.segment]))
            if evidence.labels
            else formatting.NONE,
        ),
        ("Speed of the replay", _rate(source)),
        ("A label comes", f"{formatting.plural(source.label_delay, 'event')} after its event"),
        (
            "First model",
            f"trained on {formatting.plural(source.warm_up, 'event')} whose labels come at once; they count nowhere",
        ),
        (
            "Personal data masked",
            display_names.masked(source.masked) or "nothing was masked",
        ),
        ("Seed", str(source.seed)),
    ]


def _rate(source: Source) -> str:
    return (
        "as fast as the broker takes it"
        if source.rate == "max"
        else f"{formatting.shown(source.rate, 20)} events per second"
    )


def _labels(facts: RunFacts, total: int) -> list[Block]:
    evidence = facts.evidence
    counts: dict[str, int] = {}
    for one in evidence.labels:
        for label, number in one.labels.items():
            counts[label] = counts.get(label, 0) + number
    top = sorted(counts, key=lambda label: -counts[label])[:FEW_LABELS]
    mixes = sorted(evidence.labels, key=lambda one: -sum(one.labels.values()))[:FEW_SEGMENTS]
    mixes = [one for one in evidence.labels if one in mixes]
    rows = [
        [display_names.segment(one.segment), formatting.count(sum(one.labels.values())), *_shares(one.labels, top)]
        for one in mixes
    ]
    if len(evidence.labels) > 1:
        rows.append(["all", formatting.count(total), *_shares(counts, top)])
    columns = [Column("segment", weight=2), Column("labels", "number")]
    columns += [Column(formatting.shown(label, 20), "number") for label in top]
    often = max(counts, key=lambda label: counts[label])
    blocks: list[Block] = [
        Paragraph(
            f"{formatting.plural(total, 'label')} met a prediction. The commonest is {formatting.shown(often, 40)}, with "
            f"{formatting.percent(counts[often], total)} of them: that is what a model would reach that has learnt nothing "
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
                f"Left out of table and picture: {formatting.plural(left, 'smaller segment')}, "
                f"{formatting.plural(len(counts) - len(top), 'rarer label')}."
            )
        )
    return blocks


def _shares(labels: dict[str, int], top: list[str]) -> list[str]:
    whole = sum(labels.values())
    return [formatting.percent(labels.get(label, 0), whole) for label in top]


def _changes(facts: RunFacts) -> list[Block]:
    source, summary = facts.evidence.source, facts.summary
    if not summary.drifts_known:
        return [
            Paragraph(
                "The scenario does not say where the stream changes, as with any data from real life. So no alert can "
                "be called right or false here, and no delay can be given; what follows an alert is judged by the "
                "accuracy before and after it alone."
            )
        ]
    blocks: list[Block] = []
    if summary.drifts:
        at = formatting.listed([formatting.count(drift.true_position) for drift in summary.drifts])
        blocks.append(
            Paragraph(
                "The scenario was built so that the true drifts are known: "
                f"{formatting.plural(len(summary.drifts), 'change')}, at event {at}. A drift counts as detected when an "
                f"alert comes within {formatting.count(MAX_DELAY)} labelled events after it and before the next one."
            )
        )
    else:
        blocks.append(
            Paragraph("The stream is known not to change. This is the control: every alert would be a false alarm.")
        )
    if len(source.parts) > 1:
        rows = [
            [formatting.shown(one.name, 40), formatting.count(one.start), formatting.count(one.end)]
            for one in source.parts[:20]
        ]
        columns = [Column("part", weight=2), Column("from event", "number"), Column("to", "number")]
        blocks.append(Table("The parts of the stream, as the scenario plans them", columns, rows))
    told = [one for one in source.injected if one.kind != "order"]
    if told:
        blocks.append(
            Bullets(
                [
                    (
                        f"Event {formatting.count(one.onset)}",
                        (display_names.INJECTED.get(one.kind) or formatting.shown(one.kind, 30))
                        + (f", over {formatting.plural(one.width, 'event')}" if one.width else "")
                        + (f", until event {formatting.count(one.end)}" if one.end else "")
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
                        formatting.shown(one.name, 40),
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
        parts.append(f"labels {formatting.listed([formatting.shown(one, 30) for one in classes[:6]])}")
    if segments:
        parts.append(f"segments {formatting.listed([formatting.shown(one, 30) for one in segments[:6]])}")
    return f" ({'; '.join(parts)})" if parts else ""
