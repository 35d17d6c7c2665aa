"""The protocol of the databases that keep read models: transactions with SQL, and what differs
from engine to engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar

from leftfold.errors import InvalidInput

STATEMENTS_CACHED_MAX = 1000
"""Statements of which it is remembered whether they end a transaction."""

_COMMENT = re.compile(r"/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/")
_SPACE = re.compile(r"\A(?:\s|;|\ufeff|--[^\n]*(?:\n|\Z))+")
_CONTROL = re.compile(
    r"(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE,
)

T = TypeVar("T")

ColumnType = Literal[
    "text", "integer", "boolean", "real", "decimal", "bytes", "datetime", "date", "uuid", "json"
]
"""What a column of a read model holds: a Python str, int of 64 bits, bool, float, Decimal, bytes,
datetime with a time zone, date, UUID, or JSON as UTF-8 text in a str.
"""

Rows = list[tuple[Any, ...]]


class Dialect(Protocol):
    """What differs from engine to engine."""

    name: str
    """`sqlite` or `postgresql`."""
    for_update: str
    """What follows a SELECT to lock its rows: ` FOR UPDATE`, or nothing where a transaction that
    writes is alone anyway.
    """
    same: str
    """The comparison that takes NULL for a value: `IS`, or `IS NOT DISTINCT FROM`."""

    def column(self, kind: ColumnType) -> str:
        """The SQL type of a column, for the definition of a table; no cast takes it."""
        ...

    def encoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        """What makes of a Python value (not None) what the driver takes; None: it takes it as it
        is. Its result compares and sorts, in SQL, as the value does, but for decimals on SQLite.
        Raises InvalidInput for what does not compare: a float that is not a number, a decimal that
        is not finite, a datetime without a time zone.
        """
        ...

    def decoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        """What makes of a value (not None) that the driver returned the Python value; None: it
        is that already.
        """
        ...

    def quote(self, name: str) -> str:
        """A name as an SQL identifier."""
        ...


class Transaction(Protocol):
    """A transaction. Values are bound, with ? for each; a literal ? does not occur in `sql`."""

    dialect: Dialect

    def of_callers(self) -> Transaction:
        """The same for SQL of callers: it refuses, with InvalidInput, what begins or ends a
        transaction, as the rest would be in another one.
        """
        ...

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """All rows of one statement."""
        ...

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each of `rows`."""
        ...

    def relations(self, prefix: str) -> list[str]:
        """The names of all tables that begin with `prefix`, in order."""
        ...

    def now_us(self) -> int:
        """The database's clock, in microseconds since 1970."""
        ...


class Database(Protocol):
    """Where read models are kept. Every method blocks, and any thread may call it."""

    dialect: Dialect
    place: str
    """How people call it: a path, or an address without a password."""

    def write(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """What `work` returns for a transaction that writes, committed when this returns.

        Transactions that write see all that was committed before them. After a conflict of locks,
        a deadlock, or a connection that was lost before the commit, `work` is called again, for a
        limited time. What it raises rolls back and passes through. Unless `durable`, a crash of
        the machine may lose the latest ones, whole and in order.
        Raises StoreUnavailable, also where a connection was lost in the commit: then it may have
        happened or not. Raises InvalidInput for SQL and values that the engine refuses, which it
        would refuse again. Work that uses the same database by another transaction raises
        StoreUnavailable, or waits for itself until it does.
        """
        ...

    def read(self, work: Callable[[Transaction], T]) -> T:
        """What `work` returns for a transaction that cannot write and sees one moment. It may be
        called again. Raises StoreUnavailable, and InvalidInput as `write` does.
        """
        ...

    def query(self, sql: str, values: Sequence[Any], *, limit: int) -> tuple[list[str], Rows]:
        """The names of the columns and the rows of a caller's own SELECT, with placeholders of the
        engine's own kind. It cannot write, whatever it says. Raises InvalidInput for SQL that the
        engine refuses or that runs too long, and for more than `limit` rows, StoreUnavailable.
        """
        ...

    def close(self) -> None:
        """Free everything. Closing twice is harmless; a closed one raises StoreClosed."""
        ...


@lru_cache(STATEMENTS_CACHED_MAX)
def refuse_control(sql: str) -> None:
    """Refuse, with InvalidInput, a statement that begins or ends a transaction, or a part of it."""
    rest = sql
    # Comments within comments are taken away from the inside.
    while "/*" in rest and (outer := _COMMENT.sub(" ", rest)) != rest:
        rest = outer
    found = _CONTROL.match(_SPACE.sub("", rest, count=1))
    if found:
        raise InvalidInput(
            f"{found[0].upper()} is not for a projection: what it writes and its checkpoint are "
            "one transaction, which is begun and ended for it"
        )
