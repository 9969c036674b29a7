"""Every check fails on a class with its fault, and reports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driftloop.core.settings import RetrainSettings
from driftloop.testing import classifier_checks as classifier
from driftloop.testing.checks import CheckFailed, describe, run_checks
from retrain.candidates import checks as candidate
from retrain.policies import checks as policy
from retrain.policies.catalogue import make_custom as make_policy
from stream_processors.drift import checks as detector
from stream_processors.drift.detectors import make_custom
from tests.broken import candidates, classifiers, detectors
from tests.broken import policies as moods

DETECTORS = [
    (detector.check_interface, detectors.Nameless, "not a detector: it needs a name, update and reset"),
    (detector.check_finds_jump, detectors.Deaf, "from 0.2 to 0.8 was not found"),
    (detector.check_flat_signal, detectors.Nervous, "alarms in 1000 values that do not move, more than 10"),
    (detector.check_any_share, detectors.BitsOnly, "it raised AssertionError: neither right nor wrong"),
    (detector.check_any_share, detectors.Truthful, "answered False: `update` must return a State"),
    (detector.check_restore, detectors.Amnesiac, "after a restart and at"),
    (detector.check_restore, detectors.Unpicklable, "cannot be kept"),
    (detector.check_reset, detectors.Stubborn, "after `reset` and at"),
]
POLICIES = [
    (policy.check_interface, moods.Nameless, "its name is '', not a word"),
    (policy.check_waits_without_labels, moods.Hasty, "it answered Retrain(reason='why not'"),
    (policy.check_answers, moods.Silent, "it gave no reason"),
    (policy.check_answers, moods.Prophet, "begins at 5000.0, after the newest event"),
    (policy.check_repeatable, moods.Moody, "asked again, it answered"),
    (policy.check_leaves_arguments, moods.Greedy, "the alerts or outcomes were changed"),
    (policy.check_waits_after_retraining, moods.Endless, "and would do so for ever"),
]
CANDIDATES = [
    (candidate.check_interface, candidates.Nameless, "its name is '', not a word"),
    (candidate.check_bundle, candidates.Unsigned, "is not signed with this key"),
    (candidate.check_labels, candidates.Forgetful, "its labels are ('negative', 'positive')"),
    (candidate.check_lineage, candidates.Homeless, "trigger='made up'"),
    (candidate.check_learns, candidates.Guessing, "of its answers are right, not more than 0.6"),
    (candidate.check_seed, candidates.Fickle, "with the same seed differ by"),
    (candidate.check_refuses_one_class, candidates.Eager, "it was fitted on one class"),
    (candidate.check_refuses_one_class, candidates.Untidy, "it refused one class and wrote something"),
    (candidate.check_refuses_few_rows, candidates.Eager, "it was fitted on nine rows"),
    (candidate.check_awkward_windows, candidates.Squeamish, "rare class: it raised KeyError"),
    (candidate.check_rescue, candidates.Boastful, "`rescue` returned True"),
    (candidate.check_refit, candidates.Undecided, "`refit` returned None"),
    (candidate.check_budget, candidates.Slow, "it was killed 1 s after the end of its budget of 1 s"),
]
CLASSIFIERS = [
    (classifier.check_interface, classifiers.OneLabel, "its labels are ('yes',), not two or more"),
    (classifier.check_rows_sum_to_one, classifiers.Loud, "a row of probabilities is 1 away from the sum of 1"),
    (classifier.check_rows_sum_to_one, classifiers.Double, "probabilities of the type float64"),
    (classifier.check_distinguishes_texts, classifiers.Bored, "the probabilities of 70 texts hardly differ"),
    (classifier.check_empty_list, classifiers.NeedsTexts, "it raised IndexError"),
    (classifier.check_hostile_texts, classifiers.Squeamish, "'': it raised ZeroDivisionError"),
    (classifier.check_given_embeddings, classifiers.Aloof, "the answers differ by"),
    (classifier.check_refuses_other_embeddings, classifiers.Careless, "two embeddings were taken for three texts"),
    (classifier.check_order_and_neighbours, classifiers.Relative, "in another order, answers differ by"),
]


def why(check: Any, subject: Any) -> str:
    """Return the failure that `driftloop check` would print."""
    (result,) = run_checks([check], subject)
    assert result.name == describe(check) != ""
    return result.failure


@pytest.mark.parametrize(
    ("module", "listed"),
    [(detector, DETECTORS), (policy, POLICIES), (candidate, CANDIDATES), (classifier, CLASSIFIERS)],
    ids=["detector", "policy", "candidate", "classifier"],
)
def test_every_check_has_a_class_that_fails_it(module: Any, listed: list[tuple[Any, ...]]) -> None:
    assert {check for check, _, _ in listed} == set(module.CHECKS)
    assert len({describe(check) for check in module.CHECKS}) == len(module.CHECKS)


@pytest.mark.parametrize(("check", "wrong", "says"), DETECTORS)
def test_broken_detector_fails_its_check(check: Any, wrong: Any, says: str) -> None:
    assert says in why(check, detector.Subject(lambda: make_custom(wrong, wrong.__name__, {})))


@pytest.mark.parametrize(("check", "wrong", "says"), POLICIES)
def test_broken_policy_fails_its_check(check: Any, wrong: Any, says: str) -> None:
    assert says in why(check, policy.Subject(lambda: make_policy(wrong, RetrainSettings())))


@pytest.mark.parametrize(("check", "wrong", "says"), CANDIDATES)
def test_broken_candidate_fails_its_check(check: Any, wrong: Any, says: str, tmp_path: Path) -> None:
    name = f"{wrong.__module__}:{wrong.__qualname__}"
    assert says in why(check, candidate.Subject(wrong, name, tmp_path, seconds=1.0, grace=1.0))


@pytest.mark.parametrize(("check", "wrong", "says"), CLASSIFIERS)
def test_broken_classifier_fails_its_check(check: Any, wrong: Any, says: str) -> None:
    assert says in why(check, wrong())


def test_failed_check_does_not_stop_later_checks() -> None:
    def fails(_subject: object) -> None:
        """It fails."""
        raise CheckFailed("as it should")

    def passes(_subject: object) -> None:
        """It passes."""

    assert [result.failure for result in run_checks([fails, passes, fails], None)] == [
        "as it should",
        "",
        "as it should",
    ]
