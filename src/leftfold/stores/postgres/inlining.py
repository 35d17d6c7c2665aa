"""Appends that keep inline projections: their read models are in another schema of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from leftfold.drive import run_sync
from leftfold.errors import InvalidInput, LeftfoldError, ProjectionFailed, StoreUnavailable
from leftfold.event import Appended, RecordedEvent
from leftfold.limits import POSITION_MAX
from leftfold.projection.database import Rows, Transaction
from leftfold.projection.keeping import Keeper
from leftfold.stores.group import Append, Outcome
from leftfold.stores.postgres.appending import Appending
from leftfold.stores.postgres.batch import Kind
from leftfold.stores.postgres.connection import SyncLink, translate
from leftfold.stores.postgres.database import REFUSALS, PostgresTransaction, beginning
from leftfold.stores.postgres.dialect import adapt
from leftfold.stores.postgres.options import PostgresOptions
from leftfold.stores.postgres.reader import EVENT_COLUMNS, recorded

_OPEN = {psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR}


class _Transaction(PostgresTransaction):
    """The transaction of an append, for those who do not know psycopg's errors."""

    def __init__(self, cursor: psycopg.Cursor[Any], schema: str, place: str) -> None:
        super().__init__(cursor, schema)
        self._place = place

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        try:
            return super().execute(sql, values)
        except psycopg.Error as error:
            raise self._meaning(error) from error

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            super().execute_many(sql, rows)
        except psycopg.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: psycopg.Error) -> LeftfoldError:
        if isinstance(error, REFUSALS):
            return InvalidInput(f"{self._place}: {error}")
        return translate(error, self._place, "; nothing was recorded")


class Inlining:
    """Appends in transactions in which a keeper does its part. Raises psycopg.Error.

    Those who keep inline projections of one log come one after the other: events are applied in the
    order of their positions.
    """

    def __init__(
        self, appending: Appending, keeper: Keeper, options: PostgresOptions, place: str
    ) -> None:
        self._appending = appending
        self._keeper = keeper
        self._schema = options.views_schema
        self._log = options.schema_sql
        self._place = place
        # All that need this lock need it anyway, so an append waits for it as long as it may.
        timeout = f"{round(options.lock_timeout_s * 1000)}ms"
        lock = (
            f"SELECT pg_advisory_xact_lock(hashtextextended('leftfold inline {self._schema}', 0))"
        )
        begin = beginning(self._schema, "READ COMMITTED", lock_timeout=timeout)
        self._begin = begin + b"; " + lock.encode()
        self._adapted: object = None

    def append(
        self,
        link: SyncLink,
        group: Sequence[Append],
        *,
        kinds: dict[Kind, int],
        lock_timeout_s: float,
    ) -> tuple[list[Outcome], int]:
        """As `Appending.append`; one that an inline projection cannot take is refused alone."""
        try:
            return self._transact(link, group, kinds, lock_timeout_s)
        except ProjectionFailed as failed:
            if len(group) == 1:
                return [failed], 0
        except LeftfoldError as error:
            if isinstance(error.__cause__, psycopg.Error) and isinstance(error, StoreUnavailable):
                raise error.__cause__ from None
            # What the keeper needs is not there.
            return [error for _ in group], 0
        # Which of them it was: the others are recorded.
        middle = len(group) // 2
        outcomes: list[Outcome] = []
        last = 0
        for half in (group[:middle], group[middle:]):
            found, end = self.append(link, half, kinds=kinds, lock_timeout_s=lock_timeout_s)
            outcomes += found
            last = max(last, end)
        return outcomes, last

    def _transact(
        self, link: SyncLink, group: Sequence[Append], kinds: dict[Kind, int], lock_timeout_s: float
    ) -> tuple[list[Outcome], int]:
        connection = link.connection
        if self._adapted is not connection:
            adapt(connection)
            self._adapted = connection
        try:
            with psycopg.Cursor(connection) as cursor:
                connection.execute(self._begin)
                tx = _Transaction(cursor, self._schema, self._place)
                kept = [*self._keeper.builds(tx).values()]
                appending = self._appending.append(
                    link, group, kinds=kinds, lock_timeout_s=lock_timeout_s, kept=kept
                )
                outcomes, last = run_sync(appending)
                new = [each for each in outcomes if isinstance(each, Appended)]
                new = [each for each in new if not each.is_repeat]
                if new:
                    first, until = new[0].first_position, new[-1].position
                    self._keeper.apply(tx, events(tx, self._log, (first - 1, until)))
                if connection.execute("COMMIT").statusmessage != "COMMIT":
                    raise StoreUnavailable(f"{self._place}: the transaction was rolled back")
            return outcomes, last
        finally:
            # Where this fails, or is interrupted, the writer takes another connection.
            if connection.info.transaction_status in _OPEN:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")


class PostgresInlineLog:
    """See InlineLog."""

    def __init__(self, schema: str, keep_with: Callable[[Keeper], None]) -> None:
        self._schema = schema
        self.keep_with = keep_with

    def hold(self, tx: Transaction) -> None:
        """See InlineLog."""
        tx.execute(f"SELECT {self._schema}.hold_appends()")

    def tail(self, tx: Transaction, after: int, limit: int) -> list[RecordedEvent[bytes]]:
        """See InlineLog."""
        return events(tx, self._schema, (after, POSITION_MAX), limit)

    def demanded(self, tx: Transaction) -> dict[str, int]:
        """See InlineLog."""
        return dict(tx.execute(f"SELECT name, build FROM {self._schema}.inline_builds"))

    def demand(self, tx: Transaction, builds: Mapping[str, int]) -> None:
        """See InlineLog."""
        tx.execute(
            f"SELECT {self._schema}.demand_inline(?::text[], ?::bigint[])",
            [[*builds], [*builds.values()]],
        )


def events(
    tx: Transaction, schema: str, after_until: tuple[int, int], limit: int | None = None
) -> list[RecordedEvent[bytes]]:
    """The events of the log in a range of positions, as a transaction sees them."""
    tables = f"{schema}.events e JOIN {schema}.kinds k ON k.id = kind_id"
    sql = f"""SELECT {EVENT_COLUMNS} FROM {tables}
 WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"""
    return [recorded(row) for row in tx.execute(sql, [*after_until, limit])]
