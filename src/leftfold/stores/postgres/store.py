"""The PostgreSQL store: a writer with group commit, and a pool of readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from leftfold.drive import BlockingDriver, Driver
from leftfold.errors import InvalidInput, StoreClosed
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.limits import check_read
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.store import Capabilities, Store
from leftfold.stores.doorbell import Doorbell
from leftfold.stores.group import Append, GroupCommit, Outcome
from leftfold.stores.postgres.appending import Appending, checked
from leftfold.stores.postgres.connection import translate
from leftfold.stores.postgres.options import PostgresOptions, connection_string, place
from leftfold.stores.postgres.pool import LinkPool
from leftfold.stores.postgres.reader import PageRequest, Reader
from leftfold.stores.postgres.schema import migrate
from leftfold.stores.postgres.snapshots import PostgresSnapshots
from leftfold.stores.postgres.within import AnyConnection, Within
from leftfold.stores.postgres.writer import Writer


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
        self._appending = Appending(self._options.schema)
        self._writer = Writer(dsn, self.place, self._options, self._appending)
        self._pool = LinkPool(dsn, self.place, self._options, self._driver)
        self.snapshots = PostgresSnapshots(self._pool, dsn, self._driver)
        """Where snapshots of states of this log are kept. To be closed before the store."""
        self._reader = Reader(self._pool, self._options.schema, self._driver)
        self._pool.on_open = self._forget
        self._group = GroupCommit(self._driver, self._commit)
        head: Any = self._head
        self._doorbell = Doorbell(_Native(self._driver), head)

    def _prepare(self, dsn: str) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                migrate(connection, self._options.schema, self.place)
        except psycopg.Error as error:
            raise translate(error, self.place) from error

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
        return Within(self, connection, self._pool, self._appending)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        append = checked(events, conditions)
        self._refuse_if_unusable()
        return await self._group.append(append)

    def _commit(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        outcomes = self._writer.commit(appends)
        self._reader.expect(self._writer.told)
        self._doorbell.ring()
        return outcomes

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
        self._refuse_if_unusable()
        return await self._reader.page(PageRequest(query, after, until, limit, backwards))

    async def head(self) -> int:
        return await self._head()

    async def _head(self) -> int:
        self._refuse_if_unusable()
        return await self._reader.head()

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._doorbell.wait(after, timeout_s)

    async def close(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        # Queued appends are finished first. Closing again does no harm where this is interrupted.
        await self._driver.call(self._group.close)
        self._group.mutex.call(self._writer.close)
        self._closed = True
        self._doorbell.ring()
        await self._pool.close()
        self._driver.close()

    def _forget(self) -> None:
        self._appending.forget()
        self._reader.forget()

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.place} is closed")
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.place} was opened by process {self._pid}; open it again in this fork"
            )


class _Native:
    """A driver for what waits by itself, instead of in a thread: `call` awaits what it calls."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.promise = driver.promise
        self.settle = driver.settle

    @property
    def may_block(self) -> bool:
        return self._driver.may_block

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await function(*args)

    def close(self) -> None:
        pass
