"""Connections to PostgreSQL in both colours, and what their errors mean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
from psycopg.rows import tuple_row

from leftfold.errors import LeftfoldError, ProjectionRefused, StoreUnavailable
from leftfold.projection.keeping import refusal
from leftfold.stores.postgres.arrays import send_arrays

_PAUSE_S = 0.001
_PAUSE_MAX_S = 0.5
UNKEPT = "LF003"
"""What `append` raises, with the names of inline projections that are not kept."""
_PREPARED_ELSEWHERE = {"26000", "42P05", "08P01"}
"""A statement was prepared in another session than the one that is to run it, or another one was
prepared there by its name.
"""


class Link(Protocol):
    """A connection. Each statement is a transaction of its own."""

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a statement. Raises psycopg.Error."""
        ...

    @property
    def is_usable(self) -> bool:
        """Whether it is open, up to date, and not in the middle of something."""
        ...

    async def close(self) -> None: ...


class SyncLink:
    """A connection that blocks the calling thread: its coroutines never suspend."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = self._connection = connection
        send_arrays(connection)
        self._is_outdated = False

    @classmethod
    async def open(cls, dsn: str, prepare_threshold: int | None) -> SyncLink:
        return cls(psycopg.connect(dsn, autocommit=True, prepare_threshold=prepare_threshold))

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        # Not the connection's own kind of cursor, which may be another in a caller's transaction.
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            try:
                cursor.execute(statement, values, binary=True)
            except psycopg.errors.FeatureNotSupported:
                # What was prepared may be of tables that were changed since, by an upgrade.
                self._is_outdated = True
                cursor.execute(statement, values, binary=True, prepare=False)
            return cursor.fetchall()

    @property
    def is_usable(self) -> bool:
        return not self._is_outdated and _is_idle(self._connection)

    async def close(self) -> None:
        self._connection.close()


class AsyncLink:
    """A connection whose calls suspend the task."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        send_arrays(connection)
        self._is_outdated = False

    @classmethod
    async def open(cls, dsn: str, prepare_threshold: int | None) -> AsyncLink:
        connect = psycopg.AsyncConnection.connect
        return cls(await connect(dsn, autocommit=True, prepare_threshold=prepare_threshold))

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            try:
                await cursor.execute(statement, values, binary=True)
            except psycopg.errors.FeatureNotSupported:
                # See SyncLink.
                self._is_outdated = True
                await cursor.execute(statement, values, binary=True, prepare=False)
            return await cursor.fetchall()

    @property
    def is_usable(self) -> bool:
        return not self._is_outdated and _is_idle(self._connection)

    async def close(self) -> None:
        await self._connection.close()


def _is_idle(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    idle = psycopg.pq.TransactionStatus.IDLE
    return not connection.closed and connection.info.transaction_status == idle


class Retry:
    """When to try again to reach a server that was lost, and for how long."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._next_s = _PAUSE_S

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def pause_s(self) -> float:
        """How long to pause before the next attempt: longer each time."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, _PAUSE_MAX_S)
        return pause_s


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, and what it was at may have happened or not."""
    if not isinstance(error, psycopg.DatabaseError) or isinstance(error, psycopg.ProgrammingError):
        return False
    # Whatever the reason, a server that gives up says FATAL or PANIC, or nothing at all.
    return error.sqlstate is None or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def translate(error: psycopg.Error, place: str, outcome: str = "") -> LeftfoldError:
    """What an error means to a caller, with what came of the call."""
    reason = str(error).strip() or type(error).__name__
    if error.sqlstate == UNKEPT:
        return ProjectionRefused(f"{place}: {refusal([error.diag.message_primary or ''])}{outcome}")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        reason = f"{reason}; the role lacks a privilege"
    elif error.sqlstate in _PREPARED_ELSEWHERE:
        reason = f"{reason}; behind a pooler, add prepared_statements=false to the store URL"
    elif isinstance(error, psycopg.errors.LockNotAvailable):
        reason = "another transaction that writes to the same streams or tags does not end"
    return StoreUnavailable(f"{place}: {reason}{outcome}")
