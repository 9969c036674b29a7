"""A model card for each version that took over; refreshes have a row each."""

from __future__ import annotations

from serving.report import display_names, formatting
from serving.report.document import Block, Chapter, Column, Heading, Note, Pairs, Paragraph, Table
from serving.report.run_data import Model, RunFacts

ROWS, CARDS, COMPARED = 30, 24, 20
"""Retrainings and refreshes in a table, cards in full, and comparisons in a picture."""


def cards(facts: RunFacts) -> Chapter:
    """A model card for each version that took over; refreshes have a row each."""
    evidence = facts.evidence
    blocks: list[Block] = [
        Paragraph(
            "One card for each model that became the champion, after “Model Cards for Model Reporting” (Mitchell et "
            "al., 2019). The intended use is the same for all of them: to sort short texts like those of this stream "
            "for statistics and for routing, with a person behind every decision about a person. Out of scope: "
            "judging single people, other languages and text types than those in the training window, and any use "
            "after the stream has changed and before a label has come."
        )
    ]
    if not evidence.models:
        return Chapter("Model cards", [*blocks, Paragraph("No model was promoted in this run.")])
    if evidence.unread:
        blocks.append(
            Note(
                "Without the registry",
                f"MLflow could not be asked, so parts are missing: {formatting.shown(evidence.unread, 200)}",
            )
        )
    full = [model for model in evidence.models if model.kind != "refresh"]
    for model in full[:CARDS]:
        blocks += _card(model, facts)
    if len(full) > CARDS:
        blocks.append(
            Paragraph(f"{formatting.plural(len(full) - CARDS, 'further card')} left out; “driftloop models” has all.")
        )
    fresh = [model for model in evidence.models if model.kind == "refresh"]
    if fresh:
        rows = [
            [
                formatting.shown(model.version, 12), formatting.shown(model.candidate, 16), formatting.position(model.first_position),
                _trained(model), formatting.shown(model.parent, 12),
                formatting.count(sum(one.labelled for one in model.segments)),
                formatting.share(_accuracy(model)), _worst(model),
            ]
            for model in fresh[-ROWS * 2:]
        ]  # fmt: skip
        columns = [
            Column("version", "number"), Column("candidate"), Column("from event", "number"),
            Column("trained on", weight=1.6),
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
                Paragraph(
                    f"{formatting.plural(len(fresh) - ROWS * 2, 'earlier refresh', 'earlier refreshes')} left out."
                )
            )
    return Chapter("Model cards", blocks)


def _card(model: Model, facts: RunFacts) -> list[Block]:
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
        f"{formatting.plural(model.predictions, 'event')} from event {formatting.position(model.first_position)} on; right for "
        f"{formatting.share(_accuracy(model))} of {formatting.plural(labelled, 'label')} that came"
        if model.predictions
        else "no event: another model followed before one came, or the run ended"
    )
    rows = [
        (
            "What it is",
            f"{kinds.get(model.kind, formatting.shown(model.kind, 20))}; {display_names.family(model.candidate)}",
        ),
        ("Promoted", f"{formatting.moment(model.promoted_at)}, for {_trigger(model)}"),
        ("Trained on", _trained(model)),
        ("Evidence", formatting.shown(model.reason, 420)),
    ]
    checks = [check for gate in gates[:1] for check in gate.checks]
    if checks:
        passed = sum(bool(check.get("passed")) for check in checks)
        excused = [formatting.shown(str(check.get("name", "")), 30) for check in checks if check.get("excused")]
        note = f"; excused: {formatting.listed(excused)}" if excused else ""
        rows.append(("Guards", f"{passed} of {len(checks)} passed{note}"))
    rows.append(("In office", served))
    if used:
        parts = [
            f"{formatting.shown(one.name, 30)} {formatting.share(formatting.ratio(one.right, one.labelled))} of "
            f"{formatting.count(one.labelled)}"
            for one in used[:8]
        ]
        rows.append(("By segment", "; ".join(parts) + ("; …" if len(used) > 8 else "")))
    if model.classes:
        parts = [
            f"{formatting.shown(one.name, 30)} {formatting.share(formatting.ratio(one.right, one.labelled))} of "
            f"{formatting.count(one.labelled)}"
            for one in model.classes[:8]
        ]
        rows.append(("Recall by class", "; ".join(parts) + ("; …" if len(model.classes) > 8 else "")))
    hidden = {"candidate", "rows", "weights"}
    settings = [
        f"{formatting.shown(k, 30)} {formatting.shown(v, 60)}" for k, v in model.parameters.items() if k not in hidden
    ]
    if settings:
        rows.append(("Parameters", "; ".join(settings[:8])))
    rows.append(("Limits", _limits(labelled, facts)))
    if model.digest:
        rows.append(("Digest", formatting.shown(model.digest, 64)))
    return [
        Heading(f"Version {formatting.shown(model.version, 20)}"),
        Pairs(f"Model card of version {formatting.shown(model.version, 20)}", rows),
    ]


def _trigger(model: Model) -> str:
    return "the first labels of the stream" if model.kind == "bootstrap" else formatting.shown(model.trigger, 40)


def _trained(model: Model) -> str:
    if not model.topic:
        return formatting.NONE
    rows = model.parameters.get("rows", "")
    count = f"{formatting.shown(rows, 12)} rows, " if rows else ""
    first, last = formatting.shown(model.first_offset, 12), formatting.shown(model.last_offset, 12)
    return f"{count}offsets {first} to {last} of {formatting.shown(model.topic, 40)}"


def _accuracy(model: Model) -> float | None:
    return formatting.ratio(sum(one.right for one in model.segments), sum(one.labelled for one in model.segments))


def _worst(model: Model) -> str:
    used = [one for one in model.segments if one.name and one.labelled]
    if not used:
        return formatting.NONE
    worst = min(used, key=lambda one: one.right / one.labelled)
    return f"{formatting.shown(worst.name, 24)} {formatting.share(worst.right / worst.labelled)} of {formatting.count(worst.labelled)}"


def _limits(labelled: int, facts: RunFacts) -> str:
    few = f"only {formatting.plural(labelled, 'label')} speak of its accuracy live; " if labelled < 200 else ""
    mask = (
        "texts were masked before training" if facts.evidence.source.masked else "texts were not masked before training"
    )
    return f"{few}it knows what its window holds and nothing of what came later; {mask}"
