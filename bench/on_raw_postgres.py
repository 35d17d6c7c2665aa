"""The bare server: psycopg and the tables of leftfold, with nothing in between.

Rows are made beforehand, statements are prepared, values are sent in binary format. Each writer is
a thread with a connection of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import psycopg

import leftfold
from bench.data import ACCOUNTS, ACTOR, Command, commands
from bench.on_eventsourcing import PAGE
from bench.on_postgres import Cluster, OnPostgres, Running
from leftfold import new_id

_POSITIONS_EACH = 10**9
"""So many positions for each process, which nobody hands out."""

Row = tuple[Any, ...]


class Writers(OnPostgres):
    """One INSERT for each event, which is its own transaction. Positions and versions are known
    beforehand, and nothing is looked at.
    """

    _SQL = f"INSERT INTO {{schema}}.events VALUES ({', '.join(['%s'] * 14)})"

    def __init__(
        self, cluster: Cluster | Running, name: str, writers: int = 1, *, first: int = 0
    ) -> None:
        super().__init__(cluster, name)
        # One writer posts to all accounts in turn, as everywhere.
        accounts = range(ACCOUNTS) if writers == 1 else range(first, first + writers)
        self._accounts = [accounts[n::writers] for n in range(writers)]
        self._positions = count(first * _POSITIONS_EACH + 1)
        self._versions: Counter[int] = Counter()

    def open(self, directory: Path) -> None:
        super().open(directory)
        leftfold.open(self._url(directory)).close()
        self._execute(f"""INSERT INTO {self.schema}.kinds (type, category, schema_version)
 VALUES ('Posted', 'account', 1) ON CONFLICT DO NOTHING""")
        url, writers = self._cluster.url, len(self._accounts)
        self._connections = [psycopg.connect(url, autocommit=True) for _ in range(writers)]
        self._threads = ThreadPoolExecutor(writers)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._cluster.url, autocommit=True) as connection:
            connection.execute(statement)

    def prepare(self, count: int) -> list[list[Row]]:
        each = count // len(self._accounts)
        return [
            [self._row(command) for command in commands(each, accounts=accounts)]
            for accounts in self._accounts
        ]

    def _row(self, command: Command) -> Row:
        self._versions[command.account] += 1
        version = self._versions[command.account]
        place = (next(self._positions), f"account-{command.account}", version, 1)
        metadata = (command.correlation_id, command.causation_id, None, ACTOR, None)
        data = msgspec.json.encode(command.postings[0])
        return (*place, new_id(), time.time_ns() // 1000, None, *metadata, None, data)

    def run(self, prepared: list[list[Row]]) -> None:
        list(self._threads.map(self._write, self._connections, prepared))

    def _write(self, connection: psycopg.Connection[Any], rows: list[Row]) -> None:
        sql = self._SQL.format(schema=self.schema)
        with connection.cursor() as cursor:
            for row in rows:
                cursor.execute(sql, row, prepare=True, binary=True)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for connection in self._connections:
            connection.close()
        super().close()


class OneLock(Writers):
    """The simplest design that is right: a function that holds one lock from before it draws the
    position until the commit, and finds the version.
    """

    _SQL = "SELECT {schema}.append_alone(%s::text, %s::uuid, %s::text, %s::text, %s::text, %s)"
    _FUNCTION = """CREATE OR REPLACE FUNCTION {schema}.append_alone(
 of_stream text, id uuid, correlation_id text, causation_id text, actor text, data bytea
) RETURNS bigint LANGUAGE sql AS $$
 SELECT pg_advisory_xact_lock({key});
 INSERT INTO {schema}.events
  (position, stream, version, kind_id, id, recorded_at, correlation_id, causation_id, actor, data)
 VALUES (
  nextval('{schema}.positions'), of_stream,
  (SELECT coalesce(max(version), 0) + 1 FROM {schema}.events WHERE stream = of_stream),
  1, id, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
  correlation_id, causation_id, actor, data)
 RETURNING position
$$"""

    def open(self, directory: Path) -> None:
        super().open(directory)
        key = sum(self.schema.encode())
        self._execute(self._FUNCTION.format(schema=self.schema, key=key))

    def _row(self, command: Command) -> Row:
        data = msgspec.json.encode(command.postings[0])
        ids = (command.correlation_id, command.causation_id)
        return (f"account-{command.account}", new_id(), *ids, ACTOR, data)


class Reader(OnPostgres):
    """The rows of the log to be read, all columns that leftfold reads, in pages as large."""

    schema = "log"
    _SQL = """SELECT position, stream, version, kind_id, data, tags, id, recorded_at, occurred_at,
 correlation_id, causation_id, command_id, actor, metadata
 FROM log.events WHERE position > %s ORDER BY position LIMIT %s"""

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._connection = psycopg.connect(self._cluster.url, autocommit=True)

    def run(self, prepared: int) -> None:
        position = total = 0
        with self._connection.cursor(binary=True) as cursor:
            while page := cursor.execute(self._SQL, (position, PAGE), prepare=True).fetchall():
                for row in page:
                    total += row[0]
                position = page[-1][0]

    def close(self) -> None:
        self._connection.close()
        super().close()
