"""The network that fine-tuning trains: the encoder with a linear head, its first weights, and its device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from driftloop.core.errors import DriftloopError
from driftloop.core.models import torch_encoder
from driftloop.core.models.onnx_export import find_weights
from driftloop.core.models.torch_network import add_linear_head
from retrain.candidates.base import CannotFit, Task
from retrain.training_window import TrainingWindow

choose_device = partial(torch_encoder.choose_device, variable="DRIFTLOOP_RETRAIN__DEVICE")
"""Where to train; see `driftloop.core.models.torch_encoder.choose_device`."""


def has_bf16(device: str) -> bool:
    """Whether to train in bfloat16: on a GPU that computes in it itself."""
    import torch

    return device == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def load_network(window: TrainingWindow, task: Task) -> tuple[Any, Any]:
    """The network with a fresh head, and its tokenizer; torch takes the budget's cores."""
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
            f"The encoder {task.model.encoder} could not be loaded for fine-tuning ({reason}): give a folder in the "
            "Hub's layout or a model the Hub has, in DRIFTLOOP_MODEL__ENCODER."
        ) from error
    # Half of a small encoder's weights are its word vectors; a few hundred rows touch few of them.
    encoder.get_input_embeddings().requires_grad_(False)
    return add_linear_head(encoder, len(window.classes)), tokenizer


def initialise_head(network: Any, rows: TrainingWindow, classes: Sequence[str]) -> None:
    """Start the head as a logistic regression over the stored embeddings."""
    import torch
    from sklearn.linear_model import LogisticRegression

    if rows.embeddings.shape[1] != network.classifier.in_features:
        return  # embeddings of another encoder: the head starts at random
    found = LogisticRegression(C=2.0, max_iter=200).fit(rows.embeddings, np.asarray(rows.labels))
    two = len(found.classes_) == 2
    weight = np.vstack([-found.coef_ / 2, found.coef_ / 2]) if two else found.coef_
    bias = np.concatenate([-found.intercept_ / 2, found.intercept_ / 2]) if two else found.intercept_
    lines = [list(classes).index(str(name)) for name in found.classes_]
    with torch.no_grad():
        network.classifier.weight[lines] = torch.tensor(weight, dtype=torch.float32)
        network.classifier.bias[lines] = torch.tensor(bias, dtype=torch.float32)
