"""Fused detector: one decision from all signals, with a bound on the rate of false alarms.

Each signal has an e-detector (`stream_processors.drift.e_detector`), and their weighted mean is an e-detector as well.
An alarm at 10,000 / rate is therefore raised at most ``rate`` times in 10,000 events that do not drift. The signal that
moves most decides. The others reduce its weight by a factor of their number, which delays the alarm by a few events.

A change raises one alarm. Later evidence of the same change, from late labels or from a model that adapts, starts the
reference anew without an alarm. It is the same change if it began before the alarm was raised. A fall of the error
means that the model has learnt, and the reference follows it.

The detector is pickled into the monitor's state, so its attributes keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.first_stage import CASCADE_ROUTES
from stream_processors.drift.explanation import MIN_BEFORE, change_interval
from stream_processors.drift.row_buffer import RowBuffer
from stream_processors.drift.signals import Embedding, Mix, Observation, Projection, Signal, TwoSidedSignal, Vocabulary

Kind = Literal["covariate", "label", "concept", "unknown"]
SIGNALS: tuple[str, ...] = ("error", "loss", "confidence", "mix", "embedding", "vocabulary")
"""Names of all signals."""
PER = 10_000
"""Events that the rate of false alarms refers to."""
RATE = 0.03
"""Default rate: one false alarm in 333,000 events. In the 120,000 events of five control streams, the probability of
more than one is at most 5% (Poisson)."""
CHANCE = 0.1
"""Maximum probability that a signal which has not moved is named among those that have."""
LABELLED_SHARE = 0.9
"""Share of the false alarms that the labelled signals may raise; the others may raise the rest. A change of the texts
shows within few events at any level, and a fall of the accuracy is seldom as plain."""


@dataclass(frozen=True)
class Finding:
    """Alarm of the fused detector."""

    signal: str
    """Leading signal, with the strongest evidence; the onset is read from it."""
    shares: dict[str, float]
    """Share of each signal in the evidence, largest first."""
    onset: int
    onset_low: int
    onset_high: int
    """Positions in the stream; low and high bound those at least 5% as likely as the best."""
    onset_at: float
    severity: float
    """Mean score of the leading signal after the onset minus before it; for the mix the total variation distance."""
    window: int
    """Observations of the leading signal since the onset."""
    kind: Kind


class FusedDetector:
    """Detector of a drift in any of several signals of one stream: a weighted mean of their e-detectors.

    Source: Shin, Ramdas and Rinaldo, "E-detectors", 2022.

    Args:
        rate: Maximum false alarms per 10,000 events that do not drift.
        signals: Names out of `SIGNALS`.
    """

    def __init__(self, rate: float = RATE, signals: Sequence[str] = SIGNALS) -> None:
        self._limit = PER / rate
        self._signals = {name: _make(name) for name in signals}
        self._projection = Projection()
        self._version = ""
        # `occurred_at` of the newest event when the last alarm was raised: a change that began before is the same one.
        self._frontier = float("-inf")
        self._newest = float("-inf")

    @property
    def evidence(self) -> float:
        """Weighted mean of the signals' e-detectors; the alarm is raised at 10,000 / rate."""
        return sum(self._values().values())

    @property
    def levels(self) -> dict[str, float]:
        """Contribution of each signal to the evidence, as a share of the limit; a sum of 1 raises an alarm."""
        return {name: value / self._limit for name, value in self._values().items()}

    @property
    def rows(self) -> dict[str, RowBuffer[Observation]]:
        """Observations of each signal; pickle leaves them out."""
        return {name: signal.rows for name, signal in self._signals.items()}

    def _values(self) -> dict[str, float]:
        """Return the contribution of each signal to the evidence.

        A signal without observations leaves its share to the others.
        """
        seen = [signal for signal in self._signals.values() if signal.rows]
        labelled = sum(one.labelled for one in seen)
        both = 0 < labelled < len(seen)
        share = LABELLED_SHARE / labelled if both else 1 / max(1, len(seen))
        rest = (1 - LABELLED_SHARE) / (len(seen) - labelled) if both else share
        return {one.name: (share if one.labelled else rest) * one.value for one in seen}

    def predicted(self, prediction: Prediction, embedding: Matrix | None = None) -> Finding | None:
        """Add a prediction; return a finding, or `None`.

        Args:
            prediction: Next prediction.
            embedding: Embedding of its text, shape (d,), if there is one.
        """
        label, confidence = prediction.watched
        raws: dict[str, object] = {"mix": label}
        if prediction.route not in CASCADE_ROUTES:
            raws["confidence"] = 1 - confidence if prediction.probabilities else 0.0
        else:  # the load decides how many events a cascade's stage gets, and the stage decides which texts
            embedding = None
        if prediction.text:
            raws["vocabulary"] = prediction.text
        if embedding is not None:
            raws["embedding"] = (label, self._projection.pack(embedding))
        return self._take(raws, prediction)

    def labelled(self, outcome: Outcome) -> Finding | None:
        """Add an outcome; return a finding, or `None`."""
        raws: dict[str, object] = {"error": float(outcome.predicted != outcome.label)}
        # Late labels of an older model still come, and the load decides how many events a cascade's stage gets.
        if outcome.probabilities and outcome.model_version == self._version and outcome.route not in CASCADE_ROUTES:
            raws["loss"] = 1 - (outcome.reference or outcome.probabilities).get(outcome.label, 0.0)
        found = self._take(raws, outcome)
        for name in ("error", "loss"):
            signal = self._signals.get(name)
            if isinstance(signal, TwoSidedSignal) and signal.fall >= self._limit:
                rows = signal.watched()
                signal.rebase(rows[change_interval(signal.values())[0]].occurred_at)
        return found

    def new_model(self, version: str) -> None:
        """Restart the signals whose level belongs to the model; the others continue.

        The log loss is restarted: a promoted model that is right more often may be less sure.
        """
        self._version = version
        for signal in self._signals.values():
            if signal.follows_model:
                signal.restart()

    def _take(self, raws: dict[str, object], event: Prediction | Outcome) -> Finding | None:
        self._newest = max(self._newest, event.occurred_at)
        for name, raw in raws.items():
            if name in self._signals:
                self._signals[name].update(Observation(event.position, event.occurred_at, event.event_id, raw))
        return self._alarm() if self.evidence >= self._limit else None

    def _alarm(self) -> Finding | None:
        """Start the references anew; return the finding, or `None` for a known change or too few observations."""
        values = self._values()
        ranked = sorted(values, key=lambda name: -values[name])
        leading = self._signals[ranked[0]]
        rows = leading.watched()
        cut, low, high = change_interval(leading.values())
        onset = rows[cut]
        kind = self._kind()
        gap = leading.values()[cut:].mean(axis=0) - leading.values()[:cut].mean(axis=0) if cut else np.zeros(1)
        known = rows[low].occurred_at <= self._frontier
        before = sum(row.occurred_at < onset.occurred_at for row in leading.rows)
        for signal in self._signals.values():
            if signal.rows and signal.rows[-1].occurred_at >= onset.occurred_at:
                signal.rebase(onset.occurred_at)
        if known or before < MIN_BEFORE:
            return None
        self._frontier = self._newest
        total = sum(values.values())
        return Finding(
            signal=ranked[0],
            shares={name: round(values[name] / total, 4) for name in ranked},
            onset=onset.position,
            onset_low=rows[low].position,
            onset_high=rows[high].position,
            onset_at=onset.occurred_at,
            severity=float(gap[0]) if len(gap) == 1 else 0.5 * float(np.abs(gap).sum()),
            window=len(rows) - cut,
            kind=kind,
        )

    def _kind(self) -> Kind:
        """Return the kind of the change: P(x), P(y) or P(y|x). A moved input comes first, because it moves all signals.

        The signal with the strongest evidence has moved, and so has each one with more evidence than chance explains.
        The mean evidence of n scores is n without a drift. The probability that it is n / `CHANCE` or more is therefore
        at most `CHANCE` (Markov).
        """
        values = {name: signal.value for name, signal in self._signals.items() if signal.rows}
        mix, error = values.get("mix", 0.0), max(values.get("error", 0.0), values.get("loss", 0.0))
        moved = {name for name, value in values.items() if value >= len(self._signals[name].watched()) / CHANCE}
        moved.add(max(values, key=lambda name: values[name]))
        if moved & {"vocabulary", "embedding"}:
            return "covariate"
        if "mix" in moved and mix >= error:
            return "label"
        if moved & {"error", "loss"}:
            return "concept"
        return "unknown"


def make_fused_detector(text: str) -> FusedDetector:
    """Return the detector of a configured line such as ``fused?rate=1&signals=error+mix``.

    Raises:
        DriftloopError: The line has an unknown parameter or signal, or a rate that is no number above 0.
    """
    _, _, query = text.partition("?")
    rate, signals = RATE, SIGNALS
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key == "rate":
            try:
                rate = float(value)
            except ValueError as error:
                raise DriftloopError(f"'{pair}' in '{text}' is not a number: write for instance rate=1.") from error
            if not 0 < rate <= PER:
                raise DriftloopError(f"'{pair}' in '{text}': false alarms per {PER} events are above 0, up to {PER}.")
        elif key == "signals":
            signals = tuple(value.split("+"))
            unknown = [name for name in signals if name not in SIGNALS]
            if unknown:
                raise DriftloopError(f"There is no signal '{unknown[0]}' in '{text}': {', '.join(SIGNALS)}.")
        else:
            raise DriftloopError(f"'{pair}' in '{text}': the fused detector takes rate and signals.")
    return FusedDetector(rate, signals)


def _make(name: str) -> Signal:
    match name:
        case "error":
            return TwoSidedSignal("error", follows_model=False)
        case "loss":
            return TwoSidedSignal("loss", follows_model=True)
        case "confidence":
            return Signal("confidence", labelled=False, follows_model=True)
        case "mix":
            return Mix()
        case "embedding":
            return Embedding()
    return Vocabulary()
