"""Checks that every detector, candidate, policy and classifier passes.

A check is a function of the checked object that raises if the object breaks a rule. The first line of its docstring is
the rule, and `driftloop check` prints it. `stream_processors/drift/checks.py`, `retrain/policies/checks.py`,
`retrain/candidates/checks.py` and `driftloop/testing/classifier_checks.py` contain the checks. The tests in
`tests/contracts/` run them on the built-in classes, `driftloop check` on a custom class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from driftloop.core.errors import DriftloopError

S = TypeVar("S")


class CheckFailed(AssertionError):
    """A check failed. The message describes what was found."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check."""

    name: str
    """The rule, from the check's docstring."""
    failure: str
    """Reason of the failure. Empty if the check passed."""


def run_checks(checks: Sequence[Callable[[S], None]], subject: S) -> Iterator[CheckResult]:
    """Run checks in order and yield their results. A failed check does not stop the next one.

    Args:
        checks: Functions that raise if the subject breaks their rule.
        subject: The checked object.
    """
    for check in checks:
        failure = ""
        try:
            check(subject)
        except Exception as error:  # custom code can raise any type
            failure = failure_reason(error)
        yield CheckResult(describe(check), failure)


def expect(holds: object, otherwise: str) -> None:
    """Fail the check unless ``holds`` is true.

    Args:
        holds: The condition.
        otherwise: Description of what was found instead.

    Raises:
        CheckFailed: The condition is false.
    """
    if not holds:
        raise CheckFailed(otherwise)


def describe(check: Callable[[S], None]) -> str:
    """Return the rule of a check: the first line of its docstring."""
    return (check.__doc__ or check.__name__).strip().splitlines()[0].rstrip(".")


def failure_reason(error: Exception) -> str:
    """Return the reason of a failure as a phrase."""
    if isinstance(error, CheckFailed | DriftloopError):
        return str(error)
    return f"it raised {type(error).__name__}: {error}"
