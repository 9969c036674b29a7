"""The encoder as torch runs it: on the CPU here, in bf16 as on a GPU, and on a GPU where there is one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from driftloop.cli import main
from driftloop.cli.commands import score
from driftloop.core.errors import DriftloopError
from driftloop.core.models import bundle as bundles
from driftloop.core.models import bundle_cache as shelves
from driftloop.core.models import onnx_export, torch_encoder, torch_network
from driftloop.core.models.bundle import BundleError, Lineage, load_bundle, manifest_digest, verify_bundle, write_bundle
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.models.encoder import MODEL, NETWORK, TOKENIZER, WEIGHTS, Ids, OnnxEncoder
from driftloop.core.models.head import Head
from driftloop.core.models.torch_encoder import TorchEncoder
from driftloop.core.settings import ModelSettings, Settings
from tests import tiny
from tests.unit.core.test_hostile_bundles import sign_again

TEXTS = [*tiny.sentences(90, seed=4)[0], "", "ok — 100% 😀 été", "long " * 400, *tiny.HOSTILE]
FILES = {f"{bundles.ENCODER}/{name}" for name in (MODEL, TOKENIZER)}
FOR_GPU = {f"{bundles.ENCODER}/{name}" for name in (WEIGHTS, NETWORK)}
ROOT = Path(__file__).resolve().parents[3]


@cache
def folder(head: str = "none") -> Path:
    """The tiny network as a graph in fp32 and with its weights in bf16: without a head, with a linear, or its own."""
    target = tiny.root() / f"for-gpu-{head}"
    if head == "own":
        made = transformers.AutoModelForSequenceClassification.from_pretrained(tiny.classifier_folder())
    else:
        made = transformers.AutoModel.from_pretrained(tiny.encoder_folder())
    if head == "linear":
        torch.manual_seed(1)
        made = torch_network.add_linear_head(made, len(tiny.LABELS))
        made.classifier.weight.data *= 10  # one that tells texts apart
    onnx_export.export(made.eval(), tiny.tokenizer(), target, quantise=False, weights=True)
    return target


def on(device: str, head: str = "none", cache_size: int = 0) -> TorchEncoder:
    return TorchEncoder(folder(head), tiny.MAX_TOKENS, device, cache_size)


def graph(head: str = "none") -> OnnxEncoder:
    return OnnxEncoder(folder(head), tiny.MAX_TOKENS, threads=1)


def write(where: Path, encoder: OnnxEncoder | None = None) -> Path:
    """A bundle with a head over the tiny encoder, made for a GPU too unless another ``encoder`` is given."""
    rows = tiny.window(60)
    head = Head(LogisticRegression().fit(rows.embeddings, np.asarray(rows.labels)))
    lineage = Lineage(candidate="linear")
    write_bundle(where, encoder=encoder or graph(), head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    return where


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Ids]]:
    """The batches that the network was run on."""
    found: list[Sequence[Ids]] = []
    launch = TorchEncoder._launch

    def count(self: TorchEncoder, batch: Sequence[Ids]) -> Any:
        found.append(batch)
        return launch(self, batch)

    monkeypatch.setattr(TorchEncoder, "_launch", count)
    return found


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes that the network was run on."""
    found: list[tuple[int, int]] = []

    def count(made: Any, ids: Any, mask: Any) -> Any:
        assert ids.shape == mask.shape
        found.append(tuple(ids.shape))
        return torch_network.run_network(made, ids, mask)

    monkeypatch.setattr(torch_encoder, "run_network", count)
    return found


def agree(device: str, head: str) -> None:
    embeddings, logits = on(device, head).run(TEXTS)
    expected, expected_logits = graph(head).run(TEXTS)
    assert embeddings.dtype == np.float32 and embeddings.shape == expected.shape
    cosines = (embeddings * expected).sum(axis=1) / 2  # of two layers, each of unit length
    assert cosines.mean() > 0.99 and cosines.min() > (0.97 if head == "own" else 0.99), "that has large weights"
    np.testing.assert_allclose(np.linalg.norm(embeddings.reshape(-1, 2, 32), axis=2), 1.0, atol=1e-5)
    if expected_logits is None:
        assert logits is None
    else:
        assert logits is not None and logits.dtype == np.float32 and logits.shape == (len(TEXTS), len(tiny.LABELS))
        assert np.ptp(expected_logits, axis=0).max() > 0.1, "they differ from text to text"
        assert np.corrcoef(logits.ravel(), expected_logits.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("head", ["none", "linear", "own"])
def test_torch_embeddings_agree_with_onnx_graph(head: str) -> None:
    agree("cpu", head)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("head", ["none", "linear", "own"])
def test_gpu_embeddings_agree_with_onnx_graph(head: str, tmp_path: Path) -> None:
    agree("cuda", head)
    made = on("cuda", head)
    assert next(made._network.parameters()).device.type == "cuda"
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    parts = [made.begin(made.tokenise(texts[start::4])) for start in range(4)]
    for start, part in enumerate(parts):
        expected = graph(head).embed(texts[start::4])
        assert (part.result()[0] * expected).sum(axis=1).min() / 2 > 0.99
    model = load_bundle(write(tmp_path / "bundle"), tiny.KEY, device=torch_encoder.choose_device("auto", "X"))
    assert isinstance(model.encoder, TorchEncoder) and model.predict(TEXTS).probabilities.shape[0] == len(TEXTS)


def test_equal_texts_run_once_and_keep_order(launched: list[Sequence[Ids]]) -> None:
    made = on("cpu")
    launched.clear()
    found = made.embed([*TEXTS[:5], *TEXTS[:5][::-1]])
    assert sum(map(len, launched)) == 5
    np.testing.assert_array_equal(found[:5], found[5:][::-1])
    assert len({row.tobytes() for row in found}) == 5


def test_repeated_texts_come_from_cache(launched: list[Sequence[Ids]]) -> None:
    made = on("cpu", cache_size=5)
    first = made.embed(TEXTS[:5])
    launched.clear()
    np.testing.assert_array_equal(made.embed(TEXTS[:5]), first)
    assert not launched


def test_empty_batch_and_tokenless_text_are_answered() -> None:
    """Text without tokens gets the same embedding as in the graph."""
    embeddings, logits = on("cpu").run([])
    assert embeddings.shape == (0, 64) and logits is None
    np.testing.assert_array_equal(on("cpu").begin([()]).result()[0], graph().begin([()]).result()[0])


def test_batches_respect_token_limit_with_few_widths(
    shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = on("cpu")
    assert shapes == [(1, tiny.MAX_TOKENS)], "the trial"
    shapes.clear()
    whole = made.embed(TEXTS)
    assert shapes == [(len({*made.tokenise(TEXTS)}), tiny.MAX_TOKENS)], "they fit a single batch"
    shapes.clear()
    monkeypatch.setattr(torch_encoder, "MAX_BATCH_TOKENS", 100)
    np.testing.assert_allclose(made.embed(TEXTS), whole, atol=0.02)
    assert max(rows * width for rows, width in shapes) <= 100 and len(shapes) < 40
    assert {width for _, width in shapes} <= {8, 16, 24} and len({width for _, width in shapes}) > 1
    assert sum(rows for rows, _ in shapes) == len({*made.tokenise(TEXTS)})
    shapes.clear()
    monkeypatch.setattr(torch_encoder, "MAX_BATCH_TOKENS", 4)
    made.embed(TEXTS[:3])
    assert [rows for rows, _ in shapes] == [1, 1, 1], "one that is too long alone goes alone"


def test_padding_stops_at_encoder_maximum_length(shapes: list[tuple[int, int]]) -> None:
    TorchEncoder(folder(), 21, "cpu").embed(["long " * 50])
    assert {width for _, width in shapes} == {21}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Sequence[Ids]], threading.Semaphore]]:
    """The batches that the threads have come to, and what lets one of them go on."""
    at: list[Sequence[Ids]] = []
    go, launch = threading.Semaphore(0), TorchEncoder._launch

    def wait(self: TorchEncoder, batch: Sequence[Ids]) -> Any:
        at.append(batch)
        assert go.acquire(timeout=20)
        return launch(self, batch)

    go.release()
    monkeypatch.setattr(TorchEncoder, "_launch", wait)
    yield at, go
    go.release(1000)


def test_waiting_requests_share_one_batch_without_blocking_caller(
    held: tuple[list[Sequence[Ids]], threading.Semaphore],
) -> None:
    at, go = held
    made = on("cpu")
    at.clear()
    begun = []
    for number, text in enumerate(TEXTS[:6]):
        begun.append(made.begin(made.tokenise([text, TEXTS[6]])))
        while len(at) <= min(number, made.threads - 1):
            time.sleep(0.01)
    assert [len(batch) for batch in at] == [2, 2], "both threads are at one, and `begin` has come back all the same"
    go.release(1000)
    found = np.stack([each.result()[0][0] for each in begun])
    assert sorted(len(batch) for batch in at) == [2, 2, 5], "four waited, for four texts and one they share"
    assert (found * graph().embed(TEXTS[:6])).sum(axis=1).min() / 2 > 0.99


def test_encoder_error_reaches_caller_and_next_succeeds() -> None:
    made = on("cpu")
    with pytest.raises(ValueError, match="the tokeniser knows more than"):
        made.begin([(10**6,)]).result()
    assert made.embed(TEXTS[:2]).shape == (2, 64)


def test_tune_only_runs_texts_once(launched: list[Sequence[Ids]]) -> None:
    made = on("cpu")
    launched.clear()
    assert made.tune(TEXTS[:9]) == {} and sum(map(len, launched)) == 9


def test_torch_digest_differs_from_graph_digest() -> None:
    """Nor are those of a graph that comes without weights named otherwise than they were before."""
    assert on("cpu").files_digest == graph().files_digest == graph().digest
    assert on("cpu").digest[:16] != graph().digest[:16], "the store and the predictions know the first 16 of it"
    assert on("cpu").digest != on("cpu", "own").digest
    plain = tiny.encoder()
    alone = hashlib.sha256(str(tiny.MAX_TOKENS).encode())
    alone.update((plain.folder / MODEL).read_bytes() + (plain.folder / TOKENIZER).read_bytes())
    assert plain.digest == alone.hexdigest() != graph().digest


@pytest.mark.parametrize("kind", ["bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"])
def test_every_architecture_survives_save_and_load(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    if kind == "electra":
        sizes["embedding_size"] = 16
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=90, max_position_embeddings=30, num_labels=3, initializer_range=0.3, **sizes
    )
    made = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    assert torch_network.write_network(made, tmp_path)
    again = torch_network.read_network(tmp_path)[0]
    ids = torch.randint(5, 90, (6, 9))
    with torch.inference_mode():
        for found, expected in zip(
            *(torch_network.run_network(one, ids, torch.ones_like(ids)) for one in (again, made)), strict=True
        ):
            assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_unsupported_network_is_not_written_for_gpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reason is logged and no file is left; the same holds where bf16 is too coarse."""
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8}
    strange = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("t5", vocab_size=20, **sizes))
    assert not torch_network.write_network(strange, tmp_path)
    assert "not written for a GPU, and runs on the CPU: Invalid enum value 't5'" in caplog.text
    monkeypatch.setattr(torch_network, "LEAST_COSINE", 1.01)
    coarse = transformers.AutoModel.from_pretrained(tiny.encoder_folder())
    assert not torch_network.write_network(coarse, tmp_path)
    assert "in bf16 its embeddings have a cosine of" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_device_setting_adds_gpu_weights_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export without the setting has the same graph and no weights."""
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path))
    how = {"encoder": str(tiny.encoder_folder()), "max_tokens": tiny.MAX_TOKENS, "quantise": False}
    plain, half = (onnx_export.exported_encoder(ModelSettings(**how, **more)) for more in ({}, {"device": "auto"}))
    assert {path.name for path in plain.folder.iterdir()} == {MODEL, TOKENIZER}
    assert {path.name for path in half.folder.iterdir()} == {MODEL, TOKENIZER, WEIGHTS, NETWORK}
    assert (plain.folder / MODEL).read_bytes() == (half.folder / MODEL).read_bytes()
    assert verify_bundle(write(tmp_path / "b", plain), tiny.KEY).files.keys() == {*FILES, bundles.HEAD}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def test_bundle_loads_with_onnx_or_torch(bundle: Path, tmp_path: Path) -> None:
    manifest = verify_bundle(bundle, tiny.KEY)
    assert manifest.files.keys() == {*FILES, *FOR_GPU, bundles.HEAD}
    one, other = load_bundle(bundle, tiny.KEY), load_bundle(bundle, tiny.KEY, device="cpu")
    assert isinstance(one.encoder, OnnxEncoder) and isinstance(other.encoder, TorchEncoder)
    assert manifest.encoder_digest == one.encoder.files_digest == other.encoder.files_digest
    found, expected = (model.predict(TEXTS).probabilities for model in (other, one))
    np.testing.assert_allclose(found, expected, atol=0.02)
    again = load_bundle(bundle, tiny.KEY, device="cpu", encoder=other.encoder)
    assert again.encoder is other.encoder, "a new head over the same encoder"
    old = load_bundle(write(tmp_path / "old", tiny.encoder()), tiny.KEY, device="cpu", encoder=other.encoder)
    assert isinstance(old.encoder, OnnxEncoder), "an old one has a graph only"


@pytest.mark.parametrize("head", ["linear", "own"])
def test_headless_bundle_predicts_alike_in_both_runtimes(head: str, tmp_path: Path) -> None:
    lineage = Lineage(candidate="finetune")
    write_bundle(tmp_path / "b", encoder=graph(head), head=None, labels=tiny.LABELS, lineage=lineage, key=tiny.KEY)
    found, expected = (load_bundle(tmp_path / "b", tiny.KEY, device=device).predict(TEXTS) for device in ("cpu", None))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=bundles.CANARY_TOLERANCE)
    assert np.ptp(expected.probabilities, axis=0).max() > 0.2


def refused(where: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(where, tiny.KEY, device="cpu")
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 800, said


def put(where: Path, name: str, body: bytes) -> None:
    path = where / bundles.ENCODER / name
    path.unlink(missing_ok=True)
    path.write_bytes(body)
    sign_again(where)


def described(where: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((where / bundles.ENCODER / NETWORK).read_bytes())
    return found


@pytest.mark.parametrize("name", [WEIGHTS, NETWORK])
def test_weights_and_network_are_signed_and_required(bundle: Path, name: str) -> None:
    path = bundle / bundles.ENCODER / name
    body = path.read_bytes()
    path.unlink()
    refused(bundle, f"{name} of the bundle .* is missing or was altered")
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    refused(bundle, f"{name} of the bundle .* is missing or was altered")
    path.unlink()
    sign_again(bundle)
    refused(bundle, f"lacks {bundles.ENCODER}/{name}")
    put(bundle, name, body)
    load_bundle(bundle, tiny.KEY, device="cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "gpt2"}, "Invalid enum value"),
        ({"architecture": "../../own"}, "Invalid enum value"),
        ({"auto_map": {"AutoModel": "modeling_own.M"}}, "unknown field `auto_map`"),
        ({"head": "own"}, "does not fit network.json"),
        ({"head": "linear", "classes": 3}, "does not fit network.json"),
        ({"classes": 10**9}, "<= 10000"),
        ({"config": {"auto_map": {"AutoModel": "modeling_own.M"}}}, "Invalid enum value 'auto_map'"),
        ({"config": {"attn_implementation": "somebody/kernels"}}, "Invalid enum value 'attn_implementation'"),
        ({"config": {"_name_or_path": "/etc"}}, "Invalid enum value"),
        ({"config": {"hidden_size": 64}}, "does not fit network.json"),
        ({"config": {"hidden_size": 10**9}}, "<= 1048576"),
        ({"config": {"hidden_size": 1e30}}, "not safe to load"),
        ({"config": {"hidden_size": 1 << 20, "intermediate_size": 1 << 20}}, "does not fit network.json"),
        ({"config": {"vocab_size": 1 << 20}}, "does not fit network.json"),
        ({"config": {"num_hidden_layers": 1 << 20}}, "more than 200 layers"),
        ({"config": {"num_hidden_layers": 3}}, "does not fit network.json"),
        ({"config": {"num_hidden_layers": 0}}, "does not fit network.json"),
        ({"config": {"num_attention_heads": 5}}, "not safe to load"),
        ({"config": {"num_attention_heads": 0}}, "not safe to load"),
        ({"config": {"max_position_embeddings": 8}}, "does not fit network.json"),
        ({"config": {"hidden_act": "os.system"}}, "not safe to load"),
        ({"config": {"hidden_act": [1]}}, "Expected"),
        ({"config": {"layer_norm_eps": 1e300}}, "Expected"),
        ({"config": {"pad_token_id": 1 << 19}}, "not safe to load"),
    ],
)
def test_invalid_network_description_is_refused(bundle: Path, change: dict[str, Any], words: str) -> None:
    found = described(bundle)
    config = found["config"] | change.pop("config", {})
    began = time.monotonic()
    put(bundle, NETWORK, json.dumps(found | change | {"config": config}).encode())
    refused(bundle, words)
    assert time.monotonic() - began < 20
    assert isinstance(load_bundle(bundle, tiny.KEY).encoder, OnnxEncoder), "who runs the graph does not open it"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"import os"])
@pytest.mark.parametrize("name", [WEIGHTS, NETWORK])
def test_invalid_weights_or_network_file_is_refused(bundle: Path, name: str, body: bytes) -> None:
    put(bundle, name, body)
    refused(bundle, "not safe to load")


def test_weights_not_matching_network_are_refused(bundle: Path, tmp_path: Path) -> None:
    whole = load_file(bundle / bundles.ENCODER / WEIGHTS)
    name = "encoder.layer.0.output.dense.weight"

    def turned(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        weights = dict(whole)
        change(weights)
        save_file(weights, tmp_path / "w")
        put(bundle, WEIGHTS, (tmp_path / "w").read_bytes())

    turned(lambda weights: weights.pop(name))
    refused(bundle, f"{name} is missing")
    turned(lambda weights: weights.update(more=torch.zeros(3, dtype=torch.bfloat16)))
    refused(bundle, "more is missing, too many")
    turned(lambda weights: weights.update({name: weights[name].T.contiguous()}))
    refused(bundle, f"{name} is .* of another shape")
    turned(lambda weights: weights.update({name: weights[name].float()}))
    refused(bundle, f"{name} is .* of another shape")
    turned(lambda weights: weights.update({name: torch.full_like(weights[name], float("nan"))}))
    refused(bundle, "not safe to load|canary")
    turned(lambda weights: weights.update({key: torch.randn_like(value) for key, value in whole.items()}))
    refused(bundle, "answers its canary texts differently")
    turned(lambda weights: None)
    load_bundle(bundle, tiny.KEY, device="cpu")
    body = (bundle / bundles.ENCODER / WEIGHTS).read_bytes()
    put(bundle, WEIGHTS, body[: len(body) // 2])
    refused(bundle, "not safe to load")


def test_max_tokens_beyond_network_positions_is_refused(bundle: Path) -> None:
    """The tiny network knows 64 positions; an index out of bounds would end a GPU's work for good."""
    sign_again(bundle, lambda manifest: manifest.update(max_tokens=64))
    load_bundle(bundle, tiny.KEY, device="cpu")
    sign_again(bundle, lambda manifest: manifest.update(max_tokens=65))
    refused(bundle, "not safe to load")


def settings(tmp_path: Path, device: str, **scorer: Any) -> Settings:
    changed = {"scratch_dir": str(tmp_path), "signing_key": tiny.KEY, "model": {"device": device}, "scorer": scorer}
    return msgspec.convert(changed, Settings)


def from_registry(monkeypatch: pytest.MonkeyPatch, found: Path) -> None:
    class Stand:
        def __init__(self, settings: Settings) -> None: ...

        def download(self, version: str, into: Path, name: str) -> Path:
            return Path(found).rename(into / name)

    monkeypatch.setattr(shelves, "Registry", Stand)


@pytest.mark.parametrize("there", [True, False])
def test_bundle_cache_uses_gpu_when_available(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    mine = BundleCache(settings(tmp_path / "work", "auto"))
    assert mine._device == ("cuda" if there else None)
    mine._device = "cpu" if there else None
    from_registry(monkeypatch, bundle)
    model = mine.fetch("1", manifest_digest(bundle), None)
    assert isinstance(model.encoder, TorchEncoder if there else OnnxEncoder)
    assert mine._threads == (0 if there else model.encoder.threads) and "without weights" not in caplog.text
    assert mine.fetch("1", model_digest(mine), model.encoder).encoder is model.encoder


def model_digest(mine: BundleCache) -> str:
    (kept,) = [path for path in mine._folder.iterdir() if len(path.name) == 64]
    return kept.name


def test_champion_without_weights_runs_on_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log has one warning, which says how to get the weights."""
    old = write(tmp_path / "old", tiny.encoder())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    mine = BundleCache(settings(tmp_path / "work", "cuda"))
    from_registry(monkeypatch, old)
    model = mine.fetch("7", manifest_digest(old), None)
    assert isinstance(model.encoder, OnnxEncoder) and mine._threads == model.encoder.threads
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == (
        "version 7 was made without weights for a GPU, and its encoder runs on the CPU: set DRIFTLOOP_MODEL__DEVICE "
        "for `driftloop retrain` too, and retrain"
    )


def test_cuda_setting_without_gpu_or_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusal comes when the cache is made; auto uses the CPU instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DriftloopError, match="DRIFTLOOP_MODEL__DEVICE is cuda and torch finds no CUDA device: set it"):
        BundleCache(settings(tmp_path, "cuda"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DriftloopError, match="DRIFTLOOP_MODEL__DEVICE is cuda and torch is not installed: set it"):
        BundleCache(settings(tmp_path, "cuda"))
    assert BundleCache(settings(tmp_path, "auto"))._device is None


def test_scorer_requiring_gpu_exits_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(score, "load_process_settings", lambda options: settings(tmp_path, "cuda"))
    assert main.main(["score"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("driftloop: DRIFTLOOP_MODEL__DEVICE is cuda and torch finds no CUDA device: set it to")
    assert said.count("\n") == 1


def test_cpu_scoring_does_not_import_torch(bundle: Path) -> None:
    """Bundle was made for both the CPU and a GPU."""
    asked = f"""
import sys
from pathlib import Path
from driftloop.core.models.bundle import load_bundle
from driftloop.core.models.torch_encoder import choose_device
print(load_bundle(Path({str(bundle)!r}), {tiny.KEY!r}).predict(["good"]).route, choose_device("cpu", "X"))
print(sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["encoder+head cpu", "[]"]
