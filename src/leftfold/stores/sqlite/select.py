"""Queries as SQL: which positions match. Every name is looked up inside the statement, so one
statement is one snapshot.

A condition of the form "kind 3 or 7" is a union of index ranges, each in log order, which SQLite
merges: an IN would sort all matches, or scan the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from leftfold.query import QueryItem

KINDS_MERGED_MAX = 32
"""Above so many kinds the log is scanned: it then holds hardly anything else."""
TAG_SAMPLE_MAX = 1000
"""How many entries of each tag are counted to find the rarest."""

SqlAndParameters = tuple[str, list[Any]]


def in_list(count: int) -> str:
    return f"({','.join('?' * count)})"


def kinds_of(item: QueryItem) -> SqlAndParameters | None:
    """A statement for the ids of the kinds that the item allows, or None where it allows all."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if item.category is not None:
        conditions.append("category = ?")
        parameters.append(item.category)
    if item.types:
        conditions.append(f"type IN {in_list(len(item.types))}")
        parameters.extend(item.types)
    return (
        (f"SELECT id FROM kinds WHERE {' AND '.join(conditions)}", parameters)
        if conditions
        else None
    )


def stream_range(item: QueryItem) -> SqlAndParameters:
    """The condition for one item about one stream, without tags: a range of the index by stream."""
    sql, parameters = "stream_id = (SELECT id FROM streams WHERE name = ?)", [item.stream]
    kinds = kinds_of(item)
    if kinds is not None:
        # The plus keeps the planner from the index by kind, which is not in version order.
        sql += f" AND +kind_id IN ({kinds[0]})"
        parameters += kinds[1]
    return sql, parameters


VERSION_AT = """coalesce((SELECT version FROM events WHERE stream_id = (SELECT id FROM streams WHERE name = ?)
 AND position <= ? ORDER BY version DESC LIMIT 1), 0)"""
"""The version of a stream at a position. Looks from the stream's end, where readers mostly are."""


class PositionSelect:
    """Builds the statement for the first (or last) `limit` matching positions after `low` up to
    `high`.
    """

    def __init__(
        self, cursor: apsw.Cursor, span: tuple[int, int], limit: int, backwards: bool
    ) -> None:
        self._cursor = cursor
        self._span = span
        self._limit = limit
        self._order = "DESC" if backwards else "ASC"

    def items(self, items: Sequence[QueryItem]) -> SqlAndParameters:
        parts = [part for item in items for part in self._item(item)]
        if not parts:
            return "SELECT 0 WHERE 0", []
        sql = " UNION ".join(f"SELECT position FROM ({part})" for part, _ in parts)
        parameters = [value for _, values in parts for value in values]
        return f"{sql} ORDER BY 1 {self._order} LIMIT {self._limit}", parameters

    def _item(self, item: QueryItem) -> list[SqlAndParameters]:
        if item.tags:
            return [self._tagged(item)]
        if item.stream is not None:
            return [self._in_stream(item)]
        return self._by_kind(item)

    def _in_stream(self, item: QueryItem) -> SqlAndParameters:
        sql, parameters = stream_range(item)
        low, high = self._span
        sql = (
            f"SELECT position FROM events WHERE {sql} AND version > {VERSION_AT} AND +position <= ?"
        )
        return self._page(sql, [*parameters, item.stream, low, high], "version")

    def _by_kind(self, item: QueryItem) -> list[SqlAndParameters]:
        kinds = kinds_of(item)
        if kinds is None:
            return [
                self._page(
                    "SELECT position FROM events WHERE position > ? AND position <= ?",
                    [*self._span],
                )
            ]
        ids = [id for (id,) in self._cursor.execute(*kinds)]
        if len(ids) > KINDS_MERGED_MAX:
            sql = (
                "SELECT position FROM events WHERE position > ? AND position <= ? AND +kind_id IN "
            )
            return [self._page(sql + in_list(len(ids)), [*self._span, *ids])]
        sql = "SELECT position FROM events WHERE kind_id = ? AND position > ? AND position <= ?"
        return [self._page(sql, [id, *self._span]) for id in ids]

    def _tagged(self, item: QueryItem) -> SqlAndParameters:
        first, *others = self._rarest_first(item.tags)
        tag_id = "(SELECT id FROM tags WHERE name = ?)"
        sql = f"SELECT position FROM event_tags AS tagged WHERE tag_id = {tag_id} AND position > ? AND position <= ?"
        parameters: list[Any] = [first, *self._span]
        for tag in others:
            sql += f" AND EXISTS (SELECT 1 FROM event_tags WHERE tag_id = {tag_id} AND position = tagged.position)"
            parameters.append(tag)
        kinds = kinds_of(item)
        if kinds is not None:
            sql += f" AND kind_id IN ({kinds[0]})"
            parameters += kinds[1]
        if item.stream is not None:
            sql += """ AND EXISTS (SELECT 1 FROM events WHERE position = tagged.position
 AND stream_id = (SELECT id FROM streams WHERE name = ?))"""
            parameters.append(item.stream)
        return self._page(sql, parameters)

    def _rarest_first(self, tags: Sequence[str]) -> Sequence[str]:
        if len(tags) == 1:
            return tags
        sql = f"""SELECT count(*) FROM (SELECT 1 FROM event_tags WHERE tag_id = (SELECT id FROM tags WHERE name = ?)
 AND position > ? AND position <= ? LIMIT {TAG_SAMPLE_MAX})"""
        return sorted(tags, key=lambda tag: self._cursor.execute(sql, (tag, *self._span)).get)

    def _page(self, sql: str, parameters: list[Any], key: str = "position") -> SqlAndParameters:
        return f"{sql} ORDER BY {key} {self._order} LIMIT {self._limit}", parameters
