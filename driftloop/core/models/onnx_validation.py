"""What an ONNX file may hold: standard operators and its own weights, and no word of any other file.

A graph can name files beside it, or anywhere, as the home of its weights (`external_data`), and operators that only a
library of its maker's knows. Both are read off the file before ONNX Runtime sees it. The walk follows the fields of
onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) on protobuf's wire format, for scoring does without
the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DOMAINS = frozenset({b"", b"ai.onnx"})
"""Of the operators that may occur."""

_GRAPH, _NODE, _TENSOR, _ATTRIBUTE, _SPARSE, _OPSET = "graph", "node", "tensor", "attribute", "sparse", "opset"
_INNER: dict[str, dict[int, str]] = {
    "model": {7: _GRAPH, 8: _OPSET},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
    _OPSET: {},
}
_REFUSED = {
    ("model", 20): "a training graph",
    ("model", 25): "functions of its own",
    (_TENSOR, 13): "weights in another file",
}
_DOMAIN = {(_NODE, 7), (_OPSET, 1)}


def check_graph(path: Path) -> None:
    """Raise a `ValueError` where the file is no such graph; its text says what is in it."""
    if 7 not in _check("model", memoryview(path.read_bytes())):
        raise ValueError("it holds no graph")


def _check(kind: str, data: memoryview) -> set[int]:
    """The numbers of the fields that a message has."""
    seen = set()
    for number, value in _fields(data):
        seen.add(number)
        if (kind, number) in _REFUSED:
            raise ValueError(f"it holds {_REFUSED[kind, number]}")
        if value is None:
            continue
        if (kind, number) in _DOMAIN and bytes(value) not in DOMAINS:
            raise ValueError(f"it holds operators of {bytes(value[:40])!r}")
        if number in _INNER[kind]:
            _check(_INNER[kind][number], value)
    return seen


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and bytes of each field of a message; None for a number."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
                yield tag >> 3, None
            case 2:
                size, at = _varint(data, at)
                if size > end - at:
                    raise ValueError("it is cut off")
                yield tag >> 3, data[at : at + size]
                at += size
            case 1 | 5 as wire:
                at += 8 if wire == 1 else 4
                yield tag >> 3, None
            case _:
                raise ValueError("it is not ONNX")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
    raise ValueError("it is cut off")
