"""A sentence encoder on ONNX Runtime: tokeniser, transformer and pooling, without torch."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from driftloop.classifiers.base import Matrix
from driftloop.classifiers.graph import check_graph

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
BATCH = 16
PADDED = 1.25
"""A batch's longest text has at most so many times the tokens of its shortest: a padded token costs what a real one
does."""
ENOUGH = 0.95
"""Of the best speed, with which fewer threads are preferred: they leave the rest of the machine alone."""


@dataclass(frozen=True)
class Tokens:
    """What the tokeniser of an encoder makes of n texts."""

    encoder: str
    """Digest of the encoder."""
    ids: list[list[int]]
    """Of each text, cut to the encoder's length."""

    def __len__(self) -> int:
        return len(self.ids)


class OnnxEncoder:
    """Embeds texts with `model.onnx` and `tokenizer.json` of a folder.

    The graph has the inputs input_ids, attention_mask and token_type_ids of shape (batch, tokens), and the output
    `embedding` of shape (batch, d), two layers' means of unit length side by side; a classifier's graph has a second
    output, `logits` of shape (batch, k). `driftloop.classifiers.onnx` writes such folders.

    Each of ``threads`` (0: as many as there are cores) is at a batch of its own: on a CPU that is faster than several
    at one, for they need not wait for one another at every layer. What ``remember`` texts were last answered with is
    kept: a text that comes again, as its tokens are, is answered with the same numbers.

    Raises:
        ValueError: the graph holds more than standard operators and its own weights, or is none. The libraries raise
            types of their own for other damage.
    """

    def __init__(self, folder: Path, max_tokens: int = 64, threads: int = 0, remember: int = 0) -> None:
        self.folder = folder
        self.max_tokens = max_tokens
        check_graph(folder / MODEL)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        self._inputs = {node.name for node in self._session.get_inputs()}
        self.dimension = int(outputs["embedding"][-1])
        self.has_logits = "logits" in outputs
        self._names = ["embedding", "logits"] if self.has_logits else ["embedding"]
        self._recent = _Recent(remember)
        self.threads = threads or os.cpu_count() or 1
        """That work at once."""
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encoder")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the graph and the tokeniser: equal digests give equal embeddings."""
        return encoder_digest(self.folder, self.max_tokens)

    def tokenise(self, texts: Sequence[str]) -> Tokens:
        """The tokens of n texts, for `run`."""
        return Tokens(self.digest, [found.ids for found in self._tokenizer.encode_batch_fast(list(texts))])

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embeddings of shape (n, d), float32."""
        return self.run(texts)[0]

    def run(self, texts: Sequence[str], tokens: Tokens | None = None) -> tuple[Matrix, Matrix | None]:
        """Embeddings (n, d), and logits (n, k) where the graph has them.

        ``tokens`` are those of the texts, where they are known. Equal ones are run once, and all are sorted by length
        before they are batched, so that little is padded.
        """
        if tokens is None or tokens.encoder != self.digest:
            tokens = self.tokenise(texts)
        keys = [tuple(ids) for ids in tokens.ids]
        answers = self._recent.get(set(keys))
        fresh = self._answers(set(keys) - answers.keys())
        self._recent.put(fresh)
        answers |= fresh
        if not keys:
            return np.zeros((0, self.dimension), dtype=np.float32), None
        embeddings, *logits = (np.stack(rows) for rows in zip(*(answers[key] for key in keys), strict=True))
        return embeddings, logits[0] if logits else None

    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Use as many threads as are worth it on this machine as it is now; texts per second of each number tried.

        Not while another thread calls `run`.
        """
        keys = {tuple(ids) for ids in self.tokenise(texts).ids}
        self._answers(keys)  # the first run of each length takes longer
        speeds: dict[int, float] = {}
        for number in sorted({*(1 << power for power in range(self.threads.bit_length())), self.threads}):
            self._use(number)
            began = time.perf_counter()
            self._answers(keys)
            speeds[number] = len(keys) / (time.perf_counter() - began)
        self._use(min(number for number, speed in speeds.items() if speed >= ENOUGH * max(speeds.values())))
        return speeds

    def _answers(self, keys: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[Matrix, ...]]:
        """What the graph says to each of the tokens."""
        order = sorted(keys, key=lambda ids: (len(ids), ids))
        batches = [[order[i] for i in rows] for rows in batches_of(range(len(order)), [len(ids) for ids in order])]
        batches.reverse()  # the longest first: whoever is done early takes another
        answers: dict[tuple[int, ...], tuple[Matrix, ...]] = {}
        for batch, outputs in zip(batches, self._pool.map(self._run, batches), strict=True):
            answers.update(zip(batch, zip(*outputs, strict=True), strict=True))
        return answers

    def _use(self, threads: int) -> None:
        self._pool.shutdown()
        self.threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix="encoder")

    def _run(self, batch: Sequence[tuple[int, ...]]) -> list[Matrix]:
        """The outputs for tokens of much the same length, the longest last."""
        longest = max(len(batch[-1]), 1)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for line, tokens in enumerate(batch):
            ids[line, : len(tokens)] = tokens
            mask[line, : len(tokens)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found: list[Matrix] = self._session.run(self._names, {k: v for k, v in feed.items() if k in self._inputs})
        return found


class _Recent:
    """The newest ``size`` answers by their tokens, those asked for longest ago forgotten first; for any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[tuple[int, ...], tuple[Matrix, ...]] = {}
        self._lock = threading.Lock()

    def get(self, keys: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[Matrix, ...]]:
        with self._lock:
            found = {key: self._kept.pop(key) for key in keys & self._kept.keys()}
            self._kept.update(found)
        return found

    def put(self, answers: dict[tuple[int, ...], tuple[Matrix, ...]]) -> None:
        with self._lock:
            self._kept.update(answers)
            while len(self._kept) > self._size:
                del self._kept[next(iter(self._kept))]


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
