"""The keyed left fold of a batch of events, in memory. Each row that it changes is written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Struct

from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.event import RecordedEvent, now_us
from leftfold.projection.catalog import Failure, LeaseLost, Quarantined
from leftfold.projection.columns import Values
from leftfold.projection.definition import Projection
from leftfold.projection.touching import Changes, OfDatabase, RowTable, Touched
from leftfold.states import isolated

ERROR_CHARACTERS_MAX = 2_000
KEYS_KNOWN_MAX = 100_000
"""Keys of which it is remembered whether they are of a partition."""
ROWS_KEPT_MAX = 10_000
"""Rows that an owner remembers from one batch to the next."""

NOT_OF_EVENTS = (LeaseLost, StoreUnavailable, StoreClosed)
"""Errors of the read model's own database that no event is to blame for: the same events are tried
again. Where functions of users raise such, they are like any other.
"""

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


def reason_of(error: BaseException) -> str:
    """What was raised, as text that every database takes, whatever it is."""
    name = type(error).__name__
    try:
        text = f"{name}: {error}"
    except Exception:
        # Its __str__ is the user's, too.
        text = f"{name}: {object.__repr__(error)}"
    return text[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode().replace("\0", "?")


def failure_of(event: RecordedEvent[Any], key: str, error: BaseException) -> Failure:
    """Why an event cannot be applied. Raises nothing."""
    text = reason_of(error)
    return Failure(event.position, event.stream, event.version, event.type, key, text, 1, now_us())


def by_position(events: Events) -> Iterator[Events]:
    """The events of each position: an upcaster may have made several of one that was recorded."""
    return ([*group] for _, group in groupby(events, attrgetter("position")))


WHOLE = Partition(0, 1)
"""All keys."""


class Fold:
    """Folds batches into the rows of a Projection, those of one partition."""

    def __init__(self, projection: Projection[Any], table: RowTable) -> None:
        self._key = projection.key or _stream
        self._columns = table.columns
        self._is_plain = table.columns.are_canonical and table.columns.are_frozen
        self._table = table
        evolve = projection.evolve
        self._evolves = evolve if isinstance(evolve, Mapping) else None
        self._evolve: Any = None if isinstance(evolve, Mapping) else evolve
        self._rows = Touched(table)

    def forget(self) -> None:
        """Remember no rows: somebody else may have written them, or they were not written."""
        self._rows = Touched(self._table)

    def batch(self, events: Events, control: Control, partition: Partition) -> Changes:
        """What the events change, or those before the first that fails.

        Rows are remembered from one batch to the next, as they come out of it. Raises what the
        database does.
        """
        if len(self._rows.now) > ROWS_KEPT_MAX:
            self.forget()
        try:
            return self._changes(events, _Passing(control, partition))
        except OfDatabase as found:
            self.forget()
            raise found.error from found.error.__cause__

    def _changes(self, events: Events, passing: _Passing) -> Changes:
        try:
            self._fold(self._rows, events, passing)
            return self._rows.changes()
        except OfDatabase:
            raise
        except Exception:
            # It may be anything: the functions are the user's. Which event it was is found by
            # folding one by one.
            self.forget()
            failures = (self._try(self._rows, each, passing) for each in by_position(events))
            return self._rows.changes(*next(filter(None, failures), ()))

    def _try(
        self, rows: Touched, events: Events, passing: _Passing
    ) -> tuple[Failure, Exception] | None:
        """Fold the events of one position wholly, or leave the rows as they were and say why."""
        before: dict[Values, Any] = {}
        waiting = dict(rows.waiting)
        event = events[0]
        try:
            for event in events:
                rows.at = None
                keys = [*self._keys(event, rows, passing)]
                rows.load({*keys})
                before = {key: isolated(rows.now[key]) for key in keys} | before
                self._evolve_all(rows, event, keys)
                for rows.at in keys:
                    rows.values(rows.at)
            return None
        except OfDatabase:
            raise
        except Exception as error:
            # As above.
            rows.now.update(before)
            rows.waiting = waiting
            return failure_of(event, _text_or_none(rows.at), error), error

    def _fold(self, rows: Touched, events: Events, passing: _Passing) -> None:
        keyed = [(event, self._keys(event, rows, passing)) for event in events]
        rows.load({key for _, keys in keyed for key in keys})
        for event, keys in keyed:
            self._evolve_all(rows, event, keys)

    def _evolve_all(self, rows: Touched, event: RecordedEvent[Any], keys: Iterable[Values]) -> None:
        evolve = self._evolve if self._evolves is None else self._evolves[type(event.data)]
        is_plain = self._is_plain
        for key in keys:
            rows.at = key
            row = evolve(rows.row(key), event)
            if row is None:
                raise TypeError("evolve returned None; return the row, or REMOVED")
            if is_plain:
                rows.now[key] = row
            else:
                rows.put(key, row)

    def _keys(
        self, event: RecordedEvent[Any], rows: Touched, passing: _Passing
    ) -> Iterable[Values]:
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


def _text_or_none(key: Values | None) -> str:
    """A key as JSON; "" for one that cannot be: it may be anything."""
    try:
        return key_text(key) if key is not None else ""
    except Exception:
        return ""


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
