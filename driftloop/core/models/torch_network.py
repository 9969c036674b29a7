"""Encoder network in torch: pooling, a linear head, and the two files from which a GPU runs it.

weights.safetensors   the weights in bf16
network.json          a `Network`: architecture and sizes

The files are untrusted. Only the listed architectures of transformers are allowed. network.json holds numbers within
bounds, and cannot name code, files or addresses. The network is built only after the weights file was checked to hold a
tensor of the right shape for each weight. Importing this module does not import torch; calling its functions does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from driftloop.core.models.encoder import NETWORK, WEIGHTS

log = logging.getLogger(__name__)

LEAST_COSINE = 0.98
"""Minimum mean cosine between embeddings in bf16 and in full precision. Otherwise the bf16 weights are not kept."""
Key = Literal[
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "embedding_size",
    "relative_attention_num_buckets", "dim", "hidden_dim", "n_layers", "n_heads", "activation",
]  # fmt: skip
"""Keys of a transformers configuration that affect an encoder's outputs."""
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Epsilon = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Name = Annotated[str, msgspec.Meta(max_length=40)]
MAX_LAYERS = 200
"""Maximum number of layers of a network."""


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Description of an encoder's network without its weights."""

    architecture: Literal["bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"]
    """transformers' `model_type`."""
    head: Literal["none", "linear", "own"]
    """linear: head of `add_linear_head`. own: head of the architecture in transformers."""
    classes: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    """Number of classes of the head, k. `0` without a head."""
    config: dict[Key, Size | Epsilon | Name | None]


def pool_embeddings(hidden_states: Sequence[Any], attention_mask: Any) -> Any:
    """Pool hidden states to embeddings: the means of the last and the middle layer, each of unit length.

    A sentence encoder learns to drop in its last layers what does not help to find similar sentences, such as mood or
    style. The middle layers still contain it (Liu et al., "Linguistic Knowledge and Transferability of Contextual
    Representations", 2019), at no extra cost.

    Args:
        hidden_states: Hidden states of all layers from the input on, each of shape (n, tokens, h).
        attention_mask: Shape (n, tokens).

    Returns:
        Shape (n, 2h).
    """
    import torch

    weight = attention_mask.unsqueeze(-1).to(hidden_states[-1].dtype)
    total = weight.sum(1).clamp(min=1e-9)
    layers = (hidden_states[-1], hidden_states[len(hidden_states) // 2])
    return torch.cat([torch.nn.functional.normalize((hidden * weight).sum(1) / total, dim=1) for hidden in layers], 1)


def add_linear_head(encoder: Any, classes: int) -> Any:
    """Add a linear layer over the pooled embedding to a transformers model.

    Args:
        encoder: The transformers model.
        classes: Number of classes, k.
    """
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    class PooledClassifier(torch.nn.Module):  # type: ignore[misc]
        base_model_prefix = "encoder"
        head = "linear"  # as in `Network`

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.config = encoder.config
            self.classifier = torch.nn.Linear(2 * encoder.config.hidden_size, classes)

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            token_type_ids: Any = None,
            labels: Any = None,
            output_hidden_states: bool = False,
        ) -> Any:
            feed = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                feed["token_type_ids"] = token_type_ids
            hidden = self.encoder(**feed, output_hidden_states=True).hidden_states
            logits = self.classifier(pool_embeddings(hidden, attention_mask))
            loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden)

    return PooledClassifier()


def run_network(network: Any, ids: Any, mask: Any) -> tuple[Any, ...]:
    """Run a network.

    Args:
        network: A transformers model, or a result of `add_linear_head`.
        ids: Tokens of shape (n, width).
        mask: Attention mask of shape (n, width).

    Returns:
        Embeddings (n, 2h) and, if the network has a head, logits (n, k), in float32.
    """
    out = network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    embeddings = pool_embeddings([hidden.float() for hidden in out.hidden_states], mask)
    return (embeddings, out.logits.float()) if "logits" in out else (embeddings,)


def write_network(network: Any, folder: Path) -> bool:
    """Write a network for a GPU, and verify it by reading it back.

    A network of another architecture, or one that loses too much in bf16, is not written. A warning gives the reason.

    Args:
        network: A transformers model, or a result of `add_linear_head`.
        folder: Folder of the encoder.

    Returns:
        True if the files were written.
    """
    import torch
    from safetensors.torch import save_file

    try:
        described = _describe(network)
        (folder / NETWORK).write_bytes(msgspec.json.format(msgspec.json.encode(described), indent=2))
        half = {name: value.to(torch.bfloat16).contiguous() for name, value in network.state_dict().items()}
        save_file(half, folder / WEIGHTS)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(network.config.vocab_size, (16, 8), generator=generator)
        mask = (torch.arange(8) < torch.arange(1, 17).clamp(max=8).unsqueeze(1)).long()
        with torch.inference_mode():
            reread, original = (run_network(one, ids, mask)[0] for one in (read_network(folder)[0], network))
        cosine = float((reread * original).sum(1).mean()) / 2  # of two layers, each of unit length
        if not cosine >= LEAST_COSINE:
            raise ValueError(f"in bf16 its embeddings have a cosine of {cosine:.3f} with those in full precision")
    except ValueError as error:
        log.warning("the encoder is not written for a GPU, and runs on the CPU: %s", str(error).splitlines()[0])
        for name in (NETWORK, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        return False
    return True


def read_network(folder: Path) -> tuple[Any, Network]:
    """Read the files of `write_network`.

    Returns:
        The network in bf16 on the CPU, and its description.

    Raises:
        ValueError: The files are invalid or do not fit one another. safetensors and transformers raise their own types
            for other damage.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    described = msgspec.json.decode((folder / NETWORK).read_bytes(), type=Network)
    if any(int(described.config.get(key) or 0) > MAX_LAYERS for key in _LAYER_COUNT_KEYS):
        raise ValueError(f"{NETWORK} asks for more than {MAX_LAYERS} layers")
    with safe_open(folder / WEIGHTS, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
        found = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    with torch.device("meta"):  # shapes without memory
        wanted = {name: ("BF16", tuple(value.shape)) for name, value in _build(described).state_dict().items()}
    if found != wanted:
        name = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ValueError(f"{WEIGHTS} does not fit {NETWORK}: {name[:80]} is missing, too many, or of another shape")
    network = _build(described).to(torch.bfloat16)
    network.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return network.eval().requires_grad_(False), described


_LAYER_COUNT_KEYS: tuple[Key, ...] = ("num_hidden_layers", "n_layers")


def _describe(network: Any) -> Network:
    """Describe a network so that `_build` can build it. Raise ValueError if a `Network` cannot describe it."""
    config, head, classes = network.config.to_dict(), "none", 0
    if hasattr(network, network.base_model_prefix):
        head, classes = "own", network.config.num_labels
    if hasattr(network, "head"):
        head, classes = network.head, network.classifier.out_features
    description = {"architecture": network.config.model_type, "head": head, "classes": classes}
    return msgspec.convert(
        description | {"config": {key: config[key] for key in get_args(Key) if key in config}}, Network
    )


def _build(described: Network) -> Any:
    """Build a network with random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(described.architecture, **described.config)
    if described.head == "own":
        config.num_labels = described.classes
        return transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    return add_linear_head(network, described.classes) if described.head == "linear" else network
