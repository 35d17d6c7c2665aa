"""Views, for people: `View` for sync code, `AsyncView` for async code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from leftfold.drive import run_sync
from leftfold.projection.definition import Projection, SqlProjection
from leftfold.projection.finding import FIND_ROWS
from leftfold.projection.folded import Moment
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.viewing import Viewing
from leftfold.projection.waiting import WAIT_S

R = TypeVar("R")


class View(Generic[R]):
    """What a projection shows. Made by `view` of an EventStore; safe to share between threads.

    Each answer is of one moment. Of a projection that is async the view reads what its runners have
    made so far; `after=token` waits until it shows the append whose reply carried the token. A view
    of a live projection, or as of a position or moment, is folded from the log when it is read, and
    goes on from there the next time: keep it to read it often.

    Every method raises ProjectionBehind where there is no read model of such rows yet, or not one
    that shows what was asked for; StoreUnavailable and StoreClosed; and where it is folded,
    ProjectionFailed and UndecodableEvent. Those that take rows raise InvalidInput for an
    SqlProjection.
    """

    def __init__(
        self,
        parts: ProjectionParts,
        projection: Projection[R] | SqlProjection,
        at: Moment | None = None,
    ) -> None:
        self._viewing = Viewing(parts, projection, at)

    def get(self, key: Any, *, after: str | None = None, timeout_s: float = WAIT_S) -> R | None:
        """The row of a key, a tuple where the key has several fields; None: there is none.

        With a token `after`, waits up to `timeout_s` seconds (at most 3600) until the row shows
        that append, and raises ProjectionBehind when it does not: at once where the projection is
        stopped, or the key in quarantine. Raises InvalidInput for what can be no key or no token.
        """
        return run_sync(self._viewing.get(key, after, timeout_s))

    def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        limit: int = FIND_ROWS,
        beyond: R | None = None,
        after: str | None = None,
        timeout_s: float = WAIT_S,
    ) -> list[R]:
        """The first `limit` rows (at most 10,000), in the order of the key, whose fields have the
        values of `where`: fields of the key, or indexed ones.

        `beyond=rows[-1]` goes on with the next page: what comes after the key of that row. Rows
        that are written meanwhile neither repeat nor hide others. `after` and `timeout_s` are as
        for `get`, but whether keys are in quarantine is not looked at. Raises InvalidInput for
        fields that are not indexed and for values that do not fit.
        """
        question = self._viewing.rows.find(where, limit, beyond)
        return run_sync(self._viewing.ask(question, after, timeout_s))

    def count(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        after: str | None = None,
        timeout_s: float = WAIT_S,
    ) -> int:
        """How many rows there are whose fields have the values of `where`. As `find` otherwise."""
        question = self._viewing.rows.count(where)
        return run_sync(self._viewing.ask(question, after, timeout_s))

    def sql(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows, at most 10,000, of a SELECT of your own, as dicts by column, with the
        database's own values and placeholders.

        The tables are called as the projections are. Only what is in one database can be read
        together, of live projections and as of a time that is this projection alone. Nothing can be
        written. To read what was just appended, call `wait` first. Raises InvalidInput for SQL that
        the database refuses, more rows, and columns of one name.
        """
        return run_sync(self._viewing.sql(sql, values))

    def wait(self, token: str, *, timeout_s: float = WAIT_S) -> None:
        """Return once the append whose reply carried `token` shows, for all keys.

        Raises ProjectionBehind when it does not within `timeout_s` seconds (at most 3600), and at
        once where the projection is stopped, or any key is in quarantine by an event up to there.
        """
        run_sync(self._viewing.wait(token, timeout_s))


class AsyncView(Generic[R]):
    """What a projection shows. Made by `view` of an AsyncEventStore, for tasks of its event loop.

    Each answer is of one moment. Of a projection that is async the view reads what its runners have
    made so far; `after=token` waits until it shows the append whose reply carried the token. A view
    of a live projection, or as of a position or moment, is folded from the log when it is read, and
    goes on from there the next time: keep it to read it often.

    Every method raises ProjectionBehind where there is no read model of such rows yet, or not one
    that shows what was asked for; StoreUnavailable and StoreClosed; and where it is folded,
    ProjectionFailed and UndecodableEvent. Those that take rows raise InvalidInput for an
    SqlProjection.
    """

    def __init__(
        self,
        parts: ProjectionParts,
        projection: Projection[R] | SqlProjection,
        at: Moment | None = None,
    ) -> None:
        self._viewing = Viewing(parts, projection, at)

    async def get(
        self, key: Any, *, after: str | None = None, timeout_s: float = WAIT_S
    ) -> R | None:
        """The row of a key, a tuple where the key has several fields; None: there is none.

        With a token `after`, waits up to `timeout_s` seconds (at most 3600) until the row shows
        that append, and raises ProjectionBehind when it does not: at once where the projection is
        stopped, or the key in quarantine. Raises InvalidInput for what can be no key or no token.
        """
        return await self._viewing.get(key, after, timeout_s)

    async def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        limit: int = FIND_ROWS,
        beyond: R | None = None,
        after: str | None = None,
        timeout_s: float = WAIT_S,
    ) -> list[R]:
        """The first `limit` rows (at most 10,000), in the order of the key, whose fields have the
        values of `where`: fields of the key, or indexed ones.

        `beyond=rows[-1]` goes on with the next page: what comes after the key of that row. Rows
        that are written meanwhile neither repeat nor hide others. `after` and `timeout_s` are as
        for `get`, but whether keys are in quarantine is not looked at. Raises InvalidInput for
        fields that are not indexed and for values that do not fit.
        """
        question = self._viewing.rows.find(where, limit, beyond)
        return await self._viewing.ask(question, after, timeout_s)

    async def count(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        after: str | None = None,
        timeout_s: float = WAIT_S,
    ) -> int:
        """How many rows there are whose fields have the values of `where`. As `find` otherwise."""
        question = self._viewing.rows.count(where)
        return await self._viewing.ask(question, after, timeout_s)

    async def sql(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows, at most 10,000, of a SELECT of your own, as dicts by column, with the
        database's own values and placeholders.

        The tables are called as the projections are. Only what is in one database can be read
        together, of live projections and as of a time that is this projection alone. Nothing can be
        written. To read what was just appended, call `wait` first. Raises InvalidInput for SQL that
        the database refuses, more rows, and columns of one name.
        """
        return await self._viewing.sql(sql, values)

    async def wait(self, token: str, *, timeout_s: float = WAIT_S) -> None:
        """Return once the append whose reply carried `token` shows, for all keys.

        Raises ProjectionBehind when it does not within `timeout_s` seconds (at most 3600), and at
        once where the projection is stopped, or any key is in quarantine by an event up to there.
        """
        await self._viewing.wait(token, timeout_s)
