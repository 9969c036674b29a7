"""Sentence encoders: the common base, and the encoder on ONNX Runtime, which does not need torch."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from driftloop.core.models.classifier import Matrix
from driftloop.core.models.onnx_validation import check_graph

MODEL, TOKENIZER, EXPORTED = "model.onnx", "tokenizer.json", "exported.json"
WEIGHTS, NETWORK = "weights.safetensors", "network.json"
"""Files of an encoder that was also exported for a GPU; see `driftloop.core.models.torch_network`."""
MAX_BATCH = 16
"""Maximum number of texts in a batch."""
MAX_PADDING = 1.25
"""Maximum ratio between the longest and the shortest text of a batch, in tokens. A padded token costs as much as a real
one."""
NEAR_BEST = 0.95
"""Share of the best speed at which fewer threads are preferred, because they leave more of the machine to others."""


class Quantisation(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of an int8 graph with its original in full precision. It is stored in `EXPORTED` beside the graph."""

    int8: bool
    """True if int8 is used, False if its embeddings differ too much from those in full precision."""
    cosine: float
    """Mean cosine between the embeddings of both graphs, over texts and layers."""
    texts: int
    agreement: float | None = None
    """Share of held-out rows of the stream with the same predicted label. `None` if not compared."""
    rows: int = 0
    """Number of these held-out rows."""


Ids = tuple[int, ...]
"""Tokens of a text, cut to the encoder's length."""
Output = tuple[Matrix, ...]
"""Embedding (d,) of a text and, if the graph has them, its logits (k,)."""
Outputs = dict[Ids, Output]


class Encoder(ABC):
    """Sentence encoder with the files of a folder. Subclasses run the network.

    Args:
        folder: Folder of the encoder.
        max_tokens: Maximum tokens of a text.
        cache_size: Number of texts whose results are cached. Texts with the same tokens get the same result.
    """

    dimension: int
    """Dimension of an embedding, d."""
    threads: int
    """Number of threads that run batches."""

    def __init__(self, folder: Path, max_tokens: int, cache_size: int) -> None:
        self.folder = folder
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._recent = _LruCache(cache_size)

    @cached_property
    def files_digest(self) -> str:
        """SHA-256 of the files and `max_tokens`: the identity of the encoder on any device."""
        return encoder_digest(self.folder, self.max_tokens)

    @property
    def digest(self) -> str:
        """SHA-256. Encoders with the same digest give the same embeddings, except for rounding."""
        return self.files_digest

    def tokenise(self, texts: Sequence[str]) -> list[Ids]:
        """Return the tokens of n texts."""
        return [tuple(found.ids) for found in self._tokenizer.encode_batch_fast(list(texts))]

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings of shape (n, d), float32."""
        return self.run(texts)[0]

    def run(self, texts: Sequence[str]) -> tuple[Matrix, Matrix | None]:
        """Return embeddings (n, d) and logits (n, k). Without a classifier the logits are `None`."""
        return self.begin(self.tokenise(texts)).result()

    def begin(self, tokens: Sequence[Ids]) -> PendingEmbeddings:
        """Queue texts for the threads. `PendingEmbeddings.result` waits for the results.

        Equal texts run once. Texts are sorted by length before they are batched, to reduce padding.
        """
        wanted = set(tokens)
        known = self._recent.get(wanted)
        return PendingEmbeddings(tokens, known, self._submit(wanted - known.keys()), self._recent, self.dimension)

    @abstractmethod
    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Choose the number of threads with a benchmark.

        Do not call it while another thread calls `run`.

        Returns:
            Texts per second for each tried number of threads.
        """

    @abstractmethod
    def _submit(self, wanted: set[Ids]) -> list[Future[Outputs]]:
        """Start the work for all texts, in batches."""


class OnnxEncoder(Encoder):
    """Encoder on the CPU with ONNX Runtime, from `model.onnx` and `tokenizer.json` of a folder.

    The graph has the inputs input_ids, attention_mask and token_type_ids of shape (batch, tokens). Its output
    `embedding` of shape (batch, d) consists of the means of two layers, each of unit length. The graph of a classifier
    has a second output, `logits` of shape (batch, k). `driftloop.core.models.onnx_export` writes such folders.

    Each thread runs its own batch. On a CPU this is faster than several threads for one batch, which would wait for one
    another at every layer.

    Args:
        folder: Folder of the encoder.
        max_tokens: Maximum tokens of a text.
        threads: Number of threads. `0`: number of cores.
        cache_size: As in `Encoder`.

    Raises:
        ValueError: The file is not a graph, or it has more than standard operators and its own weights. The libraries
            raise their own types for other damage.
    """

    def __init__(self, folder: Path, max_tokens: int = 64, threads: int = 0, cache_size: int = 0) -> None:
        check_graph(folder / MODEL)
        super().__init__(folder, max_tokens, cache_size)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        self._inputs = {node.name for node in self._session.get_inputs()}
        self.dimension = int(outputs["embedding"][-1])
        self.has_logits = "logits" in outputs
        self._names = ["embedding", "logits"] if self.has_logits else ["embedding"]
        self.threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encoder")

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """Result of the comparison at the export. `None` if the export was not in int8 or is older."""
        path = self.folder / EXPORTED
        return msgspec.json.decode(path.read_bytes(), type=Quantisation) if path.is_file() else None

    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Use the smallest number of threads whose speed is within `NEAR_BEST` of the best. See `Encoder.tune`."""
        keys = set(self.tokenise(texts))

        def run() -> None:
            for future in self._submit(keys):
                future.result()

        run()  # the first run of each length takes longer
        speeds: dict[int, float] = {}
        for number in sorted({*(1 << power for power in range(self.threads.bit_length())), self.threads}):
            self._set_threads(number)
            began = time.perf_counter()
            run()
            speeds[number] = len(keys) / (time.perf_counter() - began)
        self._set_threads(min(number for number, speed in speeds.items() if speed >= NEAR_BEST * max(speeds.values())))
        return speeds

    def _submit(self, wanted: set[Ids]) -> list[Future[Outputs]]:
        order = sort_by_length(wanted)
        batches = [[order[i] for i in rows] for rows in make_batches(range(len(order)), [len(ids) for ids in order])]
        # The longest batch first, so that all threads end at about the same time.
        return [self._pool.submit(self._run_batch, batch) for batch in reversed(batches)]

    def _set_threads(self, threads: int) -> None:
        self._pool.shutdown()
        self.threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix="encoder")

    def _run_batch(self, batch: Sequence[Ids]) -> Outputs:
        return dict(zip(batch, zip(*self._run(batch), strict=True), strict=True))

    def _run(self, batch: Sequence[Ids]) -> list[Matrix]:
        """Run the graph for texts of similar length, the longest last."""
        ids, mask = pad(batch, max(len(batch[-1]), 1))
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found: list[Matrix] = self._session.run(self._names, {k: v for k, v in feed.items() if k in self._inputs})
        return found


class PendingEmbeddings:
    """Embeddings that an encoder is computing."""

    def __init__(
        self,
        ids: Sequence[Ids],
        known: Outputs,
        parts: Sequence[Future[Outputs]],
        recent: _LruCache,
        dimension: int,
    ) -> None:
        self._ids = ids
        self._known = known
        self._parts = parts
        self._recent = recent
        self._dimension = dimension

    def result(self) -> tuple[Matrix, Matrix | None]:
        """Wait for embeddings (n, d) and logits (n, k), which are `None` without a classifier.

        Raises:
            Exception: ONNX Runtime or torch failed.
        """
        for part in self._parts:
            outputs = part.result()
            self._recent.put(outputs)
            self._known |= outputs
        if not self._ids:
            return np.zeros((0, self._dimension), dtype=np.float32), None
        embeddings, *logits = (np.stack(rows) for rows in zip(*(self._known[ids] for ids in self._ids), strict=True))
        return embeddings, logits[0] if logits else None


class _LruCache:
    """Thread-safe cache of ``size`` outputs by tokens. The least recently used ones are dropped first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: Outputs = {}
        self._lock = threading.Lock()

    def get(self, wanted: set[Ids]) -> Outputs:
        with self._lock:
            found = {ids: self._kept.pop(ids) for ids in wanted & self._kept.keys()}
            self._kept.update(found)
        return found

    def put(self, outputs: Outputs) -> None:
        if not self._size:
            return
        with self._lock:
            self._kept.update(outputs)
            while len(self._kept) > self._size:
                del self._kept[next(iter(self._kept))]


def sort_by_length(wanted: set[Ids]) -> list[Ids]:
    """Return the tokens of texts, the shortest first."""
    return sorted(wanted, key=lambda ids: (len(ids), ids))


def pad(batch: Sequence[Ids], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad the tokens of n texts.

    Args:
        batch: Tokens of the texts.
        width: Number of tokens after the padding.

    Returns:
        The tokens, and a mask with ones for them. Both have the shape (n, width).
    """
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for line, tokens in enumerate(batch):
        ids[line, : len(tokens)] = tokens
        mask[line, : len(tokens)] = 1
    return ids, mask


def make_batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Split rows into batches of at most `MAX_BATCH` rows with little padding.

    Args:
        order: Rows, the shortest first.
        lengths: Number of tokens of each row.
    """
    batches: list[list[int]] = []
    for row in order:
        if batches and len(batches[-1]) < MAX_BATCH and lengths[row] <= MAX_PADDING * lengths[batches[-1][0]]:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def encoder_digest(folder: Path, max_tokens: int) -> str:
    """Return the SHA-256 of an encoder's files and its length.

    Args:
        folder: Folder of the encoder.
        max_tokens: Maximum tokens of a text.
    """
    digest = hashlib.sha256(str(max_tokens).encode())
    for name in encoder_files(folder):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def encoder_files(folder: Path) -> tuple[str, ...]:
    """Return the names of an encoder's files: graph, tokeniser and, if it has them, the files for a GPU."""
    return (MODEL, TOKENIZER, *(name for name in (WEIGHTS, NETWORK) if (folder / name).is_file()))
