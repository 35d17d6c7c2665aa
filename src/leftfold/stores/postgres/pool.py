"""The connections that read, as many as are needed at the same time, up to a limit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from leftfold.drive import Driver
from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.stores.postgres.connection import AsyncLink, Link, SyncLink, is_lost, translate
from leftfold.stores.postgres.options import PostgresOptions

T = TypeVar("T")

RECHECK_S = 0.05
"""How long a caller sleeps at most before it looks for a free place again."""
PAUSE_MAX_S = 0.5
"""The longest pause between two attempts to reach a server that was lost."""


class LinkPool:
    """Lends connections to functions. A lost one is replaced, and the function called again, so it
    must be harmless to repeat.
    """

    def __init__(self, dsn: str, place: str, options: PostgresOptions, driver: Driver) -> None:
        self._dsn = dsn
        self.place = place
        self.options = options
        self._driver = driver
        # A place holds a connection once it was needed. Each step on a deque is one step, whatever
        # threads do.
        self._free: deque[Link | None] = deque([None] * options.readers_max)
        self._waiting: deque[Any] = deque()
        self._closed = False
        self.on_open: Callable[[], None] = lambda: None
        """Called whenever a connection was made."""

    async def call(self, function: Callable[[Link], Awaitable[T]]) -> T:
        """What the function returns for a connection that nobody else uses meanwhile."""
        deadline_s = time.monotonic() + self.options.reconnect_timeout_s
        pause_s = 0.001
        while True:
            try:
                return await self._attempt(function)
            except psycopg.Error as error:
                if not is_lost(error) or time.monotonic() >= deadline_s:
                    raise translate(error, self.place) from error
            await self._driver.promise().wait(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _attempt(self, function: Callable[[Link], Awaitable[T]]) -> T:
        link = await self._take()
        try:
            if self._closed:
                raise StoreClosed(f"{self.place} is closed")
            if link is None:
                kind = SyncLink if self._driver.may_block else AsyncLink
                link = await kind.open(self._dsn, self.options.prepare_threshold)
                self.on_open()
            return await function(link)
        finally:
            await self._give_back(link)

    async def _take(self) -> Link | None:
        timeout_s = self.options.reader_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while True:
            with suppress(IndexError):
                return self._free.pop()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise StoreUnavailable(
                    f"{self.place}: all {self.options.readers_max} connections that read were "
                    f"in use for {timeout_s} s; raise readers_max"
                )
            promise = self._driver.promise()
            # Wait in line, then look: a place that is free now rings nobody.
            self._waiting.append(promise)
            if not self._free:
                await promise.wait(min(RECHECK_S, left_s))
            with suppress(ValueError):
                self._waiting.remove(promise)

    async def _give_back(self, link: Link | None) -> None:
        try:
            if link is not None and not link.is_usable:
                stale, link = link, None
                await stale.close()
        finally:
            self._free.append(link)
            with suppress(IndexError):
                self._driver.settle([(self._waiting.popleft(), True)])
        if self._closed:
            await self._close_free()

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
