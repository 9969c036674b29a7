"""A scorer that has had its model before comes back without the registry; what was altered meanwhile is not used."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from driftloop.core.messages import ModelUpdate
from driftloop.core.models import bundle_cache, champion_follower
from driftloop.core.topics import DEAD_LETTERS, MODEL_UPDATES, PREDICTIONS
from tests.integration.conftest import StreamHarness

NO_REGISTRY = {"DRIFTLOOP_MLFLOW": "http://127.0.0.1:9"}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, world: StreamHarness) -> Path:
    """The folder of the bundles that were fetched before; the exported encoder stays where it is."""
    monkeypatch.setattr(world, "settings", replace(world.settings, scratch_dir=str(world.folder)))
    return world.folder / "models"


def test_cached_bundle_needs_no_registry(world: StreamHarness, cache: Path) -> None:
    world.promote()
    world.send(events=range(10))
    first = world.start("score")
    world.until(lambda: world.count(PREDICTIONS) == 10)
    first.stop()
    world.send(events=range(10, 20))
    again = world.start("score", **NO_REGISTRY)
    world.until(lambda: world.count(PREDICTIONS) == 20)
    again.stop()

    (kept,) = [path for path in cache.iterdir() if len(path.name) == 64]
    (kept / "head.skops").unlink()  # the control: what is not there must be fetched
    world.send(events=range(20, 25))
    third = world.start("score", **NO_REGISTRY)
    world.until(lambda: "No MLflow answers" in third.log_tail())
    assert world.count(PREDICTIONS) == 20


def test_altered_bundle_is_refetched_and_old_removed(
    world: StreamHarness, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote()
    (update,) = [m for m in world.read(MODEL_UPDATES) if isinstance(m, ModelUpdate)]
    mine = bundle_cache.BundleCache(world.settings)
    mine.load(update, None)
    kept = cache / update.digest
    victim = kept / "encoder" / "model.onnx"
    body = bytearray(victim.read_bytes())
    body[1000] ^= 1
    victim.write_bytes(body)  # the same file as in the folder of encoders: both are altered
    assert mine.load(update, None).predict(["great"]).labels
    assert victim.read_bytes() != bytes(body)

    monkeypatch.setattr(bundle_cache, "MAX_BUNDLES", 1)
    world.promote(flipped=True)
    newest = [m for m in world.read(MODEL_UPDATES) if isinstance(m, ModelUpdate)][-1]
    mine.load(newest, None)
    assert not kept.exists() and (cache / newest.digest).is_dir()


@pytest.mark.parametrize("digest", ["", "../../../etc", "x" * 64])
def test_update_with_invalid_digest_is_refused(world: StreamHarness, digest: str) -> None:
    good = world.promote()
    (update,) = [m for m in world.read(MODEL_UPDATES) if isinstance(m, ModelUpdate)]
    world.start("score")
    world.send(events=range(5))
    world.until(lambda: world.count(PREDICTIONS) == 5)
    world.outbox.put("model-updates", "later", replace(update, digest=digest, version="2"))
    world.outbox.flush()
    world.until(lambda: world.count(DEAD_LETTERS) == 1)
    (letter,) = world.read(DEAD_LETTERS)
    assert "without the digest" in letter.error
    world.send(events=range(5, 10))
    world.until(lambda: world.count(PREDICTIONS) == 10)
    assert {p.model_version for p in world.read(PREDICTIONS)} == {good}


def test_mlflow_library_is_loaded_only_before_first_model(
    world: StreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a second, which a scorer that comes back to a model of its shelf would lose."""
    prepared: list[str] = []
    for moment in ("waits", "comes back"):
        monkeypatch.setattr(bundle_cache.BundleCache, "prepare", lambda _shelf, moment=moment: prepared.append(moment))
        follower = champion_follower.ChampionFollower(world.settings)
        follower.start()
        try:
            if moment == "waits":
                world.until(lambda: prepared)
                world.promote()
            assert follower.current().version
        finally:
            follower.close()
    assert set(prepared) == {"waits"}
