"""`driftloop check`: the contract checks on a class of the user's own.

Each room is imported where it is needed, as in `cli`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftloop.cli.options import load_settings, terminate_as_interrupt, write
from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.testing import checks
from driftloop.testing.checks import CheckResult

if TYPE_CHECKING:
    from driftloop.core.settings import Settings

TELLING = {"decide": "policy", "update": "detector", "predict": "classifier", "fit": "candidate"}
"""The method that tells what a class is, the first that it has; what else belongs to that is for the checks to say."""


def check(arguments: argparse.Namespace) -> int:
    """Print one line for each check; 1 where one failed."""
    terminate_as_interrupt()
    settings = load_settings(arguments)
    named, _, parameters = arguments.name.partition("?")
    found = plugins.find_any(named)
    kind = next((kind for method, kind in TELLING.items() if hasattr(found, method)), None)
    if not isinstance(found, type) or kind is None:
        raise DriftloopError(
            f"{named} is no class with one of the methods {', '.join(TELLING)}: give a detector, a candidate, a policy "
            "or a classifier."
        )
    name = f"{found.__module__}:{found.__qualname__}"
    write(f"{name} is a {kind}.")
    failed = total = 0
    with tempfile.TemporaryDirectory(prefix="driftloop-check-", dir=settings.work or None) as folder:
        for result in _results(kind, found, name, parameters, settings, Path(folder)):
            total += 1
            failed += bool(result.why)
            write(f"failed  {result.name}: {result.why}" if result.why else f"passed  {result.name}")
    write(f"{total - failed} of {total} checks passed.")
    return 1 if failed else 0


def _results(
    kind: str, found: Any, name: str, parameters: str, settings: Settings, folder: Path
) -> Iterator[CheckResult]:
    """What comes of each check, as it comes.

    Raises:
        DriftloopError: it cannot be made, or the packages to check it with are not installed.
    """
    if kind == "detector":
        return _detector(found, name, parameters)
    if parameters:
        raise DriftloopError(f"A {kind} takes no parameters: leave out ?{parameters}.")
    if kind == "policy":
        return _policy(found, name, settings)
    if kind == "candidate":
        return _candidate(found, name, folder)
    from driftloop.testing.classifier_checks import CHECKS

    return checks.run(CHECKS, _made(name, found))


def _detector(found: Any, name: str, parameters: str) -> Iterator[CheckResult]:
    from stream_processors.drift import checks as detectors
    from stream_processors.drift.detectors import make_custom, parse_parameters

    chosen = parse_parameters(parameters, name)
    _made(name, lambda: found(**chosen))
    return checks.run(detectors.CHECKS, detectors.Subject(lambda: make_custom(found, name, chosen)))


def _policy(found: Any, name: str, settings: Settings) -> Iterator[CheckResult]:
    from retrain.policies import checks as policy_checks
    from retrain.policies import policies

    _made(name, lambda: found(settings.retrain))
    subject = policy_checks.Subject(lambda: policies.make_custom(found, settings.retrain))
    return checks.run(policy_checks.CHECKS, subject)


def _candidate(found: Any, name: str, folder: Path) -> Iterator[CheckResult]:
    _made(name, found)
    try:
        from retrain.candidates import catalogue
        from retrain.candidates import checks as candidates
        from retrain.testing import tiny_encoder

        tiny_encoder.encoder()
    except ImportError as error:
        raise DriftloopError(
            f"Checking a candidate needs the package {error.name}: install driftloop with its extra `retrain` "
            "(pip install 'driftloop[retrain]')."
        ) from error
    subject = candidates.Subject(lambda: catalogue.make_custom(found, name), name, folder)
    return checks.run(candidates.CHECKS, subject)


def _made(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # a stranger's code
        raise DriftloopError(
            f"{name} cannot be made ({type(error).__name__}: {error}): a detector is called with what stands after the "
            "question mark, a policy with the [retrain] settings, the others without arguments."
        ) from error
