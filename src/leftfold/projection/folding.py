"""The keyed left fold of a batch of events, in memory. Each row that it changes is written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import groupby
from operator import attrgetter
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Struct

from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.event import RecordedEvent, now_us
from leftfold.projection.catalog import Failure, LeaseLost, Quarantined
from leftfold.projection.columns import Columns, Values
from leftfold.projection.database import Database, Rows, Transaction
from leftfold.projection.definition import REMOVED, Projection
from leftfold.states import isolated

KEYS_AT_ONCE = 500
"""Rows that one SELECT looks for."""
ERROR_CHARACTERS_MAX = 2_000
KEYS_KNOWN_MAX = 100_000
"""Keys of which it is remembered whether they are of a partition."""
ROWS_KEPT_MAX = 10_000
"""Rows that an owner remembers from one batch to the next."""

NOT_OF_EVENTS = (LeaseLost, StoreUnavailable, StoreClosed)
"""Errors that no event is to blame for: the same events are tried again."""

Events = Sequence[RecordedEvent[Any]]


class Control(Struct, frozen=True):
    """What is to be left out."""

    waiting: frozenset[str] = frozenset()
    """Keys, as JSON, whose events wait."""
    skips: frozenset[tuple[int, str]] = frozenset()
    """Positions to pass over, each for a key, or for all (empty)."""
    only: Quarantined | None = None
    """The key whose events are made up for, up to the checkpoint; None: the checkpoint moves."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left out."""
        return not (self.waiting or self.skips or self.only)

    def is_meant(self, position: int, key: str) -> bool:
        """Whether an event is to be applied for a key now, unless the key waits."""
        if self.only is not None and key != self.only.key:
            return False
        return (position, "") not in self.skips and (position, key) not in self.skips


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


def key_text(key: Values) -> str:
    """A key as JSON."""
    return msgspec.json.encode(key).decode()


def partition_of(key: str, partitions: int) -> int:
    """Which partition the row of a key, as JSON, is in."""
    return crc32(key.encode()) % partitions


class Partition:
    """Which keys are of one partition."""

    def __init__(self, partition: int, partitions: int) -> None:
        self._partition = partition
        self._partitions = partitions
        self._known: dict[Values, bool] = {}
        self.is_all = partitions == 1

    def has(self, key: Values) -> bool:
        """Whether the row of a key is in it."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= KEYS_KNOWN_MAX:
                self._known.clear()
            known = partition_of(key_text(key), self._partitions) == self._partition
            self._known[key] = known
        return known


def failure_of(event: RecordedEvent[Any], key: str, error: BaseException) -> Failure:
    """Why an event cannot be applied."""
    text = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
    return Failure(event.position, event.stream, event.version, event.type, key, text, 1, now_us())


def by_position(events: Events) -> Iterator[Events]:
    """The events of each position: an upcaster may have made several of one that was recorded."""
    return ([*group] for _, group in groupby(events, attrgetter("position")))


WHOLE = Partition(0, 1)
"""All keys."""


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


class Fold:
    """Folds batches into the rows of a Projection, those of one partition."""

    def __init__(self, projection: Projection[Any], table: RowTable) -> None:
        self._key = projection.key or _stream
        self._columns = table.columns
        self._table = table
        evolve = projection.evolve
        self._evolves = evolve if isinstance(evolve, Mapping) else None
        self._evolve: Any = None if isinstance(evolve, Mapping) else evolve
        self._rows = _Rows(table)

    def forget(self) -> None:
        """Remember no rows: somebody else may have written them, or they were not written."""
        self._rows = _Rows(self._table)

    def batch(self, events: Events, control: Control, partition: Partition) -> Changes:
        """What the events change, or those before the first that fails.

        Rows are remembered from one batch to the next, as they come out of it.
        """
        passing = _Passing(control, partition)
        if len(self._rows.now) > ROWS_KEPT_MAX:
            self.forget()
        try:
            self._fold(self._rows, events, passing)
            return self._rows.changes()
        except NOT_OF_EVENTS:
            raise
        except Exception:
            # It may be anything: the functions are the user's. Which event it was is found by
            # folding one by one.
            self.forget()
            failures = (self._try(self._rows, each, passing) for each in by_position(events))
            return self._rows.changes(*next(filter(None, failures), ()))

    def _try(
        self, rows: _Rows, events: Events, passing: _Passing
    ) -> tuple[Failure, Exception] | None:
        """Fold the events of one position wholly, or leave the rows as they were and say why."""
        before: dict[Values, Any] = {}
        waiting = dict(rows.waiting)
        rows.at = None
        event = events[0]
        try:
            for event in events:
                keys = [*self._keys(event, rows, passing)]
                rows.load({*keys})
                before = {key: isolated(rows.now[key]) for key in keys} | before
                self._evolve_all(rows, event, keys)
                for rows.at in keys:
                    rows.values(rows.at)
            return None
        except NOT_OF_EVENTS:
            raise
        except Exception as error:
            # As above.
            rows.now.update(before)
            rows.waiting = waiting
            return failure_of(event, key_text(rows.at) if rows.at else "", error), error

    def _fold(self, rows: _Rows, events: Events, passing: _Passing) -> None:
        keyed = [(event, self._keys(event, rows, passing)) for event in events]
        rows.load({key for _, keys in keyed for key in keys})
        for event, keys in keyed:
            self._evolve_all(rows, event, keys)

    def _evolve_all(self, rows: _Rows, event: RecordedEvent[Any], keys: Iterable[Values]) -> None:
        evolve = self._evolve if self._evolves is None else self._evolves[type(event.data)]
        for key in keys:
            rows.at = key
            row = evolve(rows.row(key), event)
            if row is None:
                raise TypeError("evolve returned None; return the row, or REMOVED")
            rows.now[key] = row

    def _keys(self, event: RecordedEvent[Any], rows: _Rows, passing: _Passing) -> Iterable[Values]:
        if self._evolves is not None and type(event.data) not in self._evolves:
            return ()
        found = self._key(event)
        if found is None:
            return ()
        keys: Iterable[Values]
        if type(found) is str and self._columns.is_one_text:
            keys = ((found,),)  # the usual case, at a fifth of the cost
        else:
            several = found if isinstance(found, list | set | frozenset) else (found,)
            # An event is folded once into each row, also where both of its sides are the same.
            keys = dict.fromkeys([self._columns.key_of(each) for each in several])
        return keys if passing.is_all else passing.pass_on(event.position, keys, rows.waiting)


def _stream(event: RecordedEvent[Any]) -> str:
    return event.stream


class _Passing:
    """Which keys of an event are folded here and now."""

    def __init__(self, control: Control, partition: Partition) -> None:
        self._control = control
        self._partition = partition
        self.is_all = partition.is_all and control.is_empty

    def pass_on(
        self, position: int, keys: Iterable[Values], waiting: dict[str, int]
    ) -> list[Values]:
        mine = [key for key in keys if self._partition.has(key)]
        if self._control.is_empty:
            return mine
        passed = []
        for key in mine:
            text = key_text(key)
            if text in self._control.waiting and self._control.only is None:
                waiting[text] = waiting.get(text, 0) + 1
            elif self._control.is_meant(position, text):
                passed.append(key)
        return passed


class _Rows:
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
        found = self._table.load([*encoded.values()])
        for key, values in encoded.items():
            stored = self._stored[key] = found.get(values)
            self.now[key] = REMOVED if stored is None else self._binding.row(stored)

    def row(self, key: Values) -> Any:
        """The row of a key, its initial one where there is none."""
        row = self.now[key]
        if row is REMOVED:
            row = self._initial[key] = self._columns.initial(key)
        return row

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
            raise ValueError(f"evolve changed the key of row {key_text(key)}")
        if row is self._initial.get(key) and self._is_untouched(key, values):
            return None
        return values

    def _is_untouched(self, key: Values, values: Values) -> bool:
        return values == self._binding.values(self._columns.initial(key))
