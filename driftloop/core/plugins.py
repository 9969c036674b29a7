"""Classes of the user's own: named in the settings as ``module:Class``, or by the short name of an entry point.

A package offers a short name with an entry point (packaging.python.org, "Entry points specification") in one of the
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
    """Nothing has that name, or it cannot be imported."""


def names(kind: Kind) -> list[str]:
    """The short names that installed packages offer, sorted."""
    return sorted({point.name for point in entry_points(group=f"driftloop.{kind}")})


def find(kind: Kind, name: str) -> Any:
    """What an entry point of ``kind``, or ``module:Class``, names.

    Raises:
        NotFound: neither; the text says what to do.
    """
    for point in entry_points(group=f"driftloop.{kind}", name=name):
        name = point.value
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise NotFound(f"There is no {name!r} among the {kind}: give module:Class.")
    return _attribute(_module(module, name), attribute, name)


def find_any(name: str) -> Any:
    """What ``module:Class``, ``module.Class`` or the short name of any kind names.

    Raises:
        NotFound: none of these; the text says what to do.
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
    except Exception as error:  # a stranger's module raises whatever it likes while it is imported
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
