"""Finding events of several kinds in log order: the index by kind has each kind in that order.

A union of its ranges, which SQLite can merge, costs more: for 100 kinds 1.3 ms to prepare it, and
then several times as much for each event.
"""

from __future__ import annotations

from typing import Any

import apsw

SPAN_MIN = 100
"""Positions that are looked through first, and two more for each event that is wanted."""
SPAN_GROWTH = 8
"""How much larger the next span is where the last one had too few."""
SPAN_PER_KIND_MIN = 10
"""A span of fewer positions for each kind is scanned: to seek each kind in it costs more."""


class KindSearch:
    """Looks for events of the kinds that a condition on the table of kinds allows."""

    def __init__(self, cursor: apsw.Cursor, limit: int, backwards: bool) -> None:
        self._cursor = cursor
        self._limit = limit
        self._backwards = backwards
        self._order = "DESC" if backwards else "ASC"

    def positions(
        self, condition: str, parameters: list[Any], low_high: tuple[int, int]
    ) -> list[int]:
        """The first positions (or the last, where backwards) after `low` up to `high`, `limit` of
        them or a few more.
        """
        sql = f"""SELECT coalesce((SELECT max(position) FROM events), 0),
 (SELECT count(*) FROM kinds WHERE {condition})"""
        head, kinds = self._cursor.execute(sql, parameters).get
        low, high = low_high[0], min(low_high[1], head)
        found: list[int] = []
        size = size_min = SPAN_MIN + 2 * self._limit
        while low < high and len(found) < self._limit:
            span = (
                (max(low, high - size), high) if self._backwards else (low, min(low + size, high))
            )
            way = _seek if span[1] - span[0] >= SPAN_PER_KIND_MIN * kinds else _scan
            sql = f"""{way(condition)} AND position > ? AND position <= ?
 ORDER BY position {self._order} LIMIT {self._limit}"""
            rows: Any = self._cursor.execute(sql, [*parameters, *span]).fetchall()
            found += [position for (position,) in rows]
            low, high = (low, span[0]) if self._backwards else (span[1], high)
            size *= SPAN_GROWTH
            if not rows:
                # Over the gap in one step: behind it they may be dense.
                low, high = self._from_next(condition, parameters, (low, high))
                size = size_min
        return found

    def _from_next(
        self, condition: str, parameters: list[Any], low_high: tuple[int, int]
    ) -> tuple[int, int]:
        """What is left of a span from the next event on, an empty span where there is none."""
        sql = f"""SELECT {"max" if self._backwards else "min"}((SELECT position FROM events
 WHERE kind_id = kinds.id AND position > ? AND position <= ?
 ORDER BY position {self._order} LIMIT 1)) FROM kinds WHERE {condition}"""
        position: int | None = self._cursor.execute(sql, [*low_high, *parameters]).get
        if position is None:
            return low_high[0], low_high[0]
        return (low_high[0], position) if self._backwards else (position - 1, low_high[1])


def _scan(condition: str) -> str:
    return f"""SELECT position FROM events CROSS JOIN kinds ON kinds.id = kind_id
 WHERE ({condition})"""


def _seek(condition: str) -> str:
    return f"""SELECT position FROM events INDEXED BY events_by_kind
 WHERE kind_id IN (SELECT id FROM kinds WHERE {condition})"""
