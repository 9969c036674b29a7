"""An office that one process holds at a time: others wait for it, and a holder that was paused learns that it is out.

The holder renews a lock in Redis that expires by itself. A process that was stopped for longer than that cannot tell by
looking at the lock whether it was held in between, but its own clock tells it, before each act, how long ago it last
renewed it. Whoever takes office gets a number greater than all before it, the fencing token, which goes out with what
it writes, so that readers pass over what a predecessor still had on its way (Kleppmann, How to do distributed locking,
2016).
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
"""Seconds between two attempts of one who waits."""


class LeaderLease:
    """The office ``name`` of a stream; it is lost when it was not renewed for ``seconds``."""

    def __init__(self, store: OnlineStore, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._store = store
        self._lock: Any = store.client.lock(store.key("lock", name), timeout=seconds, thread_local=False)
        self._renewed = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name=f"lease-{name}")
        self.fence = 0
        """The fencing token, 0 before the office is taken."""

    def acquire(self, stopped: Callable[[], bool], say: Callable[[str], None], seen: Callable[[], int]) -> bool:
        """Wait for the office; False where ``stopped`` came first. ``seen`` is the greatest token that readers know."""
        told: _Holder | None = None
        while not stopped():
            if self._try_acquire():
                self._thread.start()
                self.fence = self._next_fence(seen())
                return True
            holder = self._holder()
            if holder is not None and holder != told:
                told = holder
                say(f"process {holder.pid} on {holder.host} is the {self._name} of this stream: waiting until it ends")
            if holder is not None and holder.is_dead:
                self._remove_dead(holder)
                continue
            time.sleep(RETRY_EVERY)
        return False

    @property
    def held(self) -> bool:
        """Whether nobody else can have taken the office."""
        return time.monotonic() - self._renewed < self._seconds

    def check(self) -> None:
        """Raise a `DriftloopError` where the office may be another's by now."""
        if not self.held:
            raise DriftloopError(
                f"This process was out of touch for more than {self._seconds:g} s, and another one may be the "
                f"{self._name} of the stream by now: nothing was written. Start it again."
            )

    def release(self) -> None:
        """Give the office back."""
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
        """Greater than every token before it, also where Redis was emptied in between or a clock was set back."""
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
            except LockError:  # it expired, or the store was emptied
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
        """Remove the lock of a dead process, where it is still its."""
        stale = self._store.client.lock(self._store.key("lock", self._name), thread_local=False)
        stale.local.token = holder.token.encode()
        with suppress(LockError):
            stale.release()


class _Holder(NamedTuple):
    """Who wrote a token into the lock: a process, told from an earlier one with its id by when it was born."""

    host: str
    pid: str
    started: str
    at: str

    @classmethod
    def read(cls, found: bytes) -> _Holder:
        """From what the lock holds, whoever wrote it."""
        parts = str(found, "utf-8", "replace").split("|", 3)
        return cls(*parts, *[""] * (4 - len(parts)))

    @property
    def token(self) -> str:
        """As it stands in the lock."""
        return "|".join(self)

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine that has ended; of other machines nothing is known."""
        return (
            self.host == socket.gethostname() and self.pid.isdigit() and _process_start_time(int(self.pid)) != self.started
        )


def _process_start_time(pid: int) -> str:
    """What tells a process from an earlier one with its id, whatever the clock does meanwhile; empty: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # clock ticks since the boot
    except OSError:
        return "there" if psutil.pid_exists(pid) else ""
