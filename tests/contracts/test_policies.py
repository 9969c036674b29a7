"""Checks of policies on each built-in one, then tests of each."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from driftloop.core.settings import POLICIES, RetrainSettings
from retrain.policies.base import ALWAYS, CompletedRetraining, Policy, PolicyContext, Retrain, Wait
from retrain.policies.builtin import Budgeted, CostAware, Periodic
from retrain.policies.catalogue import make_policy
from retrain.policies.checks import CHECKS, Subject, alert, outcomes
from retrain.policies.mixture_rounds import MixtureRounds
from retrain.policies.on_drift import OnDrift


def past(labelled: int, onset: float, rows: int, promoted: bool = True) -> CompletedRetraining:
    return CompletedRetraining(labelled, onset, rows, until_at=float(labelled - 1), trigger="alarm", promoted=promoted)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("per_day", [0, 1])
@pytest.mark.parametrize("mixture", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_the_contract_holds(name: str, mixture: bool, per_day: int, check: Callable[[Subject], None]) -> None:
    chosen = RetrainSettings(policy=name, period=300, mixture=mixture, max_per_day=per_day)
    check(Subject(lambda: make_policy(chosen)))


@pytest.mark.parametrize("mixture", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_policies_give_reasons_and_keep_no_state(name: str, mixture: bool) -> None:
    policy = make_policy(RetrainSettings(policy=name, period=300, mixture=mixture))
    assert isinstance(policy, Policy) and policy.name == name
    calm = policy.decide(PolicyContext(100), [], outcomes(100))
    assert isinstance(calm, Wait) and calm.reason
    moment = (PolicyContext(1000), [alert(600.0)], outcomes(1000))
    assert policy.decide(*moment) == policy.decide(*moment)
    answer = policy.decide(*moment)
    assert isinstance(answer, Wait if name == "never" else Retrain)
    assert answer.reason


def test_periodic_counts_from_the_last_retraining() -> None:
    policy = Periodic(300)
    assert isinstance(policy.decide(PolicyContext(300), [], outcomes(300)), Retrain)
    assert isinstance(policy.decide(PolicyContext(599, (past(300, ALWAYS, 300),)), [], outcomes(599)), Wait)
    assert isinstance(policy.decide(PolicyContext(600, (past(300, ALWAYS, 300),)), [], outcomes(600)), Retrain)


def test_on_drift_waits_for_new_concept_labels() -> None:
    policy = OnDrift(cooldown=0, min_rows=60)
    assert isinstance(policy.decide(PolicyContext(859), [alert(800.0)], outcomes(859)), Wait)
    answer = policy.decide(PolicyContext(860), [alert(800.0)], outcomes(860))
    assert isinstance(answer, Retrain)
    assert (answer.trigger, answer.onset_at) == ("alarm", 800.0)


def test_on_drift_retrains_in_growing_rounds() -> None:
    """Rounds end when the next one would need more rows than the window holds."""
    policy = OnDrift(cooldown=0, min_rows=60, growth=1.5, window=200, search_rows=1000)
    rounds: tuple[CompletedRetraining, ...] = ()
    kinds, sizes = [], []
    for labelled in range(800, 2000):
        answer = policy.decide(PolicyContext(labelled, rounds), [alert(800.0)], outcomes(labelled))
        if isinstance(answer, Retrain):
            kinds.append(answer.kind)
            sizes.append(labelled - 800)
            rounds = (*rounds, past(labelled, 800.0, labelled - 800))
    assert sizes == [60, 90, 135], "each round has half as many again, and the next would have more than 200"
    assert kinds == ["answer", "refresh", "refresh"]
    assert isinstance(answer, Wait) and "learnt" in answer.reason


def test_slow_candidates_join_exactly_one_round() -> None:
    """Slow candidates join the first round that has enough rows for a search."""
    policy = OnDrift(cooldown=0, min_rows=60, search_rows=100, growth=2)
    one = past(860, 800.0, 60)
    search = policy.decide(PolicyContext(920, (one,)), [alert(800.0)], outcomes(920))
    assert isinstance(search, Retrain) and search.kind == "search"
    two = replace(past(920, 800.0, 120), kind="search")
    after = policy.decide(PolicyContext(1040, (one, two)), [alert(800.0)], outcomes(1040))
    assert isinstance(after, Retrain) and after.kind == "refresh"


def test_unanswered_alert_is_retried_with_more_rows() -> None:
    """Retries end when the window is full."""
    policy = OnDrift(cooldown=0, min_rows=60, growth=1.1, retry_growth=2, window=300, search_rows=1000)
    one = past(860, 800.0, 60, promoted=False)
    assert isinstance(policy.decide(PolicyContext(919, (one,)), [alert(800.0)], outcomes(919)), Wait)
    again = policy.decide(PolicyContext(920, (one,)), [alert(800.0)], outcomes(920))
    assert isinstance(again, Retrain) and again.kind == "answer"
    ended = policy.decide(PolicyContext(5000, (one, past(980, 800.0, 180, False))), [alert(800.0)], outcomes(5000))
    assert isinstance(ended, Wait) and ended.reason == "no model was better after the last alert"


def test_late_alert_about_learnt_drift_is_ignored() -> None:
    policy = OnDrift(cooldown=0, min_rows=60, window=120, search_rows=1000)
    one = past(900, 800.0, 100)
    echo = policy.decide(PolicyContext(1500, (one,)), [alert(800.0), alert(830.0, "echo")], outcomes(1500))
    assert isinstance(echo, Wait)
    fresh = policy.decide(PolicyContext(1500, (one,)), [alert(800.0), alert(1400.0, "fresh")], outcomes(1500))
    assert isinstance(fresh, Retrain) and fresh.trigger == "fresh"


def test_cooldown_delays_retraining_for_second_drift() -> None:
    policy = OnDrift(cooldown=400, min_rows=60)
    one = past(900, 700.0, 200)
    held = policy.decide(PolicyContext(1299, (one,)), [alert(1000.0, "second")], outcomes(1299))
    assert isinstance(held, Wait) and "cooling down" in held.reason
    assert isinstance(policy.decide(PolicyContext(1300, (one,)), [alert(1000.0, "second")], outcomes(1300)), Retrain)


def test_cost_aware_ignores_small_drop_with_reason() -> None:
    """The answer states what would be saved, what it would cost, and the numbers behind both."""
    policy = CostAware(OnDrift(0), horizon=1000, cost_of_error=1.0, cost_of_second=2.0, seconds=100.0)
    small = policy.decide(PolicyContext(1000), [alert(800.0, severity=0.1)], outcomes(1000))
    assert isinstance(small, Wait)
    assert small.reason == "a retraining would cost 200 and save 100"
    assert small.details == {
        "severity": 0.1, "horizon": 1000, "cost_of_error": 1.0, "saved": 100.0,
        "seconds": 100.0, "cost_of_second": 2.0, "price": 200.0,
    }  # fmt: skip
    large = policy.decide(PolicyContext(1000), [alert(800.0, severity=0.3)], outcomes(1000))
    assert isinstance(large, Retrain) and (large.details["saved"], large.details["price"]) == (300.0, 200.0)


def test_cost_aware_learns_horizon_and_retraining_time() -> None:
    """The horizon is the usual distance between past drifts, in events."""
    policy = CostAware(OnDrift(0), horizon=100_000)
    known = tuple(replace(past(at, at - 60.0, 60), seconds=30.0) for at in (100, 300, 500))
    answer = policy.decide(PolicyContext(860, known), [alert(800.0, severity=0.1)], outcomes(860))
    assert isinstance(answer, Wait), "the drifts came every 200 events: 20 errors do not pay for 30 s"
    assert [answer.details[name] for name in ("severity", "horizon", "seconds")] == [0.1, 200, 30.0]


def test_cost_aware_weighs_labels_by_newest_gain() -> None:
    """Without a drift it is worth the accuracy that the labels have brought of late."""
    policy = CostAware(MixtureRounds(cooldown=0), horizon=1000, seconds=100.0)
    wrong = outcomes(1500)
    flat = policy.decide(PolicyContext(1500), [], wrong)
    assert isinstance(flat, Wait) and flat.details["severity"] == 0
    rising = [*wrong[:1000], *(msgspec.structs.replace(one, correct=one.position % 4 == 0) for one in wrong[1000:])]
    answer = policy.decide(PolicyContext(1500), [], rising)
    assert isinstance(answer, Retrain) and (answer.details["severity"], answer.details["saved"]) == (0.25, 250.0)
    known = [msgspec.structs.replace(one, in_sample=True) for one in rising]
    assert isinstance(policy.decide(PolicyContext(1500), [], known), Wait)


def test_budget_delays_new_retrainings_but_not_refreshes() -> None:
    policy = Budgeted(OnDrift(cooldown=0, min_rows=60, growth=1.5, search_rows=1000), per_day=1)
    assert policy.name == "on-drift" and isinstance(policy, Policy)
    one = past(500, 400.0, 100)
    second = policy.decide(PolicyContext(860, (one,)), [alert(800.0)], outcomes(860))
    assert isinstance(second, Wait) and "1 of 1" in second.reason
    refresh = policy.decide(PolicyContext(860, (one,)), [alert(400.0)], outcomes(860))
    assert isinstance(refresh, Retrain) and refresh.kind == "refresh"
    next_day = replace(one, until_at=859.0 - 86_400 - 1)
    assert isinstance(policy.decide(PolicyContext(860, (next_day,)), [alert(800.0)], outcomes(860)), Retrain)
