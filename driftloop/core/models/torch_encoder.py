"""The encoder on a GPU: torch runs the weights in bf16 that lie beside the graph.

Importing this module does not import torch; what is in it does, where a GPU is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from driftloop.core.errors import DriftloopError
from driftloop.core.models.encoder import Encoder, Ids, Outputs, pad, sort_by_length
from driftloop.core.models.torch_network import read_network, run_network

MAX_BATCH_TOKENS = 16_384
"""Most tokens of a batch, padding included: enough to keep a GPU busy, and little of its memory."""
PADDING_STEP = 8
"""Texts are padded to a multiple of so many tokens: a few shapes, which suit the GPU's matrix units."""


def choose_device(wanted: Literal["auto", "cpu", "cuda"], variable: str) -> Literal["cpu", "cuda"]:
    """What is wanted, or, for `auto`, a GPU where torch finds one; torch is not imported for `cpu`.

    Raises:
        DriftloopError: a GPU is wanted and torch finds none, or is not there; the text names the ``variable``.
    """
    if wanted == "cpu":
        return "cpu"
    why = "torch finds no CUDA device"
    try:
        import torch

        if torch.cuda.is_available():
            return "cuda"
    except ImportError:
        why = "torch is not installed"
    if wanted == "cuda":
        raise DriftloopError(
            f"{variable} is cuda and {why}: set it to auto or cpu, or run this where there is a GPU, its driver, and a "
            "torch that was built for it (`pip install 'driftloop[retrain]'`)."
        )
    return "cpu"


class TorchEncoder(Encoder):
    """Embeds texts with `weights.safetensors`, `network.json` and `tokenizer.json` of a folder, on a torch ``device``.

    The network is in bf16; its answers are float32. What waits when a thread becomes free is batched together,
    whoever has asked for it, in batches of up to `TOKENS` tokens. ``remember`` is as in `Encoder`.

    Raises:
        ValueError: the files do not fit one another; see `read_network`.
    """

    threads = 2
    """While one takes the answers from the GPU, the other gives it the next texts."""

    def __init__(self, folder: Path, max_tokens: int, device: str, cache_size: int = 0) -> None:
        import torch

        super().__init__(folder, max_tokens, cache_size)
        self._network, described = read_network(folder)
        self._vocabulary = int(described.config.get("vocab_size") or 0)
        self._device = torch.device("cpu")
        # The longest text there may be, on the CPU: an index out of bounds is an exception there, and ends every work
        # on a GPU for the whole process.
        self.dimension = int(self._launch([(self._vocabulary - 1,) * max_tokens])[0].shape[1])
        self._device = torch.device(device)
        self._network.to(self._device)
        self._waiting: list[tuple[set[Ids], Future[Outputs]]] = []
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encoder")

    @cached_property
    def digest(self) -> str:
        """SHA-256: equal digests give equal embeddings, but for rounding. It is not that of the graph in int8."""
        return hashlib.sha256(f"bf16 {self.files_digest}".encode()).hexdigest()

    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Run them once, for the first time takes longer; a GPU leaves nothing to choose."""
        self.embed(texts)
        return {}

    def _submit(self, wanted: set[Ids]) -> list[Future[Outputs]]:
        if not wanted:
            return []
        future: Future[Outputs] = Future()
        with self._lock:
            self._waiting.append((wanted, future))
        self._pool.submit(self._run_waiting)
        return [future]

    def _run_waiting(self) -> None:
        """Answer all that waits."""
        with self._lock:
            asked, self._waiting = self._waiting, []
        try:
            batches = make_token_batches(sort_by_length({ids for wanted, _ in asked for ids in wanted}))
            launched = [(batch, self._launch(batch)) for batch in batches]  # the GPU works while the rest is made ready
            answers: Outputs = {}
            for batch, outputs in launched:
                rows = zip(*(output.cpu().numpy() for output in outputs), strict=True)
                answers.update(zip(batch, rows, strict=True))
        except BaseException as error:
            for _, future in asked:
                future.set_exception(error)
            return
        for wanted, future in asked:
            future.set_result({ids: answers[ids] for ids in wanted})

    def _launch(self, batch: Sequence[Ids]) -> tuple[Any, ...]:
        """The outputs for a batch, the longest text last; on a GPU they may still be under way."""
        import torch

        ids, mask = pad(batch, min(padded_width(batch[-1]), self.max_tokens))
        if ids.max() >= self._vocabulary:
            raise ValueError(f"the tokeniser knows more than the {self._vocabulary} tokens of the network")
        with torch.inference_mode():
            return run_network(self._network, *(self._to_device(torch.from_numpy(each)) for each in (ids, mask)))

    def _to_device(self, tensor: Any) -> Any:
        """The tensor on the device; to a GPU it is sent while this thread goes on."""
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def make_token_batches(order: Sequence[Ids]) -> list[list[Ids]]:
    """Texts, the shortest first, in batches of at most `TOKENS` tokens with their padding, or of a single text."""
    batches: list[list[Ids]] = []
    for ids in order:
        if batches and (len(batches[-1]) + 1) * padded_width(ids) <= MAX_BATCH_TOKENS:
            batches[-1].append(ids)
        else:
            batches.append([ids])
    return batches


def padded_width(ids: Ids) -> int:
    """Tokens that a text is padded to where it is the longest."""
    return max(PADDING_STEP, -(-len(ids) // PADDING_STEP) * PADDING_STEP)
