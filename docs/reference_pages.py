"""Reference pages of the site, generated from the code."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from driftloop.cli import arguments, parser
from driftloop.cli.diagnostics import list_settings
from driftloop.core import field_docs, topics
from driftloop.core.kafka import asyncapi
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.settings import Settings
from driftloop.core.settings_source import RENAMED, variable_name
from producers.scenarios import scenario_schema
from serving.app import create_app
from serving.cases.model import Case
from serving.http.auth import Authenticator
from serving.live.loop_follower import LoopFollower
from serving.report.run_data import RunData
from serving.simulation.summary import Summary

PYTHON = {
    "Detectors": ["stream_processors.drift.detectors.State", "stream_processors.drift.detectors.Detector"],
    "Candidates": [
        "retrain.candidates.base.Candidate",
        "retrain.candidates.base.Task",
        "retrain.candidates.base.Budget",
        "retrain.candidates.base.CannotFit",
        "retrain.candidates.base.Interrupted",
        "retrain.training_window.TrainingWindow",
    ],
    "Bundles": [
        "driftloop.core.models.bundle.write_bundle",
        "driftloop.core.models.bundle.Lineage",
        "driftloop.core.models.head.Head",
    ],
    "Policies": [
        "retrain.policies.base.Policy",
        "retrain.policies.base.PolicyContext",
        "retrain.policies.base.CompletedRetraining",
        "retrain.policies.base.Retrain",
        "retrain.policies.base.Wait",
    ],
    "Classifiers": [
        "driftloop.core.models.classifier.Classifier",
        "driftloop.core.models.classifier.Predictions",
    ],
    "Scenarios": ["producers.scenarios.scenarios.load_scenario", "producers.scenarios.scenarios.Scenario"],
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

RESULTS = (
    ("summary.json", Summary, "The figures of a run. `driftloop simulate` writes it into the run's directory."),
    ("report.json", RunData, "The data of the report that are not in `summary.json`. `driftloop simulate` writes it."),
    ("A case", Case, "The JSON of `driftloop case ID --json`."),
)
"""Title, struct and description of each result that a program can read."""


def write(folder: Path) -> None:
    """Write the pages that have changed. A page that is the same keeps its time, so Sphinx does not build it again."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name."""
    return {
        "commands": "\n".join(_commands()),
        "settings": "\n".join(_settings()),
        "scenario-files": "\n".join(_scenarios()),
        "topics": "\n".join(_topics()),
        "results": "\n".join(_results()),
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


def _results() -> Iterator[str]:
    yield "# Results\n"
    yield "The fields of the JSON that a run and a case leave to programs. Fields are only ever added.\n"
    for title, struct, about in RESULTS:
        yield f"## {title}\n\n{about}\n"
        yield from _fields(struct)
        for part in _parts(struct):
            yield f"### {part.__name__}\n\n{inspect.getdoc(part)}\n"
            yield from _fields(part)


def _parts(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return the structs that the fields of a struct contain, at any depth, in the order of their first use."""
    found: list[type[msgspec.Struct]] = []

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not struct and kind not in found:
            found.append(kind)
            visit_fields(kind)
        for inner in get_args(kind):
            visit(inner)

    def visit_fields(parent: type[msgspec.Struct]) -> None:
        for kind in get_type_hints(parent, include_extras=True).values():
            visit(kind)

    visit_fields(struct)
    return found


def _http() -> Iterator[str]:
    settings = Settings()
    app = create_app(settings, LoopFollower(settings), ChampionFollower(settings), Authenticator(settings.api))
    found = app.openapi()
    yield "# HTTP\n"
    yield (
        "The requests that `driftloop serve` answers. On the server, `/docs` has them with forms to try, and"
        " `/openapi.json` has them as data.\n"
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
    yield "The interfaces of custom classes; [Plugins](../plugins.md) explains them by examples.\n"
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
