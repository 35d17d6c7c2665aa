"""Queries as SQL: which positions match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from leftfold.limits import POSITION_MAX
from leftfold.query import QueryItem
from leftfold.stores.sqlite.kinds import KindSearch

TAG_SAMPLE_MAX = 1000
"""How many entries of each tag are counted to find the rarest."""

STREAM_ID = "(SELECT id FROM streams WHERE name = ?)"
TAG_ID = "(SELECT id FROM tags WHERE name = ?)"
_VERSION_AT = """coalesce((
 WITH RECURSIVE probe (stream, at, low, high) AS (
  SELECT id, ?, 0, (SELECT max(version) FROM events WHERE stream_id = streams.id)
  FROM streams WHERE name = ?
  UNION ALL
  SELECT stream, at,
   iif((SELECT position FROM events WHERE stream_id = stream AND version = (low + high + 1) / 2)
    <= at, (low + high + 1) / 2, low),
   iif((SELECT position FROM events WHERE stream_id = stream AND version = (low + high + 1) / 2)
    <= at, high, (low + high + 1) / 2 - 1)
  FROM probe WHERE low < high)
 SELECT low FROM probe WHERE low = high), 0)"""
"""The version of a stream at a position, by bisection: versions and positions rise together, but
no index has both.
"""

SqlAndParameters = tuple[str, list[Any]]


def stream_range(item: QueryItem) -> SqlAndParameters:
    """The condition of an item about one stream: a range of the index by stream."""
    sql, parameters = f"stream_id = {STREAM_ID}", [item.stream]
    for tag in item.tags:
        sql += f""" AND EXISTS (SELECT 1 FROM event_tags
 WHERE tag_id = {TAG_ID} AND event_tags.position = events.position)"""
        parameters.append(tag)
    kinds = _kinds(item)
    if kinds is not None:
        # The plus keeps the planner from the index by kind, which is not in version order.
        sql += f" AND +kind_id IN (SELECT id FROM kinds WHERE {kinds[0]})"
        parameters += kinds[1]
    return sql, parameters


def version_bound(operator: str, stream: str | None, position: int) -> SqlAndParameters:
    """A condition on the version of a stream, to add to others, that says `position operator ?`."""
    if (operator, position) in ((">", 0), ("<=", POSITION_MAX)):
        return "", []
    return f" AND version {operator} {_VERSION_AT}", [position, stream]


def _kinds(item: QueryItem) -> SqlAndParameters | None:
    """The condition on the kinds that the item allows, or None where it allows all."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if item.category is not None:
        conditions.append("category = ?")
        parameters.append(item.category)
    if item.types:
        conditions.append(f"type IN {_in_list(item.types)}")
        parameters.extend(item.types)
    if not conditions:
        return None
    return " AND ".join(conditions), parameters


def _in_list(values: Sequence[Any]) -> str:
    return f"({','.join('?' * len(values))})"


class PositionSelect:
    """Builds statements for the first (or last) `limit` positions after `low` up to `high`.

    It looks names up on the way, so it runs inside the transaction of the statement that it builds:
    a name that appears in between must not be half seen.
    """

    def __init__(
        self, cursor: apsw.Cursor, low_high: tuple[int, int], limit: int, backwards: bool
    ) -> None:
        self._cursor = cursor
        self._low_high = low_high
        self._limit = limit
        self._order = "DESC" if backwards else "ASC"

    def matching(self, items: Sequence[QueryItem]) -> SqlAndParameters:
        """A statement for the positions of events that match any of `items`."""
        parts = [self._in_stream(item) for item in items if item.stream]
        parts += [self._tagged(item) for item in items if item.tags and not item.stream]
        parts += self._by_kind([item for item in items if not item.stream and not item.tags])
        if not parts:
            return "SELECT 0 WHERE 0", []
        sql = " UNION ".join(f"SELECT position FROM ({part})" for part, _ in parts)
        parameters = [value for _, values in parts for value in values]
        return f"{sql} ORDER BY 1 {self._order} LIMIT {self._limit}", parameters

    def _in_stream(self, item: QueryItem) -> SqlAndParameters:
        sql, parameters = stream_range(item)
        for operator, position in zip((">", "<="), self._low_high, strict=True):
            bound, values = version_bound(operator, item.stream, position)
            sql, parameters = sql + bound, parameters + values
        return self._page("events", sql, parameters, "version")

    def _by_kind(self, items: Sequence[QueryItem]) -> list[SqlAndParameters]:
        """The positions of what any of the items, about types or categories, allows."""
        conditions: list[str] = []
        parameters: list[Any] = []
        for item in items:
            kinds = _kinds(item)
            if kinds is None:
                span = "position > ? AND position <= ?"
                return [self._page("events", span, [*self._low_high])]
            conditions.append(f"({kinds[0]})")
            parameters += kinds[1]
        if not items:
            return []
        any_of = " OR ".join(conditions)
        search = KindSearch(self._cursor, self._limit, self._order == "DESC")
        found = search.positions(any_of, parameters, self._low_high)
        numbers = msgspec.json.encode(found).decode()
        return [("SELECT value AS position FROM json_each(?)", [numbers])]

    def _tagged(self, item: QueryItem) -> SqlAndParameters:
        first, *others = self._rarest_first(item.tags)
        sql = f"tag_id = {TAG_ID} AND position > ? AND position <= ?"
        parameters: list[Any] = [first, *self._low_high]
        for tag in others:
            sql += f""" AND EXISTS (SELECT 1 FROM event_tags AS other
 WHERE other.tag_id = {TAG_ID} AND other.position = event_tags.position)"""
            parameters.append(tag)
        kinds = _kinds(item)
        if kinds is not None:
            sql += f" AND kind_id IN (SELECT id FROM kinds WHERE {kinds[0]})"
            parameters += kinds[1]
        return self._page("event_tags", sql, parameters)

    def _rarest_first(self, tags: Sequence[str]) -> Sequence[str]:
        if len(tags) == 1:
            return tags
        sql = f"""SELECT count(*) FROM (SELECT 1 FROM event_tags WHERE tag_id = {TAG_ID}
 AND position > ? AND position <= ? LIMIT {TAG_SAMPLE_MAX})"""
        return sorted(tags, key=lambda tag: self._cursor.execute(sql, (tag, *self._low_high)).get)

    def _page(
        self, table: str, condition: str, parameters: list[Any], key: str = "position"
    ) -> SqlAndParameters:
        order = f"ORDER BY {key} {self._order} LIMIT {self._limit}"
        return f"SELECT position FROM {table} WHERE {condition} {order}", parameters
