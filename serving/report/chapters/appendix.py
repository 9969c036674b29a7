"""The report's end: limits and ethics, how to make the run again, and a glossary."""

from __future__ import annotations

from serving.report import display_names, formatting
from serving.report.document import Block, Bullets, Chapter, Heading, Pairs, Paragraph
from serving.report.run_data import RunFacts

GLOSSARY = (
    ("Accuracy", "the share of answers that are right."),
    ("Alert", "the monitor's word that the stream has changed, with the evidence."),
    ("AutoML", "software that searches for a model and its settings by itself; here TPOT, by a genetic algorithm."),
    ("Champion, challenger", "the model in office, and one that wants to take its place."),
    ("Confidence interval (95%)", "where the true value lies in 95 of 100 cases like this; wide when events are few."),
    ("Dead letter", "a message that could not be processed, kept byte for byte with the reason."),
    (
        "Drift",
        "a change of the stream: of the texts (covariate), of how frequent the labels are (label), or of what a "
        "text's label is (concept).",
    ),
    ("Embedding", "a text as some hundred numbers, near to each other for texts that mean something similar."),
    ("Encoder, head", "the network that makes embeddings, and the small classifier on top of it."),
    ("F1", "one number for a class's precision and recall: their harmonic mean."),
    ("Fine-tuning", "training the encoder itself further on one's own labels."),
    ("Gate", "the comparison that a challenger must win, with guards against harm, before it is promoted."),
    ("Held-out events", "events that a candidate was not trained on, kept to judge it."),
    ("Kafka, topic, offset", "the log that all messages go through, one of its named parts, and a place in it."),
    ("Lag", "events that wait to be scored."),
    ("MLflow", "the registry that keeps each model with its figures and its lineage."),
    (
        "ONNX Runtime, int8",
        "a fast runner for networks, and weights rounded to whole numbers, which makes them faster still.",
    ),
    ("p50, p95, p99", "the value that 50, 95 or 99 of 100 measurements do not exceed."),
    ("Precision, recall", "of what was called so, the share that is; of what is so, the share that was called so."),
    (
        "Prequential",
        "test, then learn: each event is first predicted and then learnt from, so no answer was seen before.",
    ),
    ("Prior shift", "another word for drift of the label mix."),
    ("Rollback", "the predecessor comes back because it does better."),
    ("Shadow", "a model answers the same live events as the champion, without its answers being used."),
    ("Warm-up", "the first events, on which the first model is trained; they are left out of every accuracy."),
)


def limits(facts: RunFacts) -> Chapter:
    """What this run does not show, and what to think of before using such a thing."""
    return Chapter(
        "Limits and ethics",
        [
            Heading("What this run does not show"),
            Bullets(_limits(facts)),
            Heading("Before it judges anybody"),
            Bullets(
                [
                    ("Privacy", _privacy(facts)),
                    (
                        "Labels are opinions",
                        "a label is what somebody thought. The model learns their view, their haste and their "
                        "prejudice; retraining repeats it faster. Annotators who contradict the others count less "
                        "here, which helps against one liar and not against a view that all share.",
                    ),
                    (
                        "A loop can be steered",
                        "whoever can send events or labels can try to move the model. The gate, one annotator's "
                        "limited weight, probation and rollback stop much of it, not all; docs/threat-model.md says "
                        "what nothing stops. Where much depends on the answers, promotions should wait for a person "
                        "(“DRIFTLOOP_RETRAIN__APPROVAL=manual”).",
                    ),
                    (
                        "Feedback",
                        "where predictions change what happens next (what is shown, who is answered first), later "
                        "labels are no longer those of an untouched world. This run replays data that no prediction "
                        "could change.",
                    ),
                    (
                        "Fairness",
                        "segments are compared because they are given. Groups that no field names can be hurt without "
                        "a trace in this report.",
                    ),
                    (
                        "Energy",
                        "retraining by need rather than by calendar saves most where little changes; the chapter on "
                        "cost gives the estimate for this run.",
                    ),
                ]
            ),
        ],
    )


def again(facts: RunFacts) -> Chapter:
    """The command, the versions, and the terms."""
    summary, source = facts.summary, facts.evidence.source
    versions = {**summary.software, **facts.evidence.software}
    rows = [
        ("Command", formatting.shown(source.command, 200)),
        ("Seed and data", f"{source.seed}; revision {formatting.shown(source.revision, 64)}"),
        (
            "Versions",
            "; ".join(
                f"{formatting.shown(name, 30)} {formatting.shown(number, 60)}" for name, number in versions.items()
            ),
        ),
        ("This report", f"made of summary.json and report.json of {formatting.moment(facts.evidence.written_at)}"),
    ]
    blocks: list[Block] = [
        Pairs("To make the run again", rows),
        Paragraph(
            "The same command sends the same events in the same order. Times, and with them what a search finds "
            "before its limit and at which event a model takes over, differ from run to run, so the figures come near "
            "to these and do not repeat them. One run is one run: the project's benchmarks repeat over seeds."
        ),
        Heading("Glossary"),
        Bullets(GLOSSARY),
    ]
    return Chapter("To repeat it, and glossary", blocks)


def _limits(facts: RunFacts) -> list[tuple[str, str]]:
    summary, source = facts.summary, facts.evidence.source
    found = [
        (
            "One run",
            f"{formatting.plural(summary.events, 'event')} of one stream, one seed, one machine. Differences smaller than "
            "the intervals given are chance until shown otherwise.",
        ),
        (
            "Late labels",
            f"a label comes {formatting.plural(source.label_delay, 'event')} after its event here. Nothing can be learnt of "
            "a drift before its first label; until then there is only an alert and an estimate. Where labels take "
            "weeks, so does the answer.",
        ),
        (
            "Warm-up",
            f"the first {formatting.plural(source.warm_up, 'event')} are labelled at once and count nowhere. Without such a "
            "beginning, a ready-made classifier has to start.",
        )
        if source.warm_up
        else ("Start", "the first model was ready-made; what it was trained on is its maker's to say."),
    ]
    if source.kind == "synthetic":
        found.append(
            ("Made-up texts", "they follow word distributions, and no figure here carries over to real language.")
        )
    if source.injected and any(one.kind != "order" for one in source.injected):
        found.append(
            ("Injected drift", "the change was put in on purpose and is cleaner than most that happen by themselves.")
        )
    if any(one.kind == "order" for one in source.injected):
        found.append(
            (
                "Order",
                "the parts of the stream were put one after the other by the scenario; real change is rarely that "
                "abrupt.",
            )
        )
    if not summary.drifts_known:
        found.append(
            ("Unknown truth", "where the stream changes is not known, so detection cannot be judged, only its benefit.")
        )
    missed = sum(drift.detected_position is None for drift in facts.passed)
    if missed:
        found.append(
            ("Missed", f"{formatting.plural(missed, 'true drift')} of {len(facts.passed)} not detected in time.")
        )
    if summary.false_alarms:
        found.append(
            (
                "False alarms",
                f"{formatting.plural(summary.false_alarms, 'alert')} with nothing behind it, each of which costs.",
            )
        )
    small = [one for one in facts.evidence.segments if one.name and one.labelled < 30]
    if small:
        found.append(
            (
                "Small groups",
                f"{formatting.plural(len(small), 'segment')} with fewer than 30 labelled events: nothing is shown.",
            )
        )
    if not summary.complete:
        found.append(("Incomplete", f"the run ended early: {formatting.shown(summary.missing, 160)}."))
    found.append(
        (
            "Language and kind",
            "the encoder was made for English sentences; for other languages it has to be replaced by a multilingual "
            "one (“DRIFTLOOP_MODEL__ENCODER”), and masking knows patterns, not names.",
        )
    )
    return found


def _privacy(facts: RunFacts) -> str:
    masked = facts.evidence.source.masked
    said = (
        f"{display_names.masked(masked)} were masked before an event was sent, so no topic, model or log holds them; names of "
        "people and what else a text says were not. "
        if masked
        else "nothing was masked in this run: whatever the texts hold is on the topics, in the store and in this "
        "report's examples. "
    )
    return said + (
        "Predictions and outcomes carry the text and are kept for days to a year, so they are as private as the "
        "texts: access by role, a retention no longer than needed, and a way to delete are the operator's duty."
    )
