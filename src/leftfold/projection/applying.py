"""Applying a batch of events to a build: what it changes and the checkpoint in one transaction."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.projection.catalog import (
    Build,
    Failure,
    Progress,
    Quarantined,
    add_waiting,
    advance,
    end_quarantine,
    put_in_quarantine,
    renew,
)
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Projection, SqlProjection, Subscriber
from leftfold.projection.folding import (
    NOT_OF_EVENTS,
    Control,
    Events,
    Fold,
    Partition,
    RowTable,
    by_position,
    failure_of,
)


class Batch(Struct, frozen=True, eq=False):
    """Decoded events, all that match after the checkpoint up to `until`."""

    events: Events
    until: int


class Applied(Struct, frozen=True):
    """How far a batch was applied, and what it failed on."""

    progress: Progress
    signal: int
    failure: Failure | None = None


class Work(Protocol):
    """Applies events of one subscriber to one build."""

    def apply(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """Apply all, or those before the first that fails, and move the checkpoint. Blocks.

        Raises LeaseLost and StoreUnavailable: then the checkpoint in the database says what is
        applied.
        """
        ...


def work_of(subscriber: Subscriber, build: Build, database: Database) -> Work:
    """What applies events to a build. Raises InvalidInput for consumers, which have no rows."""
    if isinstance(subscriber, Projection):
        return KeyedWork(subscriber, build, database)
    if isinstance(subscriber, SqlProjection):
        return SqlWork(subscriber, build, database)
    raise InvalidInput(f"{subscriber.name!r} is a consumer, which has no read model")


def make_tables(tx: Transaction, build: Build, subscriber: Subscriber) -> None:
    """Make the tables of a build, empty."""
    if isinstance(subscriber, SqlProjection):
        before = {*tx.relations("")}
        subscriber.create(BuildSql(tx, build.table))
        _check_tables(build, {*tx.relations("")} - before)
    elif isinstance(subscriber, Projection):
        _make_table(tx, build, subscriber)


def _check_tables(build: Build, made: set[str]) -> None:
    """Refuse, with InvalidInput, tables that nobody would find again, to read or to drop them."""
    astray = [
        each for each in made if each != build.table and not each.startswith(f"{build.table}_")
    ]
    if astray or not made:
        found = ", ".join(sorted(astray)) or "none"
        raise InvalidInput(
            f"create of {build.name!r} makes tables named sql.table, or beginning with it and _, "
            f"such as f'{{sql.table}}_lines'; found {found}"
        )


def _make_table(tx: Transaction, build: Build, projection: Projection[Any]) -> None:
    columns, quote = projection.columns, tx.dialect.quote
    key = ", ".join(quote(each.name) for each in columns.key)
    described = [
        f"{quote(each.name)} {tx.dialect.column(each.kind)}{' NOT NULL' * (not each.is_nullable)}"
        for each in columns.columns
    ]
    table = quote(build.table)
    tx.execute(f"CREATE TABLE {table} ({', '.join(described)}, PRIMARY KEY ({key}))")
    for number, name in enumerate(projection.indexes, 1):
        index = quote(f"{build.table}__{number}")
        tx.execute(f"CREATE INDEX {index} ON {table} ({quote(name)}, {key})")


def moved(held: Progress, events: Events, until: int) -> Progress:
    """Where a checkpoint is after `events`, and after everything up to `until`."""
    if not events:
        return msgspec.structs.replace(held, position=until)
    last = events[-1]
    return msgspec.structs.replace(
        held,
        position=until,
        event_position=last.position,
        event_id=last.id_bytes,
        events=held.events + len(events),
    )


class BuildSql:
    """A transaction as SqlProjection sees it."""

    def __init__(self, tx: Transaction, table: str) -> None:
        self.table = table
        self.execute = tx.execute
        self.execute_many = tx.execute_many


class SqlWork:
    """Calls the function of an SqlProjection."""

    def __init__(self, projection: SqlProjection, build: Build, database: Database) -> None:
        self._apply = projection.apply
        self._table = build.table
        self._database = database

    def apply(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """See Work."""
        events = [each for each in batch.events if control.is_meant(each.position, "")]
        try:
            return self._at_once(held, events, batch.until)
        except _Failed:
            pass
        # One by one, to see which of them it cannot take.
        signal = held.signal
        for each in by_position(events):
            try:
                done = self._at_once(held, each, each[0].position)
            except _Failed as failed:
                return Applied(held, signal, failure_of(each[0], "", failed.error))
            held, signal = done.progress, done.signal
        return self._at_once(held, [], batch.until)

    def _at_once(self, held: Progress, events: Events, until: int) -> Applied:
        to = moved(held, events, until)

        begun = False

        def write(tx: Transaction) -> int:
            nonlocal begun
            begun = False
            signal = advance(tx, held, to)
            if events:
                begun = True
                self._apply(BuildSql(tx, self._table), events)
                # It may have taken longer than the lease, which could not be renewed meanwhile.
                renew(tx, held.owner)
            return signal

        try:
            return Applied(to, self._database.write(write))
        except NOT_OF_EVENTS:
            raise
        except Exception as error:
            # It may be anything: the function is the user's.
            if begun:
                raise _Failed(error) from error
            raise


class _Failed(Exception):
    """What events failed on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class KeyedWork:
    """Folds into the rows of a Projection."""

    def __init__(self, projection: Projection[Any], build: Build, database: Database) -> None:
        self._table = RowTable(projection.columns, build.table, database)
        self._fold = Fold(projection, self._table)
        self._partitions = [Partition(each, build.partitions) for each in range(build.partitions)]
        self._remembered: tuple[int, int] | None = None
        """The fence and the position at which the fold remembers rows."""

    def apply(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """See Work."""
        if self._remembered != (held.fence, held.position):
            self._fold.forget()
        self._remembered = None
        applied = self._applied(held, batch, control)
        self._remembered = held.fence, applied.progress.position
        return applied

    def _applied(self, held: Progress, batch: Batch, control: Control) -> Applied:
        # Rows are read before the transaction begins: nobody else may write them, and the fence
        # says whether that was so.
        changes = self._fold.batch(batch.events, control, self._partitions[held.partition])
        until = batch.until if changes.failure is None else changes.failure.position - 1
        events = [each for each in batch.events if each.position <= until]
        to = held if control.only else moved(held, events, max(until, held.position))

        def write(tx: Transaction) -> int:
            signal = advance(tx, held, to)
            self._table.write(tx, changes)
            add_waiting(tx, held.build, changes.waiting)
            if control.only is not None:
                make_up(tx, control.only, until, held.position)
            return signal

        return Applied(to, self._table.database.write(write), changes.failure)


def make_up(tx: Transaction, only: Quarantined, until: int, position: int) -> None:
    """The events of a key up to `until` wait no more; it is free when that is the checkpoint."""
    if until >= position:
        end_quarantine(tx, only.build, only.key)
    else:
        put_in_quarantine(tx, msgspec.structs.replace(only, position=until + 1))
