"""A sentence encoder: what all have in common, and the one on ONNX Runtime, which does without torch."""

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
"""Where the encoder was exported for a GPU too; see `driftloop.core.models.torch_network`."""
MAX_BATCH = 16
MAX_PADDING = 1.25
"""A batch's longest text has at most so many times the tokens of its shortest: a padded token costs what a real one
does."""
NEAR_BEST = 0.95
"""Of the best speed, with which fewer threads are preferred: they leave the rest of the machine alone."""


class Quantisation(msgspec.Struct, frozen=True, kw_only=True):
    """How a graph in int8 compares with the one in full precision that it was made from; in `EXPORTED` beside it."""

    int8: bool
    """Whether it is in int8: one that came too far from the full precision is not."""
    cosine: float
    """Mean over the texts and layers of the cosine between both graphs' embeddings."""
    texts: int
    agreement: float | None = None
    """Share of held-out rows of the stream to which the model gives the same label with both; None: not compared."""
    rows: int = 0
    """Of them."""


Ids = tuple[int, ...]
"""A text's tokens, cut to the encoder's length."""
Output = tuple[Matrix, ...]
"""What is said to a text: its embedding (d,), and its logits (k,) where there are any."""
Outputs = dict[Ids, Output]


class Encoder(ABC):
    """Embeds texts with what lies in a folder; subclasses say where and how.

    What ``remember`` texts were last answered with is kept: a text that comes again, as its tokens are, is answered
    with the same numbers.
    """

    dimension: int
    """Of an embedding, d."""
    threads: int
    """That work at once."""

    def __init__(self, folder: Path, max_tokens: int, cache_size: int) -> None:
        self.folder = folder
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._recent = _LruCache(cache_size)

    @cached_property
    def files_digest(self) -> str:
        """SHA-256 over the files and the length that texts are cut to: which encoder it is, wherever it runs."""
        return encoder_digest(self.folder, self.max_tokens)

    @property
    def digest(self) -> str:
        """SHA-256: equal digests give equal embeddings, but for rounding."""
        return self.files_digest

    def tokenise(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of n texts."""
        return [tuple(found.ids) for found in self._tokenizer.encode_batch_fast(list(texts))]

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embeddings of shape (n, d), float32."""
        return self.run(texts)[0]

    def run(self, texts: Sequence[str]) -> tuple[Matrix, Matrix | None]:
        """Embeddings (n, d), and logits (n, k) where there are any."""
        return self.begin(self.tokenise(texts)).result()

    def begin(self, tokens: Sequence[Ids]) -> PendingEmbeddings:
        """Put texts to the threads, behind those that they are at; `Encoding.result` waits for what they say.

        Equal texts are run once, and all are sorted by length before they are batched, so that little is padded.
        """
        wanted = set(tokens)
        known = self._recent.get(wanted)
        return PendingEmbeddings(tokens, known, self._submit(wanted - known.keys()), self._recent, self.dimension)

    @abstractmethod
    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Get ready for texts like these; texts per second of each number of threads tried.

        Not while another thread calls `run`.
        """

    @abstractmethod
    def _submit(self, wanted: set[Ids]) -> list[Future[Outputs]]:
        """Begin to answer all that is wanted, in parts."""


class OnnxEncoder(Encoder):
    """Embeds texts with `model.onnx` and `tokenizer.json` of a folder, on the CPU.

    The graph has the inputs input_ids, attention_mask and token_type_ids of shape (batch, tokens), and the output
    `embedding` of shape (batch, d), two layers' means of unit length side by side; a classifier's graph has a second
    output, `logits` of shape (batch, k). `driftloop.core.models.onnx_export` writes such folders.

    Each of ``threads`` (0: as many as there are cores) is at a batch of its own: on a CPU that is faster than several
    at one, for they need not wait for one another at every layer. ``remember`` is as in `Encoder`.

    Raises:
        ValueError: the graph holds more than standard operators and its own weights, or is none. The libraries raise
            types of their own for other damage.
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
        """What its export has found; None where it was not in int8, or the folder does not say."""
        path = self.folder / EXPORTED
        return msgspec.json.decode(path.read_bytes(), type=Quantisation) if path.is_file() else None

    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Use as many threads as are worth it on this machine as it is now; texts per second of each number tried.

        Not while another thread calls `run`.
        """
        keys = set(self.tokenise(texts))

        def run() -> None:
            for future in self._submit(keys):
                future.result()

        run()  # the first of each length takes longer
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
        # The longest first: whoever is done early takes another.
        return [self._pool.submit(self._run_batch, batch) for batch in reversed(batches)]

    def _set_threads(self, threads: int) -> None:
        self._pool.shutdown()
        self.threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix="encoder")

    def _run_batch(self, batch: Sequence[Ids]) -> Outputs:
        return dict(zip(batch, zip(*self._run(batch), strict=True), strict=True))

    def _run(self, batch: Sequence[Ids]) -> list[Matrix]:
        """The outputs for tokens of much the same length, the longest last."""
        ids, mask = pad(batch, max(len(batch[-1]), 1))
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found: list[Matrix] = self._session.run(self._names, {k: v for k, v in feed.items() if k in self._inputs})
        return found


class PendingEmbeddings:
    """Texts that an encoder is at."""

    def __init__(
        self,
        ids: Sequence[Ids],
        answers: Outputs,
        parts: Sequence[Future[Outputs]],
        recent: _LruCache,
        dimension: int,
    ) -> None:
        self._ids = ids
        self._answers = answers
        self._parts = parts
        self._recent = recent
        self._dimension = dimension

    def result(self) -> tuple[Matrix, Matrix | None]:
        """Embeddings (n, d), and logits (n, k) where there are any; raises what ONNX Runtime, or torch, does."""
        for part in self._parts:
            fresh = part.result()
            self._recent.put(fresh)
            self._answers |= fresh
        if not self._ids:
            return np.zeros((0, self._dimension), dtype=np.float32), None
        embeddings, *logits = (np.stack(rows) for rows in zip(*(self._answers[ids] for ids in self._ids), strict=True))
        return embeddings, logits[0] if logits else None


class _LruCache:
    """The newest ``size`` answers by their tokens, those asked for longest ago forgotten first; for any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: Outputs = {}
        self._lock = threading.Lock()

    def get(self, wanted: set[Ids]) -> Outputs:
        with self._lock:
            found = {ids: self._kept.pop(ids) for ids in wanted & self._kept.keys()}
            self._kept.update(found)
        return found

    def put(self, answers: Outputs) -> None:
        if not self._size:
            return
        with self._lock:
            self._kept.update(answers)
            while len(self._kept) > self._size:
                del self._kept[next(iter(self._kept))]


def sort_by_length(wanted: set[Ids]) -> list[Ids]:
    """Texts' tokens, the shortest first."""
    return sorted(wanted, key=lambda ids: (len(ids), ids))


def pad(batch: Sequence[Ids], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens of n texts, filled up to ``width``, and a mask with ones where they are: both (n, width)."""
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for line, tokens in enumerate(batch):
        ids[line, : len(tokens)] = tokens
        mask[line, : len(tokens)] = 1
    return ids, mask


def make_batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The rows in ``order``, shortest first, in batches of at most `BATCH` that need little padding."""
    batches: list[list[int]] = []
    for row in order:
        if batches and len(batches[-1]) < MAX_BATCH and lengths[row] <= MAX_PADDING * lengths[batches[-1][0]]:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def encoder_digest(folder: Path, max_tokens: int) -> str:
    """SHA-256 over the files of `files_of` and the truncation length."""
    digest = hashlib.sha256(str(max_tokens).encode())
    for name in encoder_files(folder):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def encoder_files(folder: Path) -> tuple[str, ...]:
    """What an encoder is made of: graph and tokeniser, and what a GPU needs where the folder has it."""
    return (MODEL, TOKENIZER, *(name for name in (WEIGHTS, NETWORK) if (folder / name).is_file()))
