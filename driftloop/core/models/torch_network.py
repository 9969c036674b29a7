"""The encoder as torch sees it: pooling, a linear head, and the folder's two files from which a GPU runs it.

weights.safetensors   the weights in bf16
network.json          a `Network`: which architecture, of which size

Who made the files may want to harm whoever loads them. So an architecture is one of a list, and transformers' own;
network.json holds numbers with bounds and nothing that names code, a file or a place; and nothing is built before the
file has a tensor of the right shape for each weight. Importing this module does not import torch; calling its functions
does.
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
"""Mean cosine with the embeddings in full precision below which weights in bf16 are not kept."""
Key = Literal[
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "embedding_size",
    "relative_attention_num_buckets", "dim", "hidden_dim", "n_layers", "n_heads", "activation",
]  # fmt: skip
"""What of a transformers configuration decides on an encoder's answers."""
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Epsilon = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Name = Annotated[str, msgspec.Meta(max_length=40)]
MAX_LAYERS = 200
"""Most that a network may have."""


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an encoder's network is built from, besides its weights."""

    architecture: Literal["bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"]
    """transformers' `model_type`."""
    head: Literal["none", "linear", "own"]
    """linear: that of `with_head`; own: the one that transformers gives the architecture."""
    classes: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    """Of the head, k; 0 without one."""
    config: dict[Key, Size | Epsilon | Name | None]


def pool_embeddings(hidden_states: Sequence[Any], attention_mask: Any) -> Any:
    """Embeddings of shape (n, 2h) from a network's hidden states (n, tokens, h), its input's first.

    The last layer's and the middle one's means over the attention mask, each scaled to unit length. A sentence
    encoder is trained to forget at its top what does not help to find similar sentences, such as mood or style; the
    layers in the middle still tell of it (Liu et al., "Linguistic Knowledge and Transferability of Contextual
    Representations", 2019), and they cost nothing.
    """
    import torch

    weight = attention_mask.unsqueeze(-1).to(hidden_states[-1].dtype)
    total = weight.sum(1).clamp(min=1e-9)
    layers = (hidden_states[-1], hidden_states[len(hidden_states) // 2])
    return torch.cat([torch.nn.functional.normalize((hidden * weight).sum(1) / total, dim=1) for hidden in layers], 1)


def add_linear_head(encoder: Any, classes: int) -> Any:
    """``encoder``, a transformers model, with a linear layer over its embedding as `onnx.export` writes it."""
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
    """Embeddings (n, 2h) in float32, and logits (n, k) where the network has a head, for tokens of (n, width)."""
    out = network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    embeddings = pool_embeddings([hidden.float() for hidden in out.hidden_states], mask)
    return (embeddings, out.logits.float()) if "logits" in out else (embeddings,)


def write_network(network: Any, folder: Path) -> bool:
    """Write a transformers model, or one of `with_head`, into ``folder``, and read it back; whether that was worth it.

    One of another architecture, or one that does not bear bf16, is left out, and a warning says why.
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
            again, whole = (run_network(one, ids, mask)[0] for one in (read_network(folder)[0], network))
        cosine = float((again * whole).sum(1).mean()) / 2  # of two layers, each of unit length
        if not cosine >= LEAST_COSINE:
            raise ValueError(f"in bf16 its embeddings have a cosine of {cosine:.3f} with those in full precision")
    except ValueError as error:
        log.warning("the encoder is not written for a GPU, and runs on the CPU: %s", str(error).splitlines()[0])
        for name in (NETWORK, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        return False
    return True


def read_network(folder: Path) -> tuple[Any, Network]:
    """The network that `write_network` wrote, in bf16 on the CPU, and what it was built from.

    Raises:
        ValueError: the files are none of its, or do not fit one another. safetensors and transformers raise types of
            their own for other damage.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    described = msgspec.json.decode((folder / NETWORK).read_bytes(), type=Network)
    if any(int(described.config.get(key) or 0) > MAX_LAYERS for key in _LAYER_COUNT_KEYS):
        raise ValueError(f"{NETWORK} asks for more than {MAX_LAYERS} layers")
    with safe_open(folder / WEIGHTS, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
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
    """What `_build` makes the like of; a `ValueError` for what a `Network` cannot say."""
    config, head, classes = network.config.to_dict(), "none", 0
    if hasattr(network, network.base_model_prefix):
        head, classes = "own", network.config.num_labels
    if hasattr(network, "head"):
        head, classes = network.head, network.classifier.out_features
    told = {"architecture": network.config.model_type, "head": head, "classes": classes}
    return msgspec.convert(told | {"config": {key: config[key] for key in get_args(Key) if key in config}}, Network)


def _build(described: Network) -> Any:
    """The network with weights that mean nothing yet."""
    import transformers

    config = transformers.AutoConfig.for_model(described.architecture, **described.config)
    if described.head == "own":
        config.num_labels = described.classes
        return transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    return add_linear_head(network, described.classes) if described.head == "linear" else network
