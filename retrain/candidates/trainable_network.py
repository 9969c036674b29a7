"""Trainable network of the fine-tuning candidate: the encoder with a linear head, its first weights, and its device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from driftloop.core.errors import DriftloopError
from driftloop.core.models import torch_encoder
from driftloop.core.models.onnx_export import find_weights
from driftloop.core.models.torch_network import add_linear_head
from retrain.candidates.base import CannotFit, Task
from retrain.training_window import TrainingWindow

choose_device = partial(torch_encoder.choose_device, variable="DRIFTLOOP_RETRAIN__DEVICE")
"""Return the device to train on; see `driftloop.core.models.torch_encoder.choose_device`."""


WORTH = 1.5
"""Speed of bfloat16 in multiples of that of float32 from which on a CPU trains in it."""


def has_bf16(device: str) -> bool:
    """Return True if the device computes in bfloat16 natively. A CPU is measured, because many emulate it."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bf16_speedup() >= WORTH


@cache
def bf16_speedup() -> float:
    """Return the speed of matrix products in bfloat16 on this CPU, in multiples of that in float32.

    It takes some milliseconds, or a second where bfloat16 is emulated.
    """
    import torch

    def seconds(kind: Any) -> float:
        left, right = torch.ones(256, 384, dtype=kind), torch.ones(384, 1536, dtype=kind)
        durations = []
        for _ in range(6):
            started = time.perf_counter()
            left @ right
            durations.append(time.perf_counter() - started)
        return min(durations[1:])  # the first one prepares the kernel

    return seconds(torch.float32) / seconds(torch.bfloat16)


def load_network(window: TrainingWindow, task: Task) -> tuple[Any, Any]:
    """Load the encoder with a fresh head, and its tokenizer; torch gets the cores of the budget.

    Args:
        window: Window whose classes the head has.
        task: Task with the model and the budget.

    Raises:
        CannotFit: torch or transformers is not installed.
        DriftloopError: The encoder cannot be loaded.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise CannotFit(f"fine-tuning needs torch and transformers ({error})") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(task.budget.seed)
    torch.set_num_threads(task.budget.cores)
    source = find_weights(task.model.encoder)
    try:
        encoder = transformers.AutoModel.from_pretrained(
            source, attn_implementation="eager", dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DriftloopError(
            f"The encoder {task.model.encoder} could not be loaded for fine-tuning ({reason}). Give a folder in the "
            "Hub's layout or the name of a model on the Hub in DRIFTLOOP_MODEL__ENCODER."
        ) from error
    # Half of a small encoder's weights are its word vectors. A few hundred rows touch few of them.
    encoder.get_input_embeddings().requires_grad_(False)
    return add_linear_head(encoder, len(window.classes)), tokenizer


def initialise_head(network: Any, rows: TrainingWindow, classes: Sequence[str]) -> None:
    """Initialise the head as a logistic regression on the stored embeddings.

    Embeddings of another size come from another encoder; the head then keeps its random weights.

    Args:
        network: Network with a linear head, changed in place.
        rows: Rows to fit the regression on.
        classes: Class of each output of the head.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    if rows.embeddings.shape[1] != network.classifier.in_features:
        return
    model = LogisticRegression(C=2.0, max_iter=200).fit(rows.embeddings, np.asarray(rows.labels))
    binary = len(model.classes_) == 2  # scikit-learn keeps one row for two classes
    weight = np.vstack([-model.coef_ / 2, model.coef_ / 2]) if binary else model.coef_
    bias = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]) if binary else model.intercept_
    outputs = [list(classes).index(str(name)) for name in model.classes_]
    with torch.no_grad():
        network.classifier.weight[outputs] = torch.tensor(weight, dtype=torch.float32)
        network.classifier.bias[outputs] = torch.tensor(bias, dtype=torch.float32)
