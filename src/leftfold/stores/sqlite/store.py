"""The SQLite store: a writer with group commit, and a pool of readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from leftfold.drive import BlockingDriver, Driver
from leftfold.errors import StoreClosed
from leftfold.event import Appended, Event, RecordedEvent, now_us
from leftfold.limits import check_append, check_read
from leftfold.projection.keeping import Keeper
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.store import Capabilities
from leftfold.stores.doorbell import Doorbell
from leftfold.stores.group import Append, GroupCommit, Outcome
from leftfold.stores.sqlite.connection import SqliteOptions, connect, translate
from leftfold.stores.sqlite.inlining import SqliteInlineLog
from leftfold.stores.sqlite.pool import ReaderPool
from leftfold.stores.sqlite.reader import Names, PageRequest, Reader
from leftfold.stores.sqlite.writer import Writer

T = TypeVar("T")


class SqliteStore:
    """An event log in an SQLite file. Safe to share between threads; other processes open the file
    themselves.

    Opening may block for as long as another process migrates the file.
    Raises IncompatibleStore, StoreUnavailable, InvalidInput.
    """

    def __init__(
        self,
        path: str,
        options: SqliteOptions | None = None,
        *,
        driver: Driver | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self.path = os.path.abspath(path) if path != ":memory:" else path
        self._options = options or SqliteOptions()
        self._driver = driver or BlockingDriver()
        self._pid = os.getpid()
        self._closed = self._freed = False
        self._names = Names()
        connection = connect(self.path, self._options)
        self._writer = Writer(connection, self.path, clock)
        self.now_us = clock
        """The time by its clock, in microseconds since 1970."""
        self._warm_reader = Reader(connection, self._names)
        self._readers = ReaderPool(self._open_reader)
        self._group = GroupCommit(self._driver, self._commit)
        self._doorbell = Doorbell(self._driver, self._head)
        self.inline_log = SqliteInlineLog(self._keep_with)
        """For projections that are kept in the transaction of each append."""

    def _keep_with(self, keeper: Keeper) -> None:
        self._writer.keeper = keeper

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        check_append(events, conditions)
        self._refuse_if_unusable()
        # Copies, as the caller may change its lists while they wait.
        return await self._group.append(Append(tuple(events), tuple(conditions)))

    def _commit(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        outcomes = self._writer.commit(appends)
        self._doorbell.ring(self._writer.head)
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
        request = PageRequest(query, after, until, limit, backwards)
        return await self._driver.call(self._page, request)

    def _page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        return self._read(request.is_narrow, Reader.page, request)

    def _head(self) -> int:
        return self._read(True, Reader.head)

    def _read(self, is_narrow: bool, read: Callable[..., T], *args: Any) -> T:
        """Narrow reads use the writer's warm page cache if it is free."""
        self._refuse_if_unusable()
        if is_narrow:
            mutex = self._group.mutex
            warm: tuple[T] | None = mutex.try_call(self._use, self._warm_reader, read, args)
            if warm is not None:
                return warm[0]
        pooled: T = self._readers.call(self._use, read, args)
        return pooled

    def _use(self, reader: Reader, read: Callable[..., T], args: tuple[Any, ...]) -> T:
        self._refuse_if_unusable()  # it may have been closed while this thread waited
        if reader.connection.in_transaction:  # left by an interrupt (Ctrl-C)
            reader.reset()
        try:
            return read(reader, *args)
        except apsw.Error as error:
            reader.reset()
            raise translate(error, self.path) from error
        except BaseException:
            reader.reset()
            raise

    def _open_reader(self) -> Reader:
        self._refuse_if_unusable()
        return Reader(connect(self.path, self._options), self._names)

    async def head(self) -> int:
        return await self._driver.call(self._head)

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._doorbell.wait(after, timeout_s)

    async def close(self) -> None:
        if self._freed or os.getpid() != self._pid:
            return
        await self._driver.call(self._close)
        self._driver.close()

    def _close(self) -> None:
        """Each step may be repeated: an interrupted close is finished by the next."""
        self._group.close()
        # A caller that commits in its own thread may still be at it.
        self._group.mutex.call(self._close_writer)
        self._doorbell.ring()
        self._readers.close()
        self._freed = True

    def _close_writer(self) -> None:
        self._closed = True
        self._warm_reader.connection.close()

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} is closed")
        # SQLite connections do not survive a fork: using one could damage the file.
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.path} was opened by process {self._pid}; open it again in this fork"
            )
