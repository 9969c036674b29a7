"""Database of an audit: the messages of a stream as rows of a temporary SQLite file.

Rows are counted by key. A message that was delivered twice is one row. Of two messages that differ under one key the
second is a violation. The memory does not grow with the number of events.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

CACHE_KIB = 64 * 1024
TABLES = """
    CREATE TABLE events (part INTEGER, at INTEGER, id TEXT, pending INTEGER, PRIMARY KEY (part, at)) WITHOUT ROWID;
    CREATE TABLE dead (topic TEXT, part INTEGER, at INTEGER, PRIMARY KEY (topic, part, at)) WITHOUT ROWID;
    CREATE TABLE undecodable (topic TEXT, part INTEGER, at INTEGER, pending INTEGER);
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
    """Takes rows topic by topic in any number of batches, then `match_dead_letters`, then queries."""

    def __init__(self, folder: Path) -> None:
        self._file = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}", "temp_store = FILE"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.executescript(TABLES)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add_events(self, rows: Iterable[tuple[Place, str | None, bool]]) -> None:
        """Add rows `(place, event id, pending)`.

        The event id is `None` if the message is undecodable. `pending` is True while the scorer has not acknowledged
        it.
        """
        self._many(
            "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)",
            # A message without an id gets its place as bytes, which are equal to no text and so to no id.
            ((*place, f"{place[0]}:{place[1]}".encode() if i is None else i, pending) for place, i, pending in rows),
        )

    def add_dead(self, rows: Iterable[tuple[str, Place]]) -> None:
        """Add rows `(topic, place)` of the messages that became dead letters."""
        self._many("INSERT OR IGNORE INTO dead VALUES (?, ?, ?)", ((topic, *place) for topic, place in rows))

    def add_undecodable(self, rows: Iterable[tuple[str, Place, bool]]) -> None:
        """Add rows `(topic, place, pending)` of undecodable predictions and labels.

        `pending` is True while the monitor has not acknowledged them.
        """
        self._many(
            "INSERT INTO undecodable VALUES (?, ?, ?, ?)", ((topic, *place, later) for topic, place, later in rows)
        )

    def add_predictions(self, rows: Iterable[tuple[str, bytes, bool, float]]) -> None:
        """Add rows `(event_id, prediction_digest, pending, predicted_at)`.

        `pending` is True while the monitor has not acknowledged the prediction; `predicted_at` is Unix seconds.
        """
        self._many(
            "INSERT INTO predictions VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET "
            "pending = min(pending, excluded.pending), others = others + (body <> excluded.body)",
            rows,
        )

    def add_labels(self, rows: Iterable[tuple[str, bool]]) -> None:
        """Add rows `(event_id, pending)`; `pending` is True while the monitor has not acknowledged the label."""
        self._many(
            "INSERT INTO labels VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET pending = min(pending, excluded.pending)",
            rows,
        )

    def add_outcomes(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Add rows `(event_id, outcome_digest)`."""
        self._many(
            "INSERT INTO outcomes VALUES (?, ?, 0) "
            "ON CONFLICT (id) DO UPDATE SET others = others + (body <> excluded.body)",
            rows,
        )

    def match_dead_letters(self, events: str) -> None:
        """Join the events of the topic ``events`` (its full name) with their dead letters. Call it before any query."""
        create, index = ENTRIES.strip().split(";")[:2]
        self._file.execute(create, (events,))
        self._file.execute(index)

    def count(self, rows: str) -> int:
        """Return the number of rows of a query; ``rows`` is its part after FROM."""
        return int(self._file.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])  # noqa: S608 - our own

    def first_values(self, number: int, column: str, rows: str) -> list[str]:
        """Return the first values of a column, in their order.

        Args:
            number: Most values.
            column: Column of the query.
            rows: Part of the query after FROM.
        """
        query = f"SELECT {column} FROM {rows} ORDER BY 1 LIMIT {number}"  # noqa: S608 - our own
        found = (row[0] for row in self._file.execute(query))
        return [f"(no event) {one.decode()}" if isinstance(one, bytes) else str(one) for one in found]

    def predictions_since(self, since: float, size: int) -> Iterator[list[tuple[str, bytes]]]:
        """Yield event ids and digests of predictions.

        Args:
            since: Unix seconds after which they were made.
            size: Most predictions at a time.
        """
        rows = self._file.execute("SELECT id, body FROM predictions WHERE predicted_at > ?", (since,))
        while part := rows.fetchmany(size):
            yield part

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._file.execute("BEGIN")
        self._file.executemany(statement, rows)
        self._file.execute("COMMIT")
