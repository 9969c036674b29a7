"""Free loopback ports, outside the range that the kernel hands to outgoing connections."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Mapping, Sequence

from driftloop.core.errors import DriftloopError

HOST = "127.0.0.1"
RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def listening(port: int) -> bool:
    """Whether something accepts connections on ``port``."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """A free port that is not in ``taken``.

    Raises:
        DriftloopError: none was found.
    """
    for _ in range(2000):
        # Not the seeded generator: two processes with the same seed would want the same port.
        port = random.SystemRandom().choice(RANGE)
        if port not in taken and is_free(port):
            return port
    raise DriftloopError(f"No free port between {RANGE.start} and {RANGE.stop} on {HOST}: end what holds them.")


def choose(
    names: Sequence[str], requested: Mapping[str, int], recorded: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """One port for each name: the requested one, else the recorded one while it is free, else any free one.

    Returns the ports, and the names whose recorded port was taken by somebody else.

    Raises:
        DriftloopError: a requested port is in use.
    """
    chosen: dict[str, int] = {}
    moved: list[str] = []
    for name in names:
        asked = requested.get(name)
        if asked is not None:
            if not is_free(asked):
                raise DriftloopError(
                    f"Port {asked}, asked for {name}, is in use: end the process that listens there or choose another."
                )
            chosen[name] = asked
            continue
        known = recorded.get(name)
        if known is not None and is_free(known):
            chosen[name] = known
            continue
        if known is not None:
            moved.append(name)
        chosen[name] = free_port({*chosen.values(), *requested.values(), *recorded.values()})
    return chosen, moved
