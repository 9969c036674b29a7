"""Free loopback ports, outside the range that the kernel uses for outgoing connections."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Mapping, Sequence

from driftloop.core.errors import DriftloopError

HOST = "127.0.0.1"
RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Return True if a server could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def listening(port: int) -> bool:
    """Return True if a server accepts connections on ``port``."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """Return a free port that is not in ``taken``.

    Raises:
        DriftloopError: no free port was found.
    """
    for _ in range(2000):
        # Not the seeded generator: two processes with the same seed would choose the same port.
        port = random.SystemRandom().choice(RANGE)
        if port not in taken and is_free(port):
            return port
    raise DriftloopError(
        f"No free port between {RANGE.start} and {RANGE.stop} on {HOST}: end the processes that use them."
    )


def choose_ports(
    names: Sequence[str], requested: Mapping[str, int], recorded: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Choose a port for each name: the requested one, otherwise the recorded one if it is free, otherwise any free one.

    Args:
        names: Names that need a port.
        requested: Requested ports by name.
        recorded: Ports of an earlier start by name.

    Returns:
        The ports by name, and the names whose recorded port is in use by another process.

    Raises:
        DriftloopError: a requested port is in use.
    """
    chosen: dict[str, int] = {}
    moved: list[str] = []
    for name in names:
        wanted = requested.get(name)
        if wanted is not None:
            if not is_free(wanted):
                raise DriftloopError(
                    f"Port {wanted}, requested for {name}, is in use: end the process that listens there or choose "
                    "another."
                )
            chosen[name] = wanted
            continue
        known = recorded.get(name)
        if known is not None and is_free(known):
            chosen[name] = known
            continue
        if known is not None:
            moved.append(name)
        chosen[name] = free_port({*chosen.values(), *requested.values(), *recorded.values()})
    return chosen, moved
