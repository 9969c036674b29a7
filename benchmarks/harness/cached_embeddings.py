"""The embeddings of a benchmark's texts, computed once and kept in the user cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import msgspec
import numpy as np

from driftloop.core.models.classifier import Matrix
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import ModelSettings, cache_dir

CHUNK = 2000


def embed(texts: Sequence[str], model: ModelSettings) -> Matrix:
    """Embeddings of shape (n, d) as the scorer stores them, float16 widened to float32."""
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
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(msgspec.msgpack.encode(known))
        scratch.replace(path)
    rows = b"".join(known[text] for text in texts)
    return np.frombuffer(rows, dtype=np.float16).reshape(len(texts), -1).astype(np.float32)
