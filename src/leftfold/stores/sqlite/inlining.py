"""Appends that keep inline projections: their read models are in the file of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import apsw

from leftfold.errors import InvalidInput, LeftfoldError
from leftfold.event import Appended, Event, RecordedEvent, record
from leftfold.projection.database import Rows, Transaction
from leftfold.projection.keeping import Keeper, refusal
from leftfold.query import ALL
from leftfold.stores.sqlite.connection import translate
from leftfold.stores.sqlite.database import REFUSALS, SqliteTransaction
from leftfold.stores.sqlite.reader import Names, PageRequest, Reader

_TABLE = """CREATE TABLE IF NOT EXISTS leftfold_inline (
  name TEXT PRIMARY KEY,
  build INTEGER NOT NULL
) STRICT"""
# In the file itself, so that it stops everybody, whatever code or tool it is: who appends has to
# say first, of each build, that it is going to be as far as the event.
_GUARD = """CREATE TRIGGER leftfold_inline_guard BEFORE INSERT ON events
WHEN (SELECT min(position) FROM leftfold_consumers WHERE build IN ({builds})) < NEW.position
BEGIN SELECT raise(ABORT, '{reason}'); END"""


class InlineTransaction(SqliteTransaction):
    """The transaction of an append, for those who do not know SQLite's errors."""

    def __init__(self, connection: apsw.Connection, path: str) -> None:
        super().__init__(connection)
        self._path = path

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        try:
            return super().execute(sql, values)
        except apsw.Error as error:
            raise self._meaning(error) from error

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            super().execute_many(sql, rows)
        except apsw.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: apsw.Error) -> LeftfoldError:
        if isinstance(error, REFUSALS):
            return InvalidInput(f"{self._path}: {error}")
        return translate(error, self._path, "; nothing was recorded")


class SqliteInlineLog:
    """See InlineLog."""

    def __init__(self, keep_with: Callable[[Keeper], None]) -> None:
        self.keep_with = keep_with

    def hold(self, tx: Transaction) -> None:
        """Who writes to the file is alone anyway."""

    def tail(self, tx: Transaction, after: int, limit: int) -> list[RecordedEvent[bytes]]:
        """See InlineLog."""
        if not isinstance(tx, SqliteTransaction):
            raise InvalidInput("inline projections are kept in the file of the log")
        request = PageRequest(ALL, after, None, limit, backwards=False)
        return Reader(tx.connection, Names()).page(request)

    def demanded(self, tx: Transaction) -> dict[str, int]:
        """See InlineLog."""
        if "leftfold_inline" not in tx.relations("leftfold_inline"):
            return {}
        return dict(tx.execute("SELECT name, build FROM leftfold_inline ORDER BY name"))

    def demand(self, tx: Transaction, builds: Mapping[str, int]) -> None:
        """See InlineLog."""
        if self.demanded(tx) == builds:
            return
        tx.execute(_TABLE)
        tx.execute("DELETE FROM leftfold_inline")
        tx.execute_many("INSERT INTO leftfold_inline VALUES (?, ?)", builds.items())
        tx.execute("DROP TRIGGER IF EXISTS leftfold_inline_guard")
        if builds:
            ids = ", ".join(map(str, builds.values()))
            # Names of projections have no quotes in them.
            tx.execute(_GUARD.format(builds=ids, reason=refusal(builds)))


def as_recorded(
    events: Sequence[Event[bytes]], appended: Appended, recorded_us: int
) -> list[RecordedEvent[bytes]]:
    """The events as the log has them now."""
    versions = dict(appended.versions)
    found = []
    for position, event in zip(
        range(appended.position, appended.first_position - 1, -1), reversed(events), strict=True
    ):
        found.append(record(event, position, versions[event.stream], recorded_us))
        versions[event.stream] -= 1
    found.reverse()
    return found
