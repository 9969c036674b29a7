"""Records a stream as this version writes it, for later versions to read: `python tests/recorded/record.py FOLDER`.

The stream is one that has run, at the addresses in DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS and DRIFTLOOP_MLFLOW (those that
`driftloop simulate --keep` names). Into the folder go the newest messages of every topic, the monitor's stored state,
the champion's manifest with its signature, and `messages.py`: the reader as it was.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from driftloop.core import messages, topics
from driftloop.core.kafka import clients
from driftloop.core.models.bundle import MANIFEST, SIGNATURE
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.settings_source import load
from stream_processors.drift.drift_monitor import DriftMonitor

MOST = 40
MOST_BYTES = 25_000
"""Newest messages of a topic that are kept: their number, and their size together."""
CUT = b"was pickled"


def record(settings: Settings, folder: Path) -> None:
    """Write the stream of ``settings`` into ``folder``."""
    folder.mkdir(parents=True)
    for topic in topics.ALL:
        with clients.assigned_consumer(settings, topics.name(settings, topic)) as client:
            ends = client.end_offsets(list(client.assignment()))
            lines: list[bytes] = []
            while any(client.position(tp) < end for tp, end in ends.items()):
                lines += [raw.value or b"" for found in client.poll(timeout_ms=500).values() for raw in found]
        good = [line for line in lines if _readable(topic.message, line)]
        (folder / f"{topic.name}.jsonl").write_bytes(b"\n".join(_newest_lines(good)) + b"\n")
    state, rows = OnlineStore(settings).state(MONITOR_STATE)
    newest = _newest(rows)
    (folder / "monitor.rows").write_bytes(newest)
    (folder / "monitor.state").write_bytes(_shortened(state or b"", newest, settings.signing_key))
    registry = Registry(settings)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = registry.download(registry.champion() or "", Path(scratch))
        for name in (MANIFEST, SIGNATURE):
            shutil.copyfile(bundle / name, folder / name)
    shutil.copyfile(str(messages.__file__), folder / "messages.py")


def _newest_lines(lines: Sequence[bytes]) -> list[bytes]:
    """The newest lines that are allowed, in their order. One that is too long by itself is left out."""
    kept: list[bytes] = []
    for line in reversed(lines):
        if len(kept) < MOST and sum(map(len, kept)) + len(line) <= MOST_BYTES:
            kept.insert(0, line)
    return kept


def _newest(stored: Sequence[bytes]) -> bytes:
    """The last of the monitor's observations, as one part."""
    watch = DriftMonitor((), "")
    watch.restore(watch.save(), stored)
    watch._labelled.replace(list(watch._labelled)[-5:])
    watch._predicted.replace(list(watch._predicted)[-5:])
    return watch.rows()


def _shortened(stored: bytes, rows: bytes, key: str) -> bytes:
    """The monitor's state without what is pickled, which is most of it, and as if it had seen ``rows``."""
    state = msgspec.msgpack.decode(stored[32:]) | {"rows": [hashlib.sha256(rows).digest()]}
    watch = msgspec.msgpack.decode(state["watch"])
    watch["blocks"] = watch["blocks"][-5:]
    watch["fused"] = dict.fromkeys(watch["fused"], CUT)
    watch["estimate"] = CUT
    watch["made_by"] = "a recorded version"  # or a reader of the very same one would try what was cut
    body = msgspec.msgpack.encode(state | {"watch": msgspec.msgpack.encode(watch)})
    return hmac.digest(key.encode(), body, hashlib.sha256) + body


def _readable(kind: type[messages.Message], line: bytes) -> bool:
    try:
        messages.decode(kind, line)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    record(load(), Path(sys.argv[1]))
