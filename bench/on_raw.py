"""The bare engine: apsw writing the same rows into the same tables, with nothing in between.

Rows are made beforehand, statements are prepared by apsw's cache, nothing is checked. The file and
the pragmas are those of leftfold, because its own `connect` makes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.core import Subject
from bench.data import ACCOUNTS, ACTOR, commands, tags_of
from bench.on_leftfold import FULL, pragmas
from leftfold import new_id
from leftfold.stores.sqlite.connection import SqliteOptions, connect

INSERT_EVENT = f"INSERT INTO events VALUES ({','.join('?' * 14)})"
_INSERT_TAG = "INSERT INTO event_tags VALUES (?, ?, ?)"

Batch = tuple[list[tuple[Any, ...]], list[tuple[int, int, int]]]


class Writer(Subject):
    """One writer: one transaction for each batch."""

    def __init__(
        self, name: str, *, batch: int = 1, tagged: bool = False, durability: str = FULL
    ) -> None:
        super().__init__(name)
        self._batch = batch
        self._tagged = tagged
        self._options = SqliteOptions(durability=durability)
        self._position = 0
        self._versions = dict.fromkeys(range(ACCOUNTS), 0)

    def open(self, directory: Path) -> None:
        self._connection = connect(
            str(directory / f"{self.name}.db".replace(" ", "-")), self._options
        )
        cursor = self._connection.cursor()
        cursor.execute("INSERT INTO kinds VALUES (1, 'account', 'Posted', 1)")
        names = sorted({tag for account in range(ACCOUNTS) for tag in tags_of(account)})
        self._tags = {name: number for number, name in enumerate(names, 1)}
        with self._connection:
            streams = [(account + 1, f"account-{account}") for account in range(ACCOUNTS)]
            cursor.executemany("INSERT INTO streams VALUES (?, ?)", streams)
            cursor.executemany("INSERT INTO tags (name, id) VALUES (?, ?)", self._tags.items())

    def settings(self) -> str:
        return pragmas(self._connection)

    def prepare(self, count: int) -> list[Batch]:
        return list(self._batches(count))

    def _batches(self, count: int) -> Iterator[Batch]:
        for command in commands(count, self._batch):
            metadata = (
                bytes.fromhex(command.correlation_id.replace("-", "")),
                bytes.fromhex(command.causation_id.replace("-", "")),
                None,
                ACTOR,
                None,
            )
            tag_ids = [self._tags[tag] for tag in tags_of(command.account)] * self._tagged
            tag_text = f"[{','.join(map(str, tag_ids))}]" if tag_ids else None
            rows, tag_rows = [], []
            now_us = time.time_ns() // 1000
            for fields in command.postings:
                self._position += 1
                self._versions[command.account] += 1
                place = (self._position, command.account + 1, self._versions[command.account], 1)
                data = msgspec.json.encode(fields).decode()
                rows.append((*place, new_id().bytes, now_us, None, *metadata, tag_text, data))
                tag_rows += [(id, self._position, 1) for id in tag_ids]
            yield rows, tag_rows

    def run(self, prepared: list[Batch]) -> None:
        cursor = self._connection.cursor()
        execute, executemany = cursor.execute, cursor.executemany
        for rows, tag_rows in prepared:
            execute("BEGIN IMMEDIATE")
            if len(rows) == 1:
                execute(INSERT_EVENT, rows[0])
            else:
                executemany(INSERT_EVENT, rows)
            if tag_rows:
                executemany(_INSERT_TAG, tag_rows)
            execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class Reader(Subject):
    """Iterates over the rows of the log to be read, all columns that leftfold reads."""

    _SQL = """SELECT position, stream_id, version, kind_id, data, tag_ids, id, recorded_at,
 occurred_at, correlation_id, causation_id, command_id, actor, metadata
 FROM events ORDER BY position LIMIT ?"""

    def open(self, directory: Path) -> None:
        self._connection = connect(str(directory / "log.db"), SqliteOptions())

    def run(self, prepared: int) -> None:
        total = 0
        for row in self._connection.execute(self._SQL, (prepared,)):
            total += row[0]

    def close(self) -> None:
        self._connection.close()
