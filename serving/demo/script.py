"""What a guided run has to tell, and when: each turn of the loop once, with the figures of this very run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.core.terminal_text import escape_control_chars
from serving.cases import builder
from serving.cases.model import Movement

SEEN = 60
"""Labelled events that a new champion has to have answered before its accuracy is told."""
BEFORE = 200
"""Labelled events that the accuracy before a change is taken over."""

Panel = Literal["Accuracy", "Predictions", "Worth labelling", "Drift", "Retraining", "Models"]


@dataclass(frozen=True)
class Caption:
    """One thing to tell."""

    title: str
    text: str
    panel: Panel = "Accuracy"
    """The part of the live page that shows it."""
    opens: bool = False
    """Whether what the panel has folded is unfolded."""
    corrects: bool = False
    """Whether a person's correction is shown, by making one."""


class Story:
    """Gathers messages; each returns what there is to tell now."""

    def __init__(self, about: str, drifts: tuple[int, ...], warm_up: int) -> None:
        self._about = about
        self._drifts = deque(drifts)
        self._warm_up = warm_up
        self._told: set[str] = set()
        self._position = 0
        self._alert: DriftAlert | None = None
        self._recent: deque[bool] = deque(maxlen=BEFORE)
        self._champion = ""
        self._new: list[bool] = []
        """Whether the champion that came last was right, on the labelled events that it answered."""
        self._before: float | None = None
        """The accuracy when the champion that is told of took over."""
        self._predicted = 0
        self._asked_at = 0

    def opening(self) -> list[Caption]:
        """What can be told before anything has happened."""
        what = f" {escape_control_chars(self._about, 200)}" if self._about else ""
        return [
            Caption(
                "The problem",
                "A model that was good on the day it was trained meets texts that change, and nobody tells it. This "
                f"run replays labelled texts as a live stream.{what} Labels come late, as in life.",
            ),
            Caption(
                "The parts",
                "Kafka, Valkey and MLflow start on this machine; a scorer, a drift monitor and a retrainer, each a "
                "process of its own, meet only on Kafka's topics. Nothing of this needs Docker, an account or the Hub.",
            ),
        ]

    def take(self, message: Message) -> list[Caption]:
        """Learn from a message."""
        match message:
            case ModelUpdate():
                return self._swapped(message)
            case Prediction():
                return self._predicted_one(message)
            case Outcome() if not message.in_sample and not 0 <= message.position < self._warm_up:
                return self._labelled(message)
            case DriftAlert():
                return self._alarmed(message)
            case Retraining():
                return self._retrained(message)
            case _:
                return []

    def _once(self, key: str, beat: Caption) -> list[Caption]:
        if key in self._told:
            return []
        self._told.add(key)
        return [beat]

    def _swapped(self, update: ModelUpdate) -> list[Caption]:
        self._champion, self._new = update.version, []
        if "first model" not in self._told:
            text = f"{_sentence(update.reason)} It is registered in MLflow, signed, and answers from now on."
            return self._once("first model", Caption("The first model", text, "Models"))
        if "alert" not in self._told or "swap" in self._told:
            return []
        self._before = _share(self._recent)
        text = (
            f"Version {escape_control_chars(update.version, 20)} is the champion now, and MLflow has its lineage: data, alert and "
            f"reason. {self._predicted - self._asked_at} events were answered since the retraining began; the new "
            "model was taken over between two batches, and no event waited for it."
        )
        return self._once("swap", Caption("The swap", text, "Models"))

    def _predicted_one(self, one: Prediction) -> list[Caption]:
        self._position = max(self._position, one.position)
        self._predicted += 1
        beats: list[Caption] = []
        if one.position >= self._warm_up:
            share = one.probabilities.get(one.label, 0.0)
            text = (
                f"“{escape_control_chars(one.text, 100)}” is {escape_control_chars(one.label, 40)}, says version {escape_control_chars(one.model_version, 9)} "
                f"({share:.0%}, {one.latency_ms:.0f} ms). An event counts as answered when Redis and Kafka have its "
                "prediction: a crash repeats it and never loses it."
            )
            beats += self._once("prediction", Caption("Predictions", text, "Predictions"))
        while self._drifts and one.position >= self._drifts[0]:
            at = self._drifts.popleft()
            text = (
                f"At event {at} the stream becomes another one. Only this demo knows: the loop has texts and late "
                "labels and has to find out. Watch the accuracy."
            )
            beats += self._once("drift", Caption("The drift", text))
        return beats

    def _labelled(self, one: Outcome) -> list[Caption]:
        self._recent.append(one.correct)
        if one.model_version == self._champion:
            self._new.append(one.correct)
        if len(self._recent) == BEFORE and "labels" not in self._told:
            text = (
                f"Labels arrive some time after their events and are joined with the predictions: of the newest "
                f"{BEFORE} the model had {_share(self._recent):.0%} right. People label too, and one click corrects."
            )
            return self._once("labels", Caption("Late labels, and people", text, "Predictions", corrects=True))
        if "swap" in self._told and len(self._new) >= SEEN and self._before is not None:
            now = _share(self._new)
            text = (
                f"The {BEFORE} labelled events before the swap: {self._before:.0%} right. The first {len(self._new)} "
                f"that the new champion answered: {now:.0%}. It was trained on none of them."
            )
            return self._once("better", Caption("Before and after", text))
        return []

    def _alarmed(self, alert: DriftAlert) -> list[Caption]:
        self._alert = alert
        moved = "; ".join(_moved(one) for one in builder.moved(alert.evidence)[:3])
        what = f" What moved most: {moved}." if moved else ""
        text = (
            f"At event {alert.position} the monitor is sure: {alert.signal} moved by {alert.severity:+.3f}, beginning "
            f"about event {alert.onset}.{what}"
        )
        return self._once("alert", Caption("The alert", text, "Drift", opens=True))

    def _retrained(self, line: Retraining) -> list[Caption]:
        if self._alert is None or line.trigger != self._alert.alert_id:
            return []
        if line.state == "queued":
            self._asked_at = self._asked_at or self._predicted
            text = f"Nobody pressed a button. The policy's reason: {_sentence(line.reason)}"
            return self._once("retraining", Caption("Retraining", text, "Retraining"))
        if line.state == "searching" and line.candidate in ("tpot", "finetune"):
            text = (
                "With more labels come the slow candidates: TPOT searches pipelines over the embeddings, and a Hugging "
                "Face encoder is fine-tuned, each in a process of its own with a time limit. What they make answers "
                f"live events in shadow before it may win. Now: {_sentence(line.reason)}"
            )
            return self._once("search", Caption("AutoML and Hugging Face", text, "Retraining"))
        if line.state == "gated":
            text = (
                f"The candidate {escape_control_chars(line.candidate, 40)} has {_figure(line, 'accuracy')} right, the champion "
                f"{_figure(line, 'champion_accuracy')}, of events that neither has learnt from. The gate asks whether "
                "that is beyond chance, and whether a class, a segment or the latency would suffer."
            )
            return self._once("gate", Caption("The gate", text, "Retraining", opens=True))
        return []


def _figure(line: Retraining, name: str) -> str:
    value = line.scores.get(name)
    return f"{value:.0%}" if isinstance(value, int | float) and 0 <= value <= 1 else "an unknown share"


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0


def _moved(one: Movement) -> str:
    if one.before is None or one.after is None:
        return f"the {one.what} “{escape_control_chars(one.name, 40)}”"
    return f"the {one.what} “{escape_control_chars(one.name, 40)}”, from {one.before:.0%} to {one.after:.0%} ({one.measure})"


def _sentence(words: str) -> str:
    """A reason from the stream, as a sentence."""
    said = escape_control_chars(words, 300).rstrip(".")
    return f"{said[:1].upper()}{said[1:]}." if said else "no reason was given."
