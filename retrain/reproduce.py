"""Reproduction of a drift case from the topics: its decisions are repeated and its models refitted.

Each `queued` message on `retraining` records the inputs of its decision: offsets, counts, onset, settings. The policy
is asked again with the same inputs. Linear heads are fitted again and compared by
`driftloop.core.models.head.weights_digest`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from driftloop.core.kafka.topic_history import TopicHistory, read_history
from driftloop.core.messages import DriftAlert, Outcome, Retraining
from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle, verify_bundle
from driftloop.core.models.encoder import Encoder
from driftloop.core.models.head import Head, weights_digest
from driftloop.core.models.manifest import Manifest
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import RetrainSettings, Settings
from driftloop.core.settings_source import RENAMED
from driftloop.core.topics import DRIFT_ALERTS, OUTCOMES, RETRAINING
from retrain.candidates.linear import LinearHead, choose_weight, fit_head
from retrain.candidates.mixture_fit import MixtureFit
from retrain.labels.annotator_trust import weight_labels
from retrain.mixture.champion_learner import learnt_offset
from retrain.mixture.relearning import learn_again
from retrain.policies.base import CompletedRetraining, PolicyContext, Retrain, Wait
from retrain.policies.catalogue import make_policy
from retrain.stream_state import ALERTS_KEPT, corrected
from retrain.training_window import TrainingWindow, build_window, stored_embeddings

AGREEMENT_ROWS = 500
"""Newest labelled events on which a mixture that was learnt again is compared with the registered one."""


@dataclass(frozen=True)
class ReproductionStep:
    """Decision or model that was reproduced, and the result."""

    subject: str
    same: bool | None
    """True if it is the same as recorded. `None` if it cannot be compared; ``detail`` has the reason."""
    detail: str


@dataclass(frozen=True)
class DecisionInputs:
    """Inputs of a policy at the time of a decision."""

    now: PolicyContext
    alerts: tuple[DriftAlert, ...]
    outcomes: list[Outcome]


def reproduce_case(settings: Settings, case_id: str) -> Iterator[ReproductionStep]:
    """Reproduce every decision and every model of a drift case.

    Args:
        settings: Settings of the stream.
        case_id: Alert id of the case.

    Returns:
        The steps, in the order of the topic `retraining`.

    Raises:
        DriftloopError: Kafka, Redis or MLflow do not answer, or a bundle cannot be loaded.
    """
    store = OnlineStore(settings)
    store.check()
    history = read_history(settings, DRIFT_ALERTS, OUTCOMES, RETRAINING).of_stream(settings.stream)
    of_case = [(index, message) for index, message in enumerate(history.retrainings) if message.trigger == case_id]
    if not of_case:
        yield ReproductionStep("decision", None, "nothing was retrained for this alert")
    with tempfile.TemporaryDirectory(prefix="driftloop-replay-", dir=settings.scratch_dir or None) as folder:
        models = _ModelReproducer(settings, store, history, Path(folder))
        for index, message in of_case:
            if message.state == "queued":
                yield repeat_decision(history, index, settings.retrain)
            elif message.version and message.state in ("promoted", "waiting", "rolled-back"):
                yield models.reproduce(message)


def repeat_decision(history: TopicHistory, index: int, settings: RetrainSettings) -> ReproductionStep:
    """Ask the policy again for a recorded decision and compare its answer.

    Args:
        history: Outcomes, alerts and retrainings of the stream.
        index: Index of the `queued` message in ``history.retrainings``.
        settings: Settings to use if the message does not record those of its worker.
    """
    message = history.retrainings[index]
    subject = f"decision {message.run_id}"
    if "last_offset" not in message.scores:
        return ReproductionStep(subject, None, "its message does not record the inputs of the policy")
    if message.scores.get("asked_by"):
        return ReproductionStep(subject, None, message.reason)
    settings = recorded_settings(message, settings)
    inputs = inputs_of(history, index, settings.window)
    rows, recorded = sum(o.occurred_at >= message.scores["onset_at"] for o in inputs.outcomes), message.scores["rows"]
    if rows != recorded:
        detail = f"{rows} labelled events since the onset are on the topic, {recorded} then"
        return ReproductionStep(subject, False, detail)
    answer = make_policy(settings).decide(inputs.now, inputs.alerts, inputs.outcomes)
    if isinstance(answer, Wait):
        detail = f"the policy {make_policy(settings).name} waits now: {answer.reason}"
        return ReproductionStep(subject, False, detail)
    differences = _differences(answer, message)
    if differences:
        return ReproductionStep(subject, False, "; ".join(differences))
    return ReproductionStep(subject, True, f"{message.kind}: {message.reason}")


def recorded_settings(message: Retraining, default: RetrainSettings) -> RetrainSettings:
    """Return the settings that the worker had when it wrote a `queued` message.

    Args:
        message: The `queued` message.
        default: Settings to return if the message does not record them.
    """
    if "settings" not in message.scores:
        return msgspec.structs.replace(default, mixture=False)
    recorded = {"mixture": False, **message.scores["settings"]}  # earlier versions had none
    known = {RENAMED.get(f"retrain.{name}", name).rpartition(".")[2]: value for name, value in recorded.items()}
    return msgspec.convert(known, RetrainSettings, strict=False)


def inputs_of(history: TopicHistory, index: int, keep: int) -> DecisionInputs:
    """Return the inputs that the policy had when the worker wrote a `queued` message.

    Args:
        history: Outcomes, alerts and retrainings of the stream.
        index: Index of the message in ``history.retrainings``.
        keep: Number of outcomes that the worker kept, unless the message records it.
    """
    message = history.retrainings[index]
    scores = message.scores
    kept = int(scores.get("kept", keep))
    alerts = {alert.alert_id: alert for alert in reversed(history.alerts) if alert.detected_at <= message.at}
    with_offsets = list(zip(history.outcome_offsets, history.outcomes, strict=True))
    outcomes = outcomes_between(with_offsets, int(scores["first_offset"]), int(scores["last_offset"]), kept)
    corrections = scores.get("corrections", {})
    completed = _completed_before(history.retrainings[:index], history.retrainings)
    return DecisionInputs(
        PolicyContext(int(scores["labelled"]), tuple(completed), tuple(scores.get("searching", ()))),
        tuple(reversed(alerts.values()))[-ALERTS_KEPT:],
        [corrected(o, *corrections[o.event_id]) if o.event_id in corrections else o for o in outcomes],
    )


def outcomes_between(outcomes: Sequence[tuple[int, Outcome]], first: int, last: int, keep: int) -> list[Outcome]:
    """Return the outcomes that a worker held after it had read up to an offset.

    Of a repeated event the first outcome counts as long as it is kept, even if its offset is less than ``first``.

    Args:
        outcomes: Outcomes with their offsets, in the order of arrival.
        first: Lowest offset, inclusive.
        last: Highest offset, inclusive.
        keep: Number of outcomes that the worker kept.
    """
    kept: dict[str, tuple[int, Outcome]] = {}
    for offset, outcome in outcomes:
        if offset > last:
            break
        if outcome.event_id not in kept:
            if len(kept) == keep:
                del kept[next(iter(kept))]
            kept[outcome.event_id] = (offset, outcome)
    return [outcome for offset, outcome in kept.values() if offset >= first]


def refit_head(window: TrainingWindow, lineage: Lineage, settings: RetrainSettings) -> tuple[Head, float]:
    """Fit the linear head of a retraining again.

    A winner was fitted on the whole window, with the weight that was chosen without the held-out slices.

    Args:
        window: Window of the retraining.
        lineage: Lineage of the recorded model.
        settings: Settings that the worker had.

    Returns:
        The head, and the weight that is chosen again for the rows before the drift.
    """
    train = window.hold_out(settings.holdout)[0]
    old_weight = choose_weight(train)
    return fit_head(window if lineage.rows == len(window) else train, old_weight, settings.seed), old_weight


def training_encoder(manifest: Manifest, own: Encoder, configured: Encoder) -> Encoder:
    """Return the encoder of the embeddings that a head was fitted on.

    A head is fitted on the embeddings of the configured encoder. If int8 costs the model too much, its bundle then gets
    that encoder in full precision.

    Args:
        manifest: Manifest of the bundle.
        own: Encoder in the bundle.
        configured: Encoder of the settings.
    """
    quantisation = manifest.quantisation
    return configured if quantisation is not None and not quantisation.int8 else own


def label_agreement(model: BundleClassifier, head: Head, window: TrainingWindow) -> float:
    """Return the share of a window's events to which both heads give the same label.

    Args:
        model: Recorded model.
        head: Head that was fitted again.
        window: Window of the retraining.
    """
    labels = model.predict(window.texts, window.embeddings).labels
    columns = head.predict_proba(window.texts, window.embeddings).argmax(axis=1)
    return float(np.mean([head.classes[column] == label for column, label in zip(columns, labels, strict=True)]))


def _differences(answer: Retrain, message: Retraining) -> list[str]:
    """Return one phrase for each part of a decision that differs from the recorded one."""
    recorded: dict[str, Any] = {
        "trigger": message.trigger,
        "onset_at": float(message.scores["onset_at"]),
        "kind": message.kind,
        "reason": message.reason,
    }
    if "details" in message.scores:
        recorded["details"] = message.scores["details"]
    elif message.reason.startswith(f"{answer.reason}; "):
        # Earlier versions recorded no details; their cost-aware policy appended its figures to the reason.
        recorded["reason"] = answer.reason
    repeated = {name: getattr(answer, name) for name in recorded}
    return [f"{name} {repeated[name]}, then {then}" for name, then in recorded.items() if repeated[name] != then]


def _completed_before(before: Sequence[Retraining], messages: Sequence[Retraining]) -> Iterator[CompletedRetraining]:
    """Yield the retrainings begun in the messages ``before``, as they were known then.

    A retraining that a worker abandoned is not known to the next worker. If the search of a retraining was still
    running, its end is in the later ``messages``.
    """
    ends = {m.run_id: m.scores["past"] for m in messages if m.state == "finished" and "past" in m.scores}
    promoted = {message.run_id for message in before if message.state == "promoted"}
    for message in before:
        if message.state == "queued" and message.run_id in ends:
            past = msgspec.convert(ends[message.run_id], CompletedRetraining)
            yield replace(past, promoted=message.run_id in promoted)


class _ModelReproducer:
    """Fits the models of a case again."""

    def __init__(self, settings: Settings, store: OnlineStore, history: TopicHistory, folder: Path) -> None:
        self._settings = settings
        self._store = store
        self._history = history
        self._folder = folder
        self._registry = Registry(settings)
        self._encoder = exported_encoder(settings.model, threads=2)
        self._queued = {m.run_id: index for index, m in enumerate(history.retrainings) if m.state == "queued"}

    def reproduce(self, message: Retraining) -> ReproductionStep:
        """Reproduce the model that a message names, in the way in which it was made."""
        subject = f"model {message.version}"
        tags = self._registry.tags(message.version)
        if "restores" in tags:
            same = self._registry.tags(tags["restores"]).get("digest") == tags.get("digest")
            detail = f"version {message.version} is version {tags['restores']} again, by its digest"
            return ReproductionStep(subject, same, detail)
        if message.run_id not in self._queued:
            return ReproductionStep(subject, None, f"manual decision on an existing model: {message.reason}")
        if message.candidate == MixtureFit.name:
            return self._learn_again(subject, message)
        if message.candidate != LinearHead.name:
            detail = (
                f"{message.candidate} searches by the clock and cannot be repeated bit for bit; the registry keeps the "
                f"bundle with digest {tags.get('digest', '')[:16]}"
            )
            return ReproductionStep(subject, None, detail)
        return self._refit(subject, message)

    def _refit(self, subject: str, message: Retraining) -> ReproductionStep:
        """Fit the linear head of a retraining again and compare the weights."""
        bundle = self._registry.download(message.version, self._folder)
        model = self._load(message.version)
        manifest = verify_bundle(bundle, self._settings.signing_key)
        lineage = manifest.lineage
        index = self._queued[message.run_id]
        settings = recorded_settings(self._history.retrainings[index], self._settings.retrain)
        window, source = self._window(index, settings, training_encoder(manifest, model.encoder, self._encoder))
        with threadpool_limits(1):  # one thread as in the first fit: the order of a sum decides its last bits
            head, old_weight = refit_head(window, lineage, settings)
        if not isinstance(model.head, Head):
            return ReproductionStep(subject, False, "the bundle in the registry has no linear head")
        refitted, registered = weights_digest(head), weights_digest(model.head)
        recorded = lineage.parameters.get("weights", registered)
        if refitted == registered == recorded:
            return ReproductionStep(subject, True, f"{refitted[:16]} from {lineage.rows} events; {source}")
        details = [f"weights {refitted[:16]}, in the registry {registered[:16]}", source]
        if recorded != registered:
            details.append(f"the lineage records {str(recorded)[:16]}")
        if old_weight != lineage.parameters.get("old_weight"):
            details.append(f"weight of old rows {old_weight:g}, then {lineage.parameters.get('old_weight')}")
        details.append(f"both give {label_agreement(model, head, window):.1%} of the window's events the same label")
        return ReproductionStep(subject, False, "; ".join(details))

    def _learn_again(self, subject: str, message: Retraining) -> ReproductionStep:
        """Learn the labels between two versions of a mixture again, and compare the answers."""
        model = self._load(message.version)
        parent = self._load(self._registry.tags(message.version).get("parent_version", ""))
        head = parent.head
        if not isinstance(head, MixtureHead) or model.lineage is None or parent.lineage is None:
            detail = f"version {parent.version} is no mixture, and the first experts are not fitted again"
            return ReproductionStep(subject, None, detail)
        last, learnt = model.lineage.last_offset, learnt_offset(self._settings, parent.lineage)
        numbered = zip(self._history.outcome_offsets, self._history.outcomes, strict=True)
        outcomes = [(offset, outcome) for offset, outcome in numbered if offset <= last]
        embed = partial(stored_embeddings, store=self._store, encoder=self._encoder)
        mixture = learn_again(head, parent.lineage, learnt, outcomes, self._history.alerts, embed)
        again = parent.with_mixture(mixture, 0)
        window = build_window([one for _, one in outcomes[-AGREEMENT_ROWS:]], (-1, -1), 0.0, self._store, self._encoder)
        theirs, ours = (np.asarray(one.predict(window.texts, window.embeddings).labels) for one in (model, again))
        detail = (
            "its refits end by the clock and cannot be repeated bit for bit; learnt again from the labels since "
            f"version {parent.version}, it gives {np.mean(theirs == ours):.1%} of the newest {len(window)} events the "
            "same label"
        )
        return ReproductionStep(subject, None, detail)

    def _load(self, version: str) -> BundleClassifier:
        bundle = self._registry.download(version, self._folder)
        return load_bundle(bundle, self._settings.signing_key, version=version, encoder=self._encoder)

    def _window(self, index: int, settings: RetrainSettings, encoder: Encoder) -> tuple[TrainingWindow, str]:
        """Return the window of a decision, and a phrase about the source of its embeddings."""
        scores: dict[str, Any] = self._history.retrainings[index].scores
        outcomes = inputs_of(self._history, index, settings.window).outcomes[-settings.window :]
        stored = self._store.embeddings([outcome.event_id for outcome in outcomes], encoder.digest)
        missing = sum(vector is None for vector in stored)
        source = f"{len(stored) - missing} embeddings from the store" + (f", {missing} recomputed" if missing else "")
        offsets = int(scores["first_offset"]), int(scores["last_offset"])
        window = build_window(outcomes, offsets, float(scores["onset_at"]), self._store, encoder)
        return weight_labels(window, settings.seed), source
