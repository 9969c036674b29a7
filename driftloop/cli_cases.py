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

from driftloop.cli_options import find_settings, open_console, terminate_as_interrupt, write
from driftloop.errors import DriftloopError
from driftloop.text import visible

if TYPE_CHECKING:
    from driftloop.registry import Model
    from driftloop.settings import Settings
    from serving.case import Case


def case(arguments: argparse.Namespace) -> int:
    """Show all cases, or one: as text, JSON or a page, or made again. Returns the exit status."""
    from serving import case_view, casebook
    from serving.case import find

    terminate_as_interrupt()
    if arguments.id is None and (arguments.replay or arguments.html):
        raise DriftloopError("A case is needed for that: give its id; `driftloop case` lists all of them.")
    settings = find_settings(arguments)
    _need_topics(settings)
    known = casebook.cases(casebook.read(settings))
    if arguments.id is None:
        if arguments.json:
            write_json(known)
        else:
            case_view.show_all(known, open_console())
        return 0
    chosen = find(known, arguments.id)
    if arguments.html:
        _write_page(chosen, Path(arguments.html))
    if arguments.replay:
        return _replay(settings, chosen.case_id)
    if arguments.json:
        write_json(chosen)
    elif not arguments.html:
        case_view.show(chosen, open_console())
    return 0


def models(arguments: argparse.Namespace) -> int:
    """List every version of the stream's model."""
    from driftloop.registry import Registry

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
    from retrain import manual

    return _act(arguments, lambda settings, by: manual.approve(settings, arguments.model, by, arguments.reason))


def reject(arguments: argparse.Namespace) -> int:
    """Turn down a version that waits."""
    from retrain import manual

    return _act(arguments, lambda settings, by: manual.reject(settings, arguments.model, by, arguments.reason))


def rollback(arguments: argparse.Namespace) -> int:
    """Bring an earlier version back."""
    from retrain import manual

    return _act(arguments, lambda settings, by: manual.rollback(settings, arguments.model, by, arguments.reason))


def _act(arguments: argparse.Namespace, do: Callable[[Settings, str], str]) -> int:
    from driftloop import access

    settings = find_settings(arguments)
    _need_topics(settings)
    access.check(settings, access.find(access.role_of(arguments.verb)))  # before MLflow is changed
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
    from driftloop import topics

    topics.create(settings)


def _replay(settings: Settings, case_id: str) -> int:
    """Make the case again and say of each step how it came out; 1 where something differs."""
    from retrain import replay

    marks = {True: "the same", False: "differs", None: "not compared"}
    differs = False
    for step in replay.replay(settings, case_id):
        write(f"{marks[step.same]:<13} {step.what}: {step.words}")
        differs = differs or step.same is False
    write("Something differs." if differs else "Nothing differs.")
    return 1 if differs else 0


def _write_page(chosen: Case, file: Path) -> None:
    from serving import case_page

    try:
        file.write_text(case_page.render(chosen), encoding="utf-8")
    except OSError as error:
        raise DriftloopError(f"{file} cannot be written: {error.strerror}; choose another file.") from error
    sys.stderr.write(f"driftloop: The case is in {visible(str(file))}.\n")


def ask(arguments: argparse.Namespace) -> int:
    """List the events most worth a person's label."""
    from dataclasses import asdict

    from retrain.asking import questions

    terminate_as_interrupt()
    if arguments.budget < 1:
        raise DriftloopError(f"--budget must be 1 or more, not {arguments.budget}.")
    settings = find_settings(arguments)
    _need_topics(settings)
    found = questions(settings, arguments.budget)
    if arguments.json:
        write_json([asdict(question) for question in found])
        return 0
    for question in found:
        write(f"{question.event_id}  {question.predicted} {question.probability:.2f}  {question.why}")
        write(f"    {visible(question.text, 200)}")
    if not found:
        write("Every predicted event that the store remembers has its label.")
    return 0


def _live_accuracy(settings: Settings) -> dict[str, float]:
    """Share of right predictions by version, over the labelled events that it was not trained on."""
    from driftloop import kafka, topics
    from driftloop.messages import Outcome

    _need_topics(settings)
    found: dict[str, dict[str, bool]] = {}
    for outcome in kafka.read_all(settings, topics.name(settings, topics.OUTCOMES), Outcome):
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
        table.add_row(*(Text(visible(cell, 24)) for cell in cells), Text(visible(one.reason, 80)))
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
