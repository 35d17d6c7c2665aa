"""The two faces of a store with a codec: `EventStore` for sync code, `AsyncEventStore` for async
code.

Both do the same by finishing, or awaiting, the same flows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from leftfold.codec import RAW, EventCodec, resolve_condition
from leftfold.drive import run_sync
from leftfold.errors import InvalidInput
from leftfold.event import NO_METADATA, Appended, Event, Metadata, RecordedEvent
from leftfold.query import ALL, Bound, Condition, NoneMatch, Query, StreamVersion
from leftfold.reading import Following, ReadArguments, Reading
from leftfold.store import Store


class _Face:
    """What both faces share: their parts, and how domain events become stored ones."""

    def __init__(self, store: Store, codec: EventCodec = RAW) -> None:
        self.store = store
        self.codec = codec

    async def _append(
        self, events: Iterable[Event[Any]], conditions: Sequence[Condition]
    ) -> Appended:
        encode = self.codec.encode
        encoded = [encode(event) for event in _events(events)]
        if isinstance(conditions, StreamVersion | NoneMatch):
            raise InvalidInput(f"conditions is a list, found {conditions}; put it in brackets")
        resolved = [resolve_condition(self.codec, condition) for condition in conditions]
        return await self.store.append(encoded, conditions=resolved)

    async def _append_to_stream(
        self, stream: str, events: Iterable[Any], expected_version: int | None, metadata: Metadata
    ) -> Appended:
        conditions = () if expected_version is None else (StreamVersion(stream, expected_version),)
        return await self._append(
            [Event(stream, data, metadata=metadata) for data in _each(events)], conditions
        )


def _events(events: Iterable[Event[Any]]) -> Iterator[Event[Any]]:
    for event in _each(events):
        if not isinstance(event, Event):
            found = type(event).__name__
            raise InvalidInput(f"append takes Event(stream, data) values, found {found}")
        yield event


def _each(events: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(events, Iterable):
        raise InvalidInput(f"an append takes a list of events, found one {type(events).__name__}")
    return events


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


class EventStore(_Face):
    """A store and a codec, for sync code. Safe to share between threads.

    Data of appended and read events is domain objects of the codec's classes; without a codec it is
    bytes.
    """

    def append(
        self, events: Iterable[Event[Any]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        """Record events of one or several streams, all or none, if every condition holds.

        Repeating an append with the same events is harmless: their ids tell. Raises InvalidEvent,
        InvalidInput, AppendConditionFailed, DuplicateEvent, StoreUnavailable, OutcomeUnknown,
        StoreClosed; see `Store`.
        """
        return run_sync(self._append(events, conditions))

    def append_to_stream(
        self,
        stream: str,
        events: Iterable[Any],
        *,
        expected_version: int | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Appended:
        """Record domain objects in one stream; with `expected_version`, only if the stream is at it
        (0: is new).

        Each call makes new event ids. To repeat an append after OutcomeUnknown without recording
        it twice, make the events first and use `append`. Raises what `append` raises.
        """
        return run_sync(self._append_to_stream(stream, events, expected_version, metadata))

    def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> Iterator[RecordedEvent[Any]]:
        """Matching events in log order, or last first, from after `after` up to and including
        `until`.

        A bound is a position, a moment of recording (a datetime with a time zone), or for one
        stream a `Version`. Reads in pages of 500, so memory stays bounded; ends at the head of the
        log. `limit` counts recorded events. Raises InvalidInput, UndecodableEvent,
        UnknownEventType, StoreUnavailable, StoreClosed.
        """
        reading = Reading(
            self.store, self.codec, ReadArguments(query, after, until, limit, backwards)
        )
        return _iterate(reading)

    def subscribe(self, query: Query = ALL, *, after: Bound = 0) -> Subscription:
        """Matching events after `after`, then new ones as they are recorded, by any thread or
        process.

        Raises while iterating what `read` raises.
        """
        return Subscription(Following(self.store, self.codec, query, after))

    def head(self) -> int:
        """The position of the last event, 0 when there is none."""
        return run_sync(self.store.head())

    def close(self) -> None:
        """Finish what was accepted and free everything. Subscriptions end. Closing twice is
        harmless.
        """
        run_sync(self.store.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _iterate(reading: Reading) -> Iterator[RecordedEvent[Any]]:
    while (page := run_sync(reading.next_page())) is not None:
        yield from page


class AsyncEventStore(_Face):
    """A store and a codec, for async code: tasks of the event loop in which it was opened.

    Data of appended and read events is domain objects of the codec's classes; without a codec it is
    bytes. A cancelled append may still be recorded.
    """

    async def append(
        self, events: Iterable[Event[Any]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        """Record events of one or several streams, all or none, if every condition holds.

        Repeating an append with the same events is harmless: their ids tell. Raises InvalidEvent,
        InvalidInput, AppendConditionFailed, DuplicateEvent, StoreUnavailable, OutcomeUnknown,
        StoreClosed; see `Store`.
        """
        return await self._append(events, conditions)

    async def append_to_stream(
        self,
        stream: str,
        events: Iterable[Any],
        *,
        expected_version: int | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Appended:
        """Record domain objects in one stream; with `expected_version`, only if the stream is at it
        (0: is new).

        Each call makes new event ids. To repeat an append after OutcomeUnknown without recording
        it twice, make the events first and use `append`. Raises what `append` raises.
        """
        return await self._append_to_stream(stream, events, expected_version, metadata)

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[RecordedEvent[Any]]:
        """Matching events in log order, or last first, from after `after` up to and including
        `until`.

        A bound is a position, a moment of recording (a datetime with a time zone), or for one
        stream a `Version`. Reads in pages of 500, so memory stays bounded; ends at the head of the
        log. `limit` counts recorded events. Raises InvalidInput, UndecodableEvent,
        UnknownEventType, StoreUnavailable, StoreClosed.
        """
        reading = Reading(
            self.store, self.codec, ReadArguments(query, after, until, limit, backwards)
        )
        while (page := await reading.next_page()) is not None:
            for event in page:
                yield event

    def subscribe(self, query: Query = ALL, *, after: Bound = 0) -> AsyncSubscription:
        """Matching events after `after`, then new ones as they are recorded, by any task or
        process.

        Raises while iterating what `read` raises.
        """
        return AsyncSubscription(Following(self.store, self.codec, query, after))

    async def head(self) -> int:
        """The position of the last event, 0 when there is none."""
        return await self.store.head()

    async def close(self) -> None:
        """Finish what was accepted and free everything. Subscriptions end. Closing twice is
        harmless.
        """
        await self.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
