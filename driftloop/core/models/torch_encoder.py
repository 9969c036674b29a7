"""Encoder on a GPU: torch runs the bf16 weights beside the graph.

Importing this module does not import torch. Its functions import it if a GPU is requested.
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
"""Maximum tokens of a batch with its padding: enough to keep a GPU busy, with little memory."""
PADDING_STEP = 8
"""Texts are padded to a multiple of this number of tokens: few shapes, which suit the matrix units of a GPU."""


def choose_device(wanted: Literal["auto", "cpu", "cuda"], variable: str) -> Literal["cpu", "cuda"]:
    """Choose a device. For `auto` it is a GPU if torch finds one. torch is not imported for `cpu`.

    Args:
        wanted: Value of the setting.
        variable: Name of the setting's variable, for the message.

    Raises:
        DriftloopError: A GPU is wanted, and torch finds none or is not installed.
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
            f"{variable} is cuda and {why}: set it to auto or cpu, or use a machine with a GPU, its driver, and a "
            "torch that was built for it (`pip install 'driftloop[retrain]'`)."
        )
    return "cpu"


class TorchEncoder(Encoder):
    """Encoder with torch, from `weights.safetensors`, `network.json` and `tokenizer.json` of a folder.

    The network is in bf16, its outputs are float32. A free thread takes all waiting texts, also those of different
    callers, in batches of up to `MAX_BATCH_TOKENS` tokens.

    Args:
        folder: Folder of the encoder.
        max_tokens: Maximum tokens of a text.
        device: torch's name of the device.
        cache_size: As in `Encoder`.

    Raises:
        ValueError: The files do not fit one another; see `read_network`.
    """

    threads = 2
    """One thread reads results from the GPU while the other sends the next texts."""

    def __init__(self, folder: Path, max_tokens: int, device: str, cache_size: int = 0) -> None:
        import torch

        super().__init__(folder, max_tokens, cache_size)
        self._network, described = read_network(folder)
        self._vocabulary = int(described.config.get("vocab_size") or 0)
        self._device = torch.device("cpu")
        # Run the longest possible text on the CPU first. An index out of bounds is an exception there, but on a GPU it
        # ends all work of the process.
        self.dimension = int(self._launch([(self._vocabulary - 1,) * max_tokens])[0].shape[1])
        self._device = torch.device(device)
        self._network.to(self._device)
        self._waiting: list[tuple[set[Ids], Future[Outputs]]] = []
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encoder")

    @cached_property
    def digest(self) -> str:
        """SHA-256, as in `Encoder`. It differs from the digest of the graph in int8."""
        return hashlib.sha256(f"bf16 {self.files_digest}".encode()).hexdigest()

    def tune(self, texts: Sequence[str]) -> dict[int, float]:
        """Run the texts once, because the first run takes longer. There is nothing to choose on a GPU."""
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
        """Run all waiting texts."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        try:
            batches = make_token_batches(sort_by_length({ids for wanted, _ in waiting for ids in wanted}))
            launched = [(batch, self._launch(batch)) for batch in batches]  # the GPU works while the rest is prepared
            results: Outputs = {}
            for batch, outputs in launched:
                rows = zip(*(output.cpu().numpy() for output in outputs), strict=True)
                results.update(zip(batch, rows, strict=True))
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for wanted, future in waiting:
            future.set_result({ids: results[ids] for ids in wanted})

    def _launch(self, batch: Sequence[Ids]) -> tuple[Any, ...]:
        """Start the network for a batch, the longest text last. On a GPU the outputs may not be ready yet."""
        import torch

        ids, mask = pad(batch, min(padded_width(batch[-1]), self.max_tokens))
        if ids.max() >= self._vocabulary:
            raise ValueError(f"the tokeniser knows more than the {self._vocabulary} tokens of the network")
        with torch.inference_mode():
            return run_network(self._network, *(self._to_device(torch.from_numpy(each)) for each in (ids, mask)))

    def _to_device(self, tensor: Any) -> Any:
        """Send a tensor to the device. The transfer to a GPU runs in the background."""
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def make_token_batches(order: Sequence[Ids]) -> list[list[Ids]]:
    """Split texts, the shortest first, into batches of one text or at most `MAX_BATCH_TOKENS` tokens with padding."""
    batches: list[list[Ids]] = []
    for ids in order:
        if batches and (len(batches[-1]) + 1) * padded_width(ids) <= MAX_BATCH_TOKENS:
            batches[-1].append(ids)
        else:
            batches.append([ids])
    return batches


def padded_width(ids: Ids) -> int:
    """Return the number of tokens to which a text is padded if it is the longest of a batch."""
    return max(PADDING_STEP, -(-len(ids) // PADDING_STEP) * PADDING_STEP)
