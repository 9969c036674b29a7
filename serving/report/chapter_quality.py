"""The report's middle: accuracy over time, the evidence for each drift, and who is served how well."""

from __future__ import annotations

from collections.abc import Sequence

from serving.case import Case, Share
from serving.judgement import MAX_DELAY
from serving.report import charts, words
from serving.report.document import Block, Chapter, Column, Figure, Heading, Note, Paragraph, Table
from serving.report.facts import Confused, Facts, Slice

FEW = 30
"""Labelled events below which a figure by segment or class says little, and no gap is computed from it."""
CASES, MOVED, SEGMENTS, CLASSES = 6, 6, 12, 8
"""Alerts told in full, what moved at each, and segments and classes in a table."""
OVERLAP = 0.1
"""Share of the stream that two segments share, up to which they count as one after the other."""


def accuracy(facts: Facts) -> Chapter:
    """Right answers along the stream, before and after each answer to a drift, and by class."""
    summary, evidence = facts.summary, facts.evidence
    counted = summary.accuracy.counted
    if not counted:
        return Chapter(
            "Accuracy over time",
            [
                Paragraph(
                    "No labelled event counts: either no label has met a prediction yet, or all that have are of the "
                    "warm-up, on which the first model was trained. So nothing can be said about accuracy."
                )
            ],
        )
    blocks: list[Block] = [Paragraph(_overall(facts))]
    if len(evidence.bins) > 1:
        lowest = min(evidence.bins, key=lambda one: one.right / one.labelled)
        highest = max(evidence.bins, key=lambda one: one.right / one.labelled)
        size = evidence.bins[0].end - evidence.bins[0].start
        blocks.append(
            Figure(
                f"Prequential accuracy over {words.plural(size, 'event')} each, with its 95% interval (band), "
                "and what happened: alerts above, changes of the model below.",
                f"A line of {len(evidence.bins)} points between {words.share(lowest.right / lowest.labelled)} near event "
                f"{words.count(lowest.start)} and {words.share(highest.right / highest.labelled)} near event "
                f"{words.count(highest.start)}.",
                charts.accuracy(evidence.bins, facts),
            )
        )
    answered = [case for case in evidence.cases if case.swaps]
    if answered:
        rows = [
            [
                words.position(case.position), _of(case.came_of_it.before), _of(case.came_of_it.until),
                _of(case.came_of_it.since), _gain(case.came_of_it.until, case.came_of_it.since),
            ]
            for case in answered
        ]  # fmt: skip
        blocks += [
            Heading("What each answer was worth"),
            Table(
                "Accuracy (of so many labelled events) around each drift that was answered",
                [
                    Column("alert at event", "number"), Column("before the drift", "number"),
                    Column("from its onset until the answer", "number"), Column("after the answer", "number"),
                    Column("gain", "number"),
                ],
                rows,
            ),
            Paragraph(
                "The gain compares two stretches of the stream, not two models on the same events; the gate's "
                "comparison, further below, does that. Where the new world is harder than the old one, accuracy does "
                "not come back to where it was, however good the model."
            ),
        ]  # fmt: skip
    blocks += [Heading("By class"), *_classes(facts), *_calibration(facts)]
    return Chapter("Accuracy over time", blocks)


def drifts(facts: Facts) -> Chapter:
    """Each true drift, each alert, and what moved."""
    summary, evidence = facts.summary, facts.evidence
    blocks: list[Block] = [
        Paragraph(
            "The monitor looks at several signals at once. Without any label it watches how sure the model is, which "
            "labels it gives, where the texts lie in the encoder's space, and their words; with labels, the errors and "
            "the loss. An alert says when the change likely began and what moved."
        )
    ]
    if summary.drifts:
        rows = [
            [
                words.count(drift.true_position), words.position(drift.detected_position),
                words.NONE if drift.delay is None else words.count(drift.delay), words.shown(drift.signal or "", 30),
            ]
            for drift in summary.drifts
        ]  # fmt: skip
        columns = [
            Column("true drift at event", "number"), Column("alert at", "number"),
            Column("labelled events between", "number"), Column("signal"),
        ]  # fmt: skip
        blocks.append(Table("True drifts and their detection", columns, rows))
        missed = [drift for drift in summary.drifts if drift.detected_position is None]
        if missed:
            where = words.listed([words.count(drift.true_position) for drift in missed])
            blocks.append(
                Note(
                    f"{words.plural(len(missed), 'drift')} not detected",
                    f"No alert came within {words.count(MAX_DELAY)} labelled events of event {where}. Either the stream "
                    "ended first, or the change did not move what is watched by enough.",
                )
            )
    if not summary.alerts:
        blocks.append(Paragraph(_silence(facts)))
        return Chapter("Drift: what was noticed, and why", blocks)
    rows = [
        [
            words.count(alert.position), words.count(alert.onset), words.shown(alert.detector, 20),
            words.shown(alert.signal, 20), words.signed(alert.severity), _judged(alert.verdict),
        ]
        for alert in summary.alerts
    ]  # fmt: skip
    columns = [
        Column("alert at event", "number"), Column("likely onset", "number"), Column("detector"), Column("signal"),
        Column("moved by", "number"), Column("judged"),
    ]  # fmt: skip
    blocks.append(Table("Every alert", columns, rows))
    if not summary.drifts_known:
        blocks.append(Paragraph("Judged unknown: the scenario does not say where the stream truly changes."))
    for case in evidence.cases[:CASES]:
        blocks += _case(case)
    left = len(evidence.cases) - CASES
    if left > 0:
        blocks.append(
            Paragraph(
                f"{words.plural(left, 'further alert')} can be looked at with “driftloop case” while the run is up."
            )
        )
    return Chapter("Drift: what was noticed, and why", blocks)


def fairness(facts: Facts) -> Chapter:
    """Accuracy by segment with its uncertainty, the largest gap, and what each promotion did to whom."""
    evidence, chosen = facts.evidence, facts.evidence.chosen
    named = [one for one in evidence.segments if one.name]
    if not named:
        return Chapter(
            "Segments and fairness",
            [
                Paragraph(
                    "The events carry no segment, or none of them has a label that counts. So this run can say nothing "
                    "about whether some are served worse than others; a “segment” column in the scenario would let it."
                )
            ],
        )
    shown = sorted(named, key=lambda one: -one.labelled)[:SEGMENTS]
    shown = [one for one in named if one in shown]
    columns = [
        Column("segment", weight=2), Column("labelled", "number"), Column("accuracy", "number"),
        Column("95% interval", "number"), Column(""),
    ]  # fmt: skip
    rows = [
        [
            words.shown(one.name, 40), words.count(one.labelled), words.share(words.ratio(one.right, one.labelled)),
            words.interval(one.right, one.labelled), "too few to tell" if one.labelled < FEW else "",
        ]
        for one in shown
    ]  # fmt: skip
    blocks: list[Block] = [
        Paragraph(
            "A good average can hide that some are served badly. A segment is the group that an event says it belongs "
            "to, here where it comes from. It is no attribute of a person; who stands behind an event is not known."
        ),
        Table("Accuracy by segment over the whole run (Wilson intervals)", columns, rows),
    ]
    if len(named) > len(shown):
        blocks.append(Paragraph(f"{words.plural(len(named) - len(shown), 'smaller segment')} left out."))
    if len(shown) > 1:
        blocks.append(
            Figure(
                "Accuracy by segment, with the interval that the true value lies in 95 times of 100.",
                "A point and a bar for each segment; the figures are in the table above.",
                charts.segments(shown),
            )
        )
    blocks.append(Paragraph(_gap(named)))
    hurt = [(case, one) for case in evidence.cases if case.swaps for one in case.segments]
    if hurt:
        rows = [
            [words.position(case.position), words.shown(one.name, 40), _of(one.before), _of(one.after), _of(one.since)]
            for case, one in hurt[:24]
        ]
        columns = [
            Column("alert at event", "number"), Column("segment", weight=2), Column("before the drift", "number"),
            Column("until the answer", "number"), Column("after it", "number"),
        ]  # fmt: skip
        blocks += [
            Heading("Before and after each answer"),
            Table("Accuracy (of so many labelled events)", columns, rows),
        ]
    blocks.append(
        Paragraph(
            f"The gate refuses a successor under which any segment with {words.plural(chosen.min_rows, 'held-out event')} "
            f"or more loses over {chosen.max_segment_drop:.0%} of accuracy, or any class over {chosen.max_recall_drop:.0%} "
            "of recall, beyond chance, however much better it is on the whole." + _refused(facts)
        )
    )
    return Chapter("Segments and fairness", blocks)


def _overall(facts: Facts) -> str:
    accuracy, evidence = facts.summary.accuracy, facts.evidence
    base = words.ratio(evidence.majority_right, accuracy.counted)
    said = [
        f"Over {words.plural(accuracy.counted, 'labelled event')} that count, {words.share(accuracy.prequential)} of the "
        f"answers were right. Always answering {words.shown(evidence.majority, 40)}, the commonest label of the warm-up, "
        f"would have been right for {words.share(base)}."
    ]
    if accuracy.prequential is not None and base is not None and accuracy.prequential <= base:
        said.append("So over the whole run the loop was no better than that, which is said plainly here.")
    if accuracy.prequential_after_2000 is not None:
        said.append(f"From event 2,000 on it was {words.share(accuracy.prequential_after_2000)}.")
    said.append(
        f"{words.plural(accuracy.warm_up, 'event')} of the warm-up {'is' if accuracy.warm_up == 1 else 'are'} left out."
    )
    return " ".join(said)


def _classes(facts: Facts) -> list[Block]:
    evidence = facts.evidence
    answered: dict[str, int] = {}
    for one in evidence.confused:
        answered[one.predicted] = answered.get(one.predicted, 0) + one.count
    shown = sorted(evidence.classes, key=lambda one: -one.labelled)[:CLASSES]
    rows = [
        [
            words.shown(one.name, 40), words.count(one.labelled), words.count(answered.get(one.name, 0)),
            words.share(words.ratio(one.right, one.labelled)),
            words.share(words.ratio(one.right, answered.get(one.name, 0))), words.share(_f1(one, answered)),
        ]
        for one in shown
    ]  # fmt: skip
    columns = [
        Column("label", weight=2), Column("truly so", "number"), Column("answered so", "number"),
        Column("recall", "number"), Column("precision", "number"), Column("F1", "number"),
    ]  # fmt: skip
    macro = sum(_f1(one, answered) or 0.0 for one in evidence.classes) / len(evidence.classes)
    blocks: list[Block] = [
        Table("Right and wrong by class over the whole run", columns, rows),
        Paragraph(
            f"The mean F1 of all {words.plural(len(evidence.classes), 'class', 'classes')} is {words.share(macro)}; unlike "
            "accuracy it gives a rare class the same weight as a frequent one."
        ),
    ]
    mistakes = sorted((one for one in evidence.confused if one.label != one.predicted), key=lambda one: -one.count)
    if mistakes:
        blocks.append(Paragraph(_confusion(mistakes)))
    return blocks


def _f1(one: Slice, answered: dict[str, int]) -> float | None:
    both = one.labelled + answered.get(one.name, 0)
    return 2 * one.right / both if both else None


def _confusion(mistakes: Sequence[Confused]) -> str:
    total = sum(one.count for one in mistakes)
    most = [
        f"{words.shown(one.label, 30)} taken for {words.shown(one.predicted, 30)} ({words.percent(one.count, total)})"
        for one in mistakes[:3]
    ]
    return f"Of {words.plural(total, 'mistake')}, the commonest: {words.listed(most)}."


def _calibration(facts: Facts) -> list[Block]:
    sure, right = facts.evidence.mean_confidence, facts.summary.accuracy.prequential
    if sure is None or right is None:
        return []
    gap = sure - right
    word = (
        "overconfident: its probabilities must not be read as chances"
        if gap > 0.05
        else ("too modest" if gap < -0.05 else "about as sure as it should be")
    )
    return [
        Paragraph(
            f"On average the model gave its answer a probability of {words.share(sure)} and was right {words.share(right)} "
            f"of the time ({words.signed(gap)}): over the whole run it was {word}."
        )
    ]


def _silence(facts: Facts) -> str:
    summary = facts.summary
    if not summary.predictions:
        return "Nothing was predicted, so there was nothing to watch."
    if not summary.drifts_known:
        return "No alert was raised. Whether there was anything to notice is not known."
    return (
        "No alert was raised."
        if summary.drifts
        else "No alert was raised, which is right: the stream is known not to change."
    )


def _judged(verdict: str) -> str:
    return {"detection": "detection of a true drift", "repeat": "repeat within a true drift"}.get(verdict, verdict)


def _case(case: Case) -> list[Block]:
    kinds = {
        "covariate": "the texts changed",
        "label": "the mix of labels changed",
        "concept": "the labels changed their meaning",
    }
    where = f"about event {words.count(case.onset)}"
    if case.onset_low >= 0:
        where += f", between {words.count(case.onset_low)} and {words.count(case.onset_high)}"
    fired = words.listed([f"{words.shown(name, 20)} {share:.0%}" for name, share in list(case.fired.items())[:6]])
    said = (
        f"Likely onset {where}; likely kind: {kinds.get(case.kind, 'not known')}. Evidence by signal: {fired or words.NONE}. "
        f"What came of it: {words.shown(case.came_of_it.words, 500)}."
    )
    guessed = [one for one in case.estimated_accuracy if isinstance(one.get("estimate"), int | float)]
    if guessed:
        until = case.came_of_it.until
        said += (
            f" Before any label had come, the accuracy since was estimated at {words.share(float(guessed[-1]['estimate']))}; "
            f"the labels later said {_of(until)} from the onset until the answer."
        )
    blocks: list[Block] = [Heading(f"Alert at event {words.count(case.position)}"), Paragraph(said)]
    if case.moved:
        rows = [
            [
                words.shown(one.what, 12), words.shown(one.name, 40), words.shown(one.measure, 20),
                words.share(one.before), words.share(one.after), words.shown(one.texts[0], 110) if one.texts else "",
            ]
            for one in case.moved[:MOVED]
        ]  # fmt: skip
        columns = [
            Column("what", weight=0.8), Column("name", weight=1.4), Column("measure"), Column("before", "number"),
            Column("after", "number"), Column("example since", weight=3.4),
        ]  # fmt: skip
        blocks.append(Table("What moved, the surest first", columns, rows))
    return blocks


def _gap(named: Sequence[Slice]) -> str:
    enough = [one for one in named if one.labelled >= FEW]
    if len(enough) < 2:
        return (
            f"Only {words.plural(len(enough), 'segment')} {'has' if len(enough) == 1 else 'have'} {FEW} labelled events or "
            "more, so no gap between segments can be given."
        )
    best = max(enough, key=lambda one: one.right / one.labelled)
    worst = min(enough, key=lambda one: one.right / one.labelled)
    gap = best.right / best.labelled - worst.right / worst.labelled
    apart = words.wilson(best.right, best.labelled)[0] > words.wilson(worst.right, worst.labelled)[1]
    said = (
        f"The largest gap between segments with {FEW} labelled events or more is {words.share(gap)}: "
        f"{words.shown(best.name, 40)} against {words.shown(worst.name, 40)}. "
        + (
            "Their intervals do not overlap: that is no chance."
            if apart
            else "Their intervals overlap: it may be chance."
        )
    )
    shared = min(best.last, worst.last) - max(best.first, worst.first)
    span = max(best.last, worst.last) - min(best.first, worst.first)
    if span > 0 and shared < OVERLAP * span:
        said += (
            " But the two came one after the other, so the gap mixes how hard a segment is with how well the model of that "
            "time knew it: it shows the cost of drift rather than a lasting disadvantage."
        )
    return said


def _refused(facts: Facts) -> str:
    refused = [
        check
        for one in facts.evidence.rounds
        for candidate in one.candidates
        for check in candidate.checks
        if check.get("name") in ("segment accuracy", "class recall") and not check.get("passed")
    ]
    judged = sum(bool(candidate.checks) for one in facts.evidence.rounds for candidate in one.candidates)
    if not judged:
        return " No candidate came as far as that check in this run."
    return f" In this run {words.plural(judged, 'candidate')} went through these checks, and " + (
        f"{words.plural(len(refused), 'check')} spoke against a promotion." if refused else "none was refused by them."
    )


def _of(share: Share) -> str:
    return f"{words.share(share.accuracy)} ({words.count(share.labelled)})" if share.labelled else words.NONE


def _gain(before: Share, after: Share) -> str:
    known = before.accuracy is not None and after.accuracy is not None
    return words.signed(after.accuracy - before.accuracy) if known else words.NONE  # type: ignore[operator]
