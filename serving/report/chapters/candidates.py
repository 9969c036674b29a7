"""Chapter “Model candidates”: AutoML and fine-tuned models against the champion and the linear head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.cases.model import Candidate, Round
from serving.cases.reasons import as_sentence
from serving.report import charts, display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.reasons import short
from serving.report.run_data import RunFacts

TITLE = "Model candidates: AutoML and Hugging Face"
ROWS, DRAWN, REJECTED = 30, 20, 10
"""Largest numbers of comparisons in the table, of those in the figure, and of candidates without a comparison."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of a candidate with the champion on the same held-out events."""

    round: Round
    candidate: Candidate
    champion: float
    """Accuracy of the champion."""
    challenger: float
    """Accuracy of the candidate."""
    low: float | None
    high: float | None
    """Bounds of the interval of the difference; `None` if the gate did not report them."""
    rows: int | None
    """Held-out events; `None` if the gate did not report them."""


def candidates(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    found = list(comparisons(facts))
    blocks: list[Block] = [
        Paragraph(
            "A project like this has three recurring choices. Which pretrained model encodes the texts? Does an "
            "automatic search find a better classifier than a plain one? Is it worth training the language model "
            "itself? driftloop does not decide them once. The candidates compete in each search, on the same events "
            "and within time limits, and the gate decides."
        ),
        Bullets(_choices(facts)),
    ]
    if not found:
        blocks.append(
            Paragraph(
                "No candidate was compared with a champion in this run, so it gives no answer to these questions. See "
                "the project's own measurements in docs/measurements.md and docs/adaptation.md."
            )
        )
        return Chapter(TITLE, [*blocks, *_without_comparison(facts)])
    if len(found) > ROWS:
        newest = formatting.plural(len(found), "comparison")
        blocks.append(Paragraph(f"The table shows the newest {ROWS} of {newest}."))
    blocks += [
        _table(found[-ROWS:]),
        _figure(found[-DRAWN:]),
        Heading("Results"),
        Bullets(_by_candidate(found)),
        Paragraph(_slow_candidates(found)),
        *_without_comparison(facts),
    ]
    return Chapter(TITLE, blocks)


def comparisons(facts: RunFacts) -> Iterator[Comparison]:
    """Return every comparison of a candidate with a champion, without refreshes: they have the same configuration."""
    scores = {run.run_id: run.scores for run in facts.summary.retrainings}
    for one in facts.data.rounds:
        for candidate in one.candidates:
            if one.kind == "refresh" or candidate.accuracy is None or candidate.champion_accuracy is None:
                continue
            known = scores.get(one.run_id, {}).get(candidate.name, {})
            rows = formatting.number_or_none(known.get("held_out"))
            yield Comparison(
                one,
                candidate,
                champion=candidate.champion_accuracy,
                challenger=candidate.accuracy,
                low=formatting.number_or_none(known.get("difference_low")),
                high=formatting.number_or_none(known.get("difference_high")),
                rows=None if rows is None else int(rows),
            )


def _choices(facts: RunFacts) -> list[tuple[str, str]]:
    chosen = facts.data.chosen
    encoder = (
        f"{formatting.safe_text(chosen.encoder, 60)}, a small sentence encoder (MiniLM family, Wang et al., 2020) "
        f"unless set otherwise, {'in int8' if chosen.quantised else 'in fp32'} on ONNX Runtime. It is small on "
        "purpose: the scorer must keep up with the stream on ordinary CPU cores. An embedding is computed once and "
        "serves the head, the drift detectors and all later retrainings."
    )
    named = [(display_names.short_name(name), display_names.description(name) + ".") for name in chosen.candidates]
    return [("Encoder", encoder), *named]


def _table(found: Sequence[Comparison]) -> Table:
    rows = [
        [
            formatting.position(one.round.position), one.round.kind, display_names.short_name(one.candidate.name),
            formatting.NONE if one.rows is None else formatting.count(one.rows), formatting.share(one.champion),
            formatting.share(one.challenger), _interval(one.low, one.high), formatting.seconds(one.candidate.seconds),
            formatting.safe_text(one.candidate.state, 12),
        ]
        for one in found
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.9), Column("candidate", weight=1.2),
        Column("held-out events", "number"), Column("champion", "number"), Column("candidate", "number"),
        Column("difference", "number"), Column("duration", "number"),
        Column("result", weight=1.1),
    ]  # fmt: skip
    return Table(
        "Accuracy of champion and candidate on the same held-out events, and the interval of the difference",
        columns,
        rows,
    )


def _figure(found: Sequence[Comparison]) -> Figure:
    drawn = [
        (
            f"{formatting.position(one.round.position)} {display_names.short_name(one.candidate.name)}",
            display_names.short_name(one.candidate.name),
            one.champion,
            one.challenger,
        )
        for one in found
    ]
    return Figure(
        "Champion and candidates on the same held-out events.",
        "Two points on a line for each comparison of the table above.",
        charts.candidates(drawn),
    )


def _interval(low: float | None, high: float | None) -> str:
    return formatting.NONE if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _by_candidate(found: Sequence[Comparison]) -> list[tuple[str, str]]:
    items = []
    for name in dict.fromkeys(one.candidate.name for one in found):
        own = [one for one in found if one.candidate.name == name]
        gain = sum(one.challenger - one.champion for one in own) / len(own)
        ahead = sum(one.challenger > one.champion for one in own)
        promoted = sum(one.candidate.state == "promoted" for one in own)
        median = sorted(one.candidate.seconds for one in own)[len(own) // 2]
        items.append(
            (
                display_names.short_name(name),
                f"compared {formatting.plural(len(own), 'time')}, better than the champion "
                f"{formatting.plural(ahead, 'time')}, promoted {formatting.plural(promoted, 'time')}; mean accuracy "
                f"gain {formatting.signed(gain)}; median duration {formatting.seconds(median)}.",
            )
        )
    return items


def _slow_candidates(found: Sequence[Comparison]) -> str:
    if any(one.candidate.name == "mixture" for one in found):
        return _against_mixture([one for one in found if one.candidate.name in ("tpot", "finetune")])
    pairs = [
        (one, other)
        for one in found
        for other in found
        if one.round.run_id == other.round.run_id
        and one.candidate.name == "linear"
        and other.candidate.name in ("tpot", "finetune")
    ]
    if pairs:
        better = sum(slow.challenger > linear.challenger for linear, slow in pairs)
        measured = (
            f"A slow candidate (AutoML or fine-tuning) and the linear head of the same search were both measured in "
            f"{formatting.plural(len(pairs), 'case')}. The slow candidate had the higher accuracy in "
            f"{formatting.count(better)}. The two may have been measured on different events, because a slow candidate "
            "is judged later, on the events that arrived while it was fitted."
        )
    else:
        measured = "No search of this run measured both a slow candidate (AutoML or fine-tuning) and the linear head."
    return (
        f"{measured} A few dozen held-out events show only large differences between two models. The interval of the "
        "difference makes this visible: a candidate is significantly more accurate only if it lies above zero. A "
        "candidate that takes a minute must also compensate for the mistakes made in that minute."
    )


def _against_mixture(slow: Sequence[Comparison]) -> str:
    if not slow:
        return "No search of this run measured a slow candidate (AutoML or fine-tuning)."
    ahead = sum(one.challenger > one.champion for one in slow)
    promoted = sum(one.candidate.state == "promoted" for one in slow)
    return (
        f"AutoML and fine-tuning were each tried as one more expert of the mixture, in "
        f"{formatting.plural(len(slow), 'case')}, on live events that they had not learnt. With them the mixture was "
        f"more accurate in {formatting.count(ahead)}, and they joined it in {formatting.count(promoted)}. The mean "
        f"gain in accuracy was {formatting.signed(sum(one.challenger - one.champion for one in slow) / len(slow))}."
    )


def _without_comparison(facts: RunFacts) -> list[Block]:
    """Return the candidates that were rejected or failed before a comparison, with their reasons."""
    times: dict[tuple[str, str], int] = {}
    for one in facts.data.rounds:
        for candidate in one.candidates:
            if candidate.accuracy is None and candidate.state in ("rejected", "failed"):
                key = (candidate.name, short(candidate.reason))
                times[key] = times.get(key, 0) + 1
    if not times:
        return []
    items = [
        (display_names.short_name(name), f"{as_sentence(reason)} ({formatting.plural(number, 'time')})")
        for (name, reason), number in list(times.items())[:REJECTED]
    ]
    return [Paragraph("Candidates that were rejected before a comparison:"), Bullets(items)]
