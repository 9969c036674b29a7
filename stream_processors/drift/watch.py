"""Where a drift is declared: signals in, alerts out.

A `DriftWatch` sees every prediction and every outcome of a stream, feeds each configured detector, and turns an
alarm into a `DriftAlert` that says when the change began and what moved. The live monitor and the in-process
benchmark run this same class.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import msgspec

from driftloop.messages import DriftAlert, Outcome, Prediction
from stream_processors.drift.detectors import RiverDetector, State, make_detector
from stream_processors.drift.evidence import Seen, change_point, evidence, mean, mix_distance

KEPT = 2000
"""Observations kept for the change point and for the evidence."""
MIN_BEFORE = 30
"""Observations needed before the onset for a change to be a change from something."""

SignalName = Literal["error", "confidence", "mix"]


@dataclass
class Track:
    """One signal under one detector; for the mix, one detector for each class."""

    signal: SignalName
    text: str
    detectors: dict[str, RiverDetector] = field(default_factory=dict)
    begin: float = float("-inf")
    """`occurred_at` of the concept's first observation: older ones are no "before" of the next change."""

    def update(self, seen: Seen) -> bool:
        """Feed the detectors; True when one of them alarms."""
        if self.signal == "mix":
            self._meet(seen.predicted)
            alarms = [self._feed(name, float(seen.predicted == name)) for name in self.detectors]
            return any(alarms)
        self._meet("")
        return self._feed("", seen.value(self.signal))

    def reset(self) -> None:
        """Forget everything the detectors have learnt."""
        self.detectors.clear()
        self.begin = float("-inf")

    def _feed(self, name: str, value: float) -> bool:
        return self.detectors[name].update(value) is State.DRIFT

    def _meet(self, name: str) -> None:
        if name not in self.detectors:
            self.detectors[name] = make_detector(self.text)[1]


class Saved(msgspec.Struct, frozen=True):
    """What a watch has learnt, ready to be stored."""

    version: str
    labelled: list[Seen]
    predicted: list[Seen]
    detectors: dict[str, dict[str, bytes]]
    begins: dict[str, float]


class DriftWatch:
    """Watches one stream with the detectors of ``specs`` (`signal:detector?parameter=value`)."""

    def __init__(self, specs: Sequence[str], stream: str) -> None:
        self._stream = stream
        self._version = ""
        self._tracks = [Track(cast(SignalName, make_detector(text)[0]), text) for text in specs]
        self._labelled: deque[Seen] = deque(maxlen=KEPT)
        self._predicted: deque[Seen] = deque(maxlen=KEPT)

    def predicted(self, prediction: Prediction) -> list[DriftAlert]:
        """Take a prediction: confidence and the mix of predicted labels need no true label."""
        if prediction.in_sample or not self._same_model(prediction.model_version):
            return []
        seen = Seen(
            position=prediction.position,
            occurred_at=prediction.occurred_at,
            predicted=prediction.label,
            confidence=max(prediction.probabilities.values(), default=0.0),
            text=prediction.text,
        )
        self._predicted.append(seen)
        return self._feed(("confidence", "mix"), seen, self._predicted, self._version, -1)

    def labelled(self, outcome: Outcome, offset: int) -> list[DriftAlert]:
        """Take an outcome and its offset on the topic `outcomes`: the error needs true labels.

        The error is followed across promotions: a drift that falls together with one would otherwise look like a
        model that has always been bad.
        """
        if outcome.in_sample:
            return []
        seen = Seen(
            position=outcome.position,
            occurred_at=outcome.occurred_at,
            predicted=outcome.predicted,
            confidence=outcome.confidence,
            text=outcome.text,
            label=outcome.label,
        )
        self._labelled.append(seen)
        return self._feed(("error",), seen, self._labelled, outcome.model_version, offset)

    def save(self) -> bytes:
        """The state of every detector and the kept observations, as MessagePack."""
        detectors = {
            track.text: {name: detector.dump() for name, detector in track.detectors.items()} for track in self._tracks
        }
        begins = {track.text: track.begin for track in self._tracks}
        return msgspec.msgpack.encode(
            Saved(self._version, list(self._labelled), list(self._predicted), detectors, begins)
        )

    def restore(self, body: bytes) -> None:
        """Take over what `save` wrote; detectors that are no longer configured are dropped."""
        saved = msgspec.msgpack.decode(body, type=Saved)
        self._version = saved.version
        self._labelled = deque(saved.labelled, maxlen=KEPT)
        self._predicted = deque(saved.predicted, maxlen=KEPT)
        for track in self._tracks:
            track.begin = saved.begins.get(track.text, track.begin)
            for name, state in saved.detectors.get(track.text, {}).items():
                track.detectors[name] = make_detector(track.text)[1]
                track.detectors[name].restore(state)

    def _same_model(self, version: str) -> bool:
        """False for what an older model said. With a newer one confidence and mix start afresh: it has its own."""
        if version == self._version:
            return True
        if _number(version) < _number(self._version):
            return False
        self._version = version
        self._predicted.clear()
        for track in self._tracks:
            if track.signal != "error":
                track.reset()
        return True

    def _feed(
        self, signals: tuple[str, ...], seen: Seen, kept: deque[Seen], version: str, offset: int
    ) -> list[DriftAlert]:
        alerts = []
        for track in self._tracks:
            if track.signal in signals and track.update(seen):
                alert = self._declare(track, kept, version, offset)
                if alert is not None:
                    alerts.append(alert)
        return alerts

    def _declare(self, track: Track, kept: deque[Seen], version: str, offset: int) -> DriftAlert | None:
        """The alert, unless the signal moved for the better or there is too little before the change."""
        rows = [seen for seen in kept if seen.occurred_at >= track.begin]
        cut = change_point(rows, track.signal)
        before, after = rows[:cut], rows[cut:]
        if len(before) < MIN_BEFORE:
            return None
        track.begin = after[0].occurred_at
        if track.signal == "mix":
            severity = mix_distance(before, after)
        else:
            severity = mean(after, track.signal) - mean(before, track.signal)
            worse = severity > 0 if track.signal == "error" else severity < 0
            if not worse:
                return None
        key = f"{self._stream} {track.text} {version} {after[-1].position} {after[-1].occurred_at} {offset}"
        return DriftAlert(
            alert_id=hashlib.sha256(key.encode()).hexdigest()[:16],
            stream=self._stream,
            detector=track.text.partition(":")[2],
            signal=track.signal,
            severity=round(severity, 4),
            position=after[-1].position,
            onset=after[0].position,
            onset_at=after[0].occurred_at,
            outcome_offset=offset,
            window=len(after),
            model_version=version,
            detected_at=time.time(),
            evidence=evidence(before, after),
        )


def _number(version: str) -> int:
    return int(version) if version.isdigit() else -1
