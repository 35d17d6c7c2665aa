"""Applying a batch of events to a build: what it changes and the checkpoint in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
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
from leftfold.projection.columns import Values
from leftfold.projection.database import Database, Rows, Transaction
from leftfold.projection.definition import Projection, SqlProjection, Subscriber
from leftfold.projection.folding import (
    Control,
    Events,
    Fold,
    Partition,
    by_position,
    failure_of,
    key_text,
)
from leftfold.projection.touching import Changes, RowTable


class Batch(Struct, frozen=True, eq=False):
    """Decoded events, all that match after the checkpoint up to `until`."""

    events: Events
    until: int
    last: RecordedEvent[Any] | None = None
    """The last event of the log up to `until`, matching or not, where it is known."""


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
            "it makes tables named sql.table, or beginning with it and _, such as "
            f"f'{{sql.table}}_lines'; found {found}"
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


def moved(
    held: Progress, events: Events, until: int, last: RecordedEvent[Any] | None = None
) -> Progress:
    """Where a checkpoint is after `events`, and after everything up to `until`. `last` as of a
    Batch, which may go further.
    """
    if last is None or last.position > until:
        last = events[-1] if events else None
    if last is None:
        return msgspec.structs.replace(held, position=until)
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
        self.error: Exception | None = None
        """What the database has raised last: the rest is the function's own."""
        self._tx = tx.of_callers()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """See Sql."""
        try:
            return self._tx.execute(sql, values)
        except Exception as error:
            self.error = error
            raise

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See Sql."""
        taken = _Taken(rows)
        try:
            self._tx.execute_many(sql, taken)
        except Exception as error:
            if error is not taken.error:
                self.error = error
            raise


class _Taken:
    """Rows of a caller, and what taking them has raised."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._rows = rows
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Sequence[Any]]:
        try:
            yield from self._rows
        except Exception as error:
            self.error = error
            raise


class SqlWork:
    """Calls the function of an SqlProjection."""

    def __init__(self, projection: SqlProjection, build: Build, database: Database) -> None:
        self._apply = projection.apply
        self._said: Exception | None = None
        """What the function made of what the database has raised."""
        self._table = build.table
        self._database = database

    def apply(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """See Work."""
        events = [each for each in batch.events if control.is_meant(each.position, "")]
        try:
            return self._at_once(held, events, batch.until, batch.last)
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
        return self._at_once(held, [], batch.until, batch.last)

    def _at_once(
        self,
        held: Progress,
        events: Events,
        until: int,
        last: RecordedEvent[Any] | None = None,
    ) -> Applied:
        to = moved(held, events, until, last)
        begun = False

        def write(tx: Transaction) -> int:
            nonlocal begun
            begun = False
            signal = advance(tx, held, to)
            if events:
                begun = True
                self._call(tx, events)
                # It may have taken longer than the lease, which could not be renewed meanwhile.
                renew(tx, held.owner)
            return signal

        try:
            return Applied(to, self._database.write(write))
        except InvalidInput as error:
            # What the database refuses, perhaps at the end only.
            if begun:
                raise _Failed(self._said or error) from error
            raise

    def _call(self, tx: Transaction, events: Events) -> None:
        sql = BuildSql(tx, self._table)
        self._said = None
        try:
            self._apply(sql, events)
        except Exception as error:
            # It may be anything: the function is the user's.
            if sql.error is None:
                raise _Failed(error) from error
            # What the database has raised may be a lost connection, whatever was made of it. That
            # is for the database to say.
            self._said = None if error is sql.error else error
            raise sql.error from error.__cause__


class _Failed(Exception):
    """What events failed on."""

    def __init__(self, error: Exception, upserts: Sequence[Values] = ()) -> None:
        super().__init__()
        self.error = error
        self.upserts = upserts
        """The rows among which one was refused."""


class _Undone(Exception):
    """Rolls back what was only tried."""


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
        try:
            applied = self._applied(held, batch, control)
        except _Failed:
            applied = self._one_by_one(held, batch, control)
        self._remembered = held.fence, applied.progress.position
        return applied

    def _applied(self, held: Progress, batch: Batch, control: Control) -> Applied:
        # Rows are read before the transaction begins: nobody else may write them, and the fence
        # says whether that was so.
        changes = self._fold.batch(batch.events, control, self._partitions[held.partition])
        until = batch.until if changes.failure is None else changes.failure.position - 1
        events = [each for each in batch.events if each.position <= until]
        to = held if control.only else moved(held, events, max(until, held.position), batch.last)

        def write(tx: Transaction) -> int:
            signal = advance(tx, held, to)
            self._table.write(tx, changes)
            add_waiting(tx, held.build, changes.waiting)
            if control.only is not None:
                make_up(tx, control.only, until, held.position)
            return signal

        return Applied(to, self._written(write, changes), changes.failure)

    def _written(self, write: Callable[[Transaction], int], changes: Changes) -> int:
        try:
            return self._table.database.write(write)
        except InvalidInput as error:
            self._fold.forget()
            if not changes.upserts and not changes.deletes:
                raise
            raise _Failed(error, changes.upserts) from error

    def _one_by_one(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """To see for which event it is that the database refuses a row."""
        signal = held.signal
        for each in by_position(batch.events):
            try:
                done = self._applied(held, Batch(each, each[0].position), control)
            except _Failed as failed:
                key = control.only.key if control.only else self._refused(failed.upserts)
                return Applied(held, signal, failure_of(each[0], key, failed.error))
            if done.failure is not None:
                return done
            held, signal = done.progress, done.signal
        return self._applied(held, Batch([], batch.until, batch.last), control)

    def _refused(self, upserts: Sequence[Values]) -> str:
        """The key, as JSON, of the row that is refused; "" where it is none of them."""
        for values in upserts:
            try:
                self._table.database.write(partial(self._try, Changes([values], [], {})))
            except _Undone:
                continue
            except InvalidInput:
                row, key = self._table.binding.row(values), self._table.columns.key
                return key_text(tuple([getattr(row, each.name) for each in key]))
        return ""

    def _try(self, changes: Changes, tx: Transaction) -> None:
        self._table.write(tx, changes)
        raise _Undone


def make_up(tx: Transaction, only: Quarantined, until: int, position: int) -> None:
    """The events of a key up to `until` wait no more; it is free when that is the checkpoint."""
    if until >= position:
        end_quarantine(tx, only.build, only.key)
    else:
        put_in_quarantine(tx, msgspec.structs.replace(only, position=until + 1))
