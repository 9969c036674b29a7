"""Learner of the mixture: every label moves the weights and the online expert, and now and then an expert is refitted.

Experts:

- `online`: one step of gradient descent for each label.
- `newest-N`: a regression on the newest N labels, for several N.
- `concept`: a regression on the labels since the onset of the last drift, and on the last ones before it at a lower
  weight. Without a drift it has learnt the first labels.

A drift alert gives most of the weight to the longest window, the only expert that knows earlier concepts. Labels of
events before the onset then no longer move the weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from driftloop.core.models.classifier import Matrix, softmax
from driftloop.core.models.expert_features import COLUMNS, Features
from driftloop.core.models.mixture import LinearWeights, Mixture
from retrain.mixture.fixed_share import RATE, SHARE, favour, update_weights
from retrain.mixture.softmax_regression import fit_softmax_regression

ONLINE, CONCEPT = "online", "concept"
NO_DRIFT = float("-inf")
"""Onset before any drift is known."""
LONGER = 4
"""Labels of a window, in multiples of the next shorter one."""
LEARNING_RATE = 1.0
"""Step of the online expert, on embeddings of two unit-length parts."""
MIN_NEW = 25
"""Labels that must be new before an expert is refitted."""
FIRST_LABELS = 40
"""Labels since the onset from which on the expert of the concept is fitted."""
OLD_ROWS = 1000
OLD_WEIGHT = 0.3
"""Labels before the onset that the expert of the concept learns as well, and their weight."""


class MixtureOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Experts of a mixture, and how fast their weights move."""

    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = RATE
    """Power of the probability that an expert gave to the true label."""
    share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = SHARE
    """Share of the total weight that is spread evenly after each label."""
    shortest: Annotated[int, msgspec.Meta(ge=20)] = 300
    """Labels of the shortest window. Each further one holds `LONGER` times as many."""
    windows: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4
    """Number of windows."""
    renewed: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    """Share of its labels that must be new before an expert is refitted."""
    online: bool = True
    """Use the online expert."""
    concept: bool = True
    """Use the expert of the newest concept."""

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        return (*([ONLINE] if self.online else []), *self.sizes, *([CONCEPT] if self.concept else []))

    @property
    def sizes(self) -> dict[str, int]:
        """Labels of each window, by its name; ascending."""
        return {f"newest-{size}": size for size in (self.shortest * LONGER**at for at in range(self.windows))}


@dataclass(frozen=True)
class Row:
    """A labelled event."""

    embedding: Matrix
    """Widened embedding, shape (d,)."""
    columns: NDArray[np.int32]
    """Columns of its words, shape (j,)."""
    words: Matrix
    """Values of these columns, shape (j,)."""
    label: str
    occurred_at: float
    weight: float = 1.0
    """Trust in the label, from 0 to 1."""
    event_id: str = ""
    guests: Mapping[str, Matrix] = field(default_factory=dict)
    """Probabilities of each guest that was asked, shape (k,)."""
    online: float | None = None
    """Probability that the online expert gave to the label when the event was predicted. `None`: as it is now."""


@dataclass(frozen=True)
class Fit:
    """Rows and start of a refit, which may run anywhere."""

    expert: str
    features: Features
    labels: tuple[str, ...]
    weights: NDArray[np.float64]
    start: LinearWeights | None

    def run(self) -> LinearWeights:
        """Fit the expert."""
        return fit_softmax_regression(self.features, self.labels, self.weights, self.start)


DEFAULTS = MixtureOptions()


class MixtureLearner:
    """Mixture that learns. `train` makes a new one.

    Args:
        mixture: Mixture with the experts of the options. It is changed in place.
        learnt: Number of labels that it has learnt. `remember` takes the newest of them.
        options: Experts and rates.
        onset_at: `occurred_at` of the first event after the last drift. By default no drift is known.

    Raises:
        ValueError: The mixture has other experts.
    """

    def __init__(
        self,
        mixture: Mixture,
        learnt: int,
        options: MixtureOptions = DEFAULTS,
        onset_at: float = NO_DRIFT,
    ) -> None:
        if set(mixture.names) - set(mixture.guests) != set(options.experts):
            raise ValueError(f"a mixture of {', '.join(mixture.names)} in place of {', '.join(options.experts)}")
        self.mixture = mixture
        self._options = options
        self._sizes = options.sizes
        self._longest = max(self._sizes, key=self._sizes.__getitem__)
        self._fittable = (*self._sizes, *([CONCEPT] if options.concept else []))
        self._rows: deque[Row] = deque(maxlen=max(self._sizes.values()))
        self._learnt = learnt
        self.onset_at = onset_at
        """`occurred_at` of the first event after the last drift; minus infinity without one."""
        # Labels of events since the onset.
        self._since_onset = 0
        self._fitted = {name: mixture.expert(name) for name in self._fittable}
        self._fitting: set[str] = set()
        # Labels that each expert was fitted on, and the number of labels at which it is due again.
        self._held: dict[str, int] = {}
        self._next: dict[str, int] = {}
        for name in self._fittable:
            self._plan(name)

    @classmethod
    def train(cls, rows: Sequence[Row], options: MixtureOptions = DEFAULTS) -> MixtureLearner:
        """Return a mixture that has learnt the first labelled events.

        Args:
            rows: The events, of two or more classes.
            options: Experts and rates.

        Raises:
            ValueError: The events have one class only.
        """
        classes = sorted({row.label for row in rows})
        made = cls(Mixture(options.experts, classes, len(rows[0].embedding)), len(rows), options)
        made.remember(rows)
        made._fitted.clear()  # the first fits start from zeros
        for name in made._fittable:
            made.install(name, made._fit(name).run())
        if options.online:
            made.mixture.bias[options.experts.index(ONLINE)] = 0
            for row in rows:
                made._step_online(row)
        return made

    def remember(self, rows: Sequence[Row]) -> None:
        """Take labels that the mixture has learnt before, for the next refits.

        Args:
            rows: The labelled events, in the order of their labels.
        """
        self._rows.extend(rows)
        self._since_onset += sum(row.occurred_at >= self.onset_at for row in rows)
        self._plan_concept()

    def correct(self, event_id: str, label: str) -> None:
        """Change the label of an event for the next refits.

        Args:
            event_id: The event. One that is not remembered changes nothing.
            label: The right label.
        """
        for at, row in enumerate(self._rows):
            if row.event_id == event_id:
                self._rows[at] = replace(row, label=label, weight=1.0)

    def learn(self, row: Row) -> None:
        """Learn from a label, after its event was predicted.

        Args:
            row: The labelled event.
        """
        self.mixture.add_classes([row.label])
        if row.occurred_at >= self.onset_at:
            self._since_onset += 1
            given = self.mixture.expert_probabilities(_features([row]))[0, :, self.mixture.classes.index(row.label)]
            if row.online is not None and self._options.online:
                given[self.mixture.names.index(ONLINE)] = row.online
            # A label without trust moves nothing.
            trusted = given.astype(np.float64) ** row.weight
            options = self._options
            self.mixture.weights = update_weights(self.mixture.weights, trusted, options.rate, options.share)
        if self._options.online:
            self._step_online(row)
        self._rows.append(row)
        self._learnt += 1

    @property
    def learnt(self) -> int:
        """Number of labels that the mixture has learnt."""
        return self._learnt

    def notice_drift(self, onset_at: float) -> bool:
        """Trust the longest window, and begin the concept anew.

        Args:
            onset_at: `occurred_at` of the first event of the new concept.

        Returns:
            `False` if a later drift is known already; nothing has changed then.
        """
        if onset_at <= self.onset_at:
            return False
        self.onset_at = onset_at
        self._since_onset = sum(row.occurred_at >= onset_at for row in self._rows)
        names = self.mixture.names
        self.mixture.weights = favour(len(names), names.index(self._longest))
        self._next[CONCEPT] = FIRST_LABELS
        return True

    @property
    def online(self) -> LinearWeights:
        """The online expert as it is now, without the words that it does not read."""
        mixture, at = self.mixture, self.mixture.names.index(ONLINE)
        no_words = np.zeros((0, len(mixture.classes)), dtype=np.float32)
        return LinearWeights(mixture.classes, mixture.embedding[:, at].copy(), no_words, mixture.bias[at].copy())

    def due(self) -> list[Fit]:
        """Return the refits that are due, shortest first.

        An expert that is being fitted is not due, nor is one whose labels are all equal.
        """
        found = [self._fit(name) for name in self._fittable if self._is_due(name)]
        found = [fit for fit in found if len(set(fit.labels)) > 1]
        self._fitting.update(fit.expert for fit in found)
        return found

    def install(self, name: str, weights: LinearWeights) -> None:
        """Replace an expert by its refit.

        Args:
            name: Name of the expert.
            weights: Result of the refit.
        """
        self._fitting.discard(name)
        self._fitted[name] = weights
        self.mixture.set_expert(name, weights)

    def _is_due(self, name: str) -> bool:
        if name in self._fitting:
            return False
        if name == CONCEPT:
            return self.onset_at > NO_DRIFT and self._since_onset >= self._next[CONCEPT]
        # Not on fewer labels than before: after a restart they come again.
        return self._learnt >= self._next[name] and len(self._rows) >= self._held[name]

    def _plan(self, name: str) -> None:
        """Note when the next refit of an expert is due."""
        if name == CONCEPT:
            self._plan_concept()
            return
        self._held[name] = min(self._sizes[name], self._learnt)
        self._next[name] = self._learnt + max(MIN_NEW, round(self._options.renewed * self._held[name]))

    def _plan_concept(self) -> None:
        new = max(MIN_NEW, round(self._options.renewed * self._since_onset))
        self._next[CONCEPT] = max(FIRST_LABELS, self._since_onset + new)

    def _fit(self, name: str) -> Fit:
        """Return the next refit of an expert, and note when the one after it is due."""
        rows = list(self._rows)
        if name == CONCEPT:
            new = [row for row in rows if row.occurred_at >= self.onset_at]
            old = [row for row in rows if row.occurred_at < self.onset_at][-OLD_ROWS:]
            rows, old_weights = old + new, [OLD_WEIGHT] * len(old) + [1.0] * len(new)
        else:
            rows = rows[-self._sizes[name] :]
            old_weights = [1.0] * len(rows)
        self._plan(name)
        weights = np.asarray([row.weight for row in rows]) * old_weights
        labels = tuple(row.label for row in rows)
        return Fit(name, _features(rows), labels, weights, self._fitted.get(name))

    def _step_online(self, row: Row) -> None:
        """Move the online expert by the gradient of its log loss on one label."""
        mixture, expert = self.mixture, self.mixture.names.index(ONLINE)
        scores = row.embedding @ mixture.embedding[:, expert] + mixture.bias[expert]
        error = softmax(scores[None])[0]
        error[mixture.classes.index(row.label)] -= 1
        step = LEARNING_RATE * row.weight * error
        mixture.embedding[:, expert] -= np.outer(row.embedding, step)
        mixture.bias[expert] -= step


def make_rows(
    features: Features,
    labels: Sequence[str],
    occurred_at: Sequence[float],
    weights: Sequence[float] = (),
    event_ids: Sequence[str] = (),
) -> list[Row]:
    """Return n labelled events.

    Args:
        features: Their features.
        labels: Their labels, shape (n,).
        occurred_at: Times at which they occurred, shape (n,).
        weights: Trust in each label, shape (n,); empty for ones.
        event_ids: Ids of the events, shape (n,); empty if no label is ever corrected.
    """
    words, ends = features.words, features.words.indptr
    return [
        Row(
            features.embeddings[at],
            words.indices[ends[at] : ends[at + 1]],
            words.data[ends[at] : ends[at + 1]],
            label,
            occurred_at[at],
            weights[at] if weights else 1.0,
            event_ids[at] if event_ids else "",
            {name: given[at] for name, given in features.guests.items()},
        )
        for at, label in enumerate(labels)
    ]


def _features(rows: Sequence[Row]) -> Features:
    ends = np.cumsum([0, *(len(row.columns) for row in rows)])
    parts = np.concatenate([row.words for row in rows]), np.concatenate([row.columns for row in rows]), ends
    words = sp.csr_matrix(parts, shape=(len(rows), COLUMNS))
    guests = {name: given[None] for name, given in rows[0].guests.items()} if len(rows) == 1 else {}
    return Features(np.stack([row.embedding for row in rows]), words, guests)
