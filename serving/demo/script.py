"""Script of the guided run: a caption for each step of the loop, once, with the figures of this run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.core.terminal_text import escape_control_chars
from serving.cases.model import Movement
from serving.cases.movements import movements
from serving.cases.reasons import as_sentence, first_sentence

SEEN = 60
"""Labelled events that a new champion must have predicted before its accuracy is shown."""
BEFORE = 200
"""Labelled events over which the accuracy before a change is computed."""

Panel = Literal["Accuracy", "Predictions", "Labelling queue", "Drift", "Retraining", "Models"]


@dataclass(frozen=True)
class Caption:
    """Explanation of one step of the loop."""

    title: str
    text: str
    panel: Panel = "Accuracy"
    """Panel of the live page that shows the step."""
    opens: bool = False
    """True if the video opens the first folded element of the panel."""
    corrects: bool = False
    """True if the video corrects the label of a prediction."""


class Story:
    """Captions of a run. Each message returns the captions that it makes possible.

    Args:
        about: Description of the scenario.
        drifts: Stream positions of the scenario's drifts.
        warm_up: Events at the beginning that the first model is trained on.
    """

    def __init__(self, about: str, drifts: tuple[int, ...], warm_up: int) -> None:
        self._about = about
        self._drifts = deque(drifts)
        self._warm_up = warm_up
        self._shown: set[str] = set()
        self._alert: DriftAlert | None = None
        self._recent: deque[bool] = deque(maxlen=BEFORE)
        self._champion = ""
        # Correctness of the newest champion's predictions, and the accuracy at the time of its promotion.
        self._new: list[bool] = []
        self._before: float | None = None
        # Predictions so far, and their number when the retraining was queued.
        self._predicted = 0
        self._predicted_when_queued = 0

    def opening(self) -> list[Caption]:
        """Return the captions before the first message."""
        about = f" {escape_control_chars(self._about, 200)}" if self._about else ""
        return [
            Caption(
                "Problem",
                "A text classifier is trained once, but the texts change later, and its accuracy falls without notice. "
                f"This run replays labelled texts as a live stream.{about} The labels arrive late, as in practice.",
            ),
            Caption(
                "Components",
                "Kafka, Valkey and MLflow start on this machine. A scorer, a drift monitor and a retrainer run as "
                "separate processes and exchange messages on Kafka topics. This run needs no Docker, no account and no "
                "access to the Hugging Face Hub.",
            ),
        ]

    def take(self, message: Message) -> list[Caption]:
        """Return the captions for a message."""
        match message:
            case ModelUpdate():
                return self._model_update(message)
            case Prediction():
                return self._prediction(message)
            case Outcome() if not message.in_sample and not 0 <= message.position < self._warm_up:
                return self._outcome(message)
            case DriftAlert():
                return self._drift_alert(message)
            case Retraining():
                return self._retraining(message)
            case _:
                return []

    def _once(self, key: str, caption: Caption) -> list[Caption]:
        if key in self._shown:
            return []
        self._shown.add(key)
        return [caption]

    def _model_update(self, update: ModelUpdate) -> list[Caption]:
        self._champion, self._new = update.version, []
        if "first model" not in self._shown:
            text = f"{_reason(update.reason)} The model is signed, registered in MLflow, and used from now on."
            return self._once("first model", Caption("First model", text, "Models"))
        if "alert" not in self._shown or "promotion" in self._shown:
            return []
        self._before = _share(self._recent)
        text = (
            f"Version {escape_control_chars(update.version, 20)} is the new champion. MLflow has its lineage: data, "
            f"alert and reason. {self._predicted - self._predicted_when_queued} events were predicted since the "
            "retraining began. The scorer loaded the new model between two batches, and no event waited for it."
        )
        return self._once("promotion", Caption("Promotion", text, "Models"))

    def _prediction(self, one: Prediction) -> list[Caption]:
        self._predicted += 1
        captions: list[Caption] = []
        if one.position >= self._warm_up:
            share = one.probabilities.get(one.label, 0.0)
            text = (
                f"Version {escape_control_chars(one.model_version, 9)} predicts "
                f"“{escape_control_chars(one.label, 40)}” for “{escape_control_chars(one.text, 100)}” ({share:.0%}, "
                f"{one.latency_ms:.0f} ms). An event is finished when Redis and Kafka have stored its prediction. A "
                "crash can repeat a prediction but cannot lose it."
            )
            captions += self._once("prediction", Caption("Predictions", text, "Predictions"))
        while self._drifts and one.position >= self._drifts[0]:
            at = self._drifts.popleft()
            text = (
                f"At event {at} the stream changes. Only this demo knows it. The loop must detect the change from the "
                "texts and the late labels. Watch the accuracy."
            )
            captions += self._once("drift", Caption("Drift", text))
        return captions

    def _outcome(self, one: Outcome) -> list[Caption]:
        self._recent.append(one.correct)
        if one.model_version == self._champion:
            self._new.append(one.correct)
        if len(self._recent) == BEFORE and "labels" not in self._shown:
            text = (
                f"Labels arrive some time after their events and are joined with the predictions. Of the newest "
                f"{BEFORE} labelled predictions, {_share(self._recent):.0%} are correct. Annotators can label events, "
                "too: one click corrects a prediction."
            )
            caption = Caption("Late labels and corrections", text, "Predictions", corrects=True)
            return self._once("labels", caption)
        if "promotion" in self._shown and len(self._new) >= SEEN and self._before is not None:
            text = (
                f"Of the {BEFORE} labelled predictions before the promotion, {self._before:.0%} are correct. Of the "
                f"first {len(self._new)} of the new champion, {_share(self._new):.0%} are correct. The new champion "
                "was not trained on these events."
            )
            return self._once("comparison", Caption("Accuracy before and after", text))
        return []

    def _drift_alert(self, alert: DriftAlert) -> list[Caption]:
        self._alert = alert
        changes = "; ".join(_change(one) for one in movements(alert.evidence)[:3])
        largest = f" Largest changes: {changes}." if changes else ""
        text = (
            f"The monitor raises an alert at event {alert.position}: the signal "
            f"“{escape_control_chars(alert.signal, 40)}” changed by {alert.severity:+.3f}. The likely onset is event "
            f"{alert.onset}.{largest}"
        )
        return self._once("alert", Caption("Alert", text, "Drift", opens=True))

    def _retraining(self, step: Retraining) -> list[Caption]:
        if self._alert is None or step.trigger != self._alert.alert_id:
            return []
        if step.state == "queued":
            self._predicted_when_queued = self._predicted_when_queued or self._predicted
            text = f"The policy starts a retraining automatically. Its reason: {_reason(step.reason)}"
            return self._once("retraining", Caption("Retraining", text, "Retraining"))
        if step.state == "searching" and step.candidate in ("tpot", "finetune"):
            text = (
                "With more labels, the slow candidates start. TPOT searches pipelines over the embeddings, and a "
                "Hugging Face encoder is fine-tuned. Each runs in its own process with a time limit. Their models "
                "predict live events in shadow before they can be promoted. Current step: "
                f"{_reason(step.reason)}"
            )
            return self._once("search", Caption("AutoML and Hugging Face", text, "Retraining"))
        if step.state == "gated":
            text = (
                f"The accuracy of the candidate {escape_control_chars(step.candidate, 40)} is "
                f"{_score(step, 'accuracy')}, the champion's {_score(step, 'champion_accuracy')}, on events that "
                "neither was trained on. The gate checks that the difference is significant. It also checks each "
                "class, each segment and the latency for losses."
            )
            return self._once("gate", Caption("Gate", text, "Retraining", opens=True))
        return []


def _score(step: Retraining, name: str) -> str:
    value = step.scores.get(name)
    return f"{value:.0%}" if isinstance(value, int | float) and 0 <= value <= 1 else "unknown"


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0


def _change(one: Movement) -> str:
    name = f"the {escape_control_chars(one.what, 20)} “{escape_control_chars(one.name, 40)}”"
    if one.before is None or one.after is None:
        return name
    return f"{name}, from {one.before:.0%} to {one.after:.0%} ({escape_control_chars(one.measure, 20)})"


def _reason(text: str) -> str:
    """Return the first sentence of a reason from the stream, with its control characters escaped."""
    return as_sentence(escape_control_chars(first_sentence(text), 300)) or "No reason was given."
