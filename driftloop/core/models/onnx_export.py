"""Export of Hugging Face models to ONNX graphs, so that scoring does not need torch.

Importing this module does not import torch; calling its functions does.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.models.encoder import EXPORTED, MODEL, TOKENIZER, OnnxEncoder, Quantisation
from driftloop.core.models.sample_texts import HOSTILE, sentences
from driftloop.core.models.torch_network import pool_embeddings, write_network
from driftloop.core.settings import ModelSettings, cache_dir

T = TypeVar("T")

log = logging.getLogger(__name__)

FULL_PRECISION = "full"
"""Folder inside an int8 export with the graph in full precision, for comparisons only."""
LEAST_COSINE = 0.95
"""Minimum mean cosine between embeddings in int8 and in full precision. Otherwise int8 is not used."""
COMPARISON_TEXTS = 64
"""Number of generated texts of the comparison, besides the hostile ones."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of a graph, each of shape (batch, tokens)."""


def find_weights(name: str) -> str:
    """Return the folder of a model, or its name if it must be downloaded from the Hugging Face Hub.

    A local folder in the Hub's layout has priority over an installed distribution that contains one (config.json beside
    *.safetensors), and that over the Hub.

    Raises:
        DriftloopError: The name is a path without such a folder.
    """
    if Path(name).is_dir():
        return name
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    except ValueError:
        files = []
    for file in files:
        if file.name == "model.safetensors":
            return str(Path(str(file.locate())).parent)
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise DriftloopError(f"There is no model folder at {name}: give a folder with config.json and safetensors.")
    return name


def export_folder(model: ModelSettings) -> Path:
    """Return the folder for the export of the configured encoder, in the user cache."""
    return cache_dir() / "encoders" / _export_key(find_weights(model.encoder), model)


def exported_encoder(model: ModelSettings, threads: int = 0) -> OnnxEncoder:
    """Open the configured encoder. It is exported to the user cache first, if it is not there.

    Args:
        model: Encoder, its length and its precision.
        threads: Number of threads. `0`: number of cores.

    Raises:
        DriftloopError: The weights are missing or unreadable, or the packages for the export are missing.
    """
    source = find_weights(model.encoder)
    target = export_folder(model)
    if not (target / MODEL).is_file() or not (target / TOKENIZER).is_file():
        _run_in_subprocess(_export_encoder, source, target, model)
    try:
        return OnnxEncoder(target, model.max_tokens, threads)
    except Exception as error:  # onnxruntime raises its own types for a damaged graph
        shutil.rmtree(target, ignore_errors=True)
        raise DriftloopError(
            f"The cached encoder was damaged ({_first_line(error)}) and has been removed: run the command again."
        ) from error


def export(
    network: Any,
    tokenizer: Any,
    target: Path,
    *,
    quantise: bool,
    weights: bool = False,
    max_tokens: int = 0,
    texts: Sequence[str] = (),
) -> None:
    """Write a network as the folder of an encoder. The folder appears complete or not at all.

    The embedding is that of `pool_embeddings`. int8 is the dynamic quantisation of ONNX Runtime. It is compared with
    the full precision on ``texts``: if its embeddings differ too much, the graph stays in full precision. Otherwise the
    one in full precision is kept in the folder `FULL_PRECISION`.

    Args:
        network: A transformers model, with or without a classification head.
        tokenizer: Its fast tokenizer.
        target: The new folder. An existing one is replaced.
        quantise: Write the graph in int8.
        weights: Write the bf16 weights for a GPU too; see `write_network`.
        max_tokens: Maximum tokens of a text in the comparison.
        texts: Texts of the comparison. Empty: no comparison.
    """
    torch, _ = _require_torch()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch) / "encoder"
        full = folder / FULL_PRECISION / MODEL
        full.parent.mkdir(parents=True)
        _write_graph(network, full, torch)
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        keep_full = False
        if quantise:
            _quantise(full, folder / MODEL)
            keep_full = bool(texts) and _compare(full, folder, max_tokens, texts)
        else:
            full.rename(folder / MODEL)
        if not keep_full:
            shutil.rmtree(full.parent)
        if weights:
            write_network(network, folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)


def exported_classifier(name: str, target: Path, model: ModelSettings) -> tuple[OnnxEncoder, Sequence[str]]:
    """Export a text classifier.

    Args:
        name: Hub id or folder.
        target: Folder of the export.
        model: Length and precision.

    Returns:
        The opened graph and its labels.
    """
    labels = _run_in_subprocess(_export_classifier, find_weights(name), target, model)
    return OnnxEncoder(target, model.max_tokens), labels


def _export_encoder(source: str, target: Path, model: ModelSettings) -> None:
    _, transformers = _require_torch()
    network, tokenizer = _load(transformers.AutoModel, source, f"encoder {model.encoder}", "DRIFTLOOP_MODEL__ENCODER")
    _export(network, tokenizer, target, model)


def _export_classifier(source: str, target: Path, model: ModelSettings) -> list[str]:
    _, transformers = _require_torch()
    network, tokenizer = _load(
        transformers.AutoModelForSequenceClassification, source, f"classifier {source}", "DRIFTLOOP_MODEL__CLASSIFIER"
    )
    _export(network, tokenizer, target, model)
    return [str(network.config.id2label[i]).lower() for i in range(network.config.num_labels)]


def _export(network: Any, tokenizer: Any, target: Path, model: ModelSettings) -> None:
    """Export as configured, with a comparison on generated texts because no stream is known yet."""
    texts = [*sentences(COMPARISON_TEXTS)[0], *HOSTILE]
    export(
        network,
        tokenizer,
        target,
        quantise=model.quantise,
        weights=model.for_gpu,
        max_tokens=model.max_tokens,
        texts=texts,
    )


def _write_graph(network: Any, path: Path, torch: Any) -> None:
    """Write the graph in full precision: tokens to embeddings and, if the network classifies, logits."""
    base = getattr(network, network.base_model_prefix, network)
    classifies = base is not network

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            feed = {"input_ids": input_ids, "attention_mask": attention_mask}
            if "token_type_ids" in base.forward.__code__.co_varnames:
                feed["token_type_ids"] = token_type_ids
            out = self.network(**feed, output_hidden_states=True)
            embedding = pool_embeddings(out.hidden_states, attention_mask)
            return (embedding, out.logits) if classifies else embedding

    sample = torch.tensor([[101, 7592, 2088, 102], [101, 2204, 102, 0]]).clamp(max=network.config.vocab_size - 1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    outputs = ["embedding", "logits"] if classifies else ["embedding"]
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {name: {0: "batch"} for name in outputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Pooled().eval(),
            (sample, mask, torch.zeros_like(sample)),
            str(path),
            input_names=list(INPUTS),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _load(kind: Any, source: str, what: str, variable: str) -> tuple[Any, Any]:
    """Load a network and its tokenizer from a folder or the Hub."""
    from transformers import AutoTokenizer

    try:
        # Pickled weights and custom code can do anything: neither is read, also if the model's config names them.
        network = kind.from_pretrained(
            source, attn_implementation="eager", use_safetensors=True, trust_remote_code=False
        )
        return network, AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DriftloopError(
            f"The {what} could not be loaded ({_first_line(error)}): give a folder in the Hub's layout or a model the "
            f"Hub has, with safetensors and no custom code, in {variable}."
        ) from error


def _run_in_subprocess(work: Callable[..., T], *arguments: Any) -> T:
    """Run ``work`` in a child process: here torch would keep more than a gigabyte until the end of the process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise DriftloopError(
                "The process that exports the model was killed, probably for lack of memory: free some and try again."
            ) from error


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    try:
        # Seven-bit weights: without VNNI, eight bits overflow the 16-bit sums of AVX2.
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    finally:
        logging.disable(logging.NOTSET)


def _compare(full: Path, folder: Path, max_tokens: int, texts: Sequence[str]) -> bool:
    """Compare the int8 graph in ``folder`` with the full one and store the result. Return True if int8 is used.

    Otherwise the full graph replaces it.
    """
    shutil.copyfile(folder / TOKENIZER, full.parent / TOKENIZER)
    int8, original = OnnxEncoder(folder, max_tokens), OnnxEncoder(full.parent, max_tokens)
    products = int8.embed(texts) * original.embed(texts)  # of two layers, each of unit length
    cosine = float(products.sum(axis=1).mean()) / 2
    if cosine < LEAST_COSINE:
        log.warning(
            "the encoder stays in full precision: in int8 its embeddings have a cosine of %.3f with those, and %.2f is "
            "the minimum",
            *(cosine, LEAST_COSINE),
        )
        full.replace(folder / MODEL)
    found = Quantisation(int8=cosine >= LEAST_COSINE, cosine=round(cosine, 4), texts=len(texts))
    (folder / EXPORTED).write_bytes(msgspec.json.encode(found))
    return found.int8


def _export_key(source: str, model: ModelSettings) -> str:
    digest = hashlib.sha256(f"export-4 {model.quantise}{' bf16' if model.for_gpu else ''}".encode())
    folder = Path(source)
    if folder.is_dir():
        for path in sorted(folder.glob("*")):
            if path.suffix in {".json", ".safetensors"}:
                digest.update(f"{path.name} {path.stat().st_size}".encode())
                digest.update(path.read_bytes())
    else:
        digest.update(source.encode())
    return digest.hexdigest()[:24]


def _require_torch() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise DriftloopError(
            "This step needs torch and transformers: install them with `uv sync --extra retrain`."
        ) from error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
