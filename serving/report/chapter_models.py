"""The models: why there were retrainings, what the candidates were worth, and a card for each that took over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.case import Candidate, Round
from serving.report import charts, words
from serving.report.document import Block, Bullets, Chapter, Column, Figure, Heading, Note, Pairs, Paragraph, Table
from serving.report.facts import Facts, Model

ROWS, CARDS, COMPARED = 30, 24, 20
"""Retrainings and refreshes in a table, cards in full, and comparisons in a picture."""
FAMILIES = {
    "linear": "logistic regression over the embeddings and over words and word pairs (scikit-learn): fitted within "
    "seconds, the first answer to a drift",
    "tpot": "AutoML: TPOT's genetic search for a pipeline over the embeddings, under a hard time limit",
    "finetune": "the Hugging Face encoder itself, trained further with transformers' Trainer, then exported to ONNX",
    "archive": "a model of an earlier concept, tried again before anything is trained",
    "hub": "a ready-made classifier of Hugging Face",
}
SHORT = {"tpot": "TPOT", "finetune": "fine-tuning", "linear": "linear", "archive": "archive"}


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


def retrainings(facts: Facts) -> Chapter:
    """Every decision to retrain, with its reason and how it ended."""
    summary = facts.summary
    blocks: list[Block] = []
    first = summary.bootstrap
    if first is not None:
        blocks.append(
            Paragraph(
                f"The first model: {words.shown(first.reason, 200)}; {words.shown(first.verdict, 20)}"
                f"{f' as version {words.shown(first.version, 20)}' if first.version else ''} after "
                f"{words.seconds(first.seconds)}."
            )
        )
    else:
        blocks.append(Paragraph("No first model was made in this run."))
    if not summary.retrainings:
        why = {
            "never": "The policy of this run never retrains: the loop was left open on purpose, to compare with.",
        }.get(facts.evidence.chosen.policy, "Nothing called for one.")
        blocks.append(Paragraph(f"There was no retraining. {why}"))
    else:
        blocks.append(
            Paragraph(
                "An answer is the first model after an alert, from what little there is by then. A search, later, lets all "
                "candidates compete, the slow ones included. The reason is given in the retrainer's own words."
            )
        )
        blocks.append(_runs("Retrainings", facts, [run.run_id for run in summary.retrainings]))
    if summary.refreshes:
        promoted = sum(run.verdict == "promoted" for run in summary.refreshes)
        blocks.append(
            Paragraph(
                f"{words.plural(len(summary.refreshes), 'refresh', 'refreshes')}: the champion's own recipe fitted again each "
                f"time there were a quarter more labels of the new concept; {words.count(promoted)} promoted, since a "
                "refresh takes over unless it is worse beyond chance."
            )
        )
    if summary.rollbacks:
        back = [model for model in facts.evidence.models if model.kind == "rollback"]
        blocks.append(
            Note(
                f"{words.plural(summary.rollbacks, 'rollback')}",
                "; ".join(words.shown(model.reason, 160) for model in back) or "A predecessor was brought back.",
            )
        )
    return Chapter("Retrainings and their reasons", blocks)


def choices(facts: Facts) -> Chapter:
    """What AutoML and Hugging Face models were compared with, and how that came out."""
    chosen = facts.evidence.chosen
    found = list(comparisons(facts))
    blocks: list[Block] = [
        Paragraph(
            "Three choices are made again and again in such a project: which pretrained model reads the texts, whether an "
            "automatic search finds a better classifier than a plain one, and whether to train the language model itself. "
            "Here none of them is settled once: they compete in each search, on the same events, within the same time "
            "limits, and the gate decides."
        ),
        Bullets(
            [
                (
                    "Encoder",
                    f"{words.shown(chosen.encoder, 60)}, a small sentence encoder (MiniLM family, Wang et al., 2020) unless "
                    f"set otherwise, {'in int8' if chosen.quantised else 'in fp32'} on ONNX Runtime. Small on purpose: "
                    "scoring has to keep up with the stream on ordinary cores, and an embedding computed once serves the "
                    "head, the drift detectors and every later retraining.",
                ),
                *((SHORT.get(name, words.shown(name, 40)), FAMILIES.get(name, "a candidate of the user's own") + ".")
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
            words.position(one.round.position), one.round.kind, SHORT.get(one.candidate.name, words.shown(one.candidate.name, 24)),
            words.NONE if one.rows is None else words.count(one.rows), words.share(one.champion),
            words.share(one.challenger), _range(one.low, one.high), words.seconds(one.candidate.seconds),
            words.shown(one.candidate.state, 12),
        ]
        for one in found[-ROWS:]
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.9), Column("candidate", weight=1.2),
        Column("held out", "number"), Column("champion", "number"), Column("candidate", "number"),
        Column("difference", "number"), Column("took", "number"), Column("verdict", weight=1.1),
    ]  # fmt: skip
    if len(found) > ROWS:
        blocks.append(Paragraph(f"The newest {ROWS} of {words.plural(len(found), 'comparison')} are shown."))
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
                        f"{words.position(one.round.position)} {SHORT.get(one.candidate.name, words.shown(one.candidate.name, 12))}",
                        SHORT.get(one.candidate.name, words.shown(one.candidate.name, 12)),
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


def cards(facts: Facts) -> Chapter:
    """A model card for each version that took over; refreshes have a row each."""
    evidence = facts.evidence
    blocks: list[Block] = [
        Paragraph(
            "One card for each model that became the champion, after “Model Cards for Model Reporting” (Mitchell et al., "
            "2019). The intended use is the same for all of them: to sort short texts like those of this stream for "
            "statistics and for routing, with a person behind every decision about a person. Out of scope: judging single "
            "people, other languages and text types than those in the training window, and any use after the stream has "
            "changed and before a label has come."
        )
    ]
    if not evidence.models:
        return Chapter("Model cards", [*blocks, Paragraph("No model was promoted in this run.")])
    if evidence.unread:
        blocks.append(
            Note(
                "Without the registry",
                f"MLflow could not be asked, so parts are missing: {words.shown(evidence.unread, 200)}",
            )
        )
    full = [model for model in evidence.models if model.kind != "refresh"]
    for model in full[:CARDS]:
        blocks += _card(model, facts)
    if len(full) > CARDS:
        blocks.append(
            Paragraph(f"{words.plural(len(full) - CARDS, 'further card')} left out; “driftloop models” has all.")
        )
    fresh = [model for model in evidence.models if model.kind == "refresh"]
    if fresh:
        rows = [
            [
                words.shown(model.version, 12), words.shown(model.candidate, 16), words.position(model.first_position),
                _trained(model), words.shown(model.parent, 12), words.count(sum(one.labelled for one in model.segments)),
                words.share(_accuracy(model)), _worst(model),
            ]
            for model in fresh[-ROWS * 2:]
        ]  # fmt: skip
        columns = [
            Column("version", "number"), Column("candidate"), Column("from event", "number"), Column("trained on", weight=1.6),
            Column("follows", "number"), Column("labelled", "number"), Column("accuracy", "number"),
            Column("weakest segment", weight=1.6),
        ]  # fmt: skip
        blocks += [
            Heading("Refreshes"),
            Paragraph(
                "A refresh is the model before it, fitted on more labels of the same concept; what its card would say "
                "beyond this row is on the card of the answer or search that it refreshes."
            ),
            Table("Promoted refreshes, a card in a row", columns, rows),
        ]
        if len(fresh) > ROWS * 2:
            blocks.append(
                Paragraph(f"{words.plural(len(fresh) - ROWS * 2, 'earlier refresh', 'earlier refreshes')} left out.")
            )
    return Chapter("Model cards", blocks)


def comparisons(facts: Facts) -> Iterator[Comparison]:
    """Every comparison of a candidate with a champion, refreshes left out: they compare a recipe with itself."""
    scores = {run.run_id: run.scores for run in facts.summary.retrainings}
    for one in facts.evidence.rounds:
        for candidate in one.candidates:
            if one.kind == "refresh" or candidate.accuracy is None or candidate.champion_accuracy is None:
                continue
            known = scores.get(one.run_id, {}).get(candidate.name, {})
            rows = _number(known.get("held_out"))
            yield Comparison(
                one, candidate, candidate.champion_accuracy, candidate.accuracy, _number(known.get("difference_low")),
                _number(known.get("difference_high")), None if rows is None else int(rows),
            )  # fmt: skip


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _range(low: float | None, high: float | None) -> str:
    return words.NONE if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _runs(caption: str, facts: Facts, ids: Sequence[str]) -> Table:
    runs = {run.run_id: run for run in facts.summary.retrainings}
    rows = [
        [
            words.position(run.position), run.kind, words.shown(run.reason, 130),
            words.listed([SHORT.get(name, words.shown(name, 20)) for name in run.candidates]) or words.NONE,
            f"{run.verdict} {f'v{words.shown(run.version, 12)}' if run.version else ''}".strip(), words.seconds(run.seconds),
        ]
        for run in (runs[one] for one in ids[-ROWS:])
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.8), Column("why", weight=3), Column("candidates", weight=1.4),
        Column("verdict", weight=1.1), Column("took", "number"),
    ]  # fmt: skip
    shown = f" (the newest {ROWS} of {len(ids)})" if len(ids) > ROWS else ""
    return Table(caption + shown, columns, rows)


def _verdicts(facts: Facts, found: Sequence[Comparison]) -> list[Block]:
    items = []
    for name in dict.fromkeys(one.candidate.name for one in found):
        own = [one for one in found if one.candidate.name == name]
        gain = sum(one.challenger - one.champion for one in own) / len(own)
        ahead = sum(one.challenger > one.champion for one in own)
        promoted = sum(one.candidate.state == "promoted" for one in own)
        seconds = sorted(one.candidate.seconds for one in own)[len(own) // 2]
        items.append(
            (
                SHORT.get(name, words.shown(name, 24)),
                f"compared {words.plural(len(own), 'time')}, ahead of the champion {words.plural(ahead, 'time')}, promoted "
                f"{words.plural(promoted, 'time')}; {words.signed(gain)} accuracy against the champion on average, in "
                f"{words.seconds(seconds)} in the middle.",
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
            f"In {words.plural(len(rivals), 'case')} a slow candidate (AutoML or fine-tuning) and the linear head of the same "
            f"search were measured; the slow one reached the higher figure in {words.count(len(better))}. They may have been "
            "measured on different events: a slow candidate is judged later, on what came while it was fitted. "
        )
    else:
        said = "No search of this run measured a slow candidate (AutoML or fine-tuning) beside the linear head. "
    said += (
        "How to read it: a few dozen held-out events tell two models apart only where they differ much, which the interval "
        "of the difference shows; it leads where zero lies outside of it. A candidate that takes a minute has to be better "
        "by more than the errors made in that minute."
    )
    return [Bullets(items), Paragraph(said)]


def _unfinished(facts: Facts) -> list[Block]:
    """Candidates that never came to a comparison, with the words that say why."""
    told: dict[tuple[str, str], int] = {}
    for one in facts.evidence.rounds:
        for candidate in one.candidates:
            if candidate.accuracy is None and candidate.state in ("rejected", "failed"):
                key = (candidate.name, words.shown(candidate.reason, 120))
                told[key] = told.get(key, 0) + 1
    if not told:
        return []
    items = [
        (SHORT.get(name, words.shown(name, 24)), f"{reason} ({words.plural(times, 'time')}).")
        for (name, reason), times in list(told.items())[:10]
    ]
    return [Paragraph("Candidates that were given up before any comparison, and why:"), Bullets(items)]


def _card(model: Model, facts: Facts) -> list[Block]:
    kinds = {
        "bootstrap": "the first model",
        "answer": "the first answer to a drift",
        "search": "the winner of a search",
        "rollback": "a predecessor brought back",
        "manual": "promoted by a person",
    }
    labelled = sum(one.labelled for one in model.segments)
    gates = [
        candidate
        for one in facts.evidence.rounds
        for candidate in one.candidates
        if candidate.version and candidate.version == model.version
    ]
    used = [one for one in model.segments if one.name]
    served = (
        f"{words.plural(model.predictions, 'event')} from event {words.position(model.first_position)} on; right for "
        f"{words.share(_accuracy(model))} of {words.plural(labelled, 'label')} that came"
        if model.predictions
        else "no event: another model followed before one came, or the run ended"
    )
    rows = [
        ("What it is", f"{kinds.get(model.kind, words.shown(model.kind, 20))}; {_family(model)}"),
        ("Promoted", f"{words.moment(model.promoted_at)}, for {_trigger(model)}"),
        ("Trained on", _trained(model)),
        ("Evidence", words.shown(model.reason, 420)),
    ]
    checks = [check for gate in gates[:1] for check in gate.checks]
    if checks:
        passed = sum(bool(check.get("passed")) for check in checks)
        excused = [words.shown(str(check.get("name", "")), 30) for check in checks if check.get("excused")]
        note = f"; excused: {words.listed(excused)}" if excused else ""
        rows.append(("Guards", f"{passed} of {len(checks)} passed{note}"))
    rows.append(("In office", served))
    if used:
        parts = [
            f"{words.shown(one.name, 30)} {words.share(words.ratio(one.right, one.labelled))} of {words.count(one.labelled)}"
            for one in used[:8]
        ]
        rows.append(("By segment", "; ".join(parts) + ("; …" if len(used) > 8 else "")))
    if model.classes:
        parts = [
            f"{words.shown(one.name, 30)} {words.share(words.ratio(one.right, one.labelled))} of {words.count(one.labelled)}"
            for one in model.classes[:8]
        ]
        rows.append(("Recall by class", "; ".join(parts) + ("; …" if len(model.classes) > 8 else "")))
    hidden = {"candidate", "rows", "weights"}
    settings = [f"{words.shown(k, 30)} {words.shown(v, 60)}" for k, v in model.parameters.items() if k not in hidden]
    if settings:
        rows.append(("Parameters", "; ".join(settings[:8])))
    rows.append(("Limits", _limits(labelled, facts)))
    if model.digest:
        rows.append(("Digest", words.shown(model.digest, 64)))
    return [
        Heading(f"Version {words.shown(model.version, 20)}"),
        Pairs(f"Model card of version {words.shown(model.version, 20)}", rows),
    ]


def _family(model: Model) -> str:
    return FAMILIES.get(model.candidate) or f"candidate {words.shown(model.candidate, 40)}"


def _trigger(model: Model) -> str:
    return "the first labels of the stream" if model.kind == "bootstrap" else words.shown(model.trigger, 40)


def _trained(model: Model) -> str:
    if not model.topic:
        return words.NONE
    rows = model.parameters.get("rows", "")
    count = f"{words.shown(rows, 12)} rows, " if rows else ""
    return f"{count}offsets {words.shown(model.first_offset, 12)} to {words.shown(model.last_offset, 12)} of {words.shown(model.topic, 40)}"


def _accuracy(model: Model) -> float | None:
    return words.ratio(sum(one.right for one in model.segments), sum(one.labelled for one in model.segments))


def _worst(model: Model) -> str:
    used = [one for one in model.segments if one.name and one.labelled]
    if not used:
        return words.NONE
    worst = min(used, key=lambda one: one.right / one.labelled)
    return f"{words.shown(worst.name, 24)} {words.share(worst.right / worst.labelled)} of {words.count(worst.labelled)}"


def _limits(labelled: int, facts: Facts) -> str:
    few = f"only {words.plural(labelled, 'label')} speak of its accuracy live; " if labelled < 200 else ""
    mask = (
        "texts were masked before training" if facts.evidence.source.masked else "texts were not masked before training"
    )
    return f"{few}it knows what its window holds and nothing of what came later; {mask}"
