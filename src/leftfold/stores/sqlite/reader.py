"""Reading pages of events from a connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import apsw
import msgspec

from leftfold.event import RecordedEvent, to_us
from leftfold.limits import POSITION_MAX
from leftfold.query import ALL, Bound, Query, Version
from leftfold.stores.sqlite.select import VERSION_AT, PositionSelect, stream_range

NAMES_CACHED_MAX = 200_000

_COLUMNS = """position, stream_id, version, kind_id, CAST(data AS BLOB), tag_ids, id, recorded_at, occurred_at,
 correlation_id, causation_id, command_id, actor, metadata"""


class Names:
    """Names of streams, kinds and tags by id. They never change, so all connections of a store
    share one cache.
    """

    def __init__(self) -> None:
        self.streams: dict[int, str] = {}
        self.kinds: dict[int, tuple[str, int]] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        """By the JSON array of their ids."""

    def load(self, cursor: apsw.Cursor, rows: list[Any]) -> None:
        """Learn every name that `rows` need."""
        if len(self.streams) > NAMES_CACHED_MAX:
            self.streams = {}
        if len(self.tags) > NAMES_CACHED_MAX:
            self.tags = {}
        # Readers in other threads keep what they hold: entries are added, or the dict is replaced
        # as a whole.
        stream_ids = msgspec.json.encode(
            list({row[1] for row in rows} - self.streams.keys())
        ).decode()
        self.streams.update(
            cursor.execute(
                "SELECT id, name FROM streams WHERE id IN (SELECT value FROM json_each(?))",
                (stream_ids,),
            )
        )
        self.kinds.update(
            (id, (name, version))
            for id, name, version in cursor.execute("SELECT id, type, schema_version FROM kinds")
        )
        for ids in {row[5] for row in rows} - self.tags.keys() - {None}:
            named = (
                "SELECT name FROM json_each(?) JOIN tags ON tags.id = value ORDER BY json_each.key"
            )
            self.tags[ids] = tuple(name for (name,) in cursor.execute(named, (ids,)))


class Reader:
    """Reads on one connection; one thread at a time."""

    def __init__(self, connection: apsw.Connection, names: Names) -> None:
        self.connection = connection
        self._cursor = connection.cursor()
        self._names = names

    def head(self) -> int:
        head = self._cursor.execute("SELECT max(position) FROM events").get
        return int(head or 0)

    def page(
        self, query: Query, after: Bound, until: Bound | None, limit: int, backwards: bool
    ) -> list[RecordedEvent[bytes]]:
        item = query.items[0]
        if query == ALL:
            span = self._span(query, after, until)
            return self._events(
                "position > ? AND position <= ?", list(span), "position", limit, backwards
            )
        if query.single_stream is not None and not item.tags:
            return self._stream_page(query, after, until, limit, backwards)
        # More than one statement looks things up, and a name that appears between them must not be
        # half seen.
        self._cursor.execute("BEGIN")
        try:
            span = self._span(query, after, until)
            sql, parameters = PositionSelect(self._cursor, span, limit, backwards).items(
                query.items
            )
            return self._events(f"position IN ({sql})", parameters, "position", limit, backwards)
        finally:
            self._cursor.execute("COMMIT")

    def _stream_page(
        self, query: Query, after: Bound, until: Bound | None, limit: int, backwards: bool
    ) -> list[RecordedEvent[bytes]]:
        condition, parameters = stream_range(query.items[0])
        for operator, bound in ((">", after), ("<=", until)):
            if isinstance(bound, Version):
                condition += f" AND version {operator} ?"
                parameters.append(bound.number)
            elif bound is not None and bound != 0:
                condition += f" AND version {operator} {VERSION_AT}"
                parameters += [query.single_stream, self._position(query, bound)]
        return self._events(condition, parameters, "version", limit, backwards)

    def _events(
        self, condition: str, parameters: list[Any], key: str, limit: int, backwards: bool
    ) -> list[RecordedEvent[bytes]]:
        order = "DESC" if backwards else "ASC"
        sql = (
            f"SELECT {_COLUMNS} FROM events WHERE {condition} ORDER BY {key} {order} LIMIT {limit}"
        )
        rows = self._cursor.execute(sql, parameters).fetchall()
        while True:
            streams, kinds, tags = self._names.streams, self._names.kinds, self._names.tags
            try:
                return [
                    RecordedEvent(
                        position,
                        streams[stream],
                        version,
                        kinds[kind][0],
                        data,
                        tags[tag_ids] if tag_ids else (),
                        kinds[kind][1],
                        id,
                        recorded,
                        occurred,
                        (correlation, causation, command, actor, extra),
                    )
                    for position, stream, version, kind, data, tag_ids, id, recorded, occurred, correlation, causation, command, actor, extra in rows
                ]
            except KeyError:
                self._names.load(self._cursor, rows)

    def _span(self, query: Query, after: Bound, until: Bound | None) -> tuple[int, int]:
        low = self._position(query, after)
        return low, POSITION_MAX if until is None else self._position(query, until)

    def _position(self, query: Query, bound: Bound) -> int:
        """The position of the last event at or before `bound`."""
        if isinstance(bound, Version):
            sql = """SELECT max(position) FROM events WHERE stream_id = (SELECT id FROM streams WHERE name = ?)
 AND version = min(?, (SELECT max(version) FROM events WHERE stream_id = (SELECT id FROM streams WHERE name = ?)))"""
            position = self._cursor.execute(
                sql, (query.single_stream, bound.number, query.single_stream)
            ).get
            return int(position or 0)
        return self._position_at(to_us(bound)) if isinstance(bound, datetime) else bound

    def _position_at(self, us: int) -> int:
        """The position of the last event recorded at or before a moment: times never decrease along
        positions (G9).
        """
        before, beyond = 0, self.head() + 1
        while beyond - before > 1:
            middle = (before + beyond) // 2
            sql = "SELECT position, recorded_at FROM events WHERE position <= ? ORDER BY position DESC LIMIT 1"
            position, recorded_us = self._cursor.execute(sql, (middle,)).get or (0, us)
            if recorded_us <= us:
                before = middle
            else:
                beyond = position
        return before
