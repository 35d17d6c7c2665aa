"""The PostgreSQL store: a writer with group commit, and a pool of readers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import psycopg
from msgspec import Struct

from leftfold.drive import BlockingDriver, Driver
from leftfold.errors import InvalidInput, Unsupported
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.limits import check_read
from leftfold.projection.keeping import Keeper
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.store import Capabilities, Store
from leftfold.stores.group import Append, GroupCommit, Outcome
from leftfold.stores.postgres.appending import Appending, checked
from leftfold.stores.postgres.connection import translate
from leftfold.stores.postgres.inlining import Inlining, PostgresInlineLog
from leftfold.stores.postgres.news import News
from leftfold.stores.postgres.options import PostgresOptions, connection_string, place
from leftfold.stores.postgres.pool import LinkPool
from leftfold.stores.postgres.reader import PageRequest, Reader
from leftfold.stores.postgres.schema import migrate
from leftfold.stores.postgres.snapshots import PostgresSnapshots
from leftfold.stores.postgres.within import AnyConnection, Within
from leftfold.stores.postgres.writer import MustWait, Writer


class Writing(Struct, frozen=True):
    """A writer, and those who wait for it."""

    writer: Writer
    group: GroupCommit


class PostgresStore:
    """An event log in a schema of a PostgreSQL database, made and migrated where needed. Safe to
    share between threads, or between the tasks of one event loop; other processes open it
    themselves.

    Opening blocks. Raises IncompatibleStore, StoreUnavailable, InvalidInput.
    """

    def __init__(
        self,
        dsn: str,
        options: PostgresOptions | None = None,
        *,
        driver: Driver | None = None,
    ) -> None:
        self._options = options or PostgresOptions()
        dsn = connection_string(dsn, self._options)
        self.place = place(dsn, self._options)
        self._driver = driver or BlockingDriver()
        self._pid = os.getpid()
        self._closed = False
        self._prepare(dsn)
        self._appending = Appending(self._options.schema_sql)
        self._quick, self._patient = (
            self._writing(dsn, is_patient=is_patient) for is_patient in (False, True)
        )
        self._pool = LinkPool(dsn, self.place, self._options, self._driver)
        self.snapshots = PostgresSnapshots(self._pool, dsn, self._driver)
        """Where snapshots of states of this log are kept. To be closed before the store."""
        self._reader = Reader(self._pool, self._options.schema_sql, self._driver)
        self._pool.on_open = self._forget
        self._news = News(dsn, self._options, self._driver)
        self.inline_log = PostgresInlineLog(self._options.schema_sql, self._keep_with)
        """For projections that are kept in the transaction of each append."""

    def _keep_with(self, keeper: Keeper) -> None:
        for writing in (self._quick, self._patient):
            writing.writer.inlining = Inlining(self._appending, keeper, self._options, self.place)

    def _prepare(self, dsn: str) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                migrate(connection, self._options.schema, self.place)
        except psycopg.Error as error:
            raise translate(error, self.place) from error

    def _writing(self, dsn: str, *, is_patient: bool) -> Writing:
        options, appending = self._options, self._appending
        writer = Writer(dsn, self.place, options, appending, is_patient=is_patient)

        def commit(appends: Sequence[Append]) -> Sequence[Outcome]:
            outcomes = writer.commit(appends)
            self._reader.expect(writer.told)
            self._news.tell(writer.told)
            return outcomes

        return Writing(writer, GroupCommit(self._driver, commit))

    def within(self, connection: AnyConnection) -> Store:
        """This log, with appends that are part of the transaction of a psycopg connection: they are
        recorded when it commits. A store for sync callers takes a `Connection`, one for an event
        loop an `AsyncConnection`.

        Reads do not see such appends before the commit. Until then the locks of the appends are
        held, and no reader sees what others have appended after them: keep the transaction short.
        """
        if isinstance(connection, psycopg.Connection) != self._driver.may_block:
            found = type(connection).__name__
            raise InvalidInput(
                f"sync code takes a Connection, async code an AsyncConnection, found {found}"
            )
        if self._quick.writer.inlining is not None:
            raise Unsupported(
                "an append within a transaction of yours cannot keep inline projections; make them "
                "mode='async', or append without it"
            )
        return Within(self, connection, self._pool, self._appending, self._news)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        append = checked(events, conditions)
        self._pool.refuse_if_unusable()
        with suppress(MustWait):
            return await self._quick.group.append(append)
        return await self._patient.group.append(append)

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> list[RecordedEvent[bytes]]:
        check_read(query, after, until, limit)
        self._pool.refuse_if_unusable()
        return await self._reader.page(PageRequest(query, after, until, limit, backwards))

    async def head(self) -> int:
        self._pool.refuse_if_unusable()
        return await self._reader.head()

    async def wait(self, after: int, timeout_s: float) -> None:
        self._pool.refuse_if_unusable()
        await self._news.wait(after, timeout_s)

    async def close(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        # Queued appends are finished first. Closing again does no harm where this is interrupted.
        for writing in (self._quick, self._patient):
            await self._driver.call(writing.group.close)
            writing.group.mutex.call(writing.writer.close)
        await self._driver.call(self._news.close)
        await self._pool.close()
        self._closed = True
        self._driver.close()

    def _forget(self) -> None:
        self._appending.forget()
        self._reader.forget()
