"""Queries as SQL: which positions match.

An item about types or categories is a union of index ranges, one for each kind, which SQLite merges
in log order: an IN would sort all matches, or scan the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from leftfold.query import QueryItem

KINDS_MERGED_MAX = 400
"""Above so many kinds the log is scanned: it then holds hardly anything else."""
SPAN_PER_KIND_MIN = 100
"""A span of fewer positions for each kind is scanned: to look at it costs less than to merge."""
TAG_SAMPLE_MAX = 1000
"""How many entries of each tag are counted to find the rarest."""

STREAM_ID = "(SELECT id FROM streams WHERE name = ?)"
TAG_ID = "(SELECT id FROM tags WHERE name = ?)"
VERSION_AT = f"""coalesce((SELECT version FROM events WHERE stream_id = {STREAM_ID}
 AND position <= ? ORDER BY version DESC LIMIT 1), 0)"""
"""The version of a stream at a position. Looks from the stream's end, where readers mostly are."""

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
        sql += f" AND +kind_id IN ({kinds[0]})"
        parameters += kinds[1]
    return sql, parameters


def _kinds(item: QueryItem) -> SqlAndParameters | None:
    """A statement for the ids of the kinds that the item allows, or None where it allows all."""
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
    return f"SELECT id FROM kinds WHERE {' AND '.join(conditions)}", parameters


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
        condition, parameters = stream_range(item)
        sql = f"{condition} AND version > {VERSION_AT} AND +position <= ?"
        low, high = self._low_high
        return self._page("events", sql, [*parameters, item.stream, low, high], "version")

    def _by_kind(self, items: Sequence[QueryItem]) -> list[SqlAndParameters]:
        """One range for each kind that any of `items` allows: SQLite joins 500 selects at most."""
        span, parameters = "position > ? AND position <= ?", [*self._low_high]
        ids: dict[int, None] = {}
        statements: list[SqlAndParameters] = []
        for item in items:
            kinds = _kinds(item)
            if kinds is None:
                return [self._page("events", span, parameters)]
            statements.append(kinds)
            some = f"{kinds[0]} LIMIT {KINDS_MERGED_MAX + 1}"
            ids.update((id, None) for (id,) in self._cursor.execute(some, kinds[1]))
        low, high = self._low_high
        if len(ids) > KINDS_MERGED_MAX or high - low < SPAN_PER_KIND_MIN * len(ids):
            scan = f"{span} AND +kind_id IN ({' UNION ALL '.join(sql for sql, _ in statements)})"
            values = [value for _, values in statements for value in values]
            return [self._page("events", scan, [*parameters, *values])]
        return [self._page("events", f"kind_id = ? AND {span}", [id, *parameters]) for id in ids]

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
            sql += f" AND kind_id IN ({kinds[0]})"
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
