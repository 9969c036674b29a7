"""A sentence encoder on ONNX Runtime: tokeniser, transformer and pooling, without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from driftloop.classifiers.base import Matrix
from driftloop.classifiers.graph import check_graph

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
BATCH = 32
PADDED = 1.25
"""A batch's longest text has at most so many times the tokens of its shortest: a padded token costs what a real one
does."""


class OnnxEncoder:
    """Embeds texts with `model.onnx` and `tokenizer.json` of a folder.

    The graph has the inputs input_ids, attention_mask and token_type_ids of shape (batch, tokens), and the output
    `embedding` of shape (batch, d), two layers' means of unit length side by side; a classifier's graph has a second
    output, `logits` of shape (batch, k). `driftloop.classifiers.onnx` writes such folders.

    Raises:
        ValueError: the graph holds more than standard operators and its own weights, or is none. The libraries raise
            types of their own for other damage.
    """

    def __init__(self, folder: Path, max_tokens: int = 64, threads: int = 0) -> None:
        self.folder = folder
        self.max_tokens = max_tokens
        check_graph(folder / MODEL)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # A spinning pool takes the cores that the retraining job needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        self._inputs = {node.name for node in self._session.get_inputs()}
        self.dimension = int(outputs["embedding"][-1])
        self.has_logits = "logits" in outputs

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the graph and the tokeniser: equal digests give equal embeddings."""
        return encoder_digest(self.folder, self.max_tokens)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embeddings of shape (n, d), float32."""
        return self.run(texts)[0]

    def run(self, texts: Sequence[str]) -> tuple[Matrix, Matrix | None]:
        """Embeddings (n, d), and logits (n, k) where the graph has them.

        Texts are sorted by length before they are batched, so that little is padded.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids))
        embeddings = np.zeros((len(encodings), self.dimension), dtype=np.float32)
        logits: Matrix | None = None
        for rows in batches_of(order, [len(encoding.ids) for encoding in encodings]):
            longest = max(len(encodings[rows[-1]].ids), 1)
            ids = np.zeros((len(rows), longest), dtype=np.int64)
            mask = np.zeros((len(rows), longest), dtype=np.int64)
            for line, row in enumerate(rows):
                tokens = encodings[row].ids
                ids[line, : len(tokens)] = tokens
                mask[line, : len(tokens)] = 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            names = ["embedding", "logits"] if self.has_logits else ["embedding"]
            outputs = self._session.run(names, {k: v for k, v in feed.items() if k in self._inputs})
            embeddings[rows] = outputs[0]
            if self.has_logits:
                if logits is None:
                    logits = np.zeros((len(encodings), outputs[1].shape[1]), dtype=np.float32)
                logits[rows] = outputs[1]
        return embeddings, logits


def batches_of(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The rows in ``order``, shortest first, in batches of at most `BATCH` that need little padding."""
    batches: list[list[int]] = []
    for row in order:
        if batches and len(batches[-1]) < BATCH and lengths[row] <= PADDED * lengths[batches[-1][0]]:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def encoder_digest(folder: Path, max_tokens: int) -> str:
    """SHA-256 over the graph, the tokeniser and the truncation length."""
    digest = hashlib.sha256(str(max_tokens).encode())
    for name in (MODEL, TOKENIZER):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
