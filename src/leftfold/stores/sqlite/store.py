"""The SQLite store: a writer with group commit, and a pool of readers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import apsw

from leftfold.drive import BlockingDriver, Driver
from leftfold.errors import StoreClosed
from leftfold.event import Appended, Event, RecordedEvent, now_us
from leftfold.limits import check_append, check_read
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.store import Capabilities
from leftfold.stores.doorbell import Doorbell
from leftfold.stores.group import Append, GroupCommit, Outcome
from leftfold.stores.sqlite.connection import SqliteOptions, connect, translate
from leftfold.stores.sqlite.reader import Names, PageRequest, Reader
from leftfold.stores.sqlite.writer import Writer

READERS_MAX = 8
"""Connections that read at the same time; further readers wait for one."""


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
        self._closed = False
        self._names = Names()
        connection = connect(self.path, self._options)
        self._writer = Writer(connection, self.path, clock)
        self._warm_reader = Reader(connection, self._names)
        self._readers: deque[Reader] = deque()
        self._reader_places = threading.BoundedSemaphore(READERS_MAX)
        self._group = GroupCommit(self._driver, self._commit)
        self._doorbell = Doorbell(self._driver, self._head)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        check_append(events, conditions)
        self._refuse_if_unusable()
        return await self._group.append(Append(events, conditions))

    def _commit(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        outcomes = self._writer.commit(appends)
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
        request = PageRequest(query, after, until, limit, backwards)
        return await self._driver.call(self._page, request)

    def _page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        with self._reader(request.is_narrow) as reader:
            return reader.page(request)

    def _head(self) -> int:
        with self._reader(is_narrow=True) as reader:
            return reader.head()

    @contextmanager
    def _reader(self, is_narrow: bool) -> Iterator[Reader]:
        """A reader for this thread. Narrow reads use the writer's warm page cache if it is free."""
        self._refuse_if_unusable()
        is_warm = is_narrow and self._group.mutex.acquire(blocking=False)
        with self._warm_reader_held() if is_warm else self._pooled_reader() as reader:
            try:
                yield reader
            except apsw.Error as error:
                reader.reset()
                raise translate(error, self.path) from error
            except BaseException:
                reader.reset()
                raise

    @contextmanager
    def _warm_reader_held(self) -> Iterator[Reader]:
        try:
            self._refuse_if_unusable()
            if self._warm_reader.connection.in_transaction:  # left by an interrupt (Ctrl-C)
                self._warm_reader.reset()
            yield self._warm_reader
        finally:
            self._group.mutex.release()

    @contextmanager
    def _pooled_reader(self) -> Iterator[Reader]:
        with self._reader_places:
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = Reader(connect(self.path, self._options), self._names)
            try:
                yield reader
            finally:
                self._readers.append(reader)
                if self._closed:
                    self._close_readers()

    async def head(self) -> int:
        return await self._driver.call(self._head)

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._doorbell.wait(after, timeout_s)

    async def close(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        await self._driver.call(self._close)
        self._driver.close()

    def _close(self) -> None:
        self._group.close()
        with self._group.mutex:
            self._closed = True
            self._warm_reader.connection.close()
        self._doorbell.ring()
        self._close_readers()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._readers.pop().connection.close()

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} is closed")
        # SQLite connections do not survive a fork: using one could damage the file.
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.path} was opened by process {self._pid}; open it again in this fork"
            )
