"""Source of the settings: environment variables with the prefix ``DRIFTLOOP_``, and a TOML file.

Two underscores separate the levels: ``DRIFTLOOP_SCORER__BATCH=64`` sets ``scorer.batch``. ``DRIFTLOOP_KAFKA``,
``DRIFTLOOP_REDIS`` and ``DRIFTLOOP_MLFLOW`` select an external stack. A secret can be read from a file: its variable
has the suffix ``_FILE``, for example ``DRIFTLOOP_SIGNING_KEY_FILE``.

``DRIFTLOOP_SETTINGS`` names a TOML file with the same tree: ``batch = 64`` in the table ``[scorer]``. A variable
overrides the file. `RENAMED` lists the settings whose old name still works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs
from driftloop.core.settings import POLICIES, PREFIX, SECRETS, Settings

FILE = "_FILE"
"""Suffix of a variable that names a file with the secret, as container engines provide them."""

SETTINGS_FILE = f"{PREFIX}SETTINGS"
"""Variable with the path of a settings file. Empty: no file."""

RENAMED = {
    "breaker": "dead_letter_limit",
    "work": "scratch_dir",
    "scorer.within": "scorer.max_wait",
    "scorer.remember": "scorer.embedding_cache",
    "scorer.member": "scorer.group_instance_id",
    "scorer.floor_ms": "scorer.min_ms_per_event",
    "monitor.within": "monitor.max_wait",
    "monitor.member": "monitor.group_instance_id",
    "retrain.at_once": "retrain.parallel_fits",
    "retrain.per_day": "retrain.max_per_day",
    "retrain.memory": "retrain.concept_memory",
}
"""Old name of a setting to its new one. The old name works until the next release and prints one line on stderr."""

_OTHER_VARIABLES = frozenset({"DRIFTLOOP_CACHE", SETTINGS_FILE})
_LISTS = frozenset(
    {"monitor.detectors", "retrain.candidates", "pages", "mask", "api.tokens", "api.hosts", "api.drifts"}
)
_SECRET_FILES = frozenset(f"{name}{FILE}" for name in SECRETS)
_reported: set[str] = set()


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from variables and from the settings file that they name.

    Args:
        environ: Environment variables. `None`: those of this process.

    Raises:
        DriftloopError: A name is unknown or a value does not fit. The message names the field.
    """
    source = with_file(os.environ if environ is None else environ)
    tree: dict[str, Any] = {}
    for name, value in source.items():
        if not name.startswith(PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name in _SECRET_FILES:
            if name.removesuffix(FILE) in source:
                continue  # a child process inherits its parent's file variable beside the secret that it was given
            name, value = name.removesuffix(FILE), _read_secret(name, value)
        path = name[len(PREFIX) :].lower().split("__")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise DriftloopError(f"{name} contradicts another setting: set either the whole or its parts.")
        node[path[-1]] = _parse(path, value)
    try:
        return _settings_of(tree, strict=False)
    except ValueError as error:  # from msgspec, or from text that is not Unicode
        raise DriftloopError(
            f"A {PREFIX}… setting does not fit: {error}; see `driftloop doctor --settings` for all of them."
        ) from error


def with_file(environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` and, with lower priority, the content of its settings file, as variables with current names.

    An old name in either prints one line on standard error per process.

    Raises:
        DriftloopError: The file cannot be read, or one of its keys is unknown or does not fit.
    """
    given = current_names(environ, _report_old_name)
    path = given.get(SETTINGS_FILE, "")
    below = _read_file(Path(path).expanduser()) if path else {}
    # A secret and the file that holds it are the same setting: the one in the environment has priority.
    hidden = {name for name in below if {name.removesuffix(FILE), name.removesuffix(FILE) + FILE} & given.keys()}
    return {**{name: value for name, value in below.items() if name not in hidden}, **given}


def current_names(
    variables: Mapping[str, str], report: Callable[[str, str], None] = lambda old, new: None
) -> dict[str, str]:
    """Return variables with the old names of `RENAMED` replaced. If old and new name are set, the new one wins.

    Args:
        variables: Environment variables, for example of a process or of the record of an earlier run.
        report: Called with old and new variable name for each old one.
    """
    out: dict[str, str] = {}
    for name, value in variables.items():
        path = name[len(PREFIX) :].lower().replace("__", ".") if name.startswith(PREFIX) else ""
        if path not in RENAMED:
            out[name] = value
            continue
        new = variable_name(RENAMED[path])
        report(name, new)
        if new not in variables:
            out[new] = value
    return out


def variable_name(path: str) -> str:
    """Return the environment variable of a setting, for example of ``scorer.batch``."""
    return PREFIX + path.upper().replace(".", "__")


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables from which `load` reads the same settings, for a child process."""
    return _variables(msgspec.to_builtins(settings))


def _report_old_name(old: str, new: str) -> None:
    if old not in _reported:
        _reported.add(old)
        logs.print_error(f"{old} is now called {new}: rename it. The next release refuses the old name.")


def _settings_of(tree: Mapping[str, Any], *, strict: bool) -> Settings:
    """Convert a tree of builtins; a `ValueError` names a field that does not fit."""
    settings = msgspec.convert(tree, Settings, strict=strict)
    policy = settings.retrain.policy
    if policy not in POLICIES and ":" not in policy and policy not in plugins.names("policies"):
        choice = ", ".join((*POLICIES, *plugins.names("policies")))
        raise ValueError(f"there is no policy {policy!r} - at `$.retrain.policy` (choose {choice}, or module:Class)")
    return settings


def _read_file(path: Path) -> dict[str, str]:
    """Read a settings file as variables."""
    try:
        tree = msgspec.toml.decode(path.read_bytes())
        _use_current_keys(tree, path)
        _settings_of(_without_secret_files(tree, PREFIX), strict=True)
    except OSError as error:
        raise DriftloopError(
            f"The settings file {path} cannot be read ({error.strerror}): correct --settings or {SETTINGS_FILE}."
        ) from error
    except ValueError as error:  # not TOML, not UTF-8, or a key that does not fit
        raise DriftloopError(
            f"The settings file {path} does not fit: {error}; see `driftloop doctor --settings` for all keys."
        ) from error
    return _variables(tree)


def _use_current_keys(tree: dict[str, Any], file: Path) -> None:
    """Replace the old keys of `RENAMED` in the tree of a settings file. If both keys are set, the new one wins."""
    for old, new in RENAMED.items():
        table, _, key = old.rpartition(".")
        node = tree.get(table) if table else tree
        if isinstance(node, dict) and key in node:
            _report_old_name(f"{old} in {file}", new)
            value = node.pop(key)
            node.setdefault(new.rpartition(".")[2], value)


def _without_secret_files(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a tree without the keys that name a secret's file, which are not fields of `Settings`."""
    return {
        key: _without_secret_files(value, f"{prefix}{key.upper()}__") if isinstance(value, dict) else value
        for key, value in node.items()
        if f"{prefix}{key.upper()}" not in _SECRET_FILES
    }


def _variables(tree: Mapping[str, Any]) -> dict[str, str]:
    """Convert a tree of settings to environment variables."""
    out: dict[str, str] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            name = f"{prefix}{key.upper()}"
            if isinstance(value, dict):
                walk(value, name + "__")
            elif value is None:
                continue
            elif isinstance(value, list | tuple):
                out[name] = json.dumps(list(value))
            else:
                out[name] = str(value).lower() if isinstance(value, bool) else str(value)

    walk(tree, PREFIX)
    return out


def _read_secret(name: str, path: str) -> str:
    """Read a secret's file without its final line break."""
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise DriftloopError(
            f"{name} names a file that cannot be read ({error}): give one that holds the secret."
        ) from error
    if not secret:
        raise DriftloopError(f"{name} names an empty file ({path}): write the secret into it.")
    return secret


def _parse(path: list[str], value: str) -> Any:
    if ".".join(path) not in _LISTS:
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DriftloopError(f"{PREFIX}{'__'.join(path).upper()} is not a JSON list: {error}.") from error
    return [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]
