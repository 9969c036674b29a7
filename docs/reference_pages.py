"""The reference of the site, made from the code: commands, settings, scenarios, topics, HTTP, Python."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from driftloop.cli import arguments, parser
from driftloop.cli.diagnostics import list_settings
from driftloop.core import field_docs, topics
from driftloop.core.kafka import asyncapi
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.settings import RENAMED, Settings, variable_name
from producers.scenarios import scenario_schema
from serving.app import create_app
from serving.http.auth import Authenticator
from serving.live.loop_follower import LoopFollower

PYTHON = {
    "What a detector is": ["stream_processors.drift.detectors.State", "stream_processors.drift.detectors.Detector"],
    "What a candidate is": [
        "retrain.candidates.base.Candidate",
        "retrain.candidates.base.Task",
        "retrain.candidates.base.Budget",
        "retrain.candidates.base.CannotFit",
        "retrain.candidates.base.Interrupted",
        "retrain.training_window.TrainingWindow",
    ],
    "What a candidate writes": [
        "driftloop.core.models.bundle.write_bundle",
        "driftloop.core.models.bundle.Lineage",
        "driftloop.core.models.head.Head",
    ],
    "What a policy is": [
        "retrain.policies.base.Policy",
        "retrain.policies.base.PolicyContext",
        "retrain.policies.base.CompletedRetraining",
        "retrain.policies.base.Retrain",
        "retrain.policies.base.Wait",
    ],
    "What a classifier is": [
        "driftloop.core.models.classifier.Classifier",
        "driftloop.core.models.classifier.Predictions",
    ],
    "Scenarios": ["producers.scenarios.scenarios.load_scenario", "producers.scenarios.scenarios.Scenario"],
    "The figures of a run": ["serving.simulation.summary.Summary"],
    "Errors": ["driftloop.core.errors.DriftloopError"],
}
SPECS = (
    ("The file", scenario_schema.ScenarioSpec),
    ("[dataset]", scenario_schema.DatasetSpec),
    ("[dataset] synthetic = { … }", scenario_schema.SyntheticSpec),
    ("order = [{ … }]", scenario_schema.PhaseSpec),
    ("[[label_mix]]", scenario_schema.LabelMixSpec),
    ("[typos]", scenario_schema.TyposSpec),
    *((f'[[inject]] kind = "{spec.__struct_config__.tag}"', spec) for spec in get_args(scenario_schema.InjectSpec)),
    ("[[annotators]]", scenario_schema.AnnotatorSpec),
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
    yield "The help page of each verb, as `driftloop VERB --help` prints it. All verbs share the last section.\n"
    for name, verb in parser.verbs().items():
        text = verb.format_help()
        for shared in (arguments.SETTINGS, arguments.EXIT_CODES):
            text = text.replace(shared.strip("\n"), "")
        yield f"## {name}\n\n````text\n{text.strip()}\n````\n"
    yield f"## All verbs\n\n````text\n{arguments.SETTINGS.strip()}\n\n{arguments.EXIT_CODES.strip()}\n````\n"


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield (
        "Each setting is an environment variable. In a settings file, `DRIFTLOOP_SCORER__BATCH` is `batch` in the table"
        " `[scorer]`. A secret can be read from a file: its variable has the suffix `_FILE`.\n"
    )
    rows = ((f"`{one.variable}`", _code(one.default), one.about) for one in list_settings(Settings()))
    yield from _table(("variable", "default", "meaning"), rows)
    yield "## Renamed settings\n"
    yield "The old names work until the next release, in the environment and in settings files.\n"
    renamed = ((f"`{variable_name(old)}`", f"`{variable_name(new)}`") for old, new in RENAMED.items())
    yield from _table(("old", "new"), renamed)


def _scenarios() -> Iterator[str]:
    yield "# Scenario files\n"
    yield "The keys of a scenario's TOML file; [Scenarios](../scenarios.md) explains them by examples.\n"
    for title, spec in SPECS:
        yield f"## {title}\n\n{inspect.getdoc(spec)}\n"
        yield from _fields(spec)


def _fields(struct: type[msgspec.Struct]) -> Iterator[str]:
    about = field_docs.read_field_docs(struct)
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
    found = asyncapi.build_document()
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
    app = create_app(settings, LoopFollower(settings), ChampionFollower(settings), Authenticator(settings.api))
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
    yield "What a class of your own meets: see [Plugins](../plugins.md).\n"
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
