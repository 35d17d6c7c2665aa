"""Read models in a schema of a PostgreSQL database."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import islice
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal

from leftfold.errors import InvalidInput, LeftfoldError, StoreClosed, StoreUnavailable
from leftfold.projection.database import Dialect, Rows, Transaction, refuse_control
from leftfold.stores.postgres.connection import is_lost, translate
from leftfold.stores.postgres.dialect import (
    PostgresDialect,
    adapt,
    adapt_to_callers,
    translated,
)
from leftfold.stores.postgres.places import Connection, Places

T = TypeVar("T")

QUERY_TIMEOUT_S = 30.0
"""How long a caller's own SELECT may run."""
LOCK_TIMEOUT_S = 10.0
"""How long a transaction waits for each lock that another one holds."""
IDLE_S = 60.0
"""How long a transaction may be silent before the server ends it: its process may be paused, and
others wait for what it has locked.
"""
PATIENCE_S = 30.0
"""How long work is called again, after conflicts and while the server is gone."""
RACES_MAX = 5
"""How often work is called again that creates what is there already."""
PAUSE_MAX_S = 0.5
"""The longest pause between two calls."""
BATCH_ROWS = 1000
"""Rows that are taken from an iterable at a time."""

_IN_DOUBT = "; the transaction may have been committed or not"
REFUSALS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    # Limits of a statement or a row, such as text that is too long for an index.
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyColumns,
    errors.TooManyArguments,
    errors.RaiseException,
)
_FAULTS_OF_THE_PLACE = (
    errors.InsufficientPrivilege,
    errors.DuplicatePreparedStatement,
    errors.InvalidSqlStatementName,
)
_OPEN = {psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR}
_TWICE = (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateSchema)
_CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)


@contextmanager
def _values_refused() -> Iterator[None]:
    """What Python itself says of values that do not fit."""
    try:
        yield
    except LeftfoldError:
        raise
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise InvalidInput(f"PostgreSQL does not take the statement or a value: {error}") from error


class PostgresTransaction:
    """The transaction that is open on a connection."""

    dialect: Dialect = PostgresDialect()

    def __init__(self, cursor: psycopg.Cursor[Any], schema: str) -> None:
        self._cursor = cursor
        self._schema = schema
        self._is_of_callers = False
        self.failed: list[psycopg.Error] = []
        """Why nothing more can be done in it, also where callers have passed over that."""

    def of_callers(self) -> Transaction:
        tx = copy(self)
        tx._is_of_callers = True
        return tx

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        if self._is_of_callers:
            refuse_control(sql)
        try:
            with _values_refused():
                self._cursor.execute(translated(sql), values, binary=True)
                rows: Rows = self._cursor.fetchall() if self._cursor.description else []
        except psycopg.Error as error:
            raise self._cause(error) from None
        return rows

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        if self._is_of_callers:
            refuse_control(sql)
        rest = iter(rows)
        # Taken before they are sent: what the caller's iterable raises passes through.
        while batch := list(islice(rest, BATCH_ROWS)):
            try:
                with _values_refused():
                    self._cursor.executemany(translated(sql), batch)
            except psycopg.Error as error:
                raise self._cause(error) from None

    def _cause(self, error: psycopg.Error) -> psycopg.Error:
        self.failed.append(error)
        return self.failed[0]

    def relations(self, prefix: str) -> list[str]:
        found = self.execute(
            """SELECT relname::text, has_schema_privilege(relnamespace, 'USAGE')
 FROM pg_class WHERE relkind IN ('r', 'p')
 AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = ?)
 AND starts_with(relname::text, ?) ORDER BY relname""",
            (self._schema, prefix),
        )
        # Everybody sees names; who may not use the schema would be told that they are missing.
        if not all(may_use for _, may_use in found):
            raise StoreUnavailable(_not_used(self._schema, self._cursor.connection.info.user))
        return [name for name, _ in found]

    def now_us(self) -> int:
        ((now_us,),) = self.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        )
        return int(now_us)


class PostgresDatabase:
    """The schema `schema`, made by the first transaction that writes. Safe to share between
    threads; other processes open it themselves, at the same time. It works behind a pooler that
    gives each transaction another session.

    `dsn` is what `connection_string` makes, `place` how people call the schema, without a password.
    Statements are prepared after so many runs as `prepare_threshold` says, never for None. The
    first connection is tried once; later, a server that is lost is waited for.
    """

    dialect: Dialect = PostgresDialect()

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        place: str,
        prepare_threshold: int | None = 2,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.place = place
        self._dsn = dsn
        self._schema = schema
        self._prepare_threshold = prepare_threshold
        self._patience_s = patience_s
        self._pid = os.getpid()
        self._is_closed = False
        self._was_connected = False
        self._has_schema = False
        self._places = Places(self._connect)
        self._begin_durable = beginning(schema, "READ COMMITTED")
        self._begin_write = beginning(schema, "READ COMMITTED", synchronous_commit="off")
        self._begin_read = beginning(schema, "REPEATABLE READ READ ONLY")
        self._begin_query = beginning(
            schema,
            "REPEATABLE READ READ ONLY",
            statement_timeout=f"{QUERY_TIMEOUT_S}s",
            datestyle="ISO",
        )

    def write(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        # A durable one leaves it to the server, which may wait for standbys as well.
        begin = self._begin_durable if durable else self._begin_write

        def transact(connection: Connection) -> T:
            with psycopg.Cursor(connection) as cursor:
                connection.execute(begin)
                self._create_schema(cursor)
                tx = PostgresTransaction(cursor, self._schema)
                done = work(tx)
                self._commit(cursor, tx.failed)
            self._has_schema = True
            return done

        return self._patiently(transact)

    def read(self, work: Callable[[Transaction], T]) -> T:
        def transact(connection: Connection) -> T:
            with psycopg.Cursor(connection) as cursor:
                connection.execute(self._begin_read)
                done = work(PostgresTransaction(cursor, self._schema))
                connection.execute("ROLLBACK")
            return done

        return self._patiently(transact)

    def query(self, sql: str, values: Sequence[Any], *, limit: int) -> tuple[list[str], Rows]:
        def select(connection: Connection) -> tuple[list[str], Rows]:
            connection.execute(self._begin_query)
            try:
                selected = _select(connection, sql, values, limit)
            # The second is for what a transaction that only reads does not allow.
            except (errors.QueryCanceled, psycopg.InternalError) as error:
                raise InvalidInput(f"{self.place}: {error}") from error
            # Such locks are the only thing that outlives what is rolled back.
            connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")
            return selected

        return self._patiently(select)

    def close(self) -> None:
        if os.getpid() == self._pid:
            self._is_closed = True
            self._places.close()

    def _patiently(self, transact: Callable[[Connection], T]) -> T:
        deadline_s = time.monotonic() + self._patience_s
        pause_s, races = 0.001, 0
        while True:
            self._refuse_if_unusable()
            try:
                return self._places.call(lambda connection: self._attempt(connection, transact))
            except psycopg.Error as error:
                races += _is_race(error)
                may_pass = _may_pass(error) or (_is_race(error) and races <= RACES_MAX)
                is_hopeless = not (self._was_connected and may_pass)
                if is_hopeless or time.monotonic() >= deadline_s:
                    raise self._meaning(error) from error
            # Not in step with those that it was in conflict with.
            time.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _attempt(self, connection: Connection, transact: Callable[[Connection], T]) -> T:
        try:
            return transact(connection)
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            self._has_schema = False  # somebody may have dropped it
            raise
        finally:
            # One that cannot roll back is closed by its place.
            if connection.info.transaction_status in _OPEN:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")

    def _connect(self) -> Connection:
        self._refuse_if_unusable()  # it may have been closed while this thread waited
        threshold = self._prepare_threshold
        connection = psycopg.connect(self._dsn, autocommit=True, prepare_threshold=threshold)
        adapt(connection)
        self._was_connected = True
        return connection

    def _create_schema(self, cursor: psycopg.Cursor[Any]) -> None:
        if self._has_schema:
            return
        user = cursor.connection.info.user
        # Looked for first: who may not create one must not ask for it, even where it is there.
        find = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %s"
        found = cursor.execute(find, [self._schema]).fetchall()
        if found == [(False,)]:
            raise StoreUnavailable(f"{self.place}: {_not_used(self._schema, user)}")
        if found:
            return
        try:
            cursor.execute(SQL("CREATE SCHEMA {}").format(Identifier(self._schema)))
            # It is not looked for again, so a crash must not lose it.
            cursor.execute("SET LOCAL synchronous_commit TO DEFAULT")
        except errors.InsufficientPrivilege as error:
            raise StoreUnavailable(
                f"{self.place}: the schema does not exist, and the role {user} may not create it; "
                f"have somebody who may run: CREATE SCHEMA {self._schema} AUTHORIZATION {user}"
            ) from error

    def _commit(self, cursor: psycopg.Cursor[Any], failed: Sequence[psycopg.Error]) -> None:
        try:
            cursor.execute("COMMIT")
        except psycopg.Error as error:
            if is_lost(error):
                raise translate(error, self.place, _IN_DOUBT) from error
            raise
        if cursor.statusmessage != "COMMIT":
            if failed:
                raise failed[0]
            raise StoreUnavailable(
                f"{self.place}: a statement has failed, and its transaction was rolled back"
            )

    def _meaning(self, error: psycopg.Error) -> LeftfoldError:
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return InvalidInput(f"{self.place}: what only reads cannot write: {error}")
        if isinstance(error, errors.LockNotAvailable):
            return StoreUnavailable(f"{self.place}: another transaction does not end: {error}")
        if isinstance(error, REFUSALS) and not isinstance(error, _FAULTS_OF_THE_PLACE):
            return InvalidInput(f"{self.place}: {error}")
        return translate(error, self.place)

    def _refuse_if_unusable(self) -> None:
        if self._is_closed:
            raise StoreClosed(f"{self.place} is closed")
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.place} was opened by process {self._pid}; open it again in this fork"
            )


def beginning(schema: str, mode: LiteralString, **settings: str) -> bytes:
    """What begins a transaction, sent at once. Nothing of it outlives the transaction, as the next
    one may be in another session.
    """
    settings = {
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{int(IDLE_S * 1000)}ms",
        "timezone": "UTC",
        **settings,
    }
    parts = [
        SQL("BEGIN ISOLATION LEVEL ") + SQL(mode),
        # Nothing else: where the schema is missing, tables must not be made elsewhere.
        SQL("SET LOCAL search_path TO {}").format(Identifier(schema)),
        *(
            SQL("SET LOCAL {} TO {}").format(Identifier(name), Literal(value))
            for name, value in settings.items()
        ),
    ]
    return SQL("; ").join(parts).as_bytes(None)


def _not_used(schema: str, user: str) -> str:
    return (
        f"the role {user} may not use the schema {schema}; have its owner run: "
        f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"
    )


def _may_pass(error: psycopg.Error) -> bool:
    """Whether the same work may succeed when it is called again."""
    # Those that psycopg raises by itself have no code, like a connection that was lost.
    if error.sqlstate is None and isinstance(error, REFUSALS):
        return False
    return isinstance(error, _CONFLICTS) or is_lost(error) or _is_stale(error)


def _is_race(error: psycopg.Error) -> bool:
    """Whether two may have created the same at the same time. IF NOT EXISTS does not help then, but
    the next time it is there.
    """
    is_catalog = error.diag.schema_name == "pg_catalog"
    return isinstance(error, _TWICE) or (isinstance(error, errors.UniqueViolation) and is_catalog)


def _is_stale(error: psycopg.Error) -> bool:
    """Whether a statement was prepared for a table that has other columns by now. Rolling back has
    psycopg prepare it anew.
    """
    is_refused = isinstance(error, errors.FeatureNotSupported)
    return is_refused and error.diag.source_function == "RevalidateCachedQuery"


def _select(
    connection: Connection, sql: str, values: Sequence[Any], limit: int
) -> tuple[list[str], Rows]:
    if "\0" in sql:
        raise InvalidInput("SQL has no NUL character: the rest would be left out")
    with psycopg.Cursor(connection) as cursor, _values_refused():
        adapt_to_callers(cursor)
        # DECLARE takes one SELECT and nothing else. Where results are binary there is one statement
        # at a time, with or without values; but what callers get is text, as they may ask for types
        # that are not known here.
        declare = b"DECLARE leftfold_query NO SCROLL CURSOR FOR " + sql.encode()
        cursor.execute(declare, values or None, binary=True)
        rows: Rows = cursor.execute(f"FETCH {int(limit) + 1} FROM leftfold_query").fetchall()
        columns = [column.name for column in cursor.description or ()]
    if len(rows) > limit:
        raise InvalidInput(f"the query has more than {limit} rows; add a LIMIT, or ask for more")
    return columns, rows
