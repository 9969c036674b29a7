"""What AutoML and Hugging Face models were worth against the champion and the plain head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.cases.model import Candidate, Round
from serving.report import charts, display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Paragraph, Table
from serving.report.run_data import RunFacts

ROWS, CARDS, COMPARED = 30, 24, 20
"""Retrainings and refreshes in a table, cards in full, and comparisons in a picture."""


@dataclass(frozen=True)
class Comparison:
    """A candidate and the champion on the same held-out events."""

    round: Round
    candidate: Candidate
    champion: float
    challenger: float
    low: float | None
    high: float | None
    rows: int | None


def choices(facts: RunFacts) -> Chapter:
    """What AutoML and Hugging Face models were compared with, and how that came out."""
    chosen = facts.evidence.chosen
    found = list(comparisons(facts))
    blocks: list[Block] = [
        Paragraph(
            "Three choices are made again and again in such a project: which pretrained model reads the texts, "
            "whether an automatic search finds a better classifier than a plain one, and whether to train the "
            "language model itself. Here none of them is settled once: they compete in each search, on the same "
            "events, within the same time limits, and the gate decides."
        ),
        Bullets(
            [
                (
                    "Encoder",
                    f"{formatting.shown(chosen.encoder, 60)}, a small sentence encoder (MiniLM family, Wang et al., 2020) "
                    f"unless set otherwise, {'in int8' if chosen.quantised else 'in fp32'} on ONNX Runtime. Small on "
                    "purpose: scoring has to keep up with the stream on ordinary cores, and an embedding computed "
                    "once serves the head, the drift detectors and every later retraining.",
                ),
                *((display_names.called(name), display_names.family(name) + ".")
                  for name in chosen.candidates),
            ]
        ),
    ]  # fmt: skip
    if not found:
        blocks.append(
            Paragraph(
                "No candidate was compared with a champion in this run, so it says nothing about these choices. The "
                "project's own measurements (docs/measurements.md, docs/adaptation.md) do."
            )
        )
        return Chapter("Choices: AutoML and Hugging Face, compared", [*blocks, *_unfinished(facts)])
    rows = [
        [
            formatting.position(one.round.position), one.round.kind, display_names.called(one.candidate.name),
            formatting.NONE if one.rows is None else formatting.count(one.rows), formatting.share(one.champion),
            formatting.share(one.challenger), _range(one.low, one.high), formatting.seconds(one.candidate.seconds),
            formatting.shown(one.candidate.state, 12),
        ]
        for one in found[-ROWS:]
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.9), Column("candidate", weight=1.2),
        Column("held out", "number"), Column("champion", "number"), Column("candidate", "number"),
        Column("difference", "number"), Column("took", "number"), Column("verdict", weight=1.1),
    ]  # fmt: skip
    if len(found) > ROWS:
        blocks.append(Paragraph(f"The newest {ROWS} of {formatting.plural(len(found), 'comparison')} are shown."))
    blocks.append(
        Table(
            "Accuracy of candidate and champion on the same held-out events, which the candidate has not seen",
            columns,
            rows,
        )
    )
    pictured = found[-COMPARED:]
    blocks.append(
        Figure(
            "Champion and candidates on the same held-out events.",
            "Two points on a line for each comparison of the table above.",
            charts.candidates(
                [
                    (
                        f"{formatting.position(one.round.position)} {display_names.called(one.candidate.name)}",
                        display_names.called(one.candidate.name),
                        one.champion,
                        one.challenger,
                    )
                    for one in pictured
                ]
            ),
        )
    )
    blocks += [Heading("What that says"), *_verdicts(facts, found), *_unfinished(facts)]
    return Chapter("Choices: AutoML and Hugging Face, compared", blocks)


def comparisons(facts: RunFacts) -> Iterator[Comparison]:
    """Every comparison of a candidate with a champion, refreshes left out: they compare a recipe with itself."""
    scores = {run.run_id: run.scores for run in facts.summary.retrainings}
    for one in facts.evidence.rounds:
        for candidate in one.candidates:
            if one.kind == "refresh" or candidate.accuracy is None or candidate.champion_accuracy is None:
                continue
            known = scores.get(one.run_id, {}).get(candidate.name, {})
            rows = formatting.known(known.get("held_out"))
            yield Comparison(
                one, candidate, candidate.champion_accuracy, candidate.accuracy,
                formatting.known(known.get("difference_low")), formatting.known(known.get("difference_high")),
                None if rows is None else int(rows),
            )  # fmt: skip


def _range(low: float | None, high: float | None) -> str:
    return formatting.NONE if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _verdicts(facts: RunFacts, found: Sequence[Comparison]) -> list[Block]:
    items = []
    for name in dict.fromkeys(one.candidate.name for one in found):
        own = [one for one in found if one.candidate.name == name]
        gain = sum(one.challenger - one.champion for one in own) / len(own)
        ahead = sum(one.challenger > one.champion for one in own)
        promoted = sum(one.candidate.state == "promoted" for one in own)
        seconds = sorted(one.candidate.seconds for one in own)[len(own) // 2]
        items.append(
            (
                display_names.called(name),
                f"compared {formatting.plural(len(own), 'time')}, ahead of the champion {formatting.plural(ahead, 'time')}, "
                f"promoted {formatting.plural(promoted, 'time')}; {formatting.signed(gain)} accuracy against the champion on "
                f"average, in {formatting.seconds(seconds)} in the middle.",
            )
        )
    rivals = [
        (one, other)
        for one in found
        for other in found
        if one.round.run_id == other.round.run_id
        and one.candidate.name == "linear"
        and other.candidate.name in ("tpot", "finetune")
    ]
    if rivals:
        better = [(one, other) for one, other in rivals if other.challenger > one.challenger]
        said = (
            f"In {formatting.plural(len(rivals), 'case')} a slow candidate (AutoML or fine-tuning) and the linear head of "
            f"the same search were measured; the slow one reached the higher figure in {formatting.count(len(better))}. "
            "They may have been measured on different events: a slow candidate is judged later, on what came while it "
            "was fitted. "
        )
    else:
        said = "No search of this run measured a slow candidate (AutoML or fine-tuning) beside the linear head. "
    said += (
        "How to read it: a few dozen held-out events tell two models apart only where they differ much, which the "
        "interval of the difference shows; it leads where zero lies outside of it. A candidate that takes a minute "
        "has to be better by more than the errors made in that minute."
    )
    return [Bullets(items), Paragraph(said)]


def _unfinished(facts: RunFacts) -> list[Block]:
    """Candidates that never came to a comparison, with the words that say why."""
    told: dict[tuple[str, str], int] = {}
    for one in facts.evidence.rounds:
        for candidate in one.candidates:
            if candidate.accuracy is None and candidate.state in ("rejected", "failed"):
                key = (candidate.name, formatting.shown(candidate.reason, 120))
                told[key] = told.get(key, 0) + 1
    if not told:
        return []
    items = [
        (display_names.called(name), f"{reason} ({formatting.plural(times, 'time')}).")
        for (name, reason), times in list(told.items())[:10]
    ]
    return [Paragraph("Candidates that were given up before any comparison, and why:"), Bullets(items)]
