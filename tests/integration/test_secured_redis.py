"""The online store with a user of its own, and over TLS: what it lets through, and what it refuses.

The wheel's Valkey is built without TLS, so here a socket that speaks it stands before the server, as a managed Redis'
own would: what is tested is that driftloop's side asks for it and checks it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.errors import DriftloopError
from driftloop.core.online_store import OnlineStore
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.devstack import certificates, valkey_process
from driftloop.devstack.credentials import REDIS, Credentials
from driftloop.devstack.ports import HOST, free_port
from tests.integration.test_embedded import eventually

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Locked:
    """A Valkey with users, and the settings that reach it."""

    child: ManagedProcess
    credentials: Credentials
    settings: Settings


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    credentials = Credentials.create(folder / "secrets")
    port = free_port()
    reached = Settings(redis=f"redis://{HOST}:{port}/0", stream="s")
    known = replace(reached, redis_user="driftloop", redis_password=credentials.password(REDIS))
    with valkey_process.prepare(folder / "valkey", folder / "log", port, credentials=credentials) as child:
        assert eventually(lambda: valkey_process.ready(known, child.pid)), child.log_tail()
        yield Locked(child, credentials, known)


@pytest.fixture
def over_tls(locked: Locked) -> Iterator[Settings]:
    """The same server behind a socket that speaks TLS with the run's own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(locked.credentials.folder / "broker.pem")
    port = int(locked.settings.redis.rpartition(":")[2].partition("/")[0])
    listener = socket.create_server((HOST, 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while body := source.recv(65_536):
                target.sendall(body)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()

    def serve() -> None:
        while True:
            try:
                outer, _ = listener.accept()
            except OSError:
                return
            outer.settimeout(10)
            try:
                outer = context.wrap_socket(outer, server_side=True)
            except OSError:
                outer.close()
                continue
            inner = socket.create_connection((HOST, port))
            for ends in ((outer, inner), (inner, outer)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    address = f"rediss://{HOST}:{listener.getsockname()[1]}/0"
    yield replace(locked.settings, redis=address, redis_ca_file=str(locked.credentials.folder / "ca.pem"))
    listener.close()


def works(settings: Settings) -> None:
    """All that the loop does with the store: plain, in a pipeline, in a transaction, and in the scripts of its lock."""
    store = OnlineStore(settings)
    store.check()
    assert store.put_predictions({"e1": b"one"}) in ([True], [False])
    store.save_join(
        "monitor", b"state", b"rows", anew=True, counted=1, joined=["e1"], parked={"e2": b"label"}, unparked=["e3"]
    )
    assert store.predictions(["e1"]) == [b"one"] and store.joined(["e1", "e2"]) == {"e1"}
    lease = LeaderLease(store, "retrainer", 1.0)
    assert lease.acquire(lambda: False, print, lambda: 0)
    lease._lock.reacquire()
    lease.release()
    assert store.client.get(store.key("lock", "retrainer")) is None


def test_redis_user_may_do_all_loop_operations(locked: Locked) -> None:
    works(locked.settings)


def test_redis_user_works_over_tls(over_tls: Settings) -> None:
    works(over_tls)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"redis_password": "guessed"}, "rejects the password"),
        ({"redis_user": "stranger"}, "rejects the password"),
        ({"redis_user": "default"}, "rejects the password"),
        (
            {"redis_user": "", "redis_password": ""},
            r"set DRIFTLOOP_REDIS_PASSWORD \(or DRIFTLOOP_REDIS_PASSWORD_FILE\)",
        ),
    ],
)
def test_wrong_redis_credentials_are_refused(locked: Locked, change: dict[str, str], words: str) -> None:
    """The error names the cause or the setting, and never shows the password."""
    with pytest.raises(DriftloopError, match=words) as caught:
        OnlineStore(replace(locked.settings, **change)).check()  # type: ignore[arg-type]
    assert "guessed" not in str(caught.value)


def test_untrusted_certificate_and_missing_tls_are_refused(over_tls: Settings, tmp_path: Path) -> None:
    """The control is the test over TLS above."""
    other = certificates.issue_certificates(tmp_path).ca
    for ca_file in (str(other), "", str(tmp_path / "none.pem")):
        with pytest.raises(DriftloopError, match=r"cannot be reached over TLS .* set DRIFTLOOP_REDIS_CA_FILE"):
            OnlineStore(replace(over_tls, redis_ca_file=ca_file)).check()
    with pytest.raises(DriftloopError, match="or to rediss:// for TLS"):
        OnlineStore(replace(over_tls, redis=over_tls.redis.replace("rediss", "redis"))).check()


@pytest.mark.parametrize(
    "command",
    [
        "KEYS driftloop:*", "SCAN 0", "FLUSHALL", "FLUSHDB", "CONFIG GET *", "ACL LIST", "CLIENT LIST",
        "SHUTDOWN", "SAVE", "MONITOR", "REPLICAOF NO ONE", "MODULE LIST", "SUBSCRIBE a", "SCRIPT FLUSH", "RENAME a b",
        "SET other 1", "GET other", "MGET driftloop:s:a other", "DEL other", "EVAL return(redis.call('get','other')) 0",
    ],
)  # fmt: skip
def test_other_commands_and_keys_are_refused(locked: Locked, command: str) -> None:
    with pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError), match=r"(?i)no ?perm|permission|ACL"):
        OnlineStore(locked.settings).client.execute_command(*command.split(" "))


def test_password_is_absent_from_command_line_and_acl(locked: Locked) -> None:
    secret = locked.credentials.password(REDIS)
    assert secret not in " ".join(locked.child.argv)
    assert secret not in (locked.credentials.folder / "redis.acl").read_text()
    assert {file.stat().st_mode & 0o077 for file in locked.credentials.folder.iterdir()} == {0}
