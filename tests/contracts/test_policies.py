"""The same checks on every policy, then what each of them is for."""

import pytest

from driftloop.messages import DriftAlert, Outcome
from driftloop.settings import RetrainSettings
from retrain.policies import ALWAYS, CostAware, Now, OnDrift, Past, Periodic, Policy, Retrain, Wait, make_policy

NAMES = ("never", "periodic", "on-drift", "cost-aware")


def outcomes(n: int, start: int = 0) -> list[Outcome]:
    return [
        Outcome(
            event_id=str(i),
            text="t",
            occurred_at=float(i),
            position=i,
            predicted="a",
            confidence=0.5,
            label="b",
            correct=False,
            model_version="1",
            latency_ms=1.0,
            labelled_at=float(i),
        )
        for i in range(start, start + n)
    ]


def alert(onset: float, name: str = "alarm", severity: float = 0.4) -> DriftAlert:
    return DriftAlert(
        alert_id=name,
        stream="s",
        detector="adwin",
        signal="error",
        severity=severity,
        position=int(onset) + 50,
        onset=int(onset),
        onset_at=onset,
        outcome_offset=0,
        window=50,
        model_version="1",
        detected_at=0.0,
    )


def past(labelled: int, onset: float, rows: int, promoted: bool = True) -> Past:
    return Past(labelled, onset, rows, until_at=float(labelled - 1), trigger="alarm", promoted=promoted)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_answers_in_words_and_without_memory(name: str) -> None:
    policy = make_policy(RetrainSettings(policy=name, period=300))  # type: ignore[arg-type]
    assert isinstance(policy, Policy) and policy.name == name
    calm = policy.decide(Now(100), [], outcomes(100))
    assert isinstance(calm, Wait) and calm.reason
    moment = (Now(1000), [alert(800.0)], outcomes(1000))
    assert policy.decide(*moment) == policy.decide(*moment)
    answer = policy.decide(*moment)
    assert isinstance(answer, Wait if name == "never" else Retrain)
    assert answer.reason


def test_periodic_counts_from_the_last_retraining() -> None:
    policy = Periodic(300)
    assert isinstance(policy.decide(Now(300), [], outcomes(300)), Retrain)
    assert isinstance(policy.decide(Now(599, (past(300, ALWAYS, 300),)), [], outcomes(599)), Wait)
    assert isinstance(policy.decide(Now(600, (past(300, ALWAYS, 300),)), [], outcomes(600)), Retrain)


def test_on_drift_waits_for_labels_of_the_new_concept() -> None:
    policy = OnDrift(cooldown=0, min_rows=60)
    assert isinstance(policy.decide(Now(859), [alert(800.0)], outcomes(859)), Wait)
    answer = policy.decide(Now(860), [alert(800.0)], outcomes(860))
    assert isinstance(answer, Retrain)
    assert (answer.trigger, answer.onset_at) == ("alarm", 800.0)


def test_on_drift_follows_up_when_there_is_several_times_as_much_and_then_stops() -> None:
    policy = OnDrift(cooldown=0, min_rows=60, growth=5, retry_growth=2, follow_ups=1)
    one = past(860, 800.0, 60)
    assert isinstance(policy.decide(Now(1099, (one,)), [alert(800.0)], outcomes(1099)), Wait)
    assert isinstance(policy.decide(Now(1100, (one,)), [alert(800.0)], outcomes(1100)), Retrain)
    two = past(1100, 800.0, 300)
    done = policy.decide(Now(9000, (one, two)), [alert(800.0)], outcomes(9000))
    assert isinstance(done, Wait) and "learnt" in done.reason


def test_on_drift_tries_again_sooner_when_nothing_was_promoted() -> None:
    policy = OnDrift(cooldown=0, min_rows=60, growth=5, retry_growth=2)
    failed = past(860, 800.0, 60, promoted=False)
    assert isinstance(policy.decide(Now(919, (failed,)), [alert(800.0)], outcomes(919)), Wait)
    assert isinstance(policy.decide(Now(920, (failed,)), [alert(800.0)], outcomes(920)), Retrain)


def test_a_look_that_promoted_nothing_uses_up_no_follow_up_but_there_is_an_end() -> None:
    policy = OnDrift(cooldown=0, min_rows=60, growth=5, retry_growth=2, follow_ups=1)
    rounds = (past(860, 800.0, 60), past(1100, 800.0, 300, promoted=False))
    assert isinstance(policy.decide(Now(1400, rounds), [alert(800.0)], outcomes(1400)), Retrain)
    ended = (*rounds, past(1400, 800.0, 600, promoted=False))
    assert isinstance(policy.decide(Now(9000, ended), [alert(800.0)], outcomes(9000)), Wait)


def test_a_late_alert_about_a_drift_already_learnt_is_not_a_new_one() -> None:
    policy = OnDrift(cooldown=0, min_rows=60, follow_ups=0)
    one = past(900, 800.0, 100)
    echo = policy.decide(Now(1500, (one,)), [alert(800.0), alert(830.0, "echo")], outcomes(1500))
    assert isinstance(echo, Wait)
    fresh = policy.decide(Now(1500, (one,)), [alert(800.0), alert(1400.0, "fresh")], outcomes(1500))
    assert isinstance(fresh, Retrain) and fresh.trigger == "fresh"


def test_the_cooldown_holds_back_a_second_drift() -> None:
    policy = OnDrift(cooldown=400, min_rows=60)
    one = past(900, 700.0, 200)
    held = policy.decide(Now(1299, (one,)), [alert(1000.0, "second")], outcomes(1299))
    assert isinstance(held, Wait) and "cooling down" in held.reason
    assert isinstance(policy.decide(Now(1300, (one,)), [alert(1000.0, "second")], outcomes(1300)), Retrain)


def test_cost_aware_leaves_a_small_drop_alone() -> None:
    policy = CostAware(OnDrift(0, 60), horizon=1000, cost_of_error=1.0, cost_of_retraining=200.0)
    small = policy.decide(Now(1000), [alert(800.0, severity=0.1)], outcomes(1000))
    assert isinstance(small, Wait) and "costs" in small.reason
    assert isinstance(policy.decide(Now(1000), [alert(800.0, severity=0.3)], outcomes(1000)), Retrain)
