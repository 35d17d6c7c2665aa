"""One call of the function `append` of the schema, and what came of each append in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from leftfold.errors import AppendConditionFailed, DuplicateEvent, InvalidInput
from leftfold.event import Appended, Event
from leftfold.limits import check_append
from leftfold.query import Condition, NoneMatch
from leftfold.stores.group import Append, Outcome
from leftfold.stores.postgres.batch import Kind, append_statement, append_values, kind_of
from leftfold.stores.postgres.connection import Link

KINDS_CACHED_MAX = 200_000
"""Kinds that a store keeps in memory."""


def checked(events: Sequence[Event[bytes]], conditions: Sequence[Condition]) -> Append:
    """The append, with copies, as the caller may change its lists while they wait."""
    check_append(events, conditions)
    if len({event.id for event in events}) < len(events):
        raise InvalidInput("the event ids of an append differ, found one twice")
    return Append(tuple(events), tuple(conditions))


class Appending:
    """Appends to one log, on any connection. Raises psycopg.Error."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._statement = append_statement(schema)
        self._kinds: dict[Kind, int] = {}

    async def mark(self, link: Link) -> object:
        """What tells the log that a connection leads to from others."""
        sql = f"SELECT applied_at FROM {self._schema}.leftfold_migrations WHERE number = 1"
        return await link.fetch(sql)

    def forget(self) -> None:
        """Trust nothing that is remembered: a new connection may lead to another server, which was
        restored from a backup or took over.
        """
        self._kinds = {}

    async def learn_kinds(self, link: Link, group: Sequence[Append]) -> dict[Kind, int]:
        """The ids of the kinds that the group needs. Not in the transaction that appends."""
        if len(self._kinds) > KINDS_CACHED_MAX:
            self._kinds = {}
        known = self._kinds  # another thread may replace it
        needed = {kind_of(event) for append in group for event in append.events}
        missing = sorted(needed - known.keys())
        if missing:
            columns: list[Any] = [list(column) for column in zip(*missing, strict=True)]
            sql = f"SELECT {self._schema}.intern_kinds(%s::text[], %s::text[], %s::int[])"
            ((ids,),) = await link.fetch(sql, columns)
            known.update(zip(missing, ids, strict=True))
        return {kind: known[kind] for kind in needed}

    async def append(
        self,
        link: Link,
        group: Sequence[Append],
        *,
        kinds: dict[Kind, int],
        lock_timeout_s: float,
        kept: Sequence[int] = (),
    ) -> tuple[list[Outcome], int]:
        """Record those whose conditions hold, in one statement; one outcome each, in order. Also
        the end of the log, settled or not. `kept` are the builds of inline projections that the
        caller keeps in the same transaction.
        """
        values = append_values(group, kinds, lock_timeout_s, kept)
        ((*columns, last),) = await link.fetch(self._statement, values)
        versions = iter(columns.pop())
        outcomes = [
            await self._outcome(link, append, [next(versions) for _ in append.events], result)
            for append, *result in zip(group, *columns, strict=True)
        ]
        return outcomes, last

    async def _outcome(
        self, link: Link, append: Append, versions: list[int], result: list[Any]
    ) -> Outcome:
        first, failed, actual = result
        if first is not None:
            streams = [event.stream for event in append.events]
            at = dict(zip(streams, versions, strict=True))
            return Appended(first, first + len(streams) - 1, at)
        if failed == 0:
            return await self._repeated(link, append)
        condition = append.conditions[abs(failed) - 1]
        if failed < 0 and isinstance(condition, NoneMatch):
            return InvalidInput(condition.beyond(actual))
        return AppendConditionFailed(condition, actual)

    async def _repeated(self, link: Link, append: Append) -> Outcome:
        """What an append comes to of which some ids are known."""
        sql = f"""SELECT id, position, stream, version FROM {self._schema}.events
 WHERE id = ANY (%s) ORDER BY position"""
        ids = [event.id for event in append.events]
        rows = await link.fetch(sql, [ids])
        known: set[UUID] = {id for id, *_ in rows}
        if len(known) < len(ids):
            return DuplicateEvent(
                tuple(id for id in ids if id in known), tuple(id for id in ids if id not in known)
            )
        versions = {stream: version for *_, stream, version in rows}
        return Appended(rows[0][1], rows[-1][1], versions, is_repeat=True)
