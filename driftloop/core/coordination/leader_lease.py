"""Leader lease in Redis: one process holds it, the others wait.

The holder renews a lock in Redis that expires by itself. A process that was paused for longer than the expiry cannot
see in the lock whether another process has held it. Before each write it therefore checks by its own clock when it last
renewed the lock. Each new holder gets a fencing token that is greater than all earlier ones and sends it with its
messages. Readers drop late messages of an earlier holder by its smaller token (Kleppmann, How to do distributed
locking, 2016).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import redis
from redis.exceptions import LockError

from driftloop.core.errors import DriftloopError
from driftloop.core.online_store import OnlineStore

RETRY_EVERY = 0.5
"""Seconds between two attempts of a waiting process."""


class LeaderLease:
    """Lease for a role of a stream.

    Args:
        store: Redis of the stream.
        name: Name of the role, such as retrainer.
        seconds: Time after which a lease that was not renewed is lost.
    """

    def __init__(self, store: OnlineStore, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._store = store
        self._lock: Any = store.client.lock(store.key("lock", name), timeout=seconds, thread_local=False)
        self._renewed = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name=f"lease-{name}")
        self.fence = 0
        """Fencing token. `0` before the lease is acquired."""

    def acquire(
        self, stopped: Callable[[], bool], report: Callable[[str], None], newest_fence: Callable[[], int]
    ) -> bool:
        """Wait for the lease.

        Args:
            stopped: Returns True if the process is shutting down.
            report: Receives a sentence that names the holder while this process waits.
            newest_fence: Returns the greatest token that readers have seen.

        Returns:
            True if the lease is held, False if ``stopped`` came first.
        """
        reported: _Holder | None = None
        while not stopped():
            if self._try_acquire():
                self._thread.start()
                self.fence = self._next_fence(newest_fence())
                return True
            holder = self._holder()
            if holder is not None and holder != reported:
                reported = holder
                who = f"process {holder.pid} on {holder.host}"
                report(f"{who} is the {self._name} of this stream: waiting until it ends")
            if holder is not None and holder.is_dead:
                self._remove_dead(holder)
                continue
            time.sleep(RETRY_EVERY)
        return False

    @property
    def held(self) -> bool:
        """Return True if no other process can hold the lease."""
        return time.monotonic() - self._renewed < self._seconds

    def check(self) -> None:
        """Check the lease before a write.

        Raises:
            DriftloopError: Another process may hold the lease now.
        """
        if not self.held:
            raise DriftloopError(
                f"This process had no contact to Redis for more than {self._seconds:g} s, and another one may be the "
                f"{self._name} of the stream now: nothing was written. Start it again."
            )

    def release(self) -> None:
        """Release the lease."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.held:
            with suppress(LockError, redis.RedisError):
                self._lock.release()
        self._renewed = float("-inf")

    def _try_acquire(self) -> bool:
        began = time.monotonic()
        mine = _Holder(socket.gethostname(), str(os.getpid()), _process_start_time(os.getpid()), str(time.time_ns()))
        if not self._lock.acquire(blocking=False, token=mine.token):
            return False
        self._renewed = began
        return True

    def _next_fence(self, seen: int) -> int:
        """Return a token greater than all earlier ones, even if Redis was flushed or a clock was set back."""
        key = self._store.key("fence", self._name)
        token = max(int(self._store.client.get(key) or 0) + 1, seen + 1, int(time.time()))
        self._store.client.set(key, token)
        return token

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            began = time.monotonic()
            try:
                if not self.held:
                    return
                self._lock.reacquire()
            except LockError:  # it expired, or Redis was flushed
                if not self._try_acquire():
                    self._renewed = float("-inf")
                    return
            except redis.RedisError:
                continue
            self._renewed = began

    def _holder(self) -> _Holder | None:
        found = self._store.client.get(self._store.key("lock", self._name))
        return None if found is None else _Holder.read(found)

    def _remove_dead(self, holder: _Holder) -> None:
        """Remove the lock of a dead process, unless another one holds it now."""
        stale = self._store.client.lock(self._store.key("lock", self._name), thread_local=False)
        stale.local.token = holder.token.encode()
        with suppress(LockError):
            stale.release()


class _Holder(NamedTuple):
    """Process that holds the lock. The start time distinguishes it from an earlier process with the same id."""

    host: str
    pid: str
    started: str
    at: str

    @classmethod
    def read(cls, found: bytes) -> _Holder:
        """Parse the untrusted content of the lock."""
        parts = str(found, "utf-8", "replace").split("|", 3)
        return cls(*parts, *[""] * (4 - len(parts)))

    @property
    def token(self) -> str:
        """Content of the lock."""
        return "|".join(self)

    @property
    def is_dead(self) -> bool:
        """Return True if it was a process of this machine that has ended. Other machines are unknown."""
        here = self.host == socket.gethostname() and self.pid.isdigit()
        return here and _process_start_time(int(self.pid)) != self.started


def _process_start_time(pid: int) -> str:
    """Return the start of a process in clock ticks since the boot. Empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "there" if psutil.pid_exists(pid) else ""
