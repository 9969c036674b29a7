"""`driftloop case` and what people do with models: `models`, `approve`, `reject`, `rollback`, `ask`.

Each room is imported where it is needed, as in `cli`.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftloop.cli.options import find_settings, open_console, terminate_as_interrupt, write
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from driftloop.core.models.registry import Model
    from driftloop.core.settings import Settings
    from serving.cases.model import Case


def case(arguments: argparse.Namespace) -> int:
    """Show all cases, or one: as text, JSON or a page, or made again. Returns the exit status."""
    from serving.cases import builder, terminal
    from serving.cases.model import find

    terminate_as_interrupt()
    if arguments.id is None and (arguments.replay or arguments.html):
        raise DriftloopError("A case is needed for that: give its id; `driftloop case` lists all of them.")
    settings = find_settings(arguments)
    _need_topics(settings)
    known = builder.cases(builder.read(settings))
    if arguments.id is None:
        if arguments.json:
            write_json(known)
        else:
            terminal.show_all(known, open_console())
        return 0
    chosen = find(known, arguments.id)
    if arguments.html:
        _write_page(chosen, Path(arguments.html))
    if arguments.replay:
        return _replay(settings, chosen.case_id)
    if arguments.json:
        write_json(chosen)
    elif not arguments.html:
        terminal.show(chosen, open_console())
    return 0


def models(arguments: argparse.Namespace) -> int:
    """List every version of the stream's model."""
    from driftloop.core.models.registry import Registry

    terminate_as_interrupt()
    settings = find_settings(arguments)
    found = Registry(settings).models()
    live = _live_accuracy(settings)
    if arguments.json:
        import msgspec

        write_json([{**msgspec.to_builtins(one), "live": live.get(one.version)} for one in found])
    else:
        show_models(found, live)
    return 0


def approve(arguments: argparse.Namespace) -> int:
    """Promote a version that waits or was rejected."""
    from retrain.promotion import manual_actions

    return _act(arguments, lambda settings, by: manual_actions.approve(settings, arguments.model, by, arguments.reason))


def reject(arguments: argparse.Namespace) -> int:
    """Turn down a version that waits."""
    from retrain.promotion import manual_actions

    return _act(arguments, lambda settings, by: manual_actions.reject(settings, arguments.model, by, arguments.reason))


def rollback(arguments: argparse.Namespace) -> int:
    """Bring an earlier version back."""
    from retrain.promotion import manual_actions

    return _act(
        arguments, lambda settings, by: manual_actions.rollback(settings, arguments.model, by, arguments.reason)
    )


def _act(arguments: argparse.Namespace, do: Callable[[Settings, str], str]) -> int:
    from driftloop.core.kafka import acls

    settings = find_settings(arguments)
    _need_topics(settings)
    acls.check(settings, acls.find(acls.role_of(arguments.verb)))  # before MLflow is changed
    write(do(settings, arguments.by or user_name()))
    return 0


def user_name() -> str:
    """The name under which an act is written down where none is given."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "somebody"


def _need_topics(settings: Settings) -> None:
    """Create what is missing, so that a stream without events has an empty answer instead of a failure."""
    from driftloop.core import topics

    topics.create(settings)


def _replay(settings: Settings, case_id: str) -> int:
    """Make the case again and say of each step how it came out; 1 where something differs."""
    from retrain import reproduce

    marks = {True: "the same", False: "differs", None: "not compared"}
    differs = False
    for step in reproduce.replay(settings, case_id):
        write(f"{marks[step.same]:<13} {step.what}: {step.words}")
        differs = differs or step.same is False
    write("Something differs." if differs else "Nothing differs.")
    return 1 if differs else 0


def _write_page(chosen: Case, file: Path) -> None:
    from serving.cases import html

    try:
        file.write_text(html.render(chosen), encoding="utf-8")
    except OSError as error:
        raise DriftloopError(f"{file} cannot be written: {error.strerror}; choose another file.") from error
    sys.stderr.write(f"driftloop: The case is in {escape_control_chars(str(file))}.\n")


def ask(arguments: argparse.Namespace) -> int:
    """List the events most worth a person's label."""
    from dataclasses import asdict

    from retrain.labels.active_learning import select_for_labelling

    terminate_as_interrupt()
    if arguments.budget < 1:
        raise DriftloopError(f"--budget must be 1 or more, not {arguments.budget}.")
    settings = find_settings(arguments)
    _need_topics(settings)
    found = select_for_labelling(settings, arguments.budget)
    if arguments.json:
        write_json([asdict(question) for question in found])
        return 0
    for question in found:
        write(f"{question.event_id}  {question.predicted} {question.probability:.2f}  {question.why}")
        write(f"    {escape_control_chars(question.text, 200)}")
    if not found:
        write("Every predicted event that the store remembers has its label.")
    return 0


def _live_accuracy(settings: Settings) -> dict[str, float]:
    """Share of right predictions by version, over the labelled events that it was not trained on."""
    from driftloop.core import topics
    from driftloop.core.kafka import clients
    from driftloop.core.messages import Outcome

    _need_topics(settings)
    found: dict[str, dict[str, bool]] = {}
    for outcome in clients.read_all(settings, topics.name(settings, topics.OUTCOMES), Outcome):
        if not outcome.in_sample:
            found.setdefault(outcome.model_version, {}).setdefault(outcome.event_id, outcome.correct)
    return {version: round(sum(right.values()) / len(right), 4) for version, right in found.items()}


def show_models(found: Sequence[Model], live: dict[str, float]) -> None:
    """Print one line for each version; ``live`` is the accuracy on the stream of those that have scored."""
    from rich.table import Table
    from rich.text import Text

    if not found:
        write("No model is registered for this stream yet.")
        return
    heads = ("", "version", "candidate", "trigger", "verdict", "compared", "live", "why")
    table = Table(*heads, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for one in found:
        again = f" (is {one.restores})" if one.restores else ""
        numbers = (_number(one.accuracy), _number(live.get(one.version)))
        cells = ("●" if one.champion else "", one.version + again, one.candidate, one.trigger, one.verdict, *numbers)
        table.add_row(
            *(Text(escape_control_chars(cell, 24)) for cell in cells), Text(escape_control_chars(one.reason, 80))
        )
    open_console().print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_json(value: Any) -> None:
    """One JSON document on standard output, in ASCII, so that no text of a stranger steers a terminal."""
    import msgspec

    body = json.dumps(msgspec.to_builtins(value), indent=2).replace("\x7f", "\\u007f")
    sys.stdout.write(body + "\n")
    sys.stdout.flush()


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "case": case,
    "models": models,
    "approve": approve,
    "reject": reject,
    "rollback": rollback,
    "ask": ask,
}
