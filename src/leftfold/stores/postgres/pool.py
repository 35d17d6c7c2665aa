"""The connections that read, as many as are needed at the same time, up to a limit."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import psycopg

from leftfold.drive import Driver
from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.stores.postgres.connection import (
    AsyncLink,
    Link,
    Retry,
    SyncLink,
    is_lost,
    translate,
)
from leftfold.stores.postgres.options import PostgresOptions

T = TypeVar("T")

RECHECK_S = 0.05
"""How long a caller sleeps at most before it looks for a free place again."""
_NOTHING = object()


class LinkPool:
    """Lends connections to functions. A lost one is replaced, and the function called again, so it
    must be harmless to repeat.

    Ctrl-C may come between any two bytecodes. So a place is moved from one list to another in one
    call, in which there is none, and is put back however the call ends.
    """

    def __init__(self, dsn: str, place: str, options: PostgresOptions, driver: Driver) -> None:
        self._dsn = dsn
        self.place = place
        self.options = options
        self._driver = driver
        self._pid = os.getpid()
        # A place holds a connection once it was needed.
        self._free: deque[Link | None] = deque([None] * options.readers_max)
        self._waiting: deque[Any] = deque()
        self._closed = False
        self.on_open: Callable[[], None] = lambda: None
        """Called whenever a connection was made."""

    def refuse_if_unusable(self) -> None:
        """Raise StoreClosed where the store was closed, or this is a fork."""
        if self._closed:
            raise StoreClosed(f"{self.place} is closed")
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.place} was opened by process {self._pid}; open it again in this fork"
            )

    async def call(self, function: Callable[[Link], Awaitable[T]]) -> T:
        """What the function returns for a connection that nobody else uses meanwhile."""
        retry = Retry(self.options.reconnect_timeout_s)
        while True:
            try:
                return await self._attempt(function)
            except psycopg.Error as error:
                if not is_lost(error) or retry.is_over:
                    raise translate(error, self.place) from error
            await self._driver.promise().wait(retry.pause_s())

    async def _attempt(self, function: Callable[[Link], Awaitable[T]]) -> T:
        self.refuse_if_unusable()
        taken: list[Link | None] = []
        try:
            try:
                await self._take(taken)
                result = await function(await self._opened(taken))
            finally:
                await self._give_back(taken)
        finally:
            # Where an interrupt came as the first `finally` began.
            self._put_back(taken)
        return result

    async def _take(self, taken: list[Link | None]) -> None:
        timeout_s = self.options.reader_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while True:
            with suppress(IndexError):
                taken.extend(islice(iter(self._free.pop, _NOTHING), 1))
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise StoreUnavailable(
                    f"{self.place}: all {self.options.readers_max} connections that read were "
                    f"in use for {timeout_s} s; raise readers_max"
                )
            await self._wait_for_place(min(RECHECK_S, left_s))

    async def _wait_for_place(self, timeout_s: float) -> None:
        promise = self._driver.promise()
        try:
            # Wait in line, then look: a place that is free now rings nobody.
            self._waiting.append(promise)
            if not self._free:
                await promise.wait(timeout_s)
        finally:
            with suppress(ValueError):
                self._waiting.remove(promise)

    async def _opened(self, taken: list[Link | None]) -> Link:
        self.refuse_if_unusable()
        (link,) = taken
        if link is None:
            kind = SyncLink if self._driver.may_block else AsyncLink
            link = taken[0] = await kind.open(self._dsn, self.options.prepare_threshold)
            self.on_open()
        return link

    async def _give_back(self, taken: list[Link | None]) -> None:
        link = taken[0] if taken else None
        try:
            if link is not None and not link.is_usable:
                taken[0] = None
                await link.close()
        finally:
            self._put_back(taken)
        if self._closed:
            await self._close_free()

    def _put_back(self, taken: list[Link | None]) -> None:
        if taken:
            self._free.extend(islice(iter(taken.pop, _NOTHING), len(taken)))
            with suppress(IndexError):
                self._driver.settle([(self._waiting.popleft(), True)])

    async def close(self) -> None:
        """Close connections that are not in use. The others are closed by those who use them."""
        self._closed = True
        await self._close_free()

    async def _close_free(self) -> None:
        # The places stay: whoever waits for one is to find out that the store is closed.
        for _ in range(len(self._free)):
            with suppress(IndexError):
                link = self._free.popleft()
                self._free.append(None)
                if link is not None:
                    await link.close()
