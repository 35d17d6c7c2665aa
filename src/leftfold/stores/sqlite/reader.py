"""Reading pages of events on one connection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import apsw
import msgspec

from leftfold.event import RecordedEvent, to_us
from leftfold.limits import POSITION_MAX
from leftfold.query import ALL, Bound, Query, Version
from leftfold.stores.sqlite.select import PositionSelect, stream_range, version_bound

NAMES_CACHED_MAX = 200_000
"""Names of streams, and combinations of tags, that the readers of a store keep in memory."""

LOADS_MAX = 5
"""Attempts to load names: another thread may clear the cache in between."""

_COLUMNS = """position, stream_id, version, kind_id, CAST(data AS BLOB), tag_ids, id, recorded_at,
 occurred_at, correlation_id, causation_id, command_id, actor, metadata"""


class PageRequest(msgspec.Struct, frozen=True):
    """One page to read, checked against the limits. See `Store.read`."""

    query: Query
    after: Bound
    until: Bound | None
    limit: int
    backwards: bool

    @property
    def is_narrow(self) -> bool:
        """Whether it is like the boundary of a command, rather than a slice of the log."""
        return all(item.stream is not None or item.tags for item in self.query.items)

    @property
    def is_one_statement(self) -> bool:
        """Whether neither names nor moments have to be looked up before the events."""
        moments = isinstance(self.after, datetime) or isinstance(self.until, datetime)
        return not moments and (self.query == ALL or self.query.single_stream is not None)


class Names:
    """Names by id. They never change, so all connections of a store share one cache."""

    def __init__(self) -> None:
        self.streams: dict[int, str] = {}
        self.kinds: dict[int, tuple[str, int]] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        """By the JSON array of their ids."""

    def load(self, cursor: apsw.Cursor, rows: Sequence[Any]) -> None:
        """Learn every name that `rows` need."""
        # Other threads may be reading: a dict only grows, or is replaced as a whole.
        if len(self.streams) > NAMES_CACHED_MAX:
            self.streams = {}
        if len(self.kinds) > NAMES_CACHED_MAX:
            self.kinds = {}
        if len(self.tags) > NAMES_CACHED_MAX:
            self.tags = {}
        streams = self.streams
        missing = {row[1] for row in rows if row[1] not in streams}
        ids = msgspec.json.encode(list(missing)).decode()
        named = "SELECT id, name FROM streams WHERE id IN (SELECT value FROM json_each(?))"
        found: Any = cursor.execute(named, (ids,))
        streams.update(found)
        missing = {row[3] for row in rows if row[3] not in self.kinds}
        ids = msgspec.json.encode(list(missing)).decode()
        named = """SELECT id, type, schema_version FROM kinds
 WHERE id IN (SELECT value FROM json_each(?))"""
        kinds: Any = cursor.execute(named, (ids,))
        self.kinds.update((id, (type_, version)) for id, type_, version in kinds)
        tagged = """SELECT name FROM json_each(?) JOIN tags ON tags.id = json_each.value
 ORDER BY json_each.key"""
        for tag_ids in {row[5] for row in rows if row[5] and row[5] not in self.tags}:
            names: Any = cursor.execute(tagged, (tag_ids,))
            self.tags[tag_ids] = tuple(name for (name,) in names)


class Reader:
    """Reads on one connection; one thread at a time. Raises apsw errors."""

    def __init__(self, connection: apsw.Connection, names: Names) -> None:
        self.connection = connection
        self._cursor = connection.cursor()
        self._names = names

    def reset(self) -> None:
        """Let go of what an interrupted read holds: its snapshot would keep the writer out."""
        stale, self._cursor = self._cursor, self.connection.cursor()
        stale.close(True)
        if self.connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def head(self) -> int:
        return int(self._cursor.execute("SELECT max(position) FROM events").get or 0)

    def page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        if request.is_one_statement:
            return self._page(request)
        # Several statements must see one moment of the log, so they are one transaction.
        self._cursor.execute("BEGIN")
        events = self._page(request)
        self._cursor.execute("COMMIT")
        return events

    def _page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        query = request.query
        if query.single_stream is not None:
            return self._stream_page(request)
        span = self._position(request.after), self._position(request.until)
        if query == ALL:
            return self._events(request, "position > ? AND position <= ?", [*span])
        select = PositionSelect(self._cursor, span, request.limit, request.backwards)
        sql, parameters = select.matching(query.items)
        return self._events(request, f"position IN ({sql})", parameters)

    def _stream_page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        stream = request.query.single_stream
        sql, parameters = stream_range(request.query.items[0])
        for operator, bound in ((">", request.after), ("<=", request.until)):
            if isinstance(bound, Version):
                condition, values = f" AND version {operator} ?", [bound.number]
            else:
                condition, values = version_bound(operator, stream, self._position(bound))
            sql, parameters = sql + condition, parameters + values
        return self._events(request, sql, parameters, "version")

    def _events(
        self, request: PageRequest, condition: str, parameters: list[Any], key: str = "position"
    ) -> list[RecordedEvent[bytes]]:
        order = f"ORDER BY {key} {'DESC' if request.backwards else 'ASC'} LIMIT {request.limit}"
        sql = f"SELECT {_COLUMNS} FROM events WHERE {condition} {order}"
        rows: Sequence[Any] = self._cursor.execute(sql, parameters).fetchall()
        for _ in range(LOADS_MAX):
            try:
                return _recorded(rows, self._names)
            except KeyError:
                self._names.load(self._cursor, rows)
        raise apsw.CorruptError("an event refers to a stream, kind or tag that is not there")

    def _position(self, bound: Bound | None) -> int:
        """The position of the last event at or before `bound`, which is no version."""
        if isinstance(bound, datetime):
            return self._position_at(to_us(bound))
        return bound if isinstance(bound, int) else POSITION_MAX

    def _position_at(self, us: int) -> int:
        """The last position recorded at or before a moment: times do not decrease with it (G9)."""
        sql = """SELECT position, recorded_at FROM events WHERE position <= ?
 ORDER BY position DESC LIMIT 1"""
        before, beyond = 0, self.head() + 1
        while beyond - before > 1:
            middle = (before + beyond) // 2
            row: Any = self._cursor.execute(sql, (middle,)).get
            if row is None or row[1] <= us:
                before = middle
            else:
                beyond = row[0]
        return before


def _recorded(rows: Sequence[Any], names: Names) -> list[RecordedEvent[bytes]]:
    """The events of `rows`. Raises KeyError where a name is not loaded."""
    streams, kinds, tags = names.streams, names.kinds, names.tags
    return [
        RecordedEvent(
            row[0],
            streams[row[1]],
            row[2],
            kinds[row[3]][0],
            row[4],
            tags[row[5]] if row[5] else (),
            kinds[row[3]][1],
            row[6],
            row[7],
            row[8],
            row[9:],
        )
        for row in rows
    ]
