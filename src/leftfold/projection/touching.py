"""The rows that a batch touches, and the table that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import msgspec
from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.projection.catalog import Failure
from leftfold.projection.columns import Columns, Values
from leftfold.projection.database import Database, Rows, Transaction
from leftfold.projection.definition import REMOVED

KEYS_AT_ONCE = 500
"""Rows that one SELECT looks for."""


class Changes(Struct, frozen=True):
    """What a batch comes to, as the database is to have it."""

    upserts: Sequence[Values]
    deletes: Sequence[Values]
    waiting: Mapping[str, int]
    """How many events wait, by key as JSON."""
    failure: Failure | None = None
    """What the first event that cannot be folded failed on: it and what follows is not in this."""
    error: Exception | None = None
    """What was raised then."""


class RowTable:
    """The table of a build."""

    def __init__(self, columns: Columns, table: str, database: Database) -> None:
        self.columns = columns
        self.database = database
        self.binding = columns.bind(database.dialect)
        quote = database.dialect.quote
        names = [quote(each) for each in columns.names]
        key = [quote(each.name) for each in columns.key]
        self._key = f"({', '.join(key)})" if len(key) > 1 else key[0]
        self._select = f"SELECT {', '.join(names)} FROM {quote(table)}"
        rest = [each for each in names if each not in key]
        settings = ", ".join(f"{each} = excluded.{each}" for each in rest)
        self._upsert = (
            f"INSERT INTO {quote(table)} ({', '.join(names)}) VALUES ({_marks(names)}) "
            f"ON CONFLICT ({', '.join(key)}) "
            f"{f'DO UPDATE SET {settings}' if settings else 'DO NOTHING'}"
        )
        same = " AND ".join(f"{each} = ?" for each in key)
        self._delete = f"DELETE FROM {quote(table)} WHERE {same}"
        self._within: Transaction | None = None

    def within(self, tx: Transaction) -> RowTable:
        """The same as a transaction sees it that is open."""
        table = copy(self)
        table._within = tx
        return table

    def load(self, keys: Sequence[Values]) -> dict[Values, Values]:
        """The values of those rows that there are, by key; keys and values as the database has
        them.
        """
        if self._within is not None:
            return self.select(self._within, keys)
        return self.database.read(lambda tx: self.select(tx, keys)) if keys else {}

    def select(self, tx: Transaction, keys: Sequence[Values]) -> dict[Values, Values]:
        """As `load`, in a transaction."""
        found: Rows = []
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            marks = ", ".join(f"({_marks(key)})" if len(key) > 1 else "?" for key in some)
            within = f"(VALUES {marks})" if len(some[0]) > 1 else f"({marks})"
            values = [each for key in some for each in key]
            found += tx.execute(f"{self._select} WHERE {self._key} IN {within}", values)
        return {self.binding.key_of(values): values for values in found}

    def write(self, tx: Transaction, changes: Changes) -> None:
        """Make the changes."""
        if changes.upserts:
            tx.execute_many(self._upsert, changes.upserts)
        if changes.deletes:
            tx.execute_many(self._delete, changes.deletes)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


class OfDatabase(Exception):
    """What reading rows failed on, unless it was a value of theirs."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Touched:
    """The rows that a batch touches."""

    def __init__(self, table: RowTable) -> None:
        self._table = table
        self._columns = table.columns
        self._binding = table.binding
        self._encoded: dict[Values, Values] = {}
        self._stored: dict[Values, Values | None] = {}
        self._initial: dict[Values, Any] = {}
        self._touched: set[Values] = set()
        self.now: dict[Values, Any] = {}
        self.waiting: dict[str, int] = {}
        self.at: Values | None = None
        """The key that is at work."""

    def load(self, keys: set[Values]) -> None:
        """Get the rows of those keys that are new here."""
        self._touched.update(keys)
        encoded: dict[Values, Values] = {}
        for key in keys:
            if key not in self.now:
                self.at = key
                encoded[key] = self._binding.key_values(key)
        self.at = None
        self._encoded |= encoded
        try:
            found = self._table.load([*encoded.values()])
        except InvalidInput:
            raise
        except Exception as error:
            raise OfDatabase(error) from error
        for key, values in encoded.items():
            stored = self._stored[key] = found.get(values)
            self.now[key] = REMOVED if stored is None else self._binding.row(stored)

    def row(self, key: Values) -> Any:
        """The row of a key, its initial one where there is none."""
        row = self.now[key]
        if row is REMOVED:
            row = self._initial[key] = self._columns.initial(key)
        return row

    def put(self, key: Values, row: Any) -> None:
        """Take the row that an event has come to, as the database would return it before the next
        one: where a batch ends makes no difference then.
        """
        is_initial = row is self._initial.pop(key, None)
        if row is not REMOVED and (is_initial or not self._columns.are_canonical):
            values = self._binding.values(row)
            if is_initial and self._is_untouched(key, values):
                row = REMOVED
            elif not self._columns.are_canonical:
                row = self._binding.row(values)
        self.now[key] = row

    def changes(self, failure: Failure | None = None, error: Exception | None = None) -> Changes:
        """What is to be written since the last time. Raises ValueError for a misfit."""
        upserts, deletes = [], []
        for key in self._touched & self.now.keys():
            stored, values = self._stored[key], self.values(key)
            if values is None and stored is not None:
                deletes.append(self._encoded[key])
            elif values is not None and values != stored:
                upserts.append(values)
            self._stored[key] = values
            if values is None:
                self.now[key] = REMOVED
        self._touched.clear()
        self._initial.clear()
        waiting, self.waiting = self.waiting, {}
        return Changes(upserts, deletes, waiting, failure, error)

    def values(self, key: Values) -> Values | None:
        """The values of a row; None where there is none. Raises ValueError for a misfit."""
        row = self.now[key]
        if row is REMOVED:
            return None
        values = self._binding.values(row)
        if self._binding.key_of(values) != self._encoded[key]:
            raise ValueError(f"evolve changed the key of row {msgspec.json.encode(key).decode()}")
        if row is self._initial.get(key) and self._is_untouched(key, values):
            return None
        return values

    def _is_untouched(self, key: Values, values: Values) -> bool:
        return values == self._binding.values(self._columns.initial(key))
