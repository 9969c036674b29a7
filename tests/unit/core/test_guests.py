"""Guests of a mixture: heads and networks among its experts, in its bundle and in its updates."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import BundleError, Lineage, load_bundle, verify_bundle, write_bundle
from driftloop.core.models.guest import Guest, load_guest
from driftloop.core.models.head import Head
from driftloop.core.models.manifest import read_manifest, write_signed_manifest
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.mixture_update import UpdateSeries, apply_update
from tests import tiny

ROWS = tiny.window(80)


def head_guest(name: str = "tpot") -> Guest:
    head = Head(LogisticRegression().fit(ROWS.embeddings, np.asarray(ROWS.labels)))
    return Guest(name, head.classes, head)


def network_guest() -> Guest:
    return Guest("finetune", tuple(tiny.LABELS), tiny.classifier())


def with_guests(*guests: Guest, weight: float = 0.5) -> MixtureHead:
    head = tiny.mixture(ROWS)[1]
    for guest in guests:
        head.mixture.add_guest(guest.name, weight)
    return MixtureHead(head.mixture, head.feature_map, head.tokenise, guests)


def write(folder: Path, head: MixtureHead) -> Path:
    lineage = Lineage(candidate="mixture")
    write_bundle(folder, encoder=tiny.encoder(), head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    return folder


def test_guest_counts_by_its_weight() -> None:
    """Without an answer of the guest its share is spread evenly over the classes."""
    plain, guest = tiny.mixture(ROWS)[1], head_guest()
    alone = plain.predict_proba(ROWS.texts, ROWS.embeddings)
    joined = with_guests(guest, weight=0.25)
    own = guest.predict_proba(ROWS.texts, ROWS.embeddings, joined.classes)
    assert np.allclose(joined.predict_proba(ROWS.texts, ROWS.embeddings), 0.75 * alone + 0.25 * own, atol=1e-5)
    unasked = joined.features(ROWS.texts, ROWS.embeddings, ask_guests=False)
    even = joined.mixture.predict_proba(unasked)
    assert np.allclose(even, 0.75 * alone + 0.25 / len(joined.classes), atol=1e-5)


def test_removed_guest_leaves_the_others_as_they_were() -> None:
    before = tiny.mixture(ROWS)[1].mixture
    mixture = with_guests(head_guest("a"), head_guest("b")).mixture
    assert mixture.guests == ("a", "b") and mixture.weights.sum() == pytest.approx(1)
    mixture.add_guest("a", 0.1)
    assert mixture.guests == ("b", "a") and mixture.weights[-1] == pytest.approx(0.1)
    mixture.remove_guest("b")
    mixture.remove_guest("a")
    mixture.remove_guest("online")
    assert mixture.names == before.names and np.allclose(mixture.weights, before.weights)
    assert (mixture.words == before.words).all() and mixture.guests == ()


def test_guest_knows_some_classes_of_the_mixture() -> None:
    guest = head_guest()
    found = guest.predict_proba(ROWS.texts, ROWS.embeddings, ("new", *guest.labels[::-1]))
    assert (found[:, 0] == 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-5)
    straight = guest.predict_proba(ROWS.texts, ROWS.embeddings, guest.labels)
    assert np.allclose(found[:, :0:-1], straight)


def test_bundle_keeps_heads_and_networks(tmp_path: Path) -> None:
    made = with_guests(head_guest(), network_guest(), weight=0.3)
    bundle = write(tmp_path / "bundle", made)
    model = load_bundle(bundle, tiny.KEY)
    assert isinstance(model.head, MixtureHead)
    assert model.head.mixture.guests == ("tpot", "finetune") and model.passes == 1
    expected = made.predict_proba(ROWS.texts, ROWS.embeddings)
    assert np.allclose(model.predict(ROWS.texts, ROWS.embeddings).probabilities, expected, atol=1e-5)
    again = write(tmp_path / "again", model.head)
    assert np.allclose(load_bundle(again, tiny.KEY).predict(ROWS.texts).probabilities, expected, atol=0.02)


@pytest.mark.parametrize("name", ["guest-0/head.skops", "guest-1/model.onnx", "guest-1/tokenizer.json"])
def test_altered_guest_is_not_loaded(tmp_path: Path, name: str) -> None:
    bundle = write(tmp_path / "bundle", with_guests(head_guest(), network_guest()))
    verify_bundle(bundle, tiny.KEY)
    body = (bundle / name).read_bytes()
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="missing or was altered"):
        load_bundle(bundle, tiny.KEY)
    (bundle / name).write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(BundleError, match="missing or was altered"):
        load_bundle(bundle, tiny.KEY)


def test_guest_must_fit_its_description(tmp_path: Path) -> None:
    """The thief of a key signs whatever he likes: it is checked all the same."""
    bundle = write(tmp_path / "bundle", with_guests(head_guest()))
    manifest = read_manifest(bundle)
    (info,) = manifest.guests
    for guests, why in (
        ([msgspec.structs.replace(info, name="unknown")], "not among the experts"),
        ([msgspec.structs.replace(info, labels=["x", "y"])], "other classes"),
        ([msgspec.structs.replace(info, head="logits")], "guest-0"),
        ([], "guest-0"),
    ):
        write_signed_manifest(bundle, msgspec.structs.replace(manifest, guests=guests), tiny.KEY)
        with pytest.raises(BundleError, match=why):
            load_bundle(bundle, tiny.KEY)


def test_network_without_logits_is_no_guest(tmp_path: Path) -> None:
    info = Guest("a", ("x", "y"), tiny.encoder()).save(tmp_path / "guest")
    with pytest.raises(ValueError, match="has no logits"):
        load_guest(tmp_path / "guest", info, 1)
    with pytest.raises(ValueError, match="has no logits"):
        Guest("a", ("x", "y"), tiny.encoder()).predict_proba(["a text"], np.zeros((1, 4), np.float32), ["x"])


def test_updates_move_the_weight_of_a_guest_only() -> None:
    head = with_guests(head_guest())
    ahead = head.mixture.copy()
    ahead.weights = np.full(len(ahead.names), 1 / len(ahead.names))
    series = UpdateSeries("s", "1", tiny.KEY)
    update = series.make(ahead, "online", 0, 0.0)
    apply_update(head.mixture, update)
    assert np.allclose(head.mixture.weights, ahead.weights)
    with pytest.raises(ValueError, match="which are others here"):
        apply_update(head.mixture, series.make(ahead, "tpot", 0, 0.0))


def test_classes_after_the_guest_joined_are_added() -> None:
    """The registered mixture knows fewer classes than the one that answers."""
    head = with_guests(head_guest())
    registered = head.mixture.copy()
    head.mixture.add_classes(["new"])
    features = head.features(ROWS.texts, ROWS.embeddings)
    assert features.guests["tpot"].shape[1] == len(registered.classes) + 1
    assert head.mixture.predict_proba(features).shape[1] == registered.predict_proba(features).shape[1] + 1
