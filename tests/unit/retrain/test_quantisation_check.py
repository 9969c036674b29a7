"""A model that is to be promoted is compared with itself in full precision on the stream's rows, and put into it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import load, numpy_helper, save
from sklearn.linear_model import LogisticRegression

from driftloop.core.models import onnx_export
from driftloop.core.models.bundle import (
    MANIFEST,
    BundleClassifier,
    BundleDraft,
    Lineage,
    load_bundle,
    verify_bundle,
    write_bundle,
)
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from retrain.evaluation.quantisation_check import MIN_ROWS, ROWS, QuantisationResult, check_quantisation
from retrain.reproduce import training_encoder
from tests import tiny

SETTINGS = Settings(signing_key=tiny.KEY)
HELD = tiny.window(ROWS + 50, seed=31)


def exported(folder: Path) -> OnnxEncoder:
    """The tiny encoder in int8, with its full precision beside it."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(tiny.encoder_folder(), attn_implementation="eager")
    onnx_export.export(
        network, tiny.tokenizer(), folder, quantise=True, max_tokens=tiny.MAX_TOKENS, texts=tiny.sentences(40)[0]
    )
    return OnnxEncoder(folder, tiny.MAX_TOKENS, threads=1)


def bundled(encoder: OnnxEncoder, folder: Path) -> tuple[BundleClassifier, Path]:
    """A model whose head was fitted in full precision, as it is when it is judged, and its bundle."""
    texts, labels = tiny.sentences(400, seed=3)
    full = OnnxEncoder(encoder.folder / onnx_export.FULL_PRECISION, tiny.MAX_TOKENS, threads=1)
    head = Head(LogisticRegression(C=10).fit(full.embed(texts), labels))
    lineage = Lineage(candidate="test", topic="outcomes", rows=400)
    write_bundle(folder, encoder=encoder, head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    return load_bundle(folder, tiny.KEY, encoder=encoder), folder


def compare(model: BundleClassifier, bundle: Path, **changes: Any) -> QuantisationResult | None:
    held = changes.get("held", HELD)
    draft = BundleDraft.open(bundle)
    found = check_quantisation(model, draft, held, lambda rows: model.predict(rows.texts), SETTINGS)
    draft.sign(tiny.KEY)
    return found


def test_int8_agreement_is_measured_and_signed(tmp_path: Path) -> None:
    encoder = exported(tmp_path / "encoder")
    model, bundle = bundled(encoder, tmp_path / "bundle")
    texts = HELD.texts[-ROWS:]
    full = OnnxEncoder(encoder.folder / onnx_export.FULL_PRECISION, tiny.MAX_TOKENS, threads=1)
    same = np.mean(np.asarray(model.predict(texts).labels) == model.predict(texts, full.embed(texts)).labels)
    found = compare(model, bundle)
    assert found is not None and found.int8 and found.rows == ROWS and found.agreement == pytest.approx(same)
    noted = verify_bundle(bundle, tiny.KEY)
    assert noted.quantisation is not None and noted.encoder_digest == encoder.digest
    assert training_encoder(noted, model.encoder, full) is model.encoder
    assert (noted.quantisation.agreement, noted.quantisation.rows) == (round(float(same), 4), ROWS)
    assert noted.quantisation.cosine == encoder.quantisation.cosine, "what the export has found stays"  # type: ignore[union-attr]


def test_inaccurate_int8_model_is_replaced_by_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(source: Path, target: Path) -> None:
        graph = load(str(source))
        for tensor in graph.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 2:
                noise = np.random.default_rng(1).normal(0, values.std(), values.shape)
                tensor.CopyFrom(numpy_helper.from_array(noise.astype(np.float32), tensor.name))
        save(graph, str(target))

    monkeypatch.setattr(onnx_export, "_quantise", ruined)
    monkeypatch.setattr(onnx_export, "LEAST_COSINE", -1.0)  # what would have refused it at the export
    encoder = exported(tmp_path / "encoder")
    model, bundle = bundled(encoder, tmp_path / "bundle")
    before = verify_bundle(bundle, tiny.KEY)
    found = compare(model, bundle)
    assert found is not None and not found.int8 and found.loss > 0.1
    after = verify_bundle(bundle, tiny.KEY)
    assert after.lineage == before.lineage and after.labels == before.labels
    assert after.quantisation is not None and before.quantisation is not None
    assert not after.quantisation.int8 and after.quantisation.agreement == pytest.approx(found.agreement, abs=1e-4)
    full = OnnxEncoder(encoder.folder / onnx_export.FULL_PRECISION, tiny.MAX_TOKENS, threads=1)
    assert after.encoder_digest == full.digest != before.encoder_digest
    loaded = load_bundle(bundle, tiny.KEY)
    assert training_encoder(after, loaded.encoder, encoder) is encoder, "a replay fits on the embeddings of the fit"
    promoted = loaded.predict(HELD.texts)
    assert np.mean(np.asarray(promoted.labels) == HELD.labels) > np.mean(
        np.asarray(model.predict(HELD.texts).labels) == HELD.labels
    )
    assert [path.name for path in tmp_path.iterdir() if "full" in path.name] == [], "nothing is left behind"


def test_check_without_reference_or_rows_changes_nothing(tmp_path: Path) -> None:
    """Check needs the encoder in full precision and enough rows."""
    encoder = exported(tmp_path / "encoder")
    model, bundle = bundled(encoder, tmp_path / "bundle")
    written = (bundle / MANIFEST).read_bytes()
    assert compare(model, bundle, held=HELD.take(slice(0, MIN_ROWS - 1))) is None
    shutil.rmtree(encoder.folder / onnx_export.FULL_PRECISION)
    assert compare(model, bundle) is None
    assert (bundle / MANIFEST).read_bytes() == written
