"""Contracts: the checks that every detector, candidate, policy and classifier passes.

A check is a function that takes what is checked and raises where that is broken; the first line of its docstring is
what it shows, in words. `stream_processors/drift/checks.py`, `retrain/policies/checks.py`,
`retrain/candidates/checks.py` and `driftloop/testing/classifier_checks.py` have them. The tests in `tests/contracts/` run
them on what comes with driftloop, `driftloop check` on a class of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from driftloop.core.errors import DriftloopError

S = TypeVar("S")


class CheckFailed(AssertionError):
    """A check failed; the text says what was found."""


@dataclass(frozen=True)
class CheckResult:
    """What came of one check."""

    name: str
    why: str
    """What was found instead; empty where it passed."""


def expect(holds: object, otherwise: str) -> None:
    """Go on where it holds.

    Raises:
        Broken: it does not; ``otherwise`` says what was found.
    """
    if not holds:
        raise CheckFailed(otherwise)


def describe(check: Callable[[S], None]) -> str:
    """What a check shows."""
    return (check.__doc__ or check.__name__).strip().splitlines()[0].rstrip(".")


def failure_reason(error: Exception) -> str:
    """Why a check failed, in words."""
    return (
        str(error) if isinstance(error, CheckFailed | DriftloopError) else f"it raised {type(error).__name__}: {error}"
    )


def run(checks: Sequence[Callable[[S], None]], subject: S) -> Iterator[CheckResult]:
    """Run the checks one after the other; whatever one raises is its result, and the next goes on."""
    for check in checks:
        why = ""
        try:
            check(subject)
        except Exception as error:  # a stranger's code raises whatever it likes
            why = failure_reason(error)
        yield CheckResult(describe(check), why)
