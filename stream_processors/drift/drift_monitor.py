"""Drift monitor of a stream: predictions and outcomes in, alerts out.

A `DriftMonitor` gets every prediction and every outcome of a stream. It updates the fused detector and each configured
single one. An alarm becomes a `DriftAlert` with the onset of the change and what moved. The monitor process and the
in-process benchmarks use the same class.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import time
from collections.abc import Sequence
from typing import Any

import msgspec

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
from stream_processors.drift.signals import MAX_ROWS
from stream_processors.drift.single_signal import SignalDetector, make_signal_detector
from stream_processors.drift.stored_state import MADE_BY, Rows, Saved
from stream_processors.drift.unpickling import load_pickle

log = logging.getLogger(__name__)


class DriftMonitor:
    """Drift detectors of one stream, and the estimate of its accuracy.

    Args:
        specs: Configured lines: ``fused``, or ``signal:detector?parameter=value``.
        stream: Id of the stream.
    """

    def __init__(self, specs: Sequence[str], stream: str) -> None:
        self._stream = stream
        self._version = ""
        fused = [text for text in specs if text.partition("?")[0] == "fused"]
        self._fused: dict[str, FusedDetector] = {text: make_fused_detector(text) for text in fused}
        self._single: list[SignalDetector] = [make_signal_detector(text) for text in specs if text not in fused]
        # `occurred_at` of the present concept's first observation: older ones are not compared with the next change.
        self._concept_start = dict.fromkeys(specs, float("-inf"))
        self._labelled: RowBuffer[ObservedEvent] = RowBuffer(MAX_ROWS)
        self._predicted: RowBuffer[ObservedEvent] = RowBuffer(MAX_ROWS)
        self._estimator = ConfidenceBasedEstimator()
        self.outcomes = 0
        """Number of outcomes that it has been given."""

    @property
    def blocks(self) -> Sequence[Block]:
        """Estimated accuracy of each block of predictions, oldest first."""
        return self._estimator.blocks

    @property
    def levels(self) -> dict[str, float]:
        """Contribution of each signal of the fused detectors to an alarm, which a sum of 1 raises."""
        return {name: level for fused in self._fused.values() for name, level in fused.levels.items()}

    def predicted(self, prediction: Prediction, embedding: Matrix | None = None) -> list[DriftAlert]:
        """Add a prediction, without its label; return the alerts.

        Args:
            prediction: Next prediction.
            embedding: Embedding of its text, shape (d,), if there is one.
        """
        if prediction.in_sample or not self._is_current(prediction.model_version):
            return []
        label, confidence = prediction.watched
        event = ObservedEvent(
            position=prediction.position,
            occurred_at=prediction.occurred_at,
            predicted=label,
            confidence=confidence,
            text=prediction.text,
            event_id=prediction.event_id,
            segment=prediction.segment,
            version=prediction.model_version,
        )
        self._predicted.append(event)
        self._estimator.predicted(prediction.confidence, event.version, event.position, event.occurred_at)
        signals = ("mix",) if prediction.route in CASCADE_ROUTES else ("confidence", "mix")
        alerts = self._update_single(signals, event, self._version, -1)
        for text, fused in self._fused.items():
            found = fused.predicted(prediction, embedding)
            if found is not None:
                alerts.append(self._fused_alert(text, found, event, -1))
        return alerts

    def labelled(self, outcome: Outcome, offset: int) -> list[DriftAlert]:
        """Add an outcome, for the error and the log loss; return the alerts.

        The error is followed across promotions. Otherwise a drift at the moment of a promotion would look like a model
        that has always been bad.

        Args:
            outcome: Next outcome.
            offset: Its offset on the topic `outcomes`.
        """
        self.outcomes += 1
        if outcome.in_sample:
            return []
        event = ObservedEvent(
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
        self._labelled.append(event)
        correct = event.predicted == event.label
        self._estimator.labelled(event.confidence, correct, event.version, event.occurred_at)
        alerts = self._update_single(("error",), event, outcome.model_version, offset)
        for text, fused in self._fused.items():
            found = fused.labelled(outcome)
            if found is not None:
                alerts.append(self._fused_alert(text, found, event, offset))
        return alerts

    def rows(self, *, fresh: bool = False) -> bytes:
        """Return the kept observations as MessagePack.

        Args:
            fresh: True to return only those added since the previous call.
        """

        def delta(buffer: RowBuffer[Any]) -> BufferDelta[Any]:
            added = buffer.take_delta()
            return added if fresh else buffer.all()

        fused = {
            text: {name: delta(buffer) for name, buffer in detector.rows.items()}
            for text, detector in self._fused.items()
        }
        return msgspec.msgpack.encode(
            Rows(delta(self._labelled), delta(self._predicted), fused, delta(self._estimator.past))
        )

    def save(self) -> bytes:
        """Return the state of every detector as MessagePack, without the observations of `rows`."""
        return msgspec.msgpack.encode(
            Saved(
                self._version,
                [],
                [],
                {single.text: single.dump() for single in self._single},
                self._concept_start,
                {text: pickle.dumps(fused) for text, fused in self._fused.items()},
                list(self._estimator.blocks),
                self._estimator.confidences,
                self.outcomes,
                MADE_BY,
            )
        )

    def restore(self, body: bytes, rows: Sequence[bytes]) -> None:
        """Restore the state of a monitor. The caller must have checked the signature of the bytes.

        Detectors that are no longer configured are dropped. If other versions of driftloop or River pickled the
        detectors, all of them begin anew, with the kept observations.

        Args:
            body: Result of `save`.
            rows: Results of `rows`, in their order.

        Raises:
            ValueError: The state cannot be read, or observations are missing.
        """
        saved = msgspec.msgpack.decode(body, type=Saved)
        deltas = [msgspec.msgpack.decode(part, type=Rows) for part in rows]
        self._version = saved.version
        self.outcomes = saved.outcomes
        self._labelled.replace(saved.labelled)
        self._predicted.replace(saved.predicted)
        for delta in deltas:
            self._labelled.apply(delta.labelled)
            self._predicted.apply(delta.predicted)
            self._estimator.past.apply(delta.calibration)
        self._estimator.restore(saved.blocks, saved.confidences)
        self._concept_start.update({text: at for text, at in saved.begins.items() if text in self._concept_start})
        if saved.readable:
            self._restore_detectors(saved, deltas)
        else:
            by = saved.made_by or "an older version"
            log.warning("The detectors begin anew: those that are stored were written by %s, not %s.", by, MADE_BY)

    def _restore_detectors(self, saved: Saved, deltas: Sequence[Rows]) -> None:
        """Unpickle the detectors, and give the fused ones their observations."""
        for single in self._single:
            single.restore(saved.detectors.get(single.text, {}))
        for text in self._fused.keys() & saved.fused.keys():
            self._fused[text] = load_pickle(saved.fused[text])
            for name, buffer in self._fused[text].rows.items():
                for delta in deltas:
                    if name not in delta.fused.get(text, {}):
                        raise ValueError(f"there are no observations for {name} of {text}")
                    buffer.apply(delta.fused[text][name])

    def _is_current(self, version: str) -> bool:
        """Return False for a prediction of an older model. For a newer model, restart the signals that depend on it."""
        if version == self._version:
            return True
        if _number(version) < _number(self._version):
            return False
        self._version = version
        for single in self._single:
            if single.signal != "error":
                single.reset()
        for fused in self._fused.values():
            fused.new_model(version)
        return True

    def _update_single(
        self, signals: tuple[str, ...], event: ObservedEvent, version: str, offset: int
    ) -> list[DriftAlert]:
        """Update the single detectors of some signals; return their alerts."""
        alerts = []
        for single in self._single:
            if single.signal in signals and single.update(event):
                alert = self._single_alert(single, version, offset)
                if alert is not None:
                    alerts.append(alert)
        return alerts

    def _single_alert(self, single: SignalDetector, version: str, offset: int) -> DriftAlert | None:
        """Return the alert, or `None` if the signal has improved, or too little is known from before the change."""
        across_models = single.signal == "error"
        buffer = self._labelled if across_models else self._predicted
        rows = [
            row
            for row in buffer
            if row.occurred_at >= self._concept_start[single.text] and (across_models or row.version == version)
        ]
        cut = change_point(rows, single.signal)
        before, after = rows[:cut], rows[cut:]
        if len(before) < MIN_BEFORE:
            return None
        self._concept_start[single.text] = after[0].occurred_at
        severity = _severity(single.signal, before, after)
        if (single.signal == "confidence" and severity >= 0) or (single.signal == "error" and severity <= 0):
            return None
        return self._alert(
            single.text, single.text.partition(":")[2], single.signal, after, version, offset,
            severity=severity, onset=after[0].position, onset_at=after[0].occurred_at,
            window=len(after), evidence=explain(before, after), fired={single.signal: 1.0},
        )  # fmt: skip

    def _fused_alert(self, text: str, found: Finding, event: ObservedEvent, offset: int) -> DriftAlert:
        """Return the alert for a finding of the fused detector, with what moved in predictions and in outcomes."""
        start, onset_at = self._concept_start[text], found.onset_at
        predicted, labelled = (
            (
                [row for row in buffer if start <= row.occurred_at < onset_at],
                [row for row in buffer if row.occurred_at >= onset_at],
            )
            for buffer in (self._predicted, self._labelled)
        )
        self._concept_start[text] = onset_at
        before, after = labelled if event.label else predicted
        evidence = explain(before, after)
        evidence["moved"] = [*movements(predicted, labelled), *moved_words(before, after)]
        estimated = [block for block in self.blocks if block.estimate is not None][-4:]
        evidence["estimated_accuracy"] = [
            {"start": block.start, "end": block.end, "estimate": block.estimate, "low": block.low, "high": block.high}
            for block in estimated
        ]
        return self._alert(
            text, text, found.signal, after or [event], event.version, offset,
            severity=found.severity, onset=found.onset, onset_at=onset_at,
            window=found.window, evidence=msgspec.to_builtins(evidence), fired=found.shares,
            kind=found.kind, onset_low=found.onset_low, onset_high=found.onset_high,
        )  # fmt: skip

    def _alert(
        self, text: str, detector: str, signal: Any, after: Sequence[ObservedEvent], version: str, offset: int, *,
        severity: float, **fields: Any,
    ) -> DriftAlert:  # fmt: skip
        """Return an alert with an id that is the same if the event is read again."""
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
            **fields,
        )


def _severity(signal: str, before: Sequence[ObservedEvent], after: Sequence[ObservedEvent]) -> float:
    return mix_distance(before, after) if signal == "mix" else mean(after, signal) - mean(before, signal)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else -1
