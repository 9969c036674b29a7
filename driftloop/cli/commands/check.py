"""`driftloop check`: runs the contract checks on the user's own class."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions, load_settings, terminate_as_interrupt
from driftloop.cli.output import write
from driftloop.core.errors import DriftloopError

if TYPE_CHECKING:
    from driftloop.core.settings import Settings
    from driftloop.testing.checks import CheckResult

DESCRIPTION = """\
Detects the kind of your class - a detector, a candidate, a policy or a classifier - and runs the checks that
driftloop's own classes of that kind must pass. It prints one line per check, passed or failed, with the reason. Name
the class as in the settings: my_package.module:MyClass, or with a dot instead of the colon, or the short name of an
entry point. Its package must be installed, or PYTHONPATH must name its folder. The command exits with 1 if a check
failed, and with 2 if the class cannot be checked.

reads   the class; for a candidate it makes a tiny encoder
writes  nothing except scratch files, which are deleted at the end
"""

MORE = """
examples
  driftloop check my_package.detector:Cusum
  driftloop check 'my_package.detector:Cusum?limit=8&slack=0.2'     with parameters, as in the settings
  driftloop check my_package.policy.EveryMistakes                   with a dot instead of the colon
  driftloop check my_package.candidate:ClassMeans                   about a minute: it is fitted some ten times

The class runs with all rights of this command: check only code that you would also run.
"""

KINDS = {"decide": "policy", "update": "detector", "predict": "classifier", "fit": "candidate"}
"""Kind of a class by its characteristic method. The first method that the class has decides."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("check", run, "test your own class", DESCRIPTION, MORE, stack_options())
    verb.add_argument("name", metavar="CLASS", help="my_package.module:MyClass")


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each check. Return 1 if one failed."""
    import tempfile

    terminate_as_interrupt()
    settings = load_settings(StackOptions.of(arguments))
    subject = _find(arguments.name)
    write(f"{subject.name} is a {subject.kind}.")
    failed = total = 0
    with tempfile.TemporaryDirectory(prefix="driftloop-check-", dir=settings.scratch_dir or None) as folder:
        for result in _results(subject, settings, Path(folder)):
            total += 1
            failed += bool(result.failure)
            write(f"failed  {result.name}: {result.failure}" if result.failure else f"passed  {result.name}")
    write(f"{total - failed} of {total} checks passed.")
    return 1 if failed else 0


class _Subject(NamedTuple):
    """The class to be checked. ``parameters`` is the part of the argument after the question mark."""

    found: Any
    kind: str
    parameters: str

    @property
    def name(self) -> str:
        """Full name of the class."""
        return f"{self.found.__module__}:{self.found.__qualname__}"

    def make(self, factory: Callable[[], Any]) -> Any:
        """Return an instance.

        Raises:
            DriftloopError: the class raises an exception.
        """
        try:
            return factory()
        except Exception as error:  # the class is the user's own code
            raise DriftloopError(
                f"{self.name} cannot be made ({type(error).__name__}: {error}): a detector is called with the "
                "parameters after the question mark, a policy with the [retrain] settings, the others are called "
                "without arguments."
            ) from error


def _find(argument: str) -> _Subject:
    """Find the class that the argument names.

    Raises:
        DriftloopError: it cannot be found, or it is no class of a known kind.
    """
    from driftloop.core import plugins

    named, _, parameters = argument.partition("?")
    found = plugins.find_any(named)
    kind = next((kind for method, kind in KINDS.items() if hasattr(found, method)), None)
    if not isinstance(found, type) or kind is None:
        raise DriftloopError(
            f"{named} is no class with one of the methods {', '.join(KINDS)}: give a detector, a candidate, a policy "
            "or a classifier."
        )
    return _Subject(found, kind, parameters)


def _results(subject: _Subject, settings: Settings, folder: Path) -> Iterator[CheckResult]:
    """Return the result of each check, one after another.

    Raises:
        DriftloopError: the class cannot be instantiated, or a package for its checks is not installed.
    """
    if subject.kind == "detector":
        return _check_detector(subject)
    if subject.parameters:
        raise DriftloopError(f"A {subject.kind} takes no parameters: leave out ?{subject.parameters}.")
    if subject.kind == "policy":
        return _check_policy(subject, settings)
    if subject.kind == "candidate":
        return _check_candidate(subject, folder)
    return _check_classifier(subject)


def _check_detector(subject: _Subject) -> Iterator[CheckResult]:
    from driftloop.testing import checks
    from stream_processors.drift.checks import CHECKS, Subject
    from stream_processors.drift.detectors import make_custom, parse_parameters

    parameters = parse_parameters(subject.parameters, subject.name)
    subject.make(lambda: subject.found(**parameters))
    return checks.run_checks(CHECKS, Subject(lambda: make_custom(subject.found, subject.name, parameters)))


def _check_policy(subject: _Subject, settings: Settings) -> Iterator[CheckResult]:
    from driftloop.testing import checks
    from retrain.policies.catalogue import make_custom
    from retrain.policies.checks import CHECKS, Subject

    subject.make(lambda: subject.found(settings.retrain))
    return checks.run_checks(CHECKS, Subject(lambda: make_custom(subject.found, settings.retrain)))


def _check_candidate(subject: _Subject, folder: Path) -> Iterator[CheckResult]:
    from driftloop.testing import checks

    subject.make(subject.found)
    try:
        from retrain.candidates.catalogue import make_custom
        from retrain.candidates.checks import CHECKS, Subject
        from retrain.testing import tiny_encoder

        tiny_encoder.encoder()
    except ImportError as error:
        raise DriftloopError(
            f"Checking a candidate needs the package {error.name}: install driftloop with its extra `retrain` "
            "(pip install 'driftloop[retrain]')."
        ) from error
    return checks.run_checks(CHECKS, Subject(lambda: make_custom(subject.found, subject.name), subject.name, folder))


def _check_classifier(subject: _Subject) -> Iterator[CheckResult]:
    from driftloop.testing import checks
    from driftloop.testing.classifier_checks import CHECKS

    return checks.run_checks(CHECKS, subject.make(subject.found))
