"""A bundle that was altered in any way is not loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from driftloop.core.models import bundle as bundles
from driftloop.core.models import bundle_draft
from driftloop.core.models.bundle import BundleDraft, BundleError, Lineage, load_bundle, verify_bundle, write_bundle
from driftloop.core.models.encoder import MODEL, Quantisation
from driftloop.core.models.first_stage import FirstStage
from driftloop.core.models.head import Head, load_head
from driftloop.core.models.manifest import CascadeCalibration, sign
from tests import tiny

LINEAGE = Lineage(candidate="linear", trigger="alert-1", first_offset=3, last_offset=9, rows=7, parent_version="2")
QUANTISATION = Quantisation(int8=False, cosine=0.5, texts=40, agreement=0.75, rows=100)
STAGE = FirstStage(
    columns=np.array([1, 5], np.int32),
    idf=np.ones(2, np.float32),
    weights=np.zeros((3, 2), np.float32),
    bias=np.zeros(3, np.float32),
    threshold=0.9,
)
CALIBRATION = CascadeCalibration(share=0.5, loss=0.0, loss_high=0.01, disagreement=0.0, rows=200)


class Foreign(ClassifierMixin, BaseEstimator):
    """A head that is not scikit-learn's: what an attacker would put in."""

    def fit(self, features, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, features):
        return np.full((len(features), len(self.classes_)), 1 / len(self.classes_))


def write(folder: Path, estimator: BaseEstimator | None = None) -> Path:
    rows = tiny.window(60)
    head = Head((estimator or LogisticRegression()).fit(rows.embeddings, np.asarray(rows.labels)))
    write_bundle(folder, encoder=tiny.encoder(), head=head, labels=head.classes, lineage=LINEAGE, key=tiny.KEY)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def sign_again(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest as someone could who has the key."""
    manifest = json.loads((folder / bundles.MANIFEST).read_bytes())
    change(manifest)
    body = msgspec.json.encode(manifest)
    (folder / bundles.MANIFEST).write_bytes(body)
    (folder / bundles.SIGNATURE).write_text(sign(body, tiny.KEY))


def test_bundle_round_trip_keeps_lineage_and_labels(bundle: Path) -> None:
    manifest = verify_bundle(bundle, tiny.KEY)
    assert manifest.lineage == LINEAGE
    assert manifest.max_tokens == tiny.MAX_TOKENS
    model = load_bundle(bundle, tiny.KEY, version="7")
    assert model.version == "7"
    assert model.labels == tiny.LABELS
    assert model.encoder.max_tokens == tiny.MAX_TOKENS


@pytest.mark.slow
def test_loading_reuses_encoder_only_when_identical(bundle: Path) -> None:
    assert load_bundle(bundle, tiny.KEY, encoder=tiny.encoder()).encoder is tiny.encoder()
    assert load_bundle(bundle, tiny.KEY, encoder=tiny.classifier()).encoder is not tiny.classifier()


@pytest.mark.parametrize("name", ["head.skops", f"encoder/{MODEL}", "encoder/tokenizer.json"])
@pytest.mark.parametrize("change", ["altered", "missing"])
def test_altered_or_missing_file_is_named_in_error(bundle: Path, name: str, change: str) -> None:
    path = bundle / name
    body = path.read_bytes()
    path.unlink()  # the encoder's files are hard links
    if change == "altered":
        path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name} of the bundle .* is missing or was altered"):
        load_bundle(bundle, tiny.KEY)


def test_an_altered_manifest_is_refused(bundle: Path) -> None:
    path = bundle / bundles.MANIFEST
    path.write_bytes(path.read_bytes().replace(b"alert-1", b"alert-2"))
    with pytest.raises(BundleError, match="not signed with this key"):
        verify_bundle(bundle, tiny.KEY)


def test_another_key_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="DRIFTLOOP_SIGNING_KEY"):
        verify_bundle(bundle, "another key")


def test_an_extra_file_is_refused(bundle: Path) -> None:
    (bundle / "encoder" / "extra.py").write_text("print(1)")
    with pytest.raises(BundleError, match=r"does not name: encoder/extra\.py"):
        verify_bundle(bundle, tiny.KEY)


@pytest.mark.parametrize("name", [bundles.MANIFEST, bundles.SIGNATURE])
def test_a_bundle_without_manifest_or_signature_is_incomplete(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="is incomplete"):
        verify_bundle(bundle, tiny.KEY)
    with pytest.raises(BundleError, match="is incomplete"):
        verify_bundle(bundle.parent / "nowhere", tiny.KEY)


def test_newer_bundle_format_is_refused(bundle: Path) -> None:
    sign_again(bundle, lambda manifest: manifest.update(format=2))
    with pytest.raises(BundleError, match="does not fit this version of driftloop"):
        verify_bundle(bundle, tiny.KEY)


@pytest.mark.parametrize("analyzer", ["word", "char"])
def test_stored_head_keeps_vocabulary_and_predictions(tmp_path: Path, analyzer: str) -> None:
    texts = ["good\n news", 'bad "news"', "good \u00e9t\u00e9", "bad, bad"] * 3
    vectorizer = TfidfVectorizer(analyzer=analyzer).fit(texts)
    head = Head(LogisticRegression(), vectorizer)
    embeddings = np.ones((len(texts), 2), dtype=np.float32)
    head.estimator.fit(head.features(texts, embeddings), [text[:3] for text in texts])
    head.save(tmp_path / "head.skops")
    assert vectorizer.vocabulary_, "it can go on"
    stored = load_head(tmp_path / "head.skops")
    assert stored.vectorizer is not None and stored.vectorizer.vocabulary_ == vectorizer.vocabulary_
    np.testing.assert_array_equal(stored.predict_proba(texts, embeddings), head.predict_proba(texts, embeddings))


def test_head_without_vocabulary_is_not_loaded(tmp_path: Path) -> None:
    vectorizer = TfidfVectorizer().fit(["a text of words"])
    del vectorizer.vocabulary_
    skops.io.dump({"estimator": LogisticRegression(), "vectorizer": vectorizer}, tmp_path / "head.skops")
    with pytest.raises(ValueError, match="Expecting value"):
        load_head(tmp_path / "head.skops")


def test_untrusted_type_in_head_is_not_loaded(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle", Foreign())
    assert any("Foreign" in str(name) for name in skops.io.get_untrusted_types(file=folder / "head.skops"))
    with pytest.raises(BundleError, match=r"not safe to load: .*Foreign"):
        load_bundle(folder, tiny.KEY)


def test_model_failing_its_canary_is_not_loaded(bundle: Path) -> None:
    def turn(manifest: dict) -> None:
        manifest["canary"]["probabilities"] = [row[::-1] for row in manifest["canary"]["probabilities"]]

    sign_again(bundle, turn)
    verify_bundle(bundle, tiny.KEY)
    with pytest.raises(BundleError, match="answers its canary texts differently"):
        load_bundle(bundle, tiny.KEY)


def test_copied_bundle_has_same_digest_and_predictions(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    assert bundles.manifest_digest(tmp_path / "copy") == bundles.manifest_digest(bundle)
    texts = tiny.sentences(5)[0]
    np.testing.assert_array_equal(
        load_bundle(tmp_path / "copy", tiny.KEY).predict(texts).probabilities,
        load_bundle(bundle, tiny.KEY).predict(texts).probabilities,
    )


def test_a_draft_signs_all_its_changes_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = verify_bundle(bundle, tiny.KEY)
    written = []
    write_manifest = bundle_draft.write_signed_manifest
    monkeypatch.setattr(bundle_draft, "write_signed_manifest", lambda *given: written.append(write_manifest(*given)))
    draft = BundleDraft.open(bundle)
    draft.set_encoder(tiny.classifier())
    with pytest.raises(BundleError, match="missing or was altered"):
        verify_bundle(bundle, tiny.KEY)
    draft.set_quantisation(QUANTISATION)
    draft.set_first_stage(STAGE, CALIBRATION)
    assert not written
    signed = draft.sign(tiny.KEY)
    assert len(written) == 1
    after = verify_bundle(bundle, tiny.KEY)
    assert after == signed == draft.manifest
    assert (after.encoder_digest, after.quantisation) == (tiny.classifier().files_digest, QUANTISATION)
    assert (after.lineage, after.labels, after.canary.texts) == (before.lineage, before.labels, before.canary.texts)
    assert after.created_at > before.created_at and after.files["head.skops"] == before.files["head.skops"]
    model = load_bundle(bundle, tiny.KEY)
    assert model.cascade == CALIBRATION and model.first_stage is not None


def test_a_draft_without_a_change_is_not_written(bundle: Path) -> None:
    pair = bundle / bundles.MANIFEST, bundle / bundles.SIGNATURE
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in pair]
    draft = BundleDraft.open(bundle)
    assert draft.sign("another key") == verify_bundle(bundle, tiny.KEY)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in pair] == before


def test_draft_does_not_sign_files_changed_outside(bundle: Path) -> None:
    """A file that was altered behind a draft's back keeps the digest of the manifest, and is refused."""
    draft = BundleDraft.open(bundle)
    draft.set_quantisation(QUANTISATION)
    (bundle / "head.skops").write_bytes(b"another head")
    draft.sign(tiny.KEY)
    with pytest.raises(BundleError, match=r"head\.skops of the bundle .* is missing or was altered"):
        verify_bundle(bundle, tiny.KEY)
