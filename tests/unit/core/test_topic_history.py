"""History of a stream: what belongs to other streams, and what was delivered twice."""

from __future__ import annotations

from driftloop.core.kafka.topic_history import TopicHistory, first_messages
from driftloop.core.messages import DriftAlert, MixtureUpdate, ModelUpdate, Outcome, Retraining
from tests.unit.serving.test_views import made


def alert(name: str, stream: str = "s", position: int = 0) -> DriftAlert:
    return made(DriftAlert, alert_id=name, stream=stream, position=position, onset=position)


def update(version: str, stream: str = "s") -> ModelUpdate:
    return made(ModelUpdate, version=version, stream=stream, reason="better")


def step(stream: str) -> Retraining:
    return made(Retraining, state="queued", stream=stream, reason="drift")


def test_history_of_stream_excludes_other_streams() -> None:
    """Outcomes have no stream, and all of them are kept."""
    history = TopicHistory(
        events=7,
        outcomes=[made(Outcome, event_id="a", position=0)],
        outcome_offsets=[3],
        alerts=[alert("own"), alert("other", stream="t")],
        model_updates=[update("1", stream="t"), update("2")],
        weight_samples=[made(MixtureUpdate, stream=one, revision=1, weights={}) for one in "st"],
        retrainings=[step("s"), step("t")],
    )
    own = history.of_stream("s")
    assert [one.alert_id for one in own.alerts] == ["own"]
    assert [one.version for one in own.model_updates] == ["2"] and len(own.retrainings) == 1
    assert [one.stream for one in own.weight_samples] == ["s"]
    assert (own.events, own.outcomes, own.outcome_offsets) == (7, history.outcomes, [3])


def test_first_of_repeated_messages_is_kept() -> None:
    """Order of the messages does not change."""
    alerts = [alert(name, position=at) for at, name in enumerate(["a", "b", "a"])]
    assert first_messages(alerts, "alert_id") == alerts[:2]
