"""Subscriptions: endless iterators over the flow of following a log, sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from leftfold.drive import run_sync
from leftfold.event import RecordedEvent
from leftfold.reading import Following


class Subscription:
    """An endless iterator of events. Ends when it or the store is closed, from any thread."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._page: Iterator[RecordedEvent[Any]] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordedEvent[Any]:
        while not self._following.closed:
            for event in self._page:
                return event
            page = run_sync(self._following.next_page())
            if page is None:
                break
            self._page = iter(page)
        raise StopIteration

    def close(self) -> None:
        """Let the iteration end; a waiting one ends within 0.25 seconds."""
        self._following.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncSubscription:
    """An endless async iterator of events. Ends when it or the store is closed."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._page: Iterator[RecordedEvent[Any]] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordedEvent[Any]:
        while not self._following.closed:
            for event in self._page:
                return event
            page = await self._following.next_page()
            if page is None:
                break
            self._page = iter(page)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let the iteration end; a waiting one ends within 0.25 seconds."""
        self._following.closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
