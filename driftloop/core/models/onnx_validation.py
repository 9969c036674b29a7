"""Validation of ONNX files: only standard operators, and only weights inside the file.

A graph can read its weights from any other file (`external_data`), and it can name operators of custom libraries. Both
are rejected before ONNX Runtime opens the file. The check follows the fields of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) in protobuf's wire format, because scoring does not need the
package `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DOMAINS = frozenset({b"", b"ai.onnx"})
"""Domains of the allowed operators."""

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
    ("model", 25): "custom functions",
    (_TENSOR, 13): "weights in another file",
}
_DOMAIN = {(_NODE, 7), (_OPSET, 1)}


def check_graph(path: Path) -> None:
    """Check an ONNX file.

    Raises:
        ValueError: The file is not an allowed graph. The message names the reason.
    """
    if 7 not in _check("model", memoryview(path.read_bytes())):
        raise ValueError("it holds no graph")


def _check(kind: str, data: memoryview) -> set[int]:
    """Check a message, and return the numbers of its fields."""
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
    """Yield number and bytes of each field of a message. A numeric field has None."""
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
