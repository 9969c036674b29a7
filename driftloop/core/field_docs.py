"""Field docstrings, read from the source code because Python does not keep them at run time."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

import msgspec


def read_field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docstrings of a struct's fields and of its bases' fields, with their line breaks."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        defined = ast.parse(inspect.getsource(base)).body[0]
        for field, after in pairwise(defined.body if isinstance(defined, ast.ClassDef) else []):
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                continue
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = inspect.cleandoc(str(after.value.value))
    return found
