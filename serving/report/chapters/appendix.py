"""Chapters “Limitations and ethics” and “Reproduction and glossary” at the end of the report."""

from __future__ import annotations

from serving.cases.reasons import as_sentence
from serving.report import display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Heading, Pairs, Paragraph
from serving.report.run_data import RunFacts

FEW = 30
"""Labelled events below which a segment is too small for a conclusion."""
GLOSSARY = (
    ("Accuracy", "the share of predictions that are correct."),
    ("Alert", "the monitor's message that the stream has changed, with the evidence."),
    ("Answer", "the first retraining after an alert."),
    ("AutoML", "software that searches for a model and its settings automatically; here TPOT, a genetic algorithm."),
    ("Champion, challenger", "the model whose predictions are used, and a candidate that may replace it."),
    (
        "Confidence interval (95%)",
        "a range that contains the true value in 95 of 100 such measurements; it is wide when there are few events.",
    ),
    ("Dead letter", "a message that could not be processed, kept unchanged with the reason."),
    (
        "Drift",
        "a change of the stream: of the texts (covariate), of the frequency of labels (label), or of the meaning of "
        "labels (concept).",
    ),
    ("Embedding", "a text as a vector of some hundred numbers; texts with a similar meaning have similar vectors."),
    ("Encoder, head", "the network that computes embeddings, and the small classifier on top of it."),
    ("F1", "the harmonic mean of precision and recall of a class."),
    ("Fine-tuning", "further training of the encoder itself on the labels of the stream."),
    ("Gate", "the comparison that a challenger must win before it is promoted, with checks against harm."),
    ("Held-out events", "events that a candidate was not trained on, kept for its evaluation."),
    (
        "Kafka, topic, offset",
        "the log that stores all messages, one of its named parts, and the position of a message in it.",
    ),
    ("Lag", "the number of events that wait to be scored."),
    ("MLflow", "the registry that stores each model with its figures and its lineage."),
    ("Onset", "the position in the stream at which a drift begins."),
    (
        "ONNX Runtime, int8",
        "a fast runtime for neural networks, and weights rounded to 8-bit integers, which makes them faster.",
    ),
    ("p50, p95, p99", "the value that 50, 95 or 99 of 100 measurements do not exceed."),
    (
        "Precision, recall",
        "the share of correct ones among the predictions of a class, and the share of found ones among its events.",
    ),
    (
        "Prequential",
        "test, then train: each event is predicted before the model can be trained on it.",
    ),
    ("Prior shift", "another name for drift of the label mix."),
    ("Refresh", "a retraining with the champion's configuration on more labels of the same concept."),
    ("Rollback", "the previous model is restored because it is better."),
    ("Search", "a retraining that compares all candidates, including the slow ones."),
    ("Shadow", "a model predicts the same live events as the champion, but its predictions are not used."),
    ("Warm-up", "the first events, on which the first model is trained; no accuracy includes them."),
)
"""Terms of the report with their explanation."""


def limitations(facts: RunFacts) -> Chapter:
    """Return the chapter on the limitations of the run, and on the ethics of its use."""
    return Chapter(
        "Limitations and ethics",
        [
            Heading("Limitations of this run"),
            Bullets(_limitations(facts)),
            Heading("Ethics"),
            Bullets(_ethics(facts)),
        ],
    )


def reproduction(facts: RunFacts) -> Chapter:
    """Return the chapter with the command, the versions, and the glossary."""
    summary, source = facts.summary, facts.data.source
    versions = {**summary.software, **facts.data.software}
    rows = [
        ("Command", formatting.safe_text(source.command, 200)),
        ("Seed and data", f"seed {source.seed}; revision {formatting.safe_text(source.revision, 64)}"),
        (
            "Versions",
            "; ".join(
                f"{formatting.safe_text(name, 30)} {formatting.safe_text(number, 60)}"
                for name, number in versions.items()
            ),
        ),
        (
            "Source of this report",
            f"summary.json and report.json, written on {formatting.utc_time(facts.data.written_at)}",
        ),
    ]
    blocks: list[Block] = [
        Pairs("Reproduction of the run", rows),
        Paragraph(
            "The same command sends the same events in the same order. Durations differ from run to run. Therefore the "
            "result of a search within its time limit differs, and so does the event at which a model is replaced. The "
            "figures of another run are close to these but not equal. This is one run; the project's benchmarks repeat "
            "runs with several seeds."
        ),
        Heading("Glossary"),
        Bullets(GLOSSARY),
    ]
    return Chapter("Reproduction and glossary", blocks)


def _limitations(facts: RunFacts) -> list[tuple[str, str]]:
    summary, source = facts.summary, facts.data.source
    missed = sum(drift.detected_position is None for drift in facts.reached_drifts)
    small = [one for one in facts.data.segments if one.name and one.labelled < FEW]
    # Each limitation: its name, its text, and the condition under which it applies.
    items: list[tuple[str, str, object]] = [
        (
            "One run",
            f"{formatting.plural(summary.events, 'event')} of one stream, one seed, one machine. Differences smaller "
            "than the given intervals may be due to chance.",
            True,
        ),
        (
            "Late labels",
            f"in this run, a label arrives {formatting.plural(source.label_delay, 'event')} after its event. Before "
            "the first label after a drift, no model can learn the change; there is only an alert and an estimate. If "
            "labels take weeks, retraining takes weeks too.",
            True,
        ),
        (
            "Warm-up",
            f"the first {formatting.plural(source.warm_up, 'event')} get their labels immediately and are not counted. "
            "Without such a start, the first model must be a ready-made classifier.",
            source.warm_up,
        ),
        (
            "Start",
            "the first model was ready-made. Its training data is documented by its maker, not here.",
            not source.warm_up,
        ),
        (
            "Synthetic texts",
            "the texts follow word distributions. The figures do not carry over to real language.",
            source.kind == "synthetic",
        ),
        (
            "Injected drift",
            "the change was injected on purpose. It is clearer than most real changes.",
            any(one.kind != "order" for one in source.injected),
        ),
        (
            "Order",
            "the scenario put the parts of the stream one after the other. Real changes are rarely so abrupt.",
            any(one.kind == "order" for one in source.injected),
        ),
        (
            "Unknown drifts",
            "the true changes of the stream are not known. Therefore only the benefit of detection can be judged, not "
            "its correctness.",
            not summary.drifts_known,
        ),
        (
            "Missed drifts",
            f"{formatting.plural(missed, 'true drift')} of {len(facts.reached_drifts)} not detected in time.",
            missed,
        ),
        (
            "False alarms",
            f"{formatting.plural(summary.false_alarms, 'alert')} without a drift. Each one costs a retraining.",
            summary.false_alarms,
        ),
        (
            "Small groups",
            f"{formatting.plural(len(small), 'segment')} with fewer than {FEW} labelled events, too few for a "
            "conclusion.",
            small,
        ),
        (
            "Incomplete run",
            f"the run ended early. {as_sentence(formatting.safe_text(summary.missing, 160))}",
            not summary.complete,
        ),
        (
            "Language",
            "the default encoder was trained on English sentences. Other languages need a multilingual encoder "
            "(“DRIFTLOOP_MODEL__ENCODER”). Masking recognises patterns such as e-mail addresses, but not names.",
            True,
        ),
    ]
    return [(name, text) for name, text, applies in items if applies]


def _ethics(facts: RunFacts) -> list[tuple[str, str]]:
    return [
        ("Privacy", _privacy(facts)),
        (
            "Labels are opinions",
            "a label is the judgement of a person. The model learns this person's views, mistakes and prejudice, and "
            "retraining repeats them faster. Annotators who contradict the others get a lower weight. This limits one "
            "dishonest annotator, but not a view that all annotators share.",
        ),
        (
            "Manipulation",
            "anyone who can send events or labels can try to influence the model. The gate, the limited weight of one "
            "annotator, probation and rollback prevent much of this, but not all. docs/threat-model.md lists what "
            "they do not prevent. If important decisions depend on the predictions, promotions should require manual "
            "approval (“DRIFTLOOP_RETRAIN__APPROVAL=manual”).",
        ),
        (
            "Feedback loops",
            "predictions can change later events, for example which messages are shown or answered first. Then later "
            "labels are influenced by the model. This run replays recorded data, which no prediction can change.",
        ),
        (
            "Fairness",
            "only groups with a segment are compared. A group that no field names can be harmed, and this report does "
            "not show it.",
        ),
        (
            "Energy",
            "retraining on demand instead of at fixed intervals saves most where little changes. The chapter on cost "
            "has the estimate for this run.",
        ),
    ]


def _privacy(facts: RunFacts) -> str:
    masked = facts.data.source.masked
    masking = (
        f"{display_names.masked_kinds(masked)} were masked before an event was sent, so no topic, model or log "
        "contains them. Names of persons and other personal content of the texts were not masked."
        if masked
        else "no personal data was masked in this run. All content of the texts is on the topics, in the store and in "
        "the examples of this report."
    )
    return (
        f"{masking} Predictions and outcomes contain the text and are kept for days to a year. They need the same "
        "protection as the texts. The operator is responsible for access by role, a retention no longer than needed, "
        "and a way to delete data."
    )
