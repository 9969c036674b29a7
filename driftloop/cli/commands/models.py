"""`driftloop models`, `approve`, `reject` and `rollback`: lists the versions and executes manual decisions on them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_json, add_run, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import open_console, write, write_json
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from driftloop.core.models.registry import Model
    from driftloop.core.settings import Settings

MODELS = """\
Lists every registered version of the stream's model: the candidate, its trigger, the gate's verdict, its accuracy on
the events of the comparison, and its accuracy on the events that it has scored since. A dot marks the champion.

reads   MLflow; outcomes
writes  nothing except missing topics
"""

MODELS_MORE = """
examples
  driftloop models
  driftloop models --json
"""

APPROVE = """\
Promotes a version that waits for a manual decision, or one that the gate rejected. If DRIFTLOOP_RETRAIN__APPROVAL is
manual, every winner waits for a manual decision. A version older than the champion is registered again under a new
number.

reads   MLflow
writes  model-updates, retraining; the version's verdict to MLflow
"""

APPROVE_MORE = """
examples
  driftloop approve 7
  driftloop approve 7 --by 'Grace Hopper' --reason 'looked at its mistakes'
"""

REJECT = """\
Rejects a version that waits for a manual decision. It stays in the registry with the reason.

reads   MLflow
writes  retraining; the version's verdict to MLflow
"""

REJECT_MORE = """
examples
  driftloop reject 7 --reason 'wrong on short texts'
"""

ROLLBACK = """\
Makes an earlier model the champion again, by default the predecessor of the current champion. Its bundle is verified
and registered again under a new number, because the rest of the loop ignores a smaller number as a late message.

reads   MLflow
writes  model-updates, retraining; a new version to MLflow
"""

ROLLBACK_MORE = """
examples
  driftloop rollback                              to the champion's predecessor
  driftloop rollback 4 --reason 'customers complain'
"""

Action = Callable[["Settings", str, str, str], str]
"""Executes a decision on (settings, version, name of the user, reason) and returns a sentence about its result."""


def add_parser(verbs: Verbs) -> None:
    """Add the four verbs to the command line."""
    stack = stack_options()
    verb = verbs.add("models", run, "list the versions of the model", MODELS, MODELS_MORE, stack)
    add_json(verb)
    add_run(verb)

    summary = "promote a version that waits or was rejected"
    verb = verbs.add("approve", approve, summary, APPROVE, APPROVE_MORE, stack)
    verb.add_argument("model", metavar="VERSION", help="its number")
    _add_decision(verb)

    verb = verbs.add("reject", reject, "reject a version that waits", REJECT, REJECT_MORE, stack)
    verb.add_argument("model", metavar="VERSION", help="its number")
    _add_decision(verb, reason_required=True)

    summary = "make an earlier model the champion again"
    verb = verbs.add("rollback", rollback, summary, ROLLBACK, ROLLBACK_MORE, stack)
    verb.add_argument("model", nargs="?", default="", metavar="VERSION", help="default: the champion's predecessor")
    _add_decision(verb)


def _add_decision(verb: argparse.ArgumentParser, *, reason_required: bool = False) -> None:
    verb.add_argument("--reason", metavar="TEXT", default="", required=reason_required, help="reason; it is recorded")
    verb.add_argument("--by", metavar="NAME", default="", help="who decides (default: the user's name)")
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """List every version of the stream's model and return the exit status."""
    from driftloop.core.models.registry import Registry

    terminate_as_interrupt()
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    models = Registry(settings).models()
    live = _live_accuracy(settings)
    if arguments.json:
        import msgspec

        write_json([{**msgspec.to_builtins(model), "live": live.get(model.version)} for model in models])
    else:
        show_models(models, live)
    return 0


def approve(arguments: argparse.Namespace) -> int:
    """Promote a version that waits or was rejected, and return the exit status."""
    from retrain.promotion import manual_actions

    return _decide(arguments, manual_actions.approve)


def reject(arguments: argparse.Namespace) -> int:
    """Reject a version that waits, and return the exit status."""
    from retrain.promotion import manual_actions

    return _decide(arguments, manual_actions.reject)


def rollback(arguments: argparse.Namespace) -> int:
    """Make an earlier version the champion again, and return the exit status."""
    from retrain.promotion import manual_actions

    return _decide(arguments, manual_actions.rollback)


def _decide(arguments: argparse.Namespace, action: Action) -> int:
    from driftloop.core import topics
    from driftloop.core.kafka import acls

    settings = find_settings(StackOptions.of(arguments), arguments.run)
    topics.create(settings)
    acls.check_acls(settings, acls.find_role(acls.role_of(arguments.verb)))  # before MLflow is changed
    write(action(settings, arguments.model, arguments.by or user_name(), arguments.reason))
    return 0


def user_name() -> str:
    """Return the name under which a decision is recorded by default."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "unknown user"


def show_models(models: Sequence[Model], live: dict[str, float]) -> None:
    """Print a table with one line for each version.

    Args:
        models: Versions, in the order of the table.
        live: Accuracy on the stream by version, of the versions that have scored labelled events.
    """
    from rich.table import Table
    from rich.text import Text

    if not models:
        write("No model is registered for this stream yet.")
        return
    heads = ("", "version", "candidate", "trigger", "verdict", "compared", "live", "why")
    table = Table(*heads, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for model in models:
        mark = "●" if model.champion else ""
        restores = f" (is {model.restores})" if model.restores else ""
        figures = (_accuracy(model.accuracy), _accuracy(live.get(model.version)))
        cells = (mark, model.version + restores, model.candidate, model.trigger, model.verdict, *figures)
        short = (Text(escape_control_chars(cell, 24)) for cell in cells)
        table.add_row(*short, Text(escape_control_chars(model.reason, 80)))
    open_console().print(table)


def _live_accuracy(settings: Settings) -> dict[str, float]:
    """Return the accuracy of each version on the labelled events that it was not trained on."""
    from driftloop.core import topics
    from driftloop.core.kafka import clients
    from driftloop.core.messages import Outcome

    topics.create(settings)
    correct: dict[str, dict[str, bool]] = {}
    for outcome in clients.read_all(settings, topics.name(settings, topics.OUTCOMES), Outcome):
        if not outcome.in_sample:
            correct.setdefault(outcome.model_version, {}).setdefault(outcome.event_id, outcome.correct)
    return {version: round(sum(events.values()) / len(events), 4) for version, events in correct.items()}


def _accuracy(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
