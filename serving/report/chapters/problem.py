"""Chapter “Problem and data”: the task, the data of the stream, and the known changes of the stream."""

from __future__ import annotations

from serving.report import charts, display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Pairs, Paragraph, Table
from serving.report.run_data import RunFacts, Source
from serving.simulation.drift_scoring import MAX_DELAY

SEGMENTS, LABELS = 12, 7
"""Largest numbers of segments and labels in tables and figures."""
PARTS, LISTED = 20, 12
"""Largest numbers of parts in a table, and of items in a list."""


def problem(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    data, source = facts.data, facts.data.source
    total = sum(sum(one.labels.values()) for one in data.labels)
    blocks: list[Block] = [
        Paragraph(
            "The task: give each text one of a few labels when it arrives, for as long as the stream runs. Three facts "
            "make this difficult in practice. First, the stream changes without notice. Second, the true labels arrive "
            "late, and without them the accuracy is not known. Third, a new model can be worse than the old one, for "
            "all events or for one group of events. Retraining at fixed intervals is too late after a change, and "
            "wasted if nothing has changed. Manual retraining needs an operator who watches the stream all the time."
        ),
        Heading("Data"),
        Pairs("Stream and data", _data_rows(facts)),
    ]
    if source.about:
        blocks.append(Paragraph(f"Description in the scenario: {formatting.safe_text(source.about, 300)}"))
    blocks += [Heading("Labels"), *_labels(facts, total)] if total else [Paragraph("No label has arrived.")]
    blocks += [Heading("Changes of the stream"), *_changes(facts)]
    return Chapter("Problem and data", blocks)


def _data_rows(facts: RunFacts) -> list[tuple[str, str]]:
    data, source, texts = facts.data, facts.data.source, facts.data.texts
    kinds = {
        "packaged": "packaged with the project or with another package",
        "file": "a file of the user",
        "hub": "a dataset of the Hugging Face Hub",
        "synthetic": "synthetic texts from word distributions",
    }
    labels = sorted({label for one in data.labels for label in one.labels})
    named = formatting.join_words([formatting.safe_text(one, 40) for one in labels[:LABELS]])
    more = f" and {len(labels) - LABELS} more" if len(labels) > LABELS else ""
    segments = len([one for one in data.labels if one.segment])
    return [
        ("Data", f"{formatting.safe_text(source.origin, 60)}: {kinds.get(source.kind, 'kind not known')}"),
        ("Revision", formatting.safe_text(source.revision, 64)),
        (
            "Size",
            f"{formatting.count(facts.summary.events)} of {formatting.count(source.planned)} planned events on the "
            f"topic; {formatting.plural(texts.count, 'text')} scored, {formatting.count(texts.distinct)} of them "
            f"different; median length {texts.median_characters:.0f} characters, longest "
            f"{formatting.count(texts.longest)}",
        ),
        ("Labels", f"{len(labels)}: {named}{more}" if labels else formatting.NONE),
        ("Segments", formatting.count(segments) if data.labels else formatting.NONE),
        ("Replay rate", _rate(source)),
        ("Label delay", f"{formatting.plural(source.label_delay, 'event')} between an event and its label"),
        (
            "First model",
            f"trained on {formatting.plural(source.warm_up, 'event')} whose labels arrive immediately; these events "
            "are not counted in any accuracy",
        ),
        ("Personal data masked", display_names.masked_kinds(source.masked) or "none"),
        ("Seed", str(source.seed)),
    ]


def _rate(source: Source) -> str:
    if source.rate == "max":
        return "as fast as the broker accepts events"
    return f"{formatting.safe_text(source.rate, 20)} events per second"


def _labels(facts: RunFacts, total: int) -> list[Block]:
    data = facts.data
    counts: dict[str, int] = {}
    for one in data.labels:
        for label, number in one.labels.items():
            counts[label] = counts.get(label, 0) + number
    top = sorted(counts, key=lambda label: -counts[label])[:LABELS]
    mixes = sorted(data.labels, key=lambda one: -sum(one.labels.values()))[:SEGMENTS]
    mixes = [one for one in data.labels if one in mixes]
    rows = [
        [display_names.segment(one.segment), formatting.count(sum(one.labels.values())), *_shares(one.labels, top)]
        for one in mixes
    ]
    if len(data.labels) > 1:
        rows.append(["all", formatting.count(total), *_shares(counts, top)])
    columns = [Column("segment", weight=2), Column("labels", "number")]
    columns += [Column(formatting.safe_text(label, 20), "number") for label in top]
    most = max(counts, key=lambda label: counts[label])
    blocks: list[Block] = [
        Paragraph(
            f"{formatting.plural(total, 'label')} arrived for a prediction. The most frequent label is "
            f"{formatting.safe_text(most, 40)}, with {formatting.percent(counts[most], total)}. A model that always "
            "predicts this label would be correct this often. Every accuracy must be compared with such a baseline."
        ),
        Table("Labels by segment, warm-up included", columns, rows),
    ]
    if len(data.labels) > 1:
        blocks.append(
            Figure(
                "Mix of labels in each segment.",
                "Bars with the share of each label in each segment; the table above has the figures.",
                charts.mix(mixes, top),
            )
        )
    left = len(data.labels) - len(mixes)
    if left or len(counts) > len(top):
        blocks.append(
            Paragraph(
                f"Not shown in table and figure: {formatting.plural(left, 'smaller segment')}, "
                f"{formatting.plural(len(counts) - len(top), 'rarer label')}."
            )
        )
    return blocks


def _shares(labels: dict[str, int], top: list[str]) -> list[str]:
    whole = sum(labels.values())
    return [formatting.percent(labels.get(label, 0), whole) for label in top]


def _changes(facts: RunFacts) -> list[Block]:
    source, summary = facts.data.source, facts.summary
    if not summary.drifts_known:
        return [
            Paragraph(
                "The scenario does not list the true changes of the stream, as with most real data. Therefore no alert "
                "can be called correct or false, and no delay can be given. The effect of an alert is judged only by "
                "the accuracy before and after it."
            )
        ]
    blocks = [_true_drifts(facts)]
    if len(source.parts) > 1:
        rows = [
            [formatting.safe_text(one.name, 40), formatting.count(one.start), formatting.count(one.end)]
            for one in source.parts[:PARTS]
        ]
        columns = [Column("part", weight=2), Column("from event", "number"), Column("to event", "number")]
        blocks.append(Table("Parts of the stream in the scenario", columns, rows))
    injected = [one for one in source.injected if one.kind != "order"]
    if injected:
        items = [
            (
                f"Event {formatting.count(one.onset)}",
                (display_names.INJECTED.get(one.kind) or formatting.safe_text(one.kind, 30))
                + (f", over {formatting.plural(one.width, 'event')}" if one.width else "")
                + (f", until event {formatting.count(one.end)}" if one.end else "")
                + _affected(one.classes, one.segments)
                + ".",
            )
            for one in injected[:LISTED]
        ]
        blocks += [Paragraph("Changes that the scenario injects:"), Bullets(items)]
    if source.annotators:
        items = [
            (
                formatting.safe_text(one.name, 40),
                f"gives {one.share:.0%} of the labels; {one.flipped:.0%} of them are wrong, {one.missing:.0%} are "
                "missing.",
            )
            for one in source.annotators[:LISTED]
        ]
        blocks += [Paragraph("Simulated annotators of the scenario:"), Bullets(items)]
    return blocks


def _true_drifts(facts: RunFacts) -> Block:
    drifts = facts.summary.drifts
    if not drifts:
        return Paragraph(
            "The stream is known not to change. It is the control experiment: every alert would be a false alarm."
        )
    at = formatting.join_words([formatting.count(drift.true_position) for drift in drifts])
    return Paragraph(
        f"The scenario contains {formatting.plural(len(drifts), 'known drift')}, at event {at}. A drift counts as "
        f"detected if an alert is raised within {formatting.count(MAX_DELAY)} labelled events after it and before the "
        "next drift."
    )


def _affected(classes: list[str], segments: list[str]) -> str:
    parts = []
    if classes:
        parts.append(f"labels {formatting.join_words([formatting.safe_text(one, 30) for one in classes[:6]])}")
    if segments:
        parts.append(f"segments {formatting.join_words([formatting.safe_text(one, 30) for one in segments[:6]])}")
    return f" ({'; '.join(parts)})" if parts else ""
