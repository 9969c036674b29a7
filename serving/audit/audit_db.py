"""The ledger of a stream: what became of each event, kept in a file, so that a million events need no more memory.

Everything is counted by key, as every keyed view counts: a message that came twice is one, and of two that differ under
one key the second is a fault.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

CACHE_KIB = 64 * 1024
TABLES = """
    CREATE TABLE events (part INTEGER, at INTEGER, id TEXT, pending INTEGER, PRIMARY KEY (part, at)) WITHOUT ROWID;
    CREATE TABLE dead (topic TEXT, part INTEGER, at INTEGER, PRIMARY KEY (topic, part, at)) WITHOUT ROWID;
    CREATE TABLE unread (topic TEXT, part INTEGER, at INTEGER, pending INTEGER);
    CREATE TABLE predictions
        (id TEXT PRIMARY KEY, body BLOB, pending INTEGER, predicted_at REAL, others INTEGER)
        WITHOUT ROWID;
    CREATE TABLE labels (id TEXT PRIMARY KEY, pending INTEGER) WITHOUT ROWID;
    CREATE TABLE outcomes (id TEXT PRIMARY KEY, body BLOB, others INTEGER) WITHOUT ROWID;
"""
ENTRIES = """
    CREATE TABLE entries AS
        SELECT id, count(*) AS records, sum(dead.at IS NOT NULL) AS dead, min(pending) AS pending
        FROM events LEFT JOIN dead ON dead.topic = ? AND dead.part = events.part AND dead.at = events.at
        GROUP BY id;
    CREATE UNIQUE INDEX entry ON entries (id);
"""

Place = tuple[int, int]
"""Partition and offset."""


class AuditDatabase:
    """Rows are added topic by topic, in any number of batches, and then asked."""

    def __init__(self, folder: Path) -> None:
        self._file = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}", "temp_store = FILE"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.executescript(TABLES)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def add_events(self, rows: Iterable[tuple[Place, str | None, bool]]) -> None:
        """Place, event id (None: not to be decoded), and whether the scorer may still have it before it."""
        self._many(
            "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)",
            # What has no id is known by its place, as bytes: those are equal to no text, whatever an id may be.
            ((*place, f"{place[0]}:{place[1]}".encode() if i is None else i, pending) for place, i, pending in rows),
        )

    def add_dead(self, rows: Iterable[tuple[str, Place]]) -> None:
        """Topic and place of the messages that dead letters stand for."""
        self._many("INSERT OR IGNORE INTO dead VALUES (?, ?, ?)", ((topic, *place) for topic, place in rows))

    def add_unread(self, rows: Iterable[tuple[str, Place, bool]]) -> None:
        """Topic and place of predictions and labels that are none, and whether the monitor has them before it."""
        self._many("INSERT INTO unread VALUES (?, ?, ?, ?)", ((topic, *place, later) for topic, place, later in rows))

    def add_predictions(self, rows: Iterable[tuple[str, bytes, bool, float]]) -> None:
        """Event id, digest of what was said, whether the monitor has it before it, and when it was said."""
        self._many(
            "INSERT INTO predictions VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET "
            "pending = min(pending, excluded.pending), others = others + (body <> excluded.body)",
            rows,
        )

    def add_labels(self, rows: Iterable[tuple[str, bool]]) -> None:
        """Event id, and whether the monitor has it before it."""
        self._many(
            "INSERT INTO labels VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET pending = min(pending, excluded.pending)",
            rows,
        )

    def add_outcomes(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Event id, and digest of the outcome."""
        self._many(
            "INSERT INTO outcomes VALUES (?, ?, 0) "
            "ON CONFLICT (id) DO UPDATE SET others = others + (body <> excluded.body)",
            rows,
        )

    def match_dead_letters(self, events: str) -> None:
        """Bring the events together with their dead letters; ``events`` is their topic. Once, before any question."""
        create, index = ENTRIES.strip().split(";")[:2]
        self._file.execute(create, (events,))
        self._file.execute(index)

    def count(self, what: str) -> int:
        """How many rows ``what`` finds, the part of a query after FROM."""
        return int(self._file.execute(f"SELECT count(*) FROM {what}").fetchone()[0])  # noqa: S608 - our own

    def first(self, number: int, column: str, what: str) -> list[str]:
        """The first values, in their order, of a column of the rows that ``what`` finds."""
        query = f"SELECT {column} FROM {what} ORDER BY 1 LIMIT {number}"  # noqa: S608 - our own
        found = (row[0] for row in self._file.execute(query))
        return [f"(no event) {one.decode()}" if isinstance(one, bytes) else str(one) for one in found]

    def said(self, since: float, size: int) -> Iterator[list[tuple[str, bytes]]]:
        """Event ids and digests of the predictions made ``since`` (Unix time), ``size`` at a time."""
        rows = self._file.execute("SELECT id, body FROM predictions WHERE predicted_at > ?", (since,))
        while part := rows.fetchmany(size):
            yield part

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._file.execute("BEGIN")
        self._file.executemany(statement, rows)
        self._file.execute("COMMIT")
