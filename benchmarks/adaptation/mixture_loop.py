"""In-process loop of the mixture of experts: the live loop's monitor and learner on one stream, without Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np
import scipy.sparse as sp

from benchmarks.adaptation.guest_search import GuestSearch
from benchmarks.adaptation.in_process_loop import DECIDE_EVERY
from benchmarks.adaptation.playback import Clock, Playback, Stream
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.expert_features import EMPHASIS, FeatureMap, Features
from driftloop.core.models.guest import Guest
from driftloop.core.models.mixture import LinearWeights
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import Settings
from retrain.candidates.training_rows import require_learnable
from retrain.labels.annotator_trust import weight_labels
from retrain.labels.running_trust import RunningTrust
from retrain.mixture.champion_learner import GuestChange
from retrain.mixture.learner import ONLINE, MixtureLearner, MixtureOptions, make_rows
from retrain.policies.base import CompletedRetraining, PolicyContext, Retrain
from retrain.policies.mixture_rounds import MixtureRounds
from retrain.policies.on_drift import rows_since
from retrain.training_window import TrainingWindow, probabilities_given
from stream_processors.drift.detectors import parse_parameters

SECONDS_PER_ROW = 1e-4
"""Further seconds of a refit for each of its rows."""
TOGETHER = 256
"""Events that a guest is asked for at once."""


class LoopOptions(MixtureOptions, frozen=True, kw_only=True):
    """Options of a mixture in the benchmark."""

    words: bool = True
    """Let the experts read words beside embeddings."""
    kernel: Annotated[float, msgspec.Meta(ge=0)] = EMPHASIS
    """Largest length of the kernel's values beside an embedding. 0: experts that cannot bend."""
    alerts: bool = True
    """Tell the mixture of drifts."""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Seconds from the decision to refit an expert of few rows until its first prediction."""
    speed: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Events per second. 0: as in the scenario."""
    tpot: bool = False
    """Search pipelines with TPOT, as guests."""
    finetune: bool = False
    """Fine-tune encoders, as guests."""

    @property
    def guests(self) -> list[str]:
        """Candidates of a search, in the order of their fits."""
        return [name for name, chosen in (("tpot", self.tpot), ("finetune", self.finetune)) if chosen]


DEFAULTS = LoopOptions()


def parse_system(system: str) -> LoopOptions:
    """Return the options of a system such as ``mixture?share=0.02&words=0``.

    Raises:
        DriftloopError: An option is unknown, or has a value that it cannot have.
    """
    query = system.partition("?")[2]
    try:
        return msgspec.convert(parse_parameters(query, system), LoopOptions, strict=False)
    except msgspec.ValidationError as error:
        names = ", ".join(LoopOptions.__struct_fields__)
        raise DriftloopError(f"The mixture {system!r} cannot be made ({error}): its options are {names}.") from error


class MixtureLoop(Playback):
    """The loop with a mixture that learns from every label.

    A round of `MixtureRounds` takes a snapshot. With candidates it may be a search, and what proves better joins the
    mixture as a guest.

    A refit is in use some events after it was due. The time is a formula and not measured, so that a second run gives
    the same row.

    The monitor watches the probabilities of the newest snapshot. The mixture itself moves with every label, and its own
    changes would look like those of the texts. The error is that of the mixture.

    Args:
        stream: The stream.
        settings: Settings of the loop.
        options: Experts, rates and times.
        weigh: Weigh labels by the trust in their annotator.
    """

    def __init__(self, stream: Stream, settings: Settings, options: LoopOptions = DEFAULTS, weigh: bool = True) -> None:
        super().__init__(stream, settings)
        self._options = options
        self._trust = RunningTrust()
        self._weigh = weigh
        self.fits = 0
        chosen = settings.retrain
        self._policy = MixtureRounds(chosen.cooldown, chosen.search_rows, self.bootstrap)
        self._past: list[CompletedRetraining] = []
        self.snapshots: list[int] = []
        """Position of each snapshot."""
        self._speed = options.speed or stream.rate
        self._search = GuestSearch(stream, settings, options.guests, self._speed) if options.guests else None
        self._guests: tuple[Guest, ...] = ()
        # Probabilities that the online expert gave to the classes of an event, by its position.
        self._online: dict[int, dict[str, float]] = {}
        # Newest event that was predicted, by now and at the newest alert.
        self._predicted = self._predicted_at_alert = -1
        # Probabilities of a guest for events from a position on.
        self._answers: dict[tuple[Guest, int], Matrix] = {}
        # Events whose labels are known, for the window of a search.
        self._known: list[Outcome] = []
        # Ticks at which refits are in use, with the name of the expert.
        self._upcoming: list[tuple[int, str, LinearWeights]] = []

    def train_first(self, rows: TrainingWindow) -> None:
        """Fit the experts on the first labels.

        Raises:
            CannotFit: There is one class only, or there are too few rows.
        """
        require_learnable(rows)
        with Clock(self.cpu, "retrain"):
            tokens = self.stream.tokens
            if tokens is None:
                texts = [row.text for row in self.stream.scenario.sequence]
                tokens = exported_encoder(self.settings.model).tokenise(texts)
            feature_map = FeatureMap.fit(rows.embeddings, tokens[: self.bootstrap], self._options.kernel)
            features = feature_map.transform(self.stream.embeddings, tokens)
            self._wide, self._words = features.embeddings, features.words
            if not self._options.words:
                self._words = sp.csr_matrix(self._words.shape, dtype=np.float32)
            first = Features(self._wide[: len(rows)], self._words[: len(rows)])
            labelled = make_rows(first, rows.labels, range(len(rows)), weight_labels(rows).weights)
            self.learner = MixtureLearner.train(labelled, self._options)
            self._take_snapshot(0)

    def begin(self, tick: int) -> None:
        """Put refits and guests into use."""
        for joining in self._search.joining(tick) if self._search is not None else ():
            self._guests = joining.apply(self.learner.mixture, self._guests)
            self._take_snapshot(tick)
        while self._upcoming and tick >= self._upcoming[0][0]:
            _, name, weights = self._upcoming.pop(0)
            self.learner.install(name, weights)

    def predict(self, position: int) -> tuple[Sequence[str], Matrix, str]:
        """Predict an event with the mixture."""
        mixture, self._predicted = self.learner.mixture, position
        given = mixture.expert_probabilities(self._features(position))[0]
        if self._options.online:
            online = given[mixture.names.index(ONLINE)].tolist()
            self._online[position] = dict(zip(mixture.classes, online, strict=True))
        mean = np.asarray(mixture.weights @ given, dtype=np.float32)
        return mixture.classes, mean, str(len(self.snapshots))

    def reference(self, position: int) -> dict[str, float]:
        """Return the probabilities of the newest snapshot."""
        probabilities = self._snapshot.predict_proba(self._features(position))[0]
        return {name: float(p) for name, p in zip(self._snapshot.classes, probabilities, strict=True)}

    def learn(self, outcome: Outcome, tick: int) -> None:
        """Learn from a label; labels of the first events are known already.

        Args:
            outcome: The labelled event.
            tick: Current tick.
        """
        self._known.append(outcome)
        if self._search is not None:
            self._search.learn(outcome)
        if outcome.in_sample:
            return
        with Clock(self.cpu, "retrain"):
            weight = self._trust.weigh(outcome) if self._weigh else 1.0
            features = self._features(outcome.position)
            (row,) = make_rows(features, [outcome.label], [outcome.occurred_at], [weight])
            said = self._online.pop(outcome.position, {}).get(outcome.label)
            self.learner.learn(replace(row, online=said) if outcome.position > self._predicted_at_alert else row)
            for fit in self.learner.due():
                self.fits += 1
                seconds = self._options.seconds + SECONDS_PER_ROW * len(fit.labels)
                self._upcoming.append((tick + max(1, round(seconds * self._speed)), fit.expert, fit.run()))
            self._upcoming.sort(key=lambda one: one[0])
            if len(self._known) % DECIDE_EVERY == 0:
                alerts = self.alerts[-200:] if self._options.alerts else []
                searching = () if self._search is None else self._search.open
                now = PolicyContext(len(self._known), tuple(self._past), searching)
                decision = self._policy.decide(now, alerts, self._known)
                if isinstance(decision, Retrain):
                    self._retrain(decision, tick)

    def alert(self, alert: DriftAlert) -> None:
        """Tell the mixture of a drift."""
        if self._options.alerts:
            if self.learner.notice_drift(alert.onset_at):
                self._predicted_at_alert = self._predicted
            if self._search is not None:
                self._search.end_at(alert.onset_at)

    def counts(self) -> dict[str, Any]:
        """Return refits and snapshots; see `Playback.counts`."""
        refreshes = sum(one.kind == "refresh" for one in self._past)
        swaps = {"swaps": len(self.snapshots) - 1, "rollbacks": 0, "swapped_at": self.snapshots[1:]}
        guests = [] if self._search is None else self._search.judged
        return {
            "retrainings": len(self._past) - refreshes,
            "refreshes": refreshes,
            "fits": self.fits,
            "guests": guests,
            **swaps,
        }

    def _retrain(self, decision: Retrain, tick: int) -> None:
        """Take a snapshot, and fit the candidates on the newest labels if the round is a search."""
        mixture = self.learner.mixture
        self._guests = GuestChange(leaving=mixture.idle_guests).apply(mixture, self._guests)
        self._take_snapshot(tick)
        kept = sorted(self._known[-self.settings.retrain.window :], key=lambda outcome: outcome.position)
        onset, until_at = sum(outcome.occurred_at < decision.onset_at for outcome in kept), kept[-1].occurred_at
        is_search = self._search is not None and decision.kind == "search"
        rows = rows_since(decision.onset_at, self._known)
        self._past.append(
            CompletedRetraining(
                labelled=len(self._known),
                onset_at=decision.onset_at,
                rows=rows,
                until_at=until_at,
                trigger=decision.trigger,
                promoted=True,
                kind="search" if is_search else "refresh",
            )
        )
        if self._search is not None and is_search:
            positions, labels = [outcome.position for outcome in kept], [outcome.label for outcome in kept]
            window = replace(self.stream.window(positions, onset, labels), given=probabilities_given(kept))
            # One core each.
            self.cpu["retrain"] += self._search.start(tick, window, decision.onset_at, until_at, rows)

    def _take_snapshot(self, tick: int) -> None:
        self._snapshot = self.learner.mixture.copy()
        self.snapshots.append(tick)

    def _features(self, position: int) -> Features:
        guests = {guest.name: self._answer(guest, position) for guest in self._guests}
        return Features(self._wide[position : position + 1], self._words[position], guests)

    def _answer(self, guest: Guest, position: int) -> Matrix:
        """Return the probabilities of a guest for one event, shape (1, k); it is asked for many events at once."""
        start = position - position % TOGETHER
        key = (guest, start)
        if key not in self._answers:
            rows = slice(start, min(start + TOGETHER, len(self.stream)))
            texts = [row.text for row in self.stream.scenario.sequence[rows]]
            classes = self.learner.mixture.classes
            self._answers[key] = guest.predict_proba(texts, self.stream.embeddings[rows], classes)
        return self._answers[key][position - start : position - start + 1]
