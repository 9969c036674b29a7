"""The reference of the site, made from the code: commands, settings, scenarios, topics, HTTP, Python."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from driftloop import asyncapi, cli_pages, docstrings, topics
from driftloop.champion import Champion
from driftloop.lifecycle.doctor import list_settings
from driftloop.settings import Settings
from producers import schema
from serving.api import make
from serving.callers import Callers
from serving.live import Live

PYTHON = {
    "What a detector is": ["stream_processors.drift.detectors.State", "stream_processors.drift.detectors.Detector"],
    "What a candidate is": [
        "retrain.candidates.base.Candidate",
        "retrain.candidates.base.Task",
        "retrain.candidates.base.Budget",
        "retrain.candidates.base.CannotFit",
        "retrain.candidates.base.Interrupted",
        "retrain.window.Window",
    ],
    "What a candidate writes": [
        "driftloop.classifiers.bundle.write_bundle",
        "driftloop.classifiers.bundle.Lineage",
        "driftloop.classifiers.heads.Head",
    ],
    "What a policy is": [
        "retrain.policies.Policy",
        "retrain.policies.Now",
        "retrain.policies.Past",
        "retrain.policies.Retrain",
        "retrain.policies.Wait",
    ],
    "What a classifier is": ["driftloop.classifiers.base.Classifier", "driftloop.classifiers.base.Predictions"],
    "Scenarios": ["producers.scenarios.load_scenario", "producers.scenarios.Scenario"],
    "The figures of a run": ["serving.summary.Summary"],
    "Errors": ["driftloop.errors.DriftloopError"],
}
SPECS = (
    ("The file", schema.ScenarioSpec),
    ("[dataset]", schema.DatasetSpec),
    ("[dataset] synthetic = { … }", schema.SyntheticSpec),
    ("order = [{ … }]", schema.PhaseSpec),
    ("[[label_mix]]", schema.LabelMixSpec),
    ("[typos]", schema.TyposSpec),
    *((f'[[inject]] kind = "{spec.__struct_config__.tag}"', spec) for spec in get_args(schema.InjectSpec)),
    ("[[annotators]]", schema.AnnotatorSpec),
)


def write(folder: Path) -> None:
    """Write every page that has changed: what is as it was keeps its time, and is not built again."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Each page's name and its Markdown."""
    return {
        "commands": "\n".join(_commands()),
        "settings": "\n".join(_settings()),
        "scenario-files": "\n".join(_scenarios()),
        "topics": "\n".join(_topics()),
        "http": "\n".join(_http()),
        "python": "\n".join(_python()),
    }


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `driftloop VERB --help` says of each verb. All of them share what stands at the end.\n"
    for name, parser in verbs().items():
        shared = (cli_pages.SETTINGS, cli_pages.EXIT_CODES)
        text = parser.format_help()
        for part in shared:
            text = text.replace(part.strip("\n"), "")
        yield f"## {name}\n\n````text\n{text.strip()}\n````\n"
    yield f"## All of them\n\n````text\n{cli_pages.SETTINGS.strip()}\n\n{cli_pages.EXIT_CODES.strip()}\n````\n"


def verbs() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb."""
    for action in cli_pages.build()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise LookupError("the command line has no verbs")


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield (
        "Each is an environment variable; in a settings file `DRIFTLOOP_SCORER__BATCH` is `batch` in the table"
        " `[scorer]`. Secrets may lie in a file that a variable with `_FILE` at its end names.\n"
    )
    rows = ((f"`{one.variable}`", _code(one.default), one.about) for one in list_settings(Settings()))
    yield from _table(("variable", "default", "meaning"), rows)


def _scenarios() -> Iterator[str]:
    yield "# Scenario files\n"
    yield "The keys of a scenario's TOML file; [Scenarios](../scenarios.md) explains them by examples.\n"
    for title, spec in SPECS:
        yield f"## {title}\n\n{inspect.getdoc(spec)}\n"
        yield from _fields(spec)


def _fields(struct: type[msgspec.Struct]) -> Iterator[str]:
    about = docstrings.of_fields(struct)
    kinds = {name: kind for base in reversed(struct.__mro__) for name, kind in inspect.get_annotations(base).items()}
    rows = (
        (f"`{field.name}`", _code(str(kinds[field.name])), _default(field), about.get(field.name, ""))
        for field in msgspec.structs.fields(struct)
    )
    yield from _table(("key", "type", "default", "meaning"), rows)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "none" if value is None else _code(msgspec.json.encode(value).decode())


def _topics() -> Iterator[str]:
    found = asyncapi.document()
    yield "# Topics and messages\n"
    yield f"{found['info']['description']}\n"
    yield "`driftloop topics --asyncapi` prints all of this as an AsyncAPI 3.0 document.\n"
    for topic in topics.ALL:
        told = found["channels"][topic.name]
        yield f"## {topic.name}\n\n{told['description']}\n"
        yield from _table(("setting", "value"), ((f"`{name}`", f"`{text}`") for name, text in topic.config.items()))
        yield f"`{topic.message.__name__}`: {inspect.getdoc(topic.message)}\n"
        yield from _fields(topic.message)


def _http() -> Iterator[str]:
    settings = Settings()
    app = make(settings, Live(settings), Champion(settings), Callers(settings.api))
    found = app.openapi()
    yield "# HTTP\n"
    yield (
        "What `driftloop serve` answers. `/docs` on the server has the same with forms to try it, `/openapi.json` as"
        " data.\n"
    )
    rows: dict[str, list[tuple[str, ...]]] = {}
    for path, methods in found["paths"].items():
        for method, told in methods.items():
            about = " ".join(str(told.get("description") or told.get("summary", "")).split())
            rows.setdefault(told.get("tags", ["operation"])[0], []).append(
                (f"`{method.upper()} {path}`", _role(told), _body(told), about)
            )
    for tag, lines in rows.items():
        yield f"## {tag}\n"
        yield from _table(("request", "role", "body", "answer"), lines)
    yield "## Bodies\n"
    for name, told in found["components"]["schemas"].items():
        if "properties" not in told:
            continue
        yield f"### {name}\n\n{told.get('description', '')}\n"
        needed = told.get("required", ())
        fields = (
            (f"`{key}`", _code(_kind(one)), "needed" if key in needed else "", one.get("description", ""))
            for key, one in told["properties"].items()
        )
        yield from _table(("field", "type", "", "meaning"), fields)


def _role(told: Mapping[str, Any]) -> str:
    scopes = {scope for one in told.get("security", ()) for names in one.values() for scope in names}
    return ", ".join(sorted(scopes)) or "anybody"


def _body(told: Mapping[str, Any]) -> str:
    content = told.get("requestBody", {}).get("content", {})
    kinds = {_kind(one.get("schema", {})) for one in content.values()}
    return ", ".join(f"`{kind}`" for kind in sorted(kinds))


def _kind(told: Mapping[str, Any]) -> str:
    if "$ref" in told:
        return str(told["$ref"]).rpartition("/")[2]
    if "anyOf" in told:
        return " | ".join(_kind(one) for one in told["anyOf"])
    if told.get("type") == "array":
        return f"list[{_kind(told.get('items', {}))}]"
    return str(told.get("type", "any"))


def _python() -> Iterator[str]:
    yield "# Python\n"
    yield "What a class of your own meets: see [Bring your own](../your-own.md).\n"
    for title, names in PYTHON.items():
        yield f"## {title}\n"
        for name in names:
            kind = "autofunction" if name.rpartition(".")[2][0].islower() else "autoclass"
            yield f"```{{eval-rst}}\n.. {kind}:: {name}\n```\n"


def _code(text: str) -> str:
    return f"`{text}`" if text and text != '""' else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
