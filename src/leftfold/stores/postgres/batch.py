"""A group of appends as the arrays that the function `append` of the schema takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from leftfold.event import Event, to_us
from leftfold.query import Condition, NoneMatch, QueryItem, StreamVersion, category_of
from leftfold.stores.group import Append
from leftfold.stores.postgres.arrays import (
    Bigints,
    Booleans,
    Integers,
    Jsons,
    ManyBytes,
    Texts,
    Uuids,
)
from leftfold.stores.postgres.reader import query_items

Kind = tuple[str, str, int]
"""Type, category and schema version."""

_LOCKS = ["integer", "bigint[]", "text[]", "text[]"]
_APPENDS = ["text[]", "integer[]", "jsonb[]", "boolean[]"]
_EVENTS = ["integer[]", "integer[]", "uuid[]", "bigint[]", *["text[]"] * 6, "bytea[]"]
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
        Bigints(kept),
        Texts(locks.shared),
        Texts(locks.exclusive),
        Texts(streams),
        Integers(len(append.events) for append in appends),
        _or_null(Jsons(conditions)),
        Booleans(depends),
        Integers(places),
        Integers(kinds[kind_of(event)] for event in events),
        Uuids(event.id for event in events),
        *_metadata(events),
        _or_null(Texts(_array(event.tags) for event in events)),
        ManyBytes(event.data for event in events),
    ]


def _metadata(events: Sequence[Event[bytes]]) -> list[list[Any] | None]:
    given = [event.metadata for event in events]
    times = [event.occurred_at for event in events]
    return [
        _or_null(Bigints(None if each is None else to_us(each) for each in times)),
        _or_null(Texts(each.correlation_id for each in given)),
        _or_null(Texts(each.causation_id for each in given)),
        _or_null(Texts(each.command_id for each in given)),
        _or_null(Texts(each.actor for each in given)),
        _or_null(Texts(_json(each.extra) for each in given)),
    ]


def _or_null(array: list[Any]) -> list[Any] | None:
    """To SQL, no array is an array of nulls: one that is unnested beside others is filled up."""
    return None if array.count(None) == len(array) else array


def _json(value: Any) -> str | None:
    return msgspec.json.encode(value).decode() if value else None


def _array(texts: Sequence[str]) -> str | None:
    """An array of SQL as text: there is no array of arrays that differ in length."""
    if not texts:
        return None
    quoted = (each.replace("\\", "\\\\").replace('"', '\\"') for each in texts)
    return '{"' + '","'.join(quoted) + '"}'


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
