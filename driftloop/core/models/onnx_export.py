"""From Hugging Face weights to an ONNX graph: where torch ends and scoring begins.

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
"""Folder in that of an export in int8 which has the same in full precision: it is compared with, and never scores."""
LEAST_COSINE = 0.95
"""Mean cosine with the embeddings in full precision below which an encoder is not used in int8."""
COMPARISON_TEXTS = 64
"""Made-up texts on which both are compared, besides those that break what is careless."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def find_weights(name: str) -> str:
    """Where the model called ``name`` is: a folder, or ``name`` itself when it must come from the Hub.

    A local folder in the Hub's layout wins, then an installed distribution that carries one (config.json beside
    *.safetensors), then the Hub.
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
    """Where the export of the configured encoder lies, or will lie, in the user cache."""
    return cache_dir() / "encoders" / _export_key(find_weights(model.encoder), model)


def exported_encoder(model: ModelSettings, threads: int = 0) -> OnnxEncoder:
    """The configured encoder as an ONNX folder, exported once into the user cache and opened.

    Raises:
        DriftloopError: the weights are not there, are not readable, or the export's packages are missing.
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
    """Write ``network`` (a transformers model, with or without a classification head) to the folder ``target``.

    Its embedding is `pooled`; int8 is ONNX Runtime's dynamic quantisation. Where ``texts`` are given, both graphs embed
    them, cut to ``max_tokens``, and the graph stays in full precision where int8 comes too far from it; where it does
    not, the one in full precision is kept in the folder `FULL`. With
    ``weights`` those go along in bf16, for a GPU; see `write_network`. The folder appears at once, whole.
    """
    torch, _ = _require_torch()
    base = getattr(network, network.base_model_prefix, network)
    classifies = base is not network

    class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
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

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch) / "encoder"
        folder.mkdir()
        module = Pooled().eval()
        sample = torch.tensor([[101, 7592, 2088, 102], [101, 2204, 102, 0]]).clamp(max=network.config.vocab_size - 1)
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
        outputs = ["embedding", "logits"] if classifies else ["embedding"]
        axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {name: {0: "batch"} for name in outputs}
        plain = folder / FULL_PRECISION / MODEL
        plain.parent.mkdir()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (sample, mask, torch.zeros_like(sample)),
                str(plain),
                input_names=list(INPUTS),
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        if quantise:
            _quantise(plain, folder / MODEL)
            kept = bool(texts) and _compare(plain, folder, max_tokens, texts)
        else:
            plain.rename(folder / MODEL)
            kept = False
        if not kept:
            shutil.rmtree(plain.parent)
        if weights:
            write_network(network, folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)


def exported_classifier(name: str, target: Path, model: ModelSettings) -> tuple[OnnxEncoder, Sequence[str]]:
    """Export the text classifier ``name`` (Hub id or folder) into ``target``; the opened graph and its labels."""
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
    """As the settings say, compared on made-up texts: at the time of the export no stream is known."""
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


def _load(kind: Any, source: str, what: str, variable: str) -> tuple[Any, Any]:
    """The network and its tokenizer from a folder or the Hub."""
    from transformers import AutoTokenizer

    try:
        # Pickled weights and code of the model's own can do anything: neither is ever read, whatever its config says.
        network = kind.from_pretrained(
            source, attn_implementation="eager", use_safetensors=True, trust_remote_code=False
        )
        return network, AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DriftloopError(
            f"The {what} could not be loaded ({_first_line(error)}): give a folder in the Hub's layout or a model the "
            f"Hub has, with safetensors and no code of its own, in {variable}."
        ) from error


def _run_in_subprocess(work: Callable[..., T], *arguments: Any) -> T:
    """Run ``work`` in a process of its own: torch would stay in this one, with more than a gigabyte, for good."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise DriftloopError(
                "The process that exports the model was killed, probably for want of memory: free some and try again."
            ) from error


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    try:
        # Seven-bit weights: without VNNI, eight bits overflow the 16-bit sums of AVX2.
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    finally:
        logging.disable(logging.NOTSET)


def _compare(plain: Path, folder: Path, max_tokens: int, texts: Sequence[str]) -> bool:
    """Write how the graph in ``folder`` compares with the ``plain`` one, which takes its place where that is better;
    whether it was left where it is.
    """
    shutil.copyfile(folder / TOKENIZER, plain.parent / TOKENIZER)
    small, whole = OnnxEncoder(folder, max_tokens), OnnxEncoder(plain.parent, max_tokens)
    products = small.embed(texts) * whole.embed(texts)  # of two layers, each of unit length
    cosine = float(products.sum(axis=1).mean()) / 2
    if cosine < LEAST_COSINE:
        log.warning(
            "the encoder stays in full precision: in int8 its embeddings have a cosine of %.3f with those, and %.2f is "
            "the least",
            *(cosine, LEAST_COSINE),
        )
        plain.replace(folder / MODEL)
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
