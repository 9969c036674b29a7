"""Where a drift is declared: signals in, alerts out.

A `DriftWatch` sees every prediction and every outcome of a stream, feeds the fused detector or each configured single
one, and turns an alarm into a `DriftAlert` that says when the change began and what moved. The live monitor and the
in-process benchmarks run this same class.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import river

import driftloop
from driftloop.core.messages import DriftAlert, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.first_stage import CASCADE_ROUTES
from stream_processors.drift.accuracy_estimation import Block, ConfidenceBasedEstimator
from stream_processors.drift.explanation import (
    MIN_BEFORE,
    ObservedEvent,
    change_point,
    explain,
    mean,
    mix_distance,
    moved_words,
    movements,
)
from stream_processors.drift.fused_detector import Finding, FusedDetector, make_fused_detector
from stream_processors.drift.row_buffer import BufferDelta, RowBuffer
from stream_processors.drift.signals import KEPT, Observation
from stream_processors.drift.single_signal import SignalDetector, make_signal_detector
from stream_processors.drift.unpickling import load_pickle

log = logging.getLogger(__name__)

MADE_BY = f"driftloop {driftloop.__version__}, detectors 3, and river {river.__version__}"
"""To be counted up where what is pickled changes."""


class Rows(msgspec.Struct, frozen=True):
    """What a watch has seen, or what of it is new."""

    labelled: BufferDelta[ObservedEvent]
    predicted: BufferDelta[ObservedEvent]
    fused: dict[str, dict[str, BufferDelta[Observation]]]
    """By detector and signal."""
    calibration: BufferDelta[tuple[float, bool, str]] = BufferDelta(True, [])
    """What the accuracy is estimated from."""


class Saved(msgspec.Struct, frozen=True):
    """What a watch has learnt, ready to be stored."""

    version: str
    labelled: list[ObservedEvent]
    """Empty since the rows are stored by themselves."""
    predicted: list[ObservedEvent]
    detectors: dict[str, dict[str, bytes]]
    begins: dict[str, float]
    fused: dict[str, bytes] = {}
    blocks: list[Block] = []
    """Estimated accuracy of each block of predictions, and the realised one once its labels have come."""
    confidences: list[float] = []
    """Of the predictions in the last block, where it is still growing."""
    outcomes: int = 0
    made_by: str = ""
    """The versions that pickled the detectors: no others can be trusted to understand them."""


class DriftMonitor:
    """Watches one stream with the detectors of ``specs``: ``fused``, or ``signal:detector?parameter=value``."""

    def __init__(self, specs: Sequence[str], stream: str) -> None:
        self._stream = stream
        self._version = ""
        fused = [text for text in specs if text.partition("?")[0] == "fused"]
        self._fused: dict[str, FusedDetector] = {text: make_fused_detector(text) for text in fused}
        self._tracks: list[SignalDetector] = [make_signal_detector(text) for text in specs if text not in fused]
        self._begins = dict.fromkeys(specs, float("-inf"))
        """`occurred_at` of the concept's first observation: older ones are no "before" of the next change."""
        self._labelled: RowBuffer[ObservedEvent] = RowBuffer(KEPT)
        self._predicted: RowBuffer[ObservedEvent] = RowBuffer(KEPT)
        self._estimate = ConfidenceBasedEstimator()
        self.outcomes = 0
        """How many it has been given."""

    @property
    def blocks(self) -> Sequence[Block]:
        """The accuracy estimated for each block of predictions, oldest first."""
        return self._estimate.blocks

    @property
    def levels(self) -> dict[str, float]:
        """How near each signal of the fused detectors is to an alarm; together they raise one at 1."""
        return {name: level for fusion in self._fused.values() for name, level in fusion.levels.items()}

    def predicted(self, prediction: Prediction, embedding: Matrix | None = None) -> list[DriftAlert]:
        """Take a prediction, and the embedding of its text, shape (d,), where there is one. No label is needed."""
        if prediction.in_sample or not self._same_model(prediction.model_version):
            return []
        seen = ObservedEvent(
            position=prediction.position,
            occurred_at=prediction.occurred_at,
            predicted=prediction.label,
            confidence=max(prediction.probabilities.values(), default=0.0),
            text=prediction.text,
            event_id=prediction.event_id,
            segment=prediction.segment,
            version=prediction.model_version,
        )
        self._predicted.append(seen)
        self._estimate.predicted(seen.confidence, seen.version, seen.position, seen.occurred_at)
        signals = ("mix",) if prediction.route in CASCADE_ROUTES else ("confidence", "mix")
        alerts = self._feed(signals, seen, self._version, -1)
        for text, fusion in self._fused.items():
            found = fusion.predicted(prediction, embedding)
            if found is not None:
                alerts.append(self._declare_fused(text, found, seen, -1))
        return alerts

    def labelled(self, outcome: Outcome, offset: int) -> list[DriftAlert]:
        """Take an outcome and its offset on the topic `outcomes`: error and log loss need true labels.

        The error is followed across promotions: a drift that falls together with one would otherwise look like a
        model that has always been bad.
        """
        self.outcomes += 1
        if outcome.in_sample:
            return []
        seen = ObservedEvent(
            position=outcome.position,
            occurred_at=outcome.occurred_at,
            predicted=outcome.predicted,
            confidence=outcome.confidence,
            text=outcome.text,
            label=outcome.label,
            event_id=outcome.event_id,
            segment=outcome.segment,
            version=outcome.model_version,
        )
        self._labelled.append(seen)
        correct = seen.predicted == seen.label
        self._estimate.labelled(seen.confidence, correct, seen.version, seen.occurred_at)
        alerts = self._feed(("error",), seen, outcome.model_version, offset)
        for text, fusion in self._fused.items():
            found = fusion.labelled(outcome)
            if found is not None:
                alerts.append(self._declare_fused(text, found, seen, offset))
        return alerts

    def rows(self, *, fresh: bool = False) -> bytes:
        """The kept observations, or those that are new since the last call, as MessagePack."""

        def part(kept: RowBuffer[Any]) -> BufferDelta[Any]:
            new = kept.take_delta()
            return new if fresh else kept.all()

        fused = {text: {name: part(kept) for name, kept in fusion.rows.items()} for text, fusion in self._fused.items()}
        return msgspec.msgpack.encode(
            Rows(part(self._labelled), part(self._predicted), fused, part(self._estimate.past))
        )

    def save(self) -> bytes:
        """The state of every detector, as MessagePack; it belongs to the observations of `rows`."""
        return msgspec.msgpack.encode(
            Saved(
                self._version,
                [],
                [],
                {track.text: track.dump() for track in self._tracks},
                self._begins,
                {text: pickle.dumps(fusion) for text, fusion in self._fused.items()},
                list(self._estimate.blocks),
                self._estimate.confidences,
                self.outcomes,
                MADE_BY,
            )
        )

    def restore(self, body: bytes, rows: Sequence[bytes]) -> None:
        """Take over what `save` wrote and what `rows` gave, in its order; detectors that are no longer configured are
        dropped, and so are all of them where another version of driftloop or River wrote them: they begin anew, with
        the observations that are kept.

        The caller has checked that the bytes are its own: detectors are pickled. A `ValueError` says what is missing.
        """
        saved = msgspec.msgpack.decode(body, type=Saved)
        self._version = saved.version
        self.outcomes = saved.outcomes
        self._labelled.put(saved.labelled)
        self._predicted.put(saved.predicted)
        parts = [msgspec.msgpack.decode(one, type=Rows) for one in rows]
        for one in parts:
            self._labelled.take(one.labelled)
            self._predicted.take(one.predicted)
            self._estimate.past.take(one.calibration)
        self._estimate.restore(saved.blocks, saved.confidences)
        self._begins.update({text: at for text, at in saved.begins.items() if text in self._begins})
        if saved.made_by != MADE_BY:
            by = saved.made_by or "an older version"
            log.warning("The detectors begin anew: those that are stored were written by %s, not %s.", by, MADE_BY)
            return
        for track in self._tracks:
            track.restore(saved.detectors.get(track.text, {}))
        for text in self._fused.keys() & saved.fused.keys():
            self._fused[text] = load_pickle(saved.fused[text])
            for name, kept in self._fused[text].rows.items():
                for one in parts:
                    if name not in one.fused.get(text, {}):
                        raise ValueError(f"there are no observations for {name} of {text}")
                    kept.take(one.fused[text][name])

    def _same_model(self, version: str) -> bool:
        """False for what an older model said. With a newer one, what depends on the model starts afresh."""
        if version == self._version:
            return True
        if _number(version) < _number(self._version):
            return False
        self._version = version
        for track in self._tracks:
            if track.signal != "error":
                track.reset()
        for fusion in self._fused.values():
            fusion.new_model(version)
        return True

    def _feed(self, signals: tuple[str, ...], seen: ObservedEvent, version: str, offset: int) -> list[DriftAlert]:
        alerts = []
        for track in self._tracks:
            if track.signal in signals and track.update(seen):
                alert = self._declare(track, version, offset)
                if alert is not None:
                    alerts.append(alert)
        return alerts

    def _declare(self, track: SignalDetector, version: str, offset: int) -> DriftAlert | None:
        """The alert, unless the signal moved for the better or there is too little before the change."""
        kept = self._labelled if track.signal == "error" else self._predicted
        same = track.signal == "error"
        rows = [row for row in kept if row.occurred_at >= self._begins[track.text] and (same or row.version == version)]
        cut = change_point(rows, track.signal)
        before, after = rows[:cut], rows[cut:]
        if len(before) < MIN_BEFORE:
            return None
        self._begins[track.text] = after[0].occurred_at
        severity = _severity(track.signal, before, after)
        if (track.signal == "confidence" and severity >= 0) or (track.signal == "error" and severity <= 0):
            return None
        return self._alert(
            track.text, track.text.partition(":")[2], track.signal, after, version, offset,
            severity=severity, onset=after[0].position, onset_at=after[0].occurred_at,
            window=len(after), evidence=explain(before, after), fired={track.signal: 1.0},
        )  # fmt: skip

    def _declare_fused(self, text: str, found: Finding, seen: ObservedEvent, offset: int) -> DriftAlert:
        """The alert for a finding of the fused detector, with what moved in predictions and in outcomes."""
        begin, at = self._begins[text], found.onset_at
        predicted, labelled = (
            (
                [row for row in kept if begin <= row.occurred_at < at],
                [row for row in kept if row.occurred_at >= at],
            )
            for kept in (self._predicted, self._labelled)
        )
        self._begins[text] = at
        before, after = labelled if seen.label else predicted
        shown = explain(before, after)
        ranked = movements(predicted, labelled)
        shown["moved"] = [*ranked, *moved_words(*(labelled if seen.label else predicted))]
        estimated = [block for block in self.blocks if block.estimate is not None][-4:]
        shown["estimated_accuracy"] = [
            {"start": one.start, "end": one.end, "estimate": one.estimate, "low": one.low, "high": one.high}
            for one in estimated
        ]
        return self._alert(
            text, text, found.signal, after or [seen], seen.version, offset,
            severity=found.severity, onset=found.onset, onset_at=at,
            window=found.window, evidence=msgspec.to_builtins(shown), fired=found.shares,
            kind=found.kind, onset_low=found.onset_low, onset_high=found.onset_high,
        )  # fmt: skip

    def _alert(
        self, text: str, detector: str, signal: Any, after: Sequence[ObservedEvent], version: str, offset: int, *,
        severity: float, **known: Any,
    ) -> DriftAlert:  # fmt: skip
        last = after[-1]
        key = f"{self._stream} {text} {version} {last.position} {last.occurred_at} {offset}"
        return DriftAlert(
            alert_id=hashlib.sha256(key.encode()).hexdigest()[:16],
            stream=self._stream,
            detector=detector,
            signal=signal,
            severity=round(severity, 4),
            position=last.position,
            outcome_offset=offset,
            model_version=version,
            detected_at=time.time(),
            **known,
        )


def _severity(signal: str, before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> float:
    return mix_distance(before, after) if signal == "mix" else mean(after, signal) - mean(before, signal)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else -1
