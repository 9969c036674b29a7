"""Learner of the champion's mixture: follows the promotions, learns from every label, and publishes what changes.

What it knows is on the topics. The bundle and the updates after it hold the mixture, up to an offset in `outcomes`; the
outcomes hold the labels. So a worker that ends at any moment is continued by the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import MixtureUpdate, ModelUpdate, Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage, write_bundle
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.guest import Guest
from driftloop.core.models.head import Head
from driftloop.core.models.mixture import Mixture
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.mixture_update import UpdateSeries, apply_update, check_signature
from driftloop.core.settings import Settings
from driftloop.core.topics import MIXTURE_UPDATES, OUTCOMES, name
from retrain.mixture.learner import NO_DRIFT, MixtureLearner
from retrain.mixture.trainer import MixtureTrainer
from retrain.promotion.model_loader import ModelLoader
from retrain.stream_state import StreamState

log = logging.getLogger(__name__)

SAMPLED_EVERY = 50
"""Labels between two samples of the weights."""
SAMPLES = 2000
"""Samples that the topic keeps."""
CHUNK = 500
"""Labelled events that are taken between two looks at a stop."""


@dataclass(frozen=True, kw_only=True)
class LearnerTools:
    """Parts of the worker that the learner uses."""

    settings: Settings
    outbox: ConfirmedProducer
    """Producer for `mixture-updates`."""
    lease: LeaderLease
    models: ModelLoader
    embed: Callable[[Sequence[Outcome]], Matrix]
    """Returns the embeddings of n outcomes, shape (n, d)."""
    stopped: Callable[[], bool]
    """Returns `True` if the worker was asked to stop."""


@dataclass(frozen=True)
class GuestChange:
    """Guests that a new version of a mixture has and its predecessor has not, or the reverse."""

    joining: Guest | None = None
    weight: float = 0.0
    """Weight of the joining guest."""
    leaving: tuple[str, ...] = ()
    """Names of the guests that leave."""

    def apply(self, mixture: Mixture, guests: Sequence[Guest]) -> tuple[Guest, ...]:
        """Change a mixture in place, and return its guests.

        Args:
            mixture: The mixture.
            guests: Its guests before.
        """
        for guest in self.leaving:
            mixture.remove_guest(guest)
        kept = [guest for guest in guests if guest.name not in self.leaving]
        if self.joining is None:
            return tuple(kept)
        mixture.add_guest(self.joining.name, self.weight)
        return (*(guest for guest in kept if guest.name != self.joining.name), self.joining)


class ChampionLearner:
    """Keeps the champion learning while it is a mixture.

    Args:
        tools: Parts of the worker.
    """

    def __init__(self, tools: LearnerTools) -> None:
        self._tools = tools
        self._version = ""
        # Version before a renewal: the announcement of the new one is yet to be read.
        self._replaced = ""
        self._mixture: VersionLearner | None = None

    @property
    def mixture(self) -> VersionLearner | None:
        """Learner of the champion; `None` if it is not a mixture."""
        return self._mixture

    @property
    def busy(self) -> bool:
        """Return True if an expert is being refitted."""
        return self._mixture is not None and self._mixture.busy

    def advance(self, state: StreamState) -> None:
        """Follow the champion, learn from new labels and alerts, and publish what has changed.

        Args:
            state: State of the stream.
        """
        if state.champion is not None and state.champion.version not in (self._version, self._replaced):
            state.take_unlearnt()
            self._follow(state.champion, state)
        else:
            self.learn(state)

    def learn(self, state: StreamState) -> None:
        """Learn from new labels and alerts, and publish what has changed; stay with the present version.

        Args:
            state: State of the stream.
        """
        fresh = state.take_unlearnt()
        if self._mixture is not None:
            self._mixture.advance(state, fresh)

    def renew(self, version: str, change: GuestChange) -> None:
        """Go on under a new version, whose bundle `VersionLearner.write_bundle` wrote last.

        Args:
            version: The version.
            change: Change of the guests that it was written with.
        """
        if self._mixture is not None:
            self._replaced, self._version = self._version, version
            self._mixture.renew(version, change)

    def close(self) -> None:
        """End the refits under way."""
        if self._mixture is not None:
            self._mixture.close()
            self._mixture = None

    def _follow(self, champion: ModelUpdate, state: StreamState) -> None:
        """Learn in a new champion from now on, if it is a mixture."""
        model = self._tools.models.champion()
        if model.version != champion.version:
            return  # its announcement is on its way
        self.close()
        self._version = champion.version
        if not isinstance(model.head, MixtureHead) or model.lineage is None:
            log.warning("version %s is not a mixture, and does not learn from labels", model.version)
            return
        try:
            opened = VersionLearner(self._tools, champion, model.head, model.lineage)
        except ValueError as error:
            log.warning("version %s does not learn from labels: %s", model.version, error)
            return
        opened.catch_up(state)
        self._mixture = opened


class VersionLearner:
    """Learns in one registered version, and publishes its updates.

    A version that was restored by a rollback answers as it was registered, until the next drift: its labels are
    remembered, not learnt.

    Args:
        tools: Parts of the worker.
        champion: Promotion of the version.
        head: Its mixture as it was registered.
        lineage: Its origin.

    Raises:
        ValueError: The mixture has experts that this version of driftloop does not fit.
    """

    def __init__(self, tools: LearnerTools, champion: ModelUpdate, head: MixtureHead, lineage: Lineage) -> None:
        self._tools = tools
        settings = tools.settings
        self._version = champion.version
        # Time of the rollback that interrupts learning.
        self._paused_at = champion.published_at if champion.action == "rollback" else None
        self._corrected: set[str] = set()
        # Experts that have changed since the bundle was written.
        self._changed: set[str] = set()
        # Number of the newest sample of the weights.
        self._sampled = -1
        self._offset = learnt_offset(settings, lineage)
        onset_at, revision = lineage.parameters.get("onset_at"), 0
        mixture = head.mixture.copy()
        self._taken_over = self._read_updates()
        for update in self._taken_over:
            try:
                apply_update(mixture, update)
            except ValueError as error:
                log.warning("an update of version %s is left out: %s", self._version, error)
            revision, self._offset, onset_at = update.revision, update.outcome_offset, update.onset_at
        learner = MixtureLearner(mixture, lineage.rows, onset_at=NO_DRIFT if onset_at is None else onset_at)
        self._series = UpdateSeries(settings.stream, self._version, settings.signing_key, revision)
        own_head = MixtureHead(mixture, head.feature_map, head.tokenise, head.guests)
        self._trainer = MixtureTrainer(learner, own_head, tools.embed, self._publish)

    @property
    def busy(self) -> bool:
        """Return True if an expert is being refitted."""
        return self._trainer.busy

    def catch_up(self, state: StreamState) -> None:
        """Remember the labels that the mixture has learnt, and learn those that have come since."""
        known = state.outcomes_with_offsets
        learnt = [one for at, one in known if at <= self._offset or one.in_sample]
        new = [(at, one) for at, one in known if at > self._offset and not one.in_sample]
        for start in range(0, len(learnt), CHUNK):
            if self._tools.stopped():
                return
            self._trainer.remember(learnt[start : start + CHUNK])
        self._replace_updates()
        for start in range(0, len(new), CHUNK):
            if self._tools.stopped():
                return
            chunk = new[start : start + CHUNK]
            self._learn(state, [one for _, one in chunk], chunk[-1][0])

    def advance(self, state: StreamState, fresh: Sequence[Outcome]) -> None:
        """Learn from new labels and alerts, and publish what has changed.

        Args:
            state: State of the stream, from which ``fresh`` was taken.
            fresh: Labelled events since the previous call.
        """
        for event_id in state.corrections.keys() - self._corrected:
            self._corrected.add(event_id)
            self._trainer.learner.correct(event_id, state.corrections[event_id].label)
        self._learn(state, fresh, state.offsets[1])

    def _learn(self, state: StreamState, fresh: Sequence[Outcome], last: int) -> None:
        """Learn from labels up to an offset in `outcomes`, unless a rollback interrupts that."""
        self._offset = max(self._offset, last)
        if self._paused_at is not None:
            if not any(alert.detected_at > self._paused_at for alert in state.alerts):
                self._trainer.remember(fresh)
                return
            self._paused_at = None
        # An alert is told after the labels that the monitor had read before it.
        self._trainer.advance(fresh, [alert for alert in state.alerts if alert.outcome_offset <= last])
        if self._offset // SAMPLED_EVERY > self._sampled:
            self._sampled = self._offset // SAMPLED_EVERY
            self._publish_sample()
        self._tools.outbox.flush()

    @property
    def idle_guests(self) -> tuple[str, ...]:
        """Guests that are not worth their cost; see `Mixture.idle_guests`."""
        return self._trainer.learner.mixture.idle_guests

    def write_bundle(self, out: Path, encoder: OnnxEncoder, lineage: Lineage, change: GuestChange) -> None:
        """Write the mixture as it is now, with other guests.

        Args:
            out: Folder of the bundle. It does not exist yet.
            encoder: Encoder of the stream.
            lineage: Lineage to sign into the bundle.
            change: Change of the guests.
        """
        learner, head = self._trainer.learner, self._trainer.head
        self._changed.clear()
        mixture = learner.mixture.copy()
        guests = change.apply(mixture, head.guests)
        write_bundle(
            out,
            encoder=encoder,
            head=MixtureHead(mixture, head.feature_map, encoder.tokenise, guests),
            labels=mixture.classes,
            lineage=replace(
                lineage,
                rows=learner.learnt,
                last_offset=self._offset,
                parameters={**lineage.parameters, "experts": list(mixture.names), "onset_at": self._onset_at},
            ),
            key=self._tools.settings.signing_key,
        )

    def renew(self, version: str, change: GuestChange) -> None:
        """Publish for a new version, and what was learnt since its bundle was written.

        Args:
            version: The version.
            change: Change of the guests that it was written with.
        """
        head = self._trainer.head
        head.guests = change.apply(self._trainer.learner.mixture, head.guests)
        settings = self._tools.settings
        self._version, self._paused_at = version, None
        self._series = UpdateSeries(settings.stream, version, settings.signing_key)
        for expert in sorted(self._changed):
            self._publish(expert)
        self._tools.outbox.flush()

    def close(self) -> None:
        """End the refits under way."""
        self._trainer.close()

    @property
    def _onset_at(self) -> float | None:
        found = self._trainer.learner.onset_at
        return None if found == NO_DRIFT else found

    def _publish(self, expert: str) -> None:
        """Send an expert and all weights; the caller flushes."""
        mixture, fence = self._trainer.learner.mixture, self._tools.lease.fence
        update = self._series.make(mixture, expert, self._offset, time.time(), fence, self._onset_at)
        self._tools.outbox.put(MIXTURE_UPDATES.name, _key(update), update)
        self._changed.add(expert)

    def _publish_sample(self) -> None:
        """Send the weights under one of `SAMPLES` keys, so that compaction keeps as many of them."""
        mixture, fence = self._trainer.learner.mixture, self._tools.lease.fence
        sample = self._series.sample(mixture, self._offset, time.time(), fence)
        self._tools.outbox.put(MIXTURE_UPDATES.name, f"{sample.stream}/weights/{self._sampled % SAMPLES}", sample)

    def _read_updates(self) -> list[MixtureUpdate]:
        """Return the updates of the version that are in force: the newest one of each expert, in their order."""
        settings = self._tools.settings
        newest: dict[str, MixtureUpdate] = {}
        fence = FencingFilter()
        for update in clients.read_all(settings, name(settings, MIXTURE_UPDATES), MixtureUpdate):
            own = update.stream == settings.stream and fence.admits(update) and update.version == self._version
            if not own or update.is_sample:
                continue
            try:
                check_signature(update, settings.signing_key)
            except ValueError as error:
                log.warning("%s", error)
                continue
            newest[update.expert] = update
        return sorted(newest.values(), key=lambda update: update.revision)

    def _replace_updates(self) -> None:
        """Publish all experts under this leader's token, and delete the updates of a former leader."""
        former = [update for update in self._taken_over if update.fence < self._tools.lease.fence]
        self._taken_over = []
        if not former:
            return
        mixture = self._trainer.learner.mixture
        for expert in set(mixture.names) - set(mixture.guests):
            self._publish(expert)
        self._tools.outbox.flush()
        for update in former:
            self._tools.outbox.put(MIXTURE_UPDATES.name, _key(update), None)
        self._tools.outbox.flush()


def as_guest(name: str, model: BundleClassifier, encoder: str) -> Guest | None:
    """Return a model as a guest of a mixture; `None` if it is a head on another encoder.

    Args:
        name: Name of the expert.
        model: The model.
        encoder: Digest of the mixture's encoder.
    """
    if isinstance(model.head, Head):
        return Guest(name, model.labels, model.head) if model.encoder.digest == encoder else None
    return Guest(name, model.labels, model.encoder) if model.head is None else None


def learnt_offset(settings: Settings, lineage: Lineage) -> int:
    """Return the offset in `outcomes` of the last label that a registered mixture has learnt. -1: none from there.

    Args:
        settings: Settings of the stream.
        lineage: Origin of the mixture.
    """
    return lineage.last_offset if lineage.topic == name(settings, OUTCOMES) else -1


def _key(update: MixtureUpdate) -> str:
    """Return the key of an update.

    Compaction keeps the last message under each key. With the token in the key, a late update of a former leader does
    not replace one of its successor.
    """
    return f"{update.stream}/{update.expert}/{update.fence}"
