"""Balances kept by hand, with the bare engines: the log is read in pages and decoded, and what a
batch comes to is added to the rows of its accounts, in one transaction with the checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import psycopg

from bench.data import Posted
from bench.on_leftfold import FULL
from bench.projecting import OnServer, Projecting, fill

BATCH = 1000
_TABLES = (
    "CREATE TABLE balances (account text PRIMARY KEY, cents bigint, postings bigint)",
    "CREATE TABLE checkpoint (position bigint)",
    "INSERT INTO checkpoint VALUES (0)",
)
_UPSERT = """INSERT INTO balances VALUES (?, ?, ?) ON CONFLICT (account) DO UPDATE
 SET cents = balances.cents + excluded.cents, postings = balances.postings + excluded.postings"""
_MOVE = "UPDATE checkpoint SET position = ?"

Page = Sequence[tuple[int, str, bytes]]
Sums = list[tuple[str, int, int]]


def _decode(pages: Iterator[Page], batch: int) -> Iterator[tuple[int, Sums]]:
    """For each batch the position of its last event, and what to add to which account."""
    decode = msgspec.json.Decoder(Posted).decode
    for page in pages:
        for start in range(0, len(page), batch):
            sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            rows = page[start : start + batch]
            for _, stream, data in rows:
                found = sums[stream]
                found[0] += decode(data).amount_cents
                found[1] += 1
            yield rows[-1][0], [(stream, *found) for stream, found in sums.items()]


class CatchUp(Projecting):
    """apsw, a new file in each slice. Pages of the log are as large as the largest batch."""

    _SQL = """SELECT position, streams.name, data FROM events JOIN streams
 ON streams.id = events.stream_id WHERE position > ? ORDER BY position LIMIT ?"""

    def __init__(
        self, name: str, length: int, *, batch: int = BATCH, is_synced: bool = False
    ) -> None:
        super().__init__(name)
        self._length = length
        self._batch = batch
        self._is_synced = is_synced
        self._slices = 0

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._directory = directory
        fill(self._place(directory, "projected", FULL), self._length)

    def measure(self, count: int) -> float:
        self._slices += 1
        with closing(self._log()) as self._read, closing(self._views()) as self._written:
            return super().measure(count)

    def _log(self) -> Any:
        path = self._directory / "projected.db"
        return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    def _views(self) -> Any:
        path = self._directory / f"{self.name}-{self._slices}.db".replace(" ", "-")
        connection = apsw.Connection(str(path))
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full" if self._is_synced else "normal")
        for statement in _TABLES:
            connection.execute(statement)
        return connection

    def run(self, prepared: int) -> None:
        done = 0
        for done, sums in _decode(self._pages(), self._batch):
            self._write(done, sums)
        if done != prepared:
            raise AssertionError("not the whole log was folded")

    def _pages(self) -> Iterator[Page]:
        position, cursor = 0, self._read.cursor()
        while page := cursor.execute(self._SQL, (position, BATCH)).fetchall():
            yield page
            position = page[-1][0]

    def _write(self, position: int, sums: Sums) -> None:
        cursor = self._written.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(_UPSERT, sums)
        cursor.execute(_MOVE, (position,))
        cursor.execute("COMMIT")


class PostgresCatchUp(OnServer, CatchUp):
    """psycopg, a new schema in each slice."""

    _SQL = """SELECT position, stream, data FROM projected.events
 WHERE position > %s ORDER BY position LIMIT %s"""

    def _log(self) -> Any:
        return psycopg.connect(self._cluster.url, autocommit=True)

    def _views(self) -> Any:
        schema = f"{self.schema}_{self._slices}"
        connection = psycopg.connect(self._cluster.url, autocommit=True)
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.execute(f"SET search_path TO {schema}")
        connection.execute(f"SET synchronous_commit TO {'on' if self._is_synced else 'off'}")
        for statement in _TABLES:
            connection.execute(statement)
        return connection

    def _pages(self) -> Iterator[Page]:
        position = 0
        with self._read.cursor(binary=True) as cursor:
            while page := cursor.execute(self._SQL, (position, BATCH), prepare=True).fetchall():
                yield page
                position = page[-1][0]

    def _write(self, position: int, sums: Sums) -> None:
        with self._written.transaction(), self._written.cursor() as cursor:
            cursor.executemany(_UPSERT.replace("?", "%s"), sums)
            cursor.execute(_MOVE.replace("?", "%s"), (position,), prepare=True)
