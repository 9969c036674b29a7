"""Chapter “Model cards”: a card for each promoted version, and a table of the promoted refreshes."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cases.model import Candidate
from serving.cases.reasons import as_sentence, count_passed
from serving.report import display_names, formatting
from serving.report.document import Block, Chapter, Column, Heading, Note, Pairs, Paragraph, Table
from serving.report.reasons import gate_decision, short
from serving.report.run_data import Model, RunFacts, Slice

TITLE = "Model cards"
CARDS, REFRESHES = 24, 60
"""Largest numbers of cards, and of refreshes in the table."""
GROUPS, PARAMETERS = 8, 8
"""Largest numbers of segments or classes, and of parameters, on a card."""
FEW = 200
"""Labels below which a card warns that its live accuracy is uncertain."""
KINDS = {
    "bootstrap": "the first model",
    "answer": "the first retraining after a drift alert",
    "search": "the best candidate of a search",
    "rollback": "a restored previous model",
    "manual": "promoted manually by an operator",
}
"""Origin of a version, by its kind."""


def model_cards(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    data = facts.data
    blocks: list[Block] = [
        Paragraph(
            "One card for each model that became the champion, after “Model Cards for Model Reporting” (Mitchell et "
            "al., 2019). The intended use is the same for all models: classify short texts like those of this stream "
            "for statistics and routing. A human must be responsible for every decision about a person. Out of scope "
            "are judgements about individual persons, and languages or text types other than those of the training "
            "window. Also out of scope is any use after a change of the stream until new labels have arrived."
        )
    ]
    if not data.models:
        return Chapter(TITLE, [*blocks, Paragraph("No model was promoted in this run.")])
    if data.unread:
        error = as_sentence(formatting.safe_text(data.unread, 200))
        blocks.append(Note("Registry data missing", f"MLflow did not answer, so parts of the cards are empty. {error}"))
    full = [model for model in data.models if model.kind != "refresh"]
    for model in full[:CARDS]:
        blocks += _card(model, facts)
    if len(full) > CARDS:
        left = formatting.plural(len(full) - CARDS, "further card")
        blocks.append(Paragraph(f"{left} not shown. “driftloop models” lists all versions."))
    blocks += _refreshes([model for model in data.models if model.kind == "refresh"])
    return Chapter(TITLE, blocks)


def _card(model: Model, facts: RunFacts) -> list[Block]:
    version = formatting.safe_text(model.version, 20)
    candidate = _candidate(model, facts)
    checks = candidate.checks if candidate else []
    labelled = sum(one.labelled for one in model.segments)
    segments = [one for one in model.segments if one.name]
    parameters = _parameters(model)
    # Each row of the card: its name, its value, and the condition under which it is shown.
    rows: list[tuple[str, str, object]] = [
        ("Model", f"{_kind(model)}; {display_names.description(model.candidate)}", True),
        ("Promoted", f"{formatting.utc_time(model.promoted_at)}; trigger: {_trigger(model)}", True),
        ("Training data", _training_data(model), True),
        ("Reason for promotion", short(model.reason), True),
        ("Gate checks", formatting.safe_text(count_passed(checks), 200), checks),
        ("As champion", _service(model, labelled), True),
        ("Accuracy by segment", _groups(segments), segments),
        ("Recall by class", _groups(model.classes), model.classes),
        ("Parameters", parameters, parameters),
        ("Limitations", _limitations(labelled, facts), True),
        ("Digest", formatting.safe_text(model.digest, 64), model.digest),
    ]
    return [
        Heading(f"Version {version}"),
        Pairs(f"Model card of version {version}", [(name, value) for name, value, shown in rows if shown]),
        *gate_decision(version, model.reason, candidate),
    ]


def _kind(model: Model) -> str:
    return KINDS.get(model.kind, formatting.safe_text(model.kind, 20))


def _trigger(model: Model) -> str:
    return "the first labels of the stream" if model.kind == "bootstrap" else formatting.safe_text(model.trigger, 40)


def _training_data(model: Model) -> str:
    if not model.topic:
        return formatting.NONE
    rows = model.parameters.get("rows", "")
    count = f"{formatting.safe_text(rows, 12)} rows, " if rows else ""
    first, last = formatting.safe_text(model.first_offset, 12), formatting.safe_text(model.last_offset, 12)
    return f"{count}offsets {first} to {last} of {formatting.safe_text(model.topic, 40)}"


def _candidate(model: Model, facts: RunFacts) -> Candidate | None:
    """Return the candidate that became a version; `None` if it did not pass through the gate."""
    for one in facts.data.rounds:
        for candidate in one.candidates:
            if candidate.version and candidate.version == model.version:
                return candidate
    return None


def _service(model: Model, labelled: int) -> str:
    """Return the events that a version predicted as champion, with its accuracy."""
    if not model.predictions:
        return "no event: another model replaced it before the next event, or the run ended"
    return (
        f"{formatting.plural(model.predictions, 'event')} from event {formatting.position(model.first_position)} on; "
        f"accuracy {formatting.share(_accuracy(model))} on {formatting.plural(labelled, 'label')} that arrived"
    )


def _groups(slices: Sequence[Slice]) -> str:
    parts = [
        f"{formatting.safe_text(one.name, 30)} {formatting.share(formatting.ratio(one.right, one.labelled))} of "
        f"{formatting.count(one.labelled)}"
        for one in slices[:GROUPS]
    ]
    return "; ".join(parts) + ("; …" if len(slices) > GROUPS else "")


def _parameters(model: Model) -> str:
    elsewhere = {"candidate", "rows", "weights"}
    shown = [
        f"{formatting.safe_text(name, 30)} {formatting.safe_text(value, 60)}"
        for name, value in model.parameters.items()
        if name not in elsewhere
    ]
    return "; ".join(shown[:PARAMETERS])


def _limitations(labelled: int, facts: RunFacts) -> str:
    few = (
        f"only {formatting.plural(labelled, 'label')} arrived to measure its live accuracy; " if labelled < FEW else ""
    )
    masked = "masked" if facts.data.source.masked else "not masked"
    return f"{few}it knows its training window and nothing later; texts were {masked} before training"


def _refreshes(models: Sequence[Model]) -> list[Block]:
    if not models:
        return []
    rows = [
        [
            formatting.safe_text(model.version, 12), formatting.safe_text(model.candidate, 16),
            formatting.position(model.first_position), _training_data(model), formatting.safe_text(model.parent, 12),
            formatting.count(sum(one.labelled for one in model.segments)), formatting.share(_accuracy(model)),
            _weakest(model),
        ]
        for model in models[-REFRESHES:]
    ]  # fmt: skip
    columns = [
        Column("version", "number"), Column("candidate"), Column("from event", "number"),
        Column("training data", weight=1.6), Column("replaces", "number"), Column("labels", "number"),
        Column("accuracy", "number"), Column("weakest segment", weight=1.6),
    ]  # fmt: skip
    blocks: list[Block] = [
        Heading("Refreshes"),
        Paragraph(
            "A refresh is the same model as before, fitted on more labels of the same concept. The rest of its card is "
            "the card of the version that it refreshes."
        ),
        Table("Promoted refreshes", columns, rows),
    ]
    if len(models) > REFRESHES:
        earlier = formatting.plural(len(models) - REFRESHES, "earlier refresh", "earlier refreshes")
        blocks.append(Paragraph(f"{earlier} not shown."))
    return blocks


def _accuracy(model: Model) -> float | None:
    return formatting.ratio(sum(one.right for one in model.segments), sum(one.labelled for one in model.segments))


def _weakest(model: Model) -> str:
    named = [one for one in model.segments if one.name and one.labelled]
    if not named:
        return formatting.NONE
    weakest = min(named, key=lambda one: one.right / one.labelled)
    accuracy = formatting.share(weakest.right / weakest.labelled)
    return f"{formatting.safe_text(weakest.name, 24)} {accuracy} of {formatting.count(weakest.labelled)}"
