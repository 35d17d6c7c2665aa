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
from leftfold.stores.sqlite.select import STREAM_ID, VERSION_AT, PositionSelect, stream_range

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
        self._cursor.close(True)
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._cursor = self.connection.cursor()

    def head(self) -> int:
        return int(self._cursor.execute("SELECT max(position) FROM events").get or 0)

    def page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        query = request.query
        if query == ALL:
            return self._events(request, "position > ? AND position <= ?", [*self._span(request)])
        if query.single_stream is not None:
            return self._stream_page(request)
        # More than one statement looks names up: in one transaction, see PositionSelect.
        self._cursor.execute("BEGIN")
        span = self._span(request)
        select = PositionSelect(self._cursor, span, request.limit, request.backwards)
        sql, parameters = select.matching(query.items)
        events = self._events(request, f"position IN ({sql})", parameters)
        self._cursor.execute("COMMIT")
        return events

    def _stream_page(self, request: PageRequest) -> list[RecordedEvent[bytes]]:
        stream = request.query.single_stream
        condition, parameters = stream_range(request.query.items[0])
        for operator, bound in ((">", request.after), ("<=", request.until)):
            if isinstance(bound, Version):
                condition += f" AND version {operator} ?"
                parameters.append(bound.number)
            elif bound is not None:
                condition += f" AND version {operator} {VERSION_AT}"
                parameters += [stream, self._position(stream, bound)]
        return self._events(request, condition, parameters, "version")

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

    def _span(self, request: PageRequest) -> tuple[int, int]:
        stream, until = request.query.single_stream, request.until
        low = self._position(stream, request.after)
        return low, POSITION_MAX if until is None else self._position(stream, until)

    def _position(self, stream: str | None, bound: Bound) -> int:
        """The position of the last event at or before `bound`; versions are those of `stream`."""
        if isinstance(bound, Version):
            sql = f"""SELECT position FROM events WHERE stream_id = {STREAM_ID} AND version <= ?
 ORDER BY version DESC LIMIT 1"""
            return int(self._cursor.execute(sql, (stream, bound.number)).get or 0)
        return self._position_at(to_us(bound)) if isinstance(bound, datetime) else bound

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
