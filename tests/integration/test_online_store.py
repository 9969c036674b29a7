"""The online store at the moments when a real server is not what it usually is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from driftloop.core import online_store
from driftloop.core.errors import DriftloopError
from driftloop.core.online_store import OnlineStore, connect
from driftloop.core.settings import Settings
from driftloop.devstack import valkey_process
from driftloop.devstack.ports import HOST, free_port

KEYS = 3000


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Settings]:
    """A Valkey that has some seconds of loading before it, as one with millions of keys has."""
    settings = Settings(redis=f"redis://{HOST}:{free_port()}/0", stream="s")
    port = int(settings.redis.rpartition(":")[2].partition("/")[0])
    client = connect(settings, retry=Retry(NoBackoff(), 0))
    with valkey_process.prepare(tmp_path / "data", tmp_path / "log", port) as child:
        while not valkey_process.ready(settings, child.pid):
            time.sleep(0.05)
        for number in range(KEYS):
            client.set(f"key {number}", "a value")
        client.bgrewriteaof()  # it looks at its clients while it loads this form of its data
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)
    slow = valkey_process.prepare(tmp_path / "data", tmp_path / "log", port)
    slow.argv += ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]
    with slow:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                client.ping()
            except redis.BusyLoadingError:
                break
            except redis.RedisError:
                time.sleep(0.01)
        else:
            pytest.fail("it was never seen loading")
        yield settings


def test_loading_server_is_waited_for(loading: Settings) -> None:
    made = OnlineStore(loading)
    made.check()
    assert made.client.dbsize() == KEYS


def test_loading_beyond_timeout_is_an_error(loading: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_store, "LOADING_TIMEOUT", 0.1)
    with pytest.raises(DriftloopError, match=r"No Redis answers at redis://127.0.0.1:\d+/0 \(.*loading"):
        OnlineStore(loading).check()
