"""A drift case made again from the topics: the same decisions from the same facts, and the same models.

Each decision of the policy wrote down what it rested on (`queued` on `retraining`: offsets, counts, onset). From that
the policy's inputs are put together once more, the policy is asked again, and the linear heads that came of it are
fitted again and compared by `driftloop.core.models.head.weights_digest`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from driftloop.core.kafka import clients
from driftloop.core.messages import DriftAlert, Outcome, Retraining, decode
from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle, verify_bundle
from driftloop.core.models.encoder import Encoder
from driftloop.core.models.head import Head, weights_digest
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import RetrainSettings, Settings
from driftloop.core.topics import DRIFT_ALERTS, OUTCOMES, RETRAINING, name
from retrain.candidates.linear import LinearHead, choose_weight, fit_head
from retrain.labels.annotator_trust import weigh
from retrain.policies.policies import CompletedRetraining, PolicyContext, Retrain, Wait, make_policy
from retrain.stream_state import ALERTS_KEPT, corrected
from retrain.training_window import TrainingWindow, build_window


@dataclass(frozen=True)
class ReproductionStep:
    """One thing that was made again, and whether it came out the same."""

    what: str
    same: bool | None
    """None: it cannot be compared; the words say why."""
    words: str


@dataclass(frozen=True)
class TopicHistory:
    """What the topics tell, each in the order of arrival."""

    outcomes: Sequence[tuple[int, Outcome]]
    """With their offsets."""
    alerts: Sequence[DriftAlert]
    diary: Sequence[Retraining]


@dataclass(frozen=True)
class Moment:
    """What a decision rested on."""

    now: PolicyContext
    alerts: tuple[DriftAlert, ...]
    outcomes: list[Outcome]


def replay(settings: Settings, case_id: str) -> Iterator[ReproductionStep]:
    """Make every decision and every model of the case of the alert ``case_id`` again, one step after the other.

    Raises:
        DriftloopError: Kafka, Redis or MLflow do not answer, or a bundle cannot be loaded.
    """
    store = OnlineStore(settings)
    store.check()
    told = read(settings)
    of_case = [(place, line) for place, line in enumerate(told.diary) if line.trigger == case_id]
    if not of_case:
        yield ReproductionStep("decision", None, "nothing was retrained for this alert")
    with tempfile.TemporaryDirectory(prefix="driftloop-replay-", dir=settings.work or None) as folder:
        models = _Models(settings, store, told, Path(folder))
        for place, line in of_case:
            if line.state == "queued":
                yield decide_again(told, place, settings.retrain)
            elif line.version and line.state in ("promoted", "waiting", "rolled-back"):
                yield models.make_again(line)


def read(settings: Settings) -> TopicHistory:
    """All that is on `outcomes`, `drift-alerts` and `retraining` for this stream."""
    alerts = clients.read_all(settings, name(settings, DRIFT_ALERTS), DriftAlert)
    diary = clients.read_all(settings, name(settings, RETRAINING), Retraining)
    outcomes: list[tuple[int, Outcome]] = []
    for part in clients.records(settings, name(settings, OUTCOMES)):
        for record in part:
            with suppress(ValueError):
                outcomes.append((record.offset, decode(Outcome, record.value or b"")))
    return TopicHistory(
        outcomes,
        [alert for alert in alerts if alert.stream == settings.stream],
        [line for line in diary if line.stream == settings.stream],
    )


def decide_again(told: TopicHistory, place: int, chosen: RetrainSettings) -> ReproductionStep:
    """Ask the policy again what it decided in line ``place`` of the diary, a `queued` one.

    ``chosen`` are the settings where the line does not bring those of its worker.
    """
    line = told.diary[place]
    what = f"decision {line.run_id}"
    if "last_offset" not in line.scores:
        return ReproductionStep(what, None, "its message does not say what the policy knew")
    if line.scores.get("asked_by"):
        return ReproductionStep(what, None, line.reason)
    chosen = settings_then(line, chosen)
    moment = moment_of(told, place, chosen.window)
    rows = sum(outcome.occurred_at >= line.scores["onset_at"] for outcome in moment.outcomes)
    if rows != line.scores["rows"]:
        return ReproductionStep(
            what, False, f"{rows} labelled events since the onset are on the topic, {line.scores['rows']} then"
        )
    answer = make_policy(chosen).decide(moment.now, moment.alerts, moment.outcomes)
    if isinstance(answer, Wait):
        return ReproductionStep(what, False, f"the policy {make_policy(chosen).name} waits now: {answer.reason}")
    was = Retrain(line.reason, line.trigger, float(line.scores["onset_at"]), line.kind)
    if answer == was:
        return ReproductionStep(what, True, f"{line.kind}: {line.reason}")
    changed = [key for key in ("trigger", "onset_at", "kind", "reason") if getattr(answer, key) != getattr(was, key)]
    told_apart = "; ".join(f"{key} {getattr(answer, key)}, then {getattr(was, key)}" for key in changed)
    return ReproductionStep(what, False, told_apart)


def settings_then(line: Retraining, chosen: RetrainSettings) -> RetrainSettings:
    """The settings that the worker of a `queued` line had, where it says; otherwise ``chosen``."""
    if "settings" not in line.scores:
        return chosen
    return msgspec.convert(line.scores["settings"], RetrainSettings, strict=False)


def moment_of(told: TopicHistory, place: int, keep: int) -> Moment:
    """What the worker knew when it wrote line ``place`` of the diary, with ``keep`` outcomes at most."""
    line = told.diary[place]
    scores = line.scores
    alerts = {alert.alert_id: alert for alert in reversed(told.alerts) if alert.detected_at <= line.at}
    outcomes = outcomes_between(told.outcomes, int(scores["first_offset"]), int(scores["last_offset"]), keep)
    said = scores.get("corrections", {})
    return Moment(
        PolicyContext(int(scores["labelled"]), tuple(_pasts(told.diary[:place], told.diary))),
        tuple(reversed(alerts.values()))[-ALERTS_KEPT:],
        [corrected(o, *said[o.event_id]) if o.event_id in said else o for o in outcomes],
    )


def outcomes_between(outcomes: Sequence[tuple[int, Outcome]], first: int, last: int, keep: int) -> list[Outcome]:
    """Those at the offsets from ``first`` to ``last``, as a worker with room for ``keep`` of them keeps them.

    Of a repeated event the first one counts as long as it is kept, even where it lies before ``first``.
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


def _pasts(before: Sequence[Retraining], diary: Sequence[Retraining]) -> Iterator[CompletedRetraining]:
    """The retrainings begun in the lines ``before``, with what was known of them then.

    One that a worker gave up is unknown to the next; one whose search was still under way has its end in ``diary``.
    """
    ends = {line.run_id: line.scores["past"] for line in diary if line.state == "finished" and "past" in line.scores}
    promoted = {line.run_id for line in before if line.state == "promoted"}
    for line in before:
        if line.state == "queued" and line.run_id in ends:
            past = msgspec.convert(ends[line.run_id], CompletedRetraining)
            yield replace(past, promoted=line.run_id in promoted)


class _Models:
    """Fits the models of a case again."""

    def __init__(self, settings: Settings, store: OnlineStore, told: TopicHistory, folder: Path) -> None:
        self._settings = settings
        self._store = store
        self._told = told
        self._folder = folder
        self._registry = Registry(settings)
        self._encoder = exported_encoder(settings.model, threads=2)
        self._queued = {line.run_id: place for place, line in enumerate(told.diary) if line.state == "queued"}

    def make_again(self, line: Retraining) -> ReproductionStep:
        """The model that a line of the diary names, made again in the way in which it came to be."""
        what = f"model {line.version}"
        tags = self._registry.tags(line.version)
        if "restores" in tags:
            same = self._registry.tags(tags["restores"]).get("digest") == tags.get("digest")
            return ReproductionStep(
                what, same, f"version {line.version} is version {tags['restores']} again, by its digest"
            )
        if line.run_id not in self._queued:
            return ReproductionStep(
                what, None, f"a person's decision about a model that was made before: {line.reason}"
            )
        if line.candidate != LinearHead.name:
            return ReproductionStep(
                what, None,
                f"{line.candidate} searches by the clock, so it cannot be made again bit for bit; the bundle with "
                f"digest {tags.get('digest', '')[:16]} is kept in the registry",
            )  # fmt: skip
        return self._fit_again(what, line)

    def _fit_again(self, what: str, line: Retraining) -> ReproductionStep:
        bundle = self._registry.download(line.version, self._folder)
        model = load_bundle(bundle, self._settings.signing_key, version=line.version, encoder=self._encoder)
        lineage = verify_bundle(bundle, self._settings.signing_key).lineage
        place = self._queued[line.run_id]
        chosen = settings_then(self._told.diary[place], self._settings.retrain)
        window, source = self._window(place, chosen, model.encoder)
        with threadpool_limits(1):  # as it was fitted: the order of a sum decides its last bits
            head, old_weight = refit(window, lineage, chosen)
        if model.head is None:
            return ReproductionStep(what, False, "the bundle in the registry has no head")
        here, there = weights_digest(head), weights_digest(model.head)
        recorded = lineage.parameters.get("weights", there)
        if here == there == recorded:
            return ReproductionStep(what, True, f"{here[:16]} from {lineage.rows} events; {source}")
        words = [f"weights {here[:16]}, in the registry {there[:16]}", source]
        if recorded != there:
            words.append(f"the lineage says {str(recorded)[:16]}")
        if old_weight != lineage.parameters.get("old_weight"):
            words.append(f"old rows count for {old_weight:g}, then for {lineage.parameters.get('old_weight')}")
        words.append(f"both give {agreement(model, head, window):.1%} of the window's events the same label")
        return ReproductionStep(what, False, "; ".join(words))

    def _window(self, place: int, chosen: RetrainSettings, encoder: Encoder) -> tuple[TrainingWindow, str]:
        """The window of a decision, and where its embeddings come from."""
        scores: dict[str, Any] = self._told.diary[place].scores
        outcomes = moment_of(self._told, place, chosen.window).outcomes
        found = self._store.embeddings([outcome.event_id for outcome in outcomes], encoder.digest)
        lost = sum(vector is None for vector in found)
        source = f"{len(found) - lost} embeddings from the store" + (f", {lost} computed again" if lost else "")
        offsets = int(scores["first_offset"]), int(scores["last_offset"])
        window = build_window(outcomes, offsets, float(scores["onset_at"]), self._store, encoder)
        return weigh(window, chosen.seed), source


def refit(window: TrainingWindow, lineage: Lineage, chosen: RetrainSettings) -> tuple[Head, float]:
    """The linear head of a retraining on ``window``, and the weight of old rows that is chosen for it again.

    A winner was fitted on the whole window, with the weight that was chosen without the slices held out.
    """
    train = window.hold_out(chosen.holdout)[0]
    old_weight = choose_weight(train)
    return fit_head(window if lineage.rows == len(window) else train, old_weight, chosen.seed), old_weight


def agreement(model: BundleClassifier, head: Head, window: TrainingWindow) -> float:
    """Share of the window's events to which both heads give the same label."""
    said = model.predict(window.texts, window.embeddings).labels
    columns = head.predict_proba(window.texts, window.embeddings).argmax(axis=1)
    return float(np.mean([head.classes[column] == label for column, label in zip(columns, said, strict=True)]))
