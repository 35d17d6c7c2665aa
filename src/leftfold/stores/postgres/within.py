"""Appending inside a transaction of the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from leftfold.errors import InvalidInput
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.store import Capabilities, Store
from leftfold.stores.postgres.appending import Appending, checked
from leftfold.stores.postgres.connection import AsyncLink, Link, SyncLink, translate
from leftfold.stores.postgres.news import News
from leftfold.stores.postgres.pool import LinkPool

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Within:
    """A store whose appends are part of the transaction of a connection."""

    appends_are_final = False

    def __init__(
        self,
        store: Store,
        connection: AnyConnection,
        pool: LinkPool,
        appending: Appending,
        news: News,
    ) -> None:
        self._store = store
        self._connection = connection
        self._link: Link = (
            SyncLink(connection)
            if isinstance(connection, psycopg.Connection)
            else AsyncLink(connection)
        )
        self._pool = pool
        self._appending = appending
        self._news = news
        self._is_same_log = False

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        append = checked(events, conditions)
        connection = self._connection
        if connection.autocommit and self._link.is_usable:
            raise InvalidInput(
                "an append within a transaction needs one: begin it with connection.transaction()"
            )
        # Kinds of a log are for all, and made at once: nobody has to wait for this transaction.
        kinds = await self._pool.call(lambda link: self._appending.learn_kinds(link, [append]))
        try:
            await self._refuse_another_log()
            timeout_s = self._pool.options.lock_timeout_s
            (outcome,), _ = await self._appending.append(
                self._link, [append], kinds=kinds, lock_timeout_s=timeout_s
            )
        except psycopg.Error as error:
            raise translate(error, self._pool.place, "; the transaction has failed") from error
        if isinstance(outcome, Appended):
            # The transaction cannot notify by itself: then it could not be prepared. Its end is
            # seen by what it lets the log settle.
            self._news.tell(outcome.position)
            return outcome
        raise outcome

    async def _refuse_another_log(self) -> None:
        if not self._is_same_log:
            mark = await self._appending.mark(self._link)
            if mark != await self._pool.call(self._appending.mark):
                raise InvalidInput(f"the connection is not to {self._pool.place}")
            self._is_same_log = True

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> list[RecordedEvent[bytes]]:
        return await self._store.read(
            query, after=after, until=until, limit=limit, backwards=backwards
        )

    async def head(self) -> int:
        return await self._store.head()

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._store.wait(after, timeout_s)

    async def close(self) -> None:
        """Nothing: store and connection are the caller's."""
