"""A group of appends as the arrays that the function `append` of the schema takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from leftfold.event import Event, to_us
from leftfold.query import Condition, NoneMatch, QueryItem, StreamVersion, category_of
from leftfold.stores.group import Append
from leftfold.stores.postgres.reader import query_items

Kind = tuple[str, str, int]
"""Type, category and schema version."""

_LOCKS = ["integer", "bigint[]", "text[]", "text[]"]
_APPENDS = ["text[]", "integer[]", "jsonb[]", "boolean[]"]
_EVENTS = ["integer[]", "integer[]", "uuid[]", "bigint[]", *["text[]"] * 5, "jsonb[]", "bytea[]"]
_ARGUMENTS = ", ".join(f"%s::{type}" for type in [*_LOCKS, *_APPENDS, *_EVENTS])


def append_statement(schema: str) -> str:
    """A call of `append`, for the values of `append_values`."""
    return f"SELECT * FROM {schema}.append({_ARGUMENTS})"


def kind_of(event: Event[bytes]) -> Kind:
    """The kind of an event."""
    return event.type, category_of(event.stream), event.schema_version


def append_values(
    appends: Sequence[Append], kinds: Mapping[Kind, int], patience_s: float, kept: Sequence[int]
) -> list[Any]:
    """The arguments of `append`. `kinds` has the id of each kind, `kept` are the builds of inline
    projections that the transaction keeps.
    """
    streams: dict[str, int] = {}
    conditions = [_conditions(append.conditions, streams) for append in appends]
    locks = _Locks()
    depends = [locks.add(append) for append in appends]
    events = [event for append in appends for event in append.events]
    # Places in an array of SQL are counted from 1.
    places = [streams.setdefault(event.stream, len(streams) + 1) for event in events]
    return [
        round(patience_s * 1000),
        [*kept],
        [*locks.shared],
        [*locks.exclusive],
        list(streams),
        [len(append.events) for append in appends],
        conditions,
        depends,
        places,
        [kinds[kind_of(event)] for event in events],
        [event.id for event in events],
        [None if event.occurred_at is None else to_us(event.occurred_at) for event in events],
        *_metadata(events),
        [_json(event.tags) for event in events],
        [event.data for event in events],
    ]


def _metadata(events: Sequence[Event[bytes]]) -> list[list[str | None]]:
    given = [event.metadata for event in events]
    return [
        [each.correlation_id for each in given],
        [each.causation_id for each in given],
        [each.command_id for each in given],
        [each.actor for each in given],
        [_json(each.extra) for each in given],
    ]


def _json(value: Any) -> str | None:
    return msgspec.json.encode(value).decode() if value else None


def _conditions(conditions: Sequence[Condition], streams: dict[str, int]) -> str | None:
    return _json(
        [
            {
                "stream": streams.setdefault(condition.stream, len(streams) + 1),
                "version": condition.version,
            }
            if isinstance(condition, StreamVersion)
            else {"after": condition.after, "items": query_items(condition.query)}
            for condition in conditions
        ]
    )


class _Locks:
    """What others must not change meanwhile (shared), and what they must not even look at
    (exclusive). Whatever an event could match, its writer holds: its stream, its tags, its type,
    the log. So a condition needs one of them for each item of its query.
    """

    def __init__(self) -> None:
        self.shared: set[str] = set()
        self.exclusive: set[str] = set()
        self._written: set[str] = set()

    def add(self, append: Append) -> bool:
        """Whether a condition may be about events of appends that were added before."""
        wanted: set[str] = set()
        for condition in append.conditions:
            if isinstance(condition, NoneMatch):
                for item in condition.query.items:
                    wanted |= self._of_item(item)
            else:
                self.shared.add(f"stream:{condition.stream}")
        depends = not wanted.isdisjoint(self._written)
        for event in append.events:
            held = {f"type:{event.type}", *(f"tag:{tag}" for tag in event.tags), "log"}
            self.shared |= held
            self.exclusive.add(f"stream:{event.stream}")
            self._written |= held
            self._written.add(f"stream:{event.stream}")
        return depends

    def _of_item(self, item: QueryItem) -> set[str]:
        if item.stream is not None:
            names = {f"stream:{item.stream}"}
            self.shared |= names  # its writers hold it exclusively
            return names
        if item.tags:
            names = {f"tag:{item.tags[0]}"}
        else:
            names = {f"type:{type}" for type in item.types} or {"log"}
        self.exclusive |= names
        return names
