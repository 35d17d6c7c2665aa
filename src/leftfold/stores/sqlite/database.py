"""Read models in an SQLite file, or in a temporary database."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice
from typing import Any, TypeVar

import apsw

from leftfold.errors import (
    IncompatibleStore,
    InvalidInput,
    LeftfoldError,
    StoreClosed,
    StoreUnavailable,
)
from leftfold.event import now_us
from leftfold.projection.database import Dialect, Rows, Transaction, refuse_control
from leftfold.stores.mutex import Mutex
from leftfold.stores.sqlite.connection import (
    CACHE_KIB,
    _enter_wal_mode,
    _patience,
    translate,
)
from leftfold.stores.sqlite.dialect import SqliteDialect
from leftfold.stores.sqlite.pool import ReaderPool
from leftfold.stores.sqlite.reader import Names, Reader
from leftfold.stores.sqlite.schema import APPLICATION_ID as LOG_ID

T = TypeVar("T")

APPLICATION_ID = 0x1EF7F03F
"""Of a file that was made for read models. One that holds a log keeps the log's."""
QUERY_TIMEOUT_S = 30.0
"""How long a caller's own SELECT may run."""
BATCH_ROWS = 1000
"""Rows that are taken from an iterable at a time."""

_STEPS = 20_000
"""Instructions of SQLite between two looks at the clock: well under a millisecond."""
_READING = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer"}
_ALLOWED_PRAGMAS = {"table_info", "table_xinfo", "table_list", "index_list", "index_info"}
REFUSALS = (
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    apsw.BindingsError,
)
"""What trying again does not mend: SQL or values that SQLite does not take."""


@contextmanager
def _values_refused() -> Iterator[None]:
    """What Python itself says of values that do not fit."""
    try:
        yield
    except LeftfoldError:
        raise
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise InvalidInput(f"SQLite does not take the statement or a value: {error}") from error


def _refuse_control(_cursor: apsw.Cursor, sql: str, _values: object) -> bool:
    refuse_control(sql)
    return True


class SqliteTransaction:
    """The transaction that is open on a connection. It ends before it is let go of."""

    dialect: Dialect = SqliteDialect()

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._cursor = connection.cursor()
        self._of_callers: SqliteTransaction | None = None

    def of_callers(self) -> Transaction:
        if self._of_callers is None:
            self._of_callers = copy(self)
            self._of_callers._cursor = self.connection.cursor()
            # Of each statement, as there may be several in one text.
            self._of_callers._cursor.exec_trace = _refuse_control
        return self._of_callers

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        self._refuse_if_over()
        with _values_refused():
            rows: Rows = self._cursor.execute(sql, values).fetchall()
        return rows

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        rest = iter(rows)
        # Taken before they are bound: what the caller's iterable raises passes through.
        while batch := list(islice(rest, BATCH_ROWS)):
            self._refuse_if_over()
            with _values_refused():
                # Rows that it may return are taken, for it goes on only then.
                self._cursor.executemany(sql, batch).fetchall()

    def relations(self, prefix: str) -> list[str]:
        # Without LIKE, which has wildcards and folds letters.
        found = self.execute(
            """SELECT name FROM sqlite_schema WHERE type = 'table'
 AND substr(name, 1, length(?1)) = ?1 AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name""",
            (prefix,),
        )
        return [name for (name,) in found]

    def now_us(self) -> int:
        return now_us()

    def end(self) -> None:
        self._cursor.close(True)
        if self._of_callers is not None:
            self._of_callers.end()

    def _refuse_if_over(self) -> None:
        # A conflict may have ended it (INSERT OR ROLLBACK): what follows would be on its own.
        if not self.connection.in_transaction:
            raise InvalidInput("the transaction was rolled back by a statement in it")


class SqliteDatabase:
    """The file `path`, made when it is first needed, or for "" a temporary database that nobody
    else sees, which is gone once it is closed. Safe to share between threads; other processes open
    the file themselves, at the same time. The file may hold a log as well.

    Work must not use the database that it is called by. Raises InvalidInput for what is no path.
    """

    dialect: Dialect = SqliteDialect()

    def __init__(self, path: str, *, busy_timeout_s: float = 10.0) -> None:
        if path == ":memory:" or "\0" in path:
            raise InvalidInput(f"read models are kept in a file, found the path {path!r}")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"a path is valid Unicode, found {path!r}") from None
        self._path = os.path.abspath(path) if path else ""
        self.place = self._path or "a temporary SQLite database"
        self._busy_timeout_s = busy_timeout_s
        self._pid = os.getpid()
        self._is_closed = False
        self._mutex = Mutex()
        self._writing: apsw.Connection | None = None
        # Readers have their own connections, so that nobody waits for those who write.
        self._readers = ReaderPool(self._open_reader)

    def write(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        self._refuse_if_unusable()
        # It cannot be changed within a transaction. The sync of a durable one covers all before.
        synchronous = "full" if durable else "normal"

        def transact() -> T:
            connection = self._shared(False)
            connection.pragma("synchronous", synchronous)
            return self._transact(connection, "BEGIN IMMEDIATE", work)

        try:
            return self._mutex.call(transact)
        except apsw.Error as error:
            raise self._meaning(error) from error

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self._read(lambda connection: self._transact(connection, "BEGIN", work))

    def query(self, sql: str, values: Sequence[Any], *, limit: int) -> tuple[list[str], Rows]:
        def select(connection: apsw.Connection) -> tuple[list[str], Rows]:
            with _values_refused():
                return _guarded(connection, lambda: _select(connection, sql, values, limit))

        return self._read(select)

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        # Each step may be repeated: an interrupted close is finished by the next. Work that goes on
        # is waited for.
        self._is_closed = True
        self._mutex.call(self._close_writing)
        self._readers.close()

    def _close_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()

    def _read(self, function: Callable[[apsw.Connection], T]) -> T:
        """What the function returns for a connection that nobody else uses meanwhile."""
        self._refuse_if_unusable()
        try:
            if not self._path:
                return self._mutex.call(lambda: function(self._shared(True)))
            pooled: T = self._readers.call(self._use, function)
            return pooled
        except apsw.ReadOnlyError as error:
            raise InvalidInput(f"{self.place}: what only reads cannot write") from error
        except apsw.Error as error:
            raise self._meaning(error) from error

    def _use(self, reader: Reader, function: Callable[[apsw.Connection], T]) -> T:
        self._refuse_if_unusable()  # it may have been closed while this thread waited
        if _has_moved(reader.connection):
            moved, reader.connection = reader.connection, self._connect()
            moved.close()
        _tidy(reader.connection, True)
        return function(reader.connection)

    def _shared(self, is_reading: bool) -> apsw.Connection:
        self._refuse_if_unusable()
        if self._writing is not None and self._path and _has_moved(self._writing):
            moved, self._writing = self._writing, self._connect()
            moved.close()
        if self._writing is None:
            self._writing = self._connect()
        _tidy(self._writing, is_reading)
        return self._writing

    def _open_reader(self) -> Reader:
        return Reader(self._connect(), Names())

    def _transact(
        self, connection: apsw.Connection, begin: str, work: Callable[[Transaction], T]
    ) -> T:
        try:
            return self._committed(connection, begin, work)
        finally:
            # Once more, for an interrupt (Ctrl-C) that comes as the one below begins.
            _roll_back(connection)

    def _committed(
        self, connection: apsw.Connection, begin: str, work: Callable[[Transaction], T]
    ) -> T:
        transaction = SqliteTransaction(connection)
        try:
            connection.execute(begin)
            done = work(transaction)
            transaction.end()
            self._commit(connection)
            return done
        finally:
            transaction.end()
            _roll_back(connection)

    def _commit(self, connection: apsw.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except (apsw.BusyError, apsw.ConstraintError):
            raise
        except apsw.Error as error:
            # After a failed sync the commit may be in the file, and a crash would bring it back.
            outcome = "; the transaction may have been committed or not"
            raise translate(error, self.place, outcome) from error

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self._path)
        try:
            connection.set_busy_handler(_patience(self._busy_timeout_s))
            connection.pragma("cache_size", -CACHE_KIB)
            if self._path:
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        is_new = self._check_identity(connection)
        if connection.readonly("main"):
            return
        if _enter_wal_mode(connection, self._busy_timeout_s) != "wal":
            raise StoreUnavailable(
                f"{self.place}: the file system does not support SQLite's write-ahead log"
            )
        # macOS does not flush the drive's own cache otherwise.
        connection.pragma("fullfsync", True)
        connection.pragma("checkpoint_fullfsync", True)
        if not is_new:
            return
        connection.execute("BEGIN IMMEDIATE")
        # Looked at again: another process may have made a log of it meanwhile.
        if self._check_identity(connection):
            connection.pragma("application_id", APPLICATION_ID)
        connection.execute("COMMIT")

    def _check_identity(self, connection: apsw.Connection) -> bool:
        """Whether the file is empty. Raises IncompatibleStore for what is not ours."""
        sql = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
 FROM pragma_application_id, pragma_user_version"""
        application_id, version, tables = connection.execute(sql).get
        is_empty = (application_id, version, tables) == (0, 0, 0)
        if not is_empty and application_id not in (APPLICATION_ID, LOG_ID):
            raise IncompatibleStore(
                f"{self.place} is an SQLite database of another program; choose another file"
            )
        return is_empty

    def _meaning(self, error: apsw.Error) -> LeftfoldError:
        if isinstance(error, apsw.AuthError):
            return InvalidInput(f"{self.place}: a query only reads: {error}")
        if isinstance(error, REFUSALS):
            return InvalidInput(f"{self.place}: {error}")
        if isinstance(error, apsw.InterruptError):
            return InvalidInput(f"{self.place}: a query ran for more than {QUERY_TIMEOUT_S} s")
        return translate(error, self.place)

    def _refuse_if_unusable(self) -> None:
        if self._is_closed:
            raise StoreClosed(f"{self.place} is closed")
        # SQLite connections do not survive a fork: using one could damage the file.
        if os.getpid() != self._pid:
            raise StoreClosed(
                f"{self.place} was opened by process {self._pid}; open it again in this fork"
            )


def _has_moved(connection: apsw.Connection) -> bool:
    """Whether the file was deleted, or replaced by another one: nobody else sees what is written
    to it any more.
    """
    has_moved = ctypes.c_int()
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(has_moved))
    return bool(has_moved.value)


def _roll_back(connection: apsw.Connection) -> None:
    # SQLite has rolled back already where the disk is full.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _tidy(connection: apsw.Connection, is_reading: bool) -> None:
    """Undo what an interrupt (Ctrl-C) has left behind, and say what the connection is for."""
    connection.authorizer = None
    connection.set_progress_handler(None)
    _roll_back(connection)
    connection.pragma("query_only", is_reading)


def _guarded(connection: apsw.Connection, function: Callable[[], T]) -> T:
    """What the function returns while all but reading is refused, and stopped after a while."""
    deadline = time.monotonic() + QUERY_TIMEOUT_S
    try:
        connection.authorizer = _authorize
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        return function()
    finally:
        connection.set_progress_handler(None)
        connection.authorizer = None


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == apsw.SQLITE_FUNCTION:
        is_allowed = second not in _FORBIDDEN_FUNCTIONS
    elif action == apsw.SQLITE_PRAGMA:
        is_allowed = first in _ALLOWED_PRAGMAS
    else:
        is_allowed = action in _READING
    return apsw.SQLITE_OK if is_allowed else apsw.SQLITE_DENY


def _select(
    connection: apsw.Connection, sql: str, values: Sequence[Any], limit: int
) -> tuple[list[str], Rows]:
    columns: list[str] = []

    def begin_statement(cursor: apsw.Cursor, *_: object) -> bool:
        described = cursor.get_description()
        if columns and described:
            raise InvalidInput("a query is one statement, found several")
        columns.extend(column[0] for column in described)
        return True

    cursor = connection.cursor()
    try:
        cursor.exec_trace = begin_statement
        # Once only: statements of callers would take the places of ours.
        cursor.execute(sql, values, can_cache=False)
        rows: Rows = list(islice(cursor, limit + 1))
    finally:
        cursor.close(True)
    if not columns:
        raise InvalidInput("a query is a SELECT, found what returns nothing")
    if len(rows) > limit:
        raise InvalidInput(f"the query has more than {limit} rows; add a LIMIT, or ask for more")
    return columns, rows
