"""Embeddings of the benchmarks' texts, computed once and stored in the user cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import numpy as np

from driftloop.core.files import write_atomic
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import ModelSettings, cache_dir

CHUNK = 2000
"""Texts between two lines of progress."""


def embed(texts: Sequence[str], model: ModelSettings) -> Matrix:
    """Return the embeddings of texts as the scorer stores them, float16 widened to float32.

    Args:
        texts: n texts. Each different text is embedded once.
        model: Settings of the encoder.

    Returns:
        Shape (n, d).
    """
    encoder = exported_encoder(model)
    path = cache_dir() / "benchmarks" / f"embeddings-{encoder.digest[:24]}.msgpack"
    known: dict[str, bytes] = msgspec.msgpack.decode(path.read_bytes()) if path.exists() else {}
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        sys.stderr.write(f"embedding {start + len(part)} of {len(missing)} texts\n")
        known.update(
            (text, row.tobytes()) for text, row in zip(part, encoder.embed(part).astype(np.float16), strict=True)
        )
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.msgpack.encode(known))
    rows = b"".join(known[text] for text in texts)
    return np.frombuffer(rows, dtype=np.float16).reshape(len(texts), -1).astype(np.float32)
