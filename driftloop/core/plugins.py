"""Custom classes, named in the settings as ``module:Class`` or by the short name of an entry point.

A package declares a short name with an entry point (packaging.python.org, "Entry points specification") in one of the
groups ``driftloop.detectors``, ``driftloop.candidates`` and ``driftloop.policies``:

    [project.entry-points."driftloop.detectors"]
    cusum = "my_package.detectors:Cusum"
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from driftloop.core.errors import DriftloopError

Kind = Literal["detectors", "candidates", "policies"]
KINDS: tuple[Kind, ...] = ("detectors", "candidates", "policies")


class NotFound(DriftloopError):
    """No class has that name, or it cannot be imported."""


def names(kind: Kind) -> list[str]:
    """Return the sorted short names that installed packages declare for ``kind``."""
    return sorted({point.name for point in entry_points(group=f"driftloop.{kind}")})


def find(kind: Kind, name: str) -> Any:
    """Return the object of an entry point of ``kind``, or of ``module:Class``.

    Args:
        kind: Kind of plugin.
        name: Short name or ``module:Class``.

    Raises:
        NotFound: There is no such entry point or class. The message contains the remedy.
    """
    for point in entry_points(group=f"driftloop.{kind}", name=name):
        name = point.value
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise NotFound(f"There is no {name!r} among the {kind}: give module:Class.")
    return _attribute(_module(module, name), attribute, name)


def find_any(name: str) -> Any:
    """Return the object of ``module:Class``, ``module.Class``, or an entry point of any kind.

    Raises:
        NotFound: There is no such entry point or class. The message contains the remedy.
    """
    if ":" in name:
        return find("detectors", name)
    for kind in KINDS:
        if name in names(kind):
            return find(kind, name)
    module, _, attribute = name.rpartition(".")
    if not module:
        raise NotFound(f"{name!r} names no class: give my_package.module:MyClass.")
    return _attribute(_module(module, name), attribute, name)


def _module(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # importing a custom module can raise any type
        raise NotFound(
            f"{name} cannot be imported ({type(error).__name__}: {_first_line(error)}): install its package where "
            "driftloop is, or set PYTHONPATH to the folder it lies in."
        ) from error


def _attribute(module: Any, attribute: str, name: str) -> Any:
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotFound(f"{name} cannot be used: {module.__name__} has no {attribute}; correct the name.")
        found = getattr(found, part)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
