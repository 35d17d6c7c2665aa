"""Reading the head and pages of events, once for both colours.

Nothing at or below the head ever changes, so statements need no transaction around them: a page is
read after the head was, and what it is made of cannot move.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from leftfold.drive import Driver
from leftfold.errors import StoreUnavailable
from leftfold.event import RecordedEvent, to_us
from leftfold.limits import POSITION_MAX
from leftfold.query import ALL, Bound, Query, Version
from leftfold.stores.postgres.connection import Link
from leftfold.stores.postgres.pool import LinkPool

T = TypeVar("T")

OWN_WAIT_S = 1.0
"""How long a reader waits for what callers of its store were told of, while another append is at
work that has drawn lower positions. Then they may see it later.
"""
MOMENT_WAIT_S = 10.0
"""How long a reader about a moment waits for appends that may have been recorded before it."""
PAUSE_S = 0.002
"""How long it waits before it looks again."""

EVENT_COLUMNS = """position, stream, version, type, data, tags, schema_version, uuid_send(e.id),
 recorded_at, occurred_at, correlation_id, causation_id, command_id, actor, metadata"""


class PageRequest(msgspec.Struct, frozen=True):
    """One page to read, checked against the limits. See `Store.read`."""

    query: Query
    after: Bound
    until: Bound | None
    limit: int
    backwards: bool

    @property
    def is_whole_stream(self) -> bool:
        """Whether it is about all events of one stream."""
        item, *others = self.query.items
        some = item.category or item.types or item.tags or others
        return item.stream is not None and not some

    @property
    def is_about_time(self) -> bool:
        """Whether a bound is a moment."""
        return isinstance(self.after, datetime) or isinstance(self.until, datetime)

    def is_settled_at(self, head: int) -> bool:
        """Whether nothing will ever change in it."""
        return isinstance(self.until, int) and self.until <= head

    def may_be_full_at(self, head: int) -> bool:
        """Whether it is worth a look before the head is asked for again. Positions have gaps."""
        after = self.after
        if self.query != ALL or self.backwards or not isinstance(after, int):
            return False
        return after + self.limit <= head


class Reader:
    """Reads the log of one store object."""

    def __init__(self, pool: LinkPool, schema: str, driver: Driver) -> None:
        self._pool = pool
        self._driver = driver
        self._schema = schema
        self._settled = 0
        """The highest head that was read: the log is settled up to there for ever."""
        self._told = 0
        """A position that callers of this store have been told of, so they expect to see it."""
        self._servers = 0
        """How often all was forgotten. What was asked before says nothing."""

    def forget(self) -> None:
        """Trust nothing that was seen: a new connection may lead to another server."""
        self._settled = self._told = 0
        self._servers += 1

    def expect(self, position: int) -> None:
        """From now on, see the event at `position`, if it does not take too long."""
        self._told = max(self._told, position)

    async def head(self) -> int:
        """The position of the last event that is settled."""
        return await self._patiently(self._head)

    async def page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        async def read(link: Link) -> list[Any] | None:
            settled = self._settled
            if request.is_settled_at(settled) and not request.is_about_time:
                return await self._page(link, request, settled)
            if request.may_be_full_at(settled):
                page = await self._page(link, request, settled)
                if len(page) == request.limit:
                    return page
            head = await self._head(link)
            return None if head is None else await self._page(link, request, head)

        if request.is_about_time:
            await self._settle()
        return [recorded(row) for row in await self._patiently(read)]

    async def _patiently(self, read: Callable[[Link], Awaitable[T | None]]) -> T:
        """What is read, once it has what callers of this store were told of. Who waits for that
        holds no connection.
        """
        deadline_s = time.monotonic() + OWN_WAIT_S
        while (found := await self._pool.call(read)) is None:
            if time.monotonic() >= deadline_s:
                self._told = 0
            await self._driver.promise().wait(PAUSE_S)
        return found

    async def _head(self, link: Link) -> int | None:
        """The head, or None while it is below what callers were told of, or where the answer may be
        of a server that is none any more.
        """
        servers = self._servers
        ((head,),) = await link.fetch(f"SELECT {self._schema}.head()")
        if servers != self._servers:
            return None
        self._settled = max(self._settled, head)
        return self._settled if self._settled >= self._told else None

    async def _settle(self) -> None:
        """Wait for the end of all appends that are at work: of what was recorded by now, nothing
        is missing then.
        """

        async def gate(link: Link) -> tuple[int, int]:
            ((handed_out, settled),) = await link.fetch(f"SELECT * FROM {self._schema}.gate()")
            return handed_out, settled

        deadline_s = time.monotonic() + MOMENT_WAIT_S
        handed_out, settled = await self._pool.call(gate)
        while settled < handed_out:
            if time.monotonic() >= deadline_s:
                raise StoreUnavailable(
                    "what was recorded by then is not known yet: an append has been in a "
                    f"transaction for more than {MOMENT_WAIT_S} s"
                )
            await self._driver.promise().wait(PAUSE_S)
            _, settled = await self._pool.call(gate)

    async def _page(self, link: Link, request: PageRequest, settled: int) -> list[Any]:
        query = request.query
        if request.is_whole_stream:
            return await self._stream_page(link, request, settled)
        low = await self._position(link, request, request.after, settled)
        high = min(settled, await self._position(link, request, request.until, settled))
        order = "DESC" if request.backwards else "ASC"
        if query == ALL:
            condition: str = "position > %s AND position <= %s"
            values: list[Any] = [low, high]
        else:
            # An array, for of a table the planner thinks that it may be large, and reads the log.
            found = f"{self._schema}.matching(%s, %s, %s, %s, %s) AS found"
            page = f"SELECT DISTINCT found FROM {found} ORDER BY found {order} LIMIT %s"
            condition = f"position = ANY (ARRAY({page}))"
            items = msgspec.json.encode(query_items(query)).decode()
            values = [items, low, high, request.limit, request.backwards, request.limit]
        return await self._events(link, f"{condition} ORDER BY position {order}", values, request)

    async def _stream_page(self, link: Link, request: PageRequest, settled: int) -> list[Any]:
        """A page is a range of versions, which have no holes. Of an open range the planner may
        think that it is best read, and sorted, as a whole.
        """
        stream, until = request.query.items[0].stream, request.until
        low = await self._version(link, request, request.after, settled)
        high = until.number if isinstance(until, Version) else POSITION_MAX
        if request.backwards or isinstance(until, int | datetime):
            end = None if isinstance(until, Version) else until
            at = min(settled, await self._position(link, request, end, settled))
            high = min(high, await self._version(link, request, at, settled))
        if request.backwards:
            low = max(low, high - request.limit)
        else:
            high = min(high, low + request.limit)
        order = "DESC" if request.backwards else "ASC"
        condition = "stream = %s AND version > %s AND version <= %s AND position <= %s"
        values = [stream, low, high, settled]
        return await self._events(link, f"{condition} ORDER BY version {order}", values, request)

    async def _events(
        self, link: Link, condition: str, values: list[Any], request: PageRequest
    ) -> list[Any]:
        tables = f"{self._schema}.events e JOIN {self._schema}.kinds k ON k.id = kind_id"
        sql = f"SELECT {EVENT_COLUMNS} FROM {tables} WHERE {condition} LIMIT %s"
        return await link.fetch(sql, [*values, request.limit])

    async def _position(
        self, link: Link, request: PageRequest, bound: Bound | None, settled: int
    ) -> int:
        """The position of the last event at or before a bound; of the one stream, if it is a
        version.
        """
        if isinstance(bound, datetime):
            sql = f"SELECT {self._schema}.position_at(%s, %s)"
            values: list[Any] = [to_us(bound), settled]
        elif isinstance(bound, Version):
            sql = f"""SELECT coalesce((SELECT position FROM {self._schema}.events
 WHERE stream = %s AND version <= %s ORDER BY version DESC LIMIT 1), 0)"""
            values = [request.query.items[0].stream, bound.number]
        else:
            return POSITION_MAX if bound is None else bound
        ((position,),) = await link.fetch(sql, values)
        return int(position)

    async def _version(self, link: Link, request: PageRequest, bound: Bound, settled: int) -> int:
        """The version of the one stream at a bound."""
        if isinstance(bound, Version):
            return bound.number
        at = await self._position(link, request, bound, settled)
        if not at:
            return 0
        sql = f"SELECT {self._schema}.version_at(%s, %s)"
        ((version,),) = await link.fetch(sql, [request.query.items[0].stream, at])
        return int(version)


def query_items(query: Query) -> list[dict[str, Any]]:
    """The items of a query as the function `matching` takes them, in JSON."""
    return [
        {
            "stream": item.stream,
            "category": item.category,
            "types": item.types or None,
            "tags": item.tags or None,
        }
        for item in query.items
    ]


def recorded(row: Any) -> RecordedEvent[bytes]:
    """An event of the values of its columns."""
    position, stream, version, type, data, tags, schema_version, id, recorded_us, *_ = row
    return RecordedEvent(
        position,
        stream,
        version,
        type,
        data,
        tuple(tags or ()),
        schema_version,
        id,
        recorded_us,
        row[9],
        row[10:],
    )
