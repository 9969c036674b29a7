"""Chapter “Accuracy over time”: along the stream, around each promotion, and by class."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cases.model import AccuracySpan, Case
from serving.report import charts, formatting
from serving.report.document import Block, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.run_data import Confusion, RunFacts, Slice

TITLE = "Accuracy over time"
CLASSES = 8
"""Largest number of classes in a table."""
CALIBRATED = 0.05
"""Largest gap between mean confidence and accuracy of a model that is called well calibrated."""


def accuracy(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    data = facts.data
    if not facts.summary.accuracy.counted:
        return Chapter(
            TITLE,
            [
                Paragraph(
                    "No labelled event counts. Either no label has arrived for a prediction, or all labels belong to "
                    "the warm-up, on which the first model was trained. Therefore the accuracy is not known."
                )
            ],
        )
    blocks: list[Block] = [Paragraph(_overall(facts))]
    if len(data.bins) > 1:
        blocks.append(_over_time(facts))
    promoted = [case for case in data.cases if case.swaps]
    if promoted:
        blocks += _around_promotions(promoted)
    blocks += [Heading("Accuracy by class"), *_classes(facts), *_calibration(facts)]
    return Chapter(TITLE, blocks)


def _over_time(facts: RunFacts) -> Figure:
    bins = facts.data.bins
    lowest = min(bins, key=lambda one: one.right / one.labelled)
    highest = max(bins, key=lambda one: one.right / one.labelled)
    return Figure(
        f"Prequential accuracy over {formatting.plural(bins[0].end - bins[0].start, 'event')} each, with its 95% "
        "interval (band). Alerts are marked at the top, changes of the champion at the bottom.",
        f"A line of {len(bins)} points between {formatting.share(lowest.right / lowest.labelled)} near event "
        f"{formatting.count(lowest.start)} and {formatting.share(highest.right / highest.labelled)} near event "
        f"{formatting.count(highest.start)}.",
        charts.accuracy(bins, facts),
    )


def _around_promotions(promoted: Sequence[Case]) -> list[Block]:
    rows = [
        [
            formatting.position(case.position), formatting.accuracy_of(case.came_of_it.before),
            formatting.accuracy_of(case.came_of_it.until), formatting.accuracy_of(case.came_of_it.since),
            _gain(case.came_of_it.until, case.came_of_it.since),
        ]
        for case in promoted
    ]  # fmt: skip
    columns = [
        Column("alert at event", "number"), Column("before the drift", "number"),
        Column("until the promotion", "number"), Column("after the promotion", "number"),
        Column("gain", "number"),
    ]  # fmt: skip
    return [
        Heading("Gain from each promotion"),
        Table(
            "Accuracy (and number of labelled events) around each drift that was followed by a promotion; “until the "
            "promotion” begins at the onset",
            columns,
            rows,
        ),
        Paragraph(
            "The gain compares two parts of the stream. It does not compare two models on the same events; the gate "
            "does that, see the chapter on model candidates. If the stream is harder to classify after the change, the "
            "accuracy does not return to its old value, even with the best model."
        ),
    ]


def _overall(facts: RunFacts) -> str:
    accuracy, data = facts.summary.accuracy, facts.data
    baseline = formatting.ratio(data.majority_right, accuracy.counted)
    sentences = [
        f"{formatting.share(accuracy.prequential)} of the predictions were correct, over "
        f"{formatting.plural(accuracy.counted, 'labelled event')} that count. The baseline always predicts "
        f"{formatting.safe_text(data.majority, 40)}, the most frequent label of the warm-up; its accuracy is "
        f"{formatting.share(baseline)}."
    ]
    if accuracy.prequential is not None and baseline is not None and accuracy.prequential <= baseline:
        sentences.append("Over the whole run, the loop was not better than this baseline.")
    if accuracy.prequential_after_2000 is not None:
        sentences.append(f"From event 2,000 on, the accuracy was {formatting.share(accuracy.prequential_after_2000)}.")
    sentences.append(
        f"{formatting.plural(accuracy.warm_up, 'event')} of the warm-up {'is' if accuracy.warm_up == 1 else 'are'} not "
        "counted."
    )
    return " ".join(sentences)


def _classes(facts: RunFacts) -> list[Block]:
    data = facts.data
    predicted: dict[str, int] = {}
    for one in data.confused:
        predicted[one.predicted] = predicted.get(one.predicted, 0) + one.count
    shown = sorted(data.classes, key=lambda one: -one.labelled)[:CLASSES]
    rows = [
        [
            formatting.safe_text(one.name, 40), formatting.count(one.labelled),
            formatting.count(predicted.get(one.name, 0)), formatting.share(formatting.ratio(one.right, one.labelled)),
            formatting.share(formatting.ratio(one.right, predicted.get(one.name, 0))),
            formatting.share(_f1(one, predicted)),
        ]
        for one in shown
    ]  # fmt: skip
    columns = [
        Column("label", weight=2), Column("with this label", "number"),
        Column("predicted", "number"), Column("recall", "number"), Column("precision", "number"),
        Column("F1", "number"),
    ]  # fmt: skip
    macro = sum(_f1(one, predicted) or 0.0 for one in data.classes) / len(data.classes)
    blocks: list[Block] = [
        Table("Labelled events, recall, precision and F1 by class over the whole run", columns, rows),
        Paragraph(
            f"The mean F1 of all {formatting.plural(len(data.classes), 'class', 'classes')} is "
            f"{formatting.share(macro)}. Unlike the accuracy, it gives rare and frequent classes the same weight."
        ),
    ]
    mistakes = sorted((one for one in data.confused if one.label != one.predicted), key=lambda one: -one.count)
    if mistakes:
        blocks.append(Paragraph(_mistakes(mistakes)))
    return blocks


def _f1(one: Slice, predicted: dict[str, int]) -> float | None:
    both = one.labelled + predicted.get(one.name, 0)
    return 2 * one.right / both if both else None


def _mistakes(mistakes: Sequence[Confusion]) -> str:
    total = sum(one.count for one in mistakes)
    most = [
        f"{formatting.safe_text(one.label, 30)} predicted as {formatting.safe_text(one.predicted, 30)} "
        f"({formatting.percent(one.count, total)})"
        for one in mistakes[:3]
    ]
    return f"The most frequent of {formatting.plural(total, 'mistake')}: {formatting.join_words(most)}."


def _calibration(facts: RunFacts) -> list[Block]:
    confidence, right = facts.data.mean_confidence, facts.summary.accuracy.prequential
    if confidence is None or right is None:
        return []
    gap = confidence - right
    if gap > CALIBRATED:
        verdict = "overconfident: its probabilities are too high to be read as chances"
    elif gap < -CALIBRATED:
        verdict = "underconfident"
    else:
        verdict = "well calibrated on average"
    return [
        Paragraph(
            f"The mean probability of the predicted labels was {formatting.share(confidence)}, and the accuracy was "
            f"{formatting.share(right)} (difference {formatting.signed(gap)}). Over the whole run, the model was "
            f"{verdict}."
        )
    ]


def _gain(before: AccuracySpan, after: AccuracySpan) -> str:
    if before.accuracy is None or after.accuracy is None:
        return formatting.NONE
    return formatting.signed(after.accuracy - before.accuracy)
