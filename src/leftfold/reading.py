"""Flows of reading: pages of decoded events, up to an end or for ever. Written once; facades make
iterators of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from leftfold.codec import EventCodec
from leftfold.errors import InvalidInput, StoreClosed
from leftfold.event import Event, RecordedEvent
from leftfold.limits import check_is_query
from leftfold.query import Bound, Query, Version
from leftfold.store import Store

PAGE_EVENTS = 500
"""Events held in memory at a time."""
WAIT_S = 0.25
"""How long a closed subscription may take to end, in seconds."""

Page = list[RecordedEvent[Any]]


class ReadArguments(Struct, frozen=True):
    """What to read, as in `Store.read`, but without a limit to the page: `limit=None` reads on to
    the end.
    """

    query: Query
    after: Bound = 0
    until: Bound | None = None
    limit: int | None = None
    backwards: bool = False


class Decoding:
    """Decodes pages, and keeps to the query where upcasters make other types of an event."""

    def __init__(self, codec: EventCodec, query: Query) -> None:
        self._codec = codec
        self.query = codec.resolve(check_is_query(query))
        self._residual = codec.residual(query)

    def page(self, page: list[RecordedEvent[bytes]]) -> Page:
        decoded, residual = self._codec.decode_page(page), self._residual
        return decoded if residual is None else [each for each in decoded if residual.matches(each)]

    @property
    def key(self) -> str:
        """The same for queries that mean the same."""
        return f"{self.query} {self._residual or ''}"

    def includes(self, event: Event[bytes]) -> bool:
        """Whether an event that is about to be appended would be among those that it decodes."""
        return self.selects(event, event)

    def selects(
        self, stored: Event[bytes] | RecordedEvent[bytes], event: Event[Any] | RecordedEvent[Any]
    ) -> bool:
        """Whether an event is among those that it decodes of a stored one."""
        residual = self._residual
        return self.query.matches(stored) and (residual is None or residual.matches(event))

    def pairs(self, page: list[RecordedEvent[bytes]]) -> Iterable[tuple[RecordedEvent[Any], Any]]:
        """Each event and its domain object."""
        data = self._codec.decode_data(page) if self._residual is None else None
        if data is not None:
            return zip(page, data, strict=True)
        return ((event, event.data) for event in self.page(page))


class Reading:
    """A read of any length in pages of bounded size. It ends at the head that it found after its
    first page: a reader that is slower than the writers would never end.
    """

    def __init__(self, store: Store, codec: EventCodec, arguments: ReadArguments) -> None:
        self._store = store
        self._decoding = Decoding(codec, arguments.query)
        self._after = arguments.after
        self._until = arguments.until
        self._left = arguments.limit
        self._backwards = arguments.backwards
        self._end: int | None = None
        self._ended = False
        if self._left is not None and self._left < 1:
            raise InvalidInput(f"limit is at least 1 event, found {self._left}")

    async def next_page(self) -> Page | None:
        """The next events, or None at the end. A page may be empty."""
        if self._ended:
            return None
        query = self._decoding.query
        bounds: dict[str, Any] = {"after": self._after, "until": self._until}
        limit = PAGE_EVENTS if self._left is None else min(PAGE_EVENTS, self._left)
        page = await self._store.read(query, **bounds, limit=limit, backwards=self._backwards)
        self._ended = len(page) < limit or limit == self._left
        if self._left is not None:
            self._left -= len(page)
        if not self._ended:
            await self._advance(page[-1])
        if self._end is not None and page and page[-1].position > self._end:
            self._ended = True
            page = [each for each in page if each.position <= self._end]
        return self._decoding.page(page)

    async def _advance(self, last: RecordedEvent[bytes]) -> None:
        # Versions reach the place in a stream by one index seek.
        by_version = self._decoding.query.single_stream is not None
        if self._backwards:
            self._until = Version(last.version - 1) if by_version else last.position - 1
            return
        self._after = Version(last.version) if by_version else last.position
        if self._end is None:
            self._end = await self._store.head()


class Following:
    """Catch-up and live in one loop: pages of matching events for ever, until the store or this is
    closed.
    """

    def __init__(self, store: Store, codec: EventCodec, query: Query, after: Bound) -> None:
        self._store = store
        self._decoding = Decoding(codec, query)
        self._after = after
        self.closed = False

    async def next_page(self) -> Page | None:
        """The next events, as soon as there are any; None when closed."""
        while not self.closed:
            try:
                page = await self._look()
            except StoreClosed:
                return None
            if page:
                return page
        return None

    async def _look(self) -> Page:
        # The head is taken first: by G4 nothing will appear at or below it, so a short page was all
        # up to there.
        head = await self._store.head()
        page = await self._store.read(self._decoding.query, after=self._after, limit=PAGE_EVENTS)
        # Before moving on: what cannot be decoded is not skipped.
        decoded = self._decoding.page(page)
        if self._decoding.query.single_stream is not None:
            # Versions reach the place in a stream by one index seek.
            self._after = Version(page[-1].version) if page else self._after
        elif page:
            full = len(page) == PAGE_EVENTS
            self._after = page[-1].position if full else max(head, page[-1].position)
        else:
            self._after = self._later(head)
        if not page:
            await self._store.wait(head, WAIT_S)
        return decoded

    def _later(self, head: int) -> Bound:
        # A start in the future (a version or moment that the log has not reached) stays as it is.
        return max(head, self._after) if isinstance(self._after, int) else self._after
