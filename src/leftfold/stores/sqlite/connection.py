"""Connections to the SQLite file: how they are opened, how they wait for locks, what their errors
mean.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Annotated, Literal

import apsw
from msgspec import Meta, Struct

from leftfold.errors import IncompatibleStore, InvalidInput, LeftfoldError, StoreUnavailable
from leftfold.stores.sqlite.schema import MIGRATIONS, check_identity, migrate

Durability = Literal["full", "may_lose_latest"]
CACHE_KIB = 64 * 1024
"""Page cache of one connection, at most."""


class SqliteOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be set in the query part of a store URL: `sqlite:///bank.db?busy_timeout_s=3`.

    `durability=may_lose_latest` does not wait for the disk at each commit: the file stays whole,
    but a power cut or a crash of the operating system may lose the latest appends, although they
    were acknowledged.
    """

    durability: Durability = "full"
    busy_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """How long to wait for other processes that write."""
    vfs: str = ""
    """The name of an SQLite VFS; empty: SQLite's default."""


def connect(path: str, options: SqliteOptions) -> apsw.Connection:
    """A connection to the file, created and migrated where needed. Raises IncompatibleStore,
    StoreUnavailable.
    """
    if "\0" in path:
        raise InvalidInput(f"a path has no NUL character, found one in {path!r}")
    if not path or path == ":memory:":
        raise InvalidInput(
            f"an SQLite store is a file, found the path {path!r}; memory:// keeps a log in memory"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"a path is valid Unicode, found a lone surrogate in {path!r}") from None
    if options.vfs and options.vfs not in apsw.vfs_names():
        raise InvalidInput(f"SQLite has no VFS {options.vfs!r}; it has {apsw.vfs_names()}")
    try:
        connection = apsw.Connection(path, vfs=options.vfs or None)
    except apsw.CantOpenError as error:
        raise StoreUnavailable(f"cannot open {path}: {_why_not(path)}") from error
    try:
        _configure(connection, path, options)
    except apsw.Error as error:
        connection.close()
        raise translate(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: apsw.Connection, path: str, options: SqliteOptions) -> None:
    connection.set_busy_handler(_patience(options.busy_timeout_s))
    version = check_identity(connection, path)
    if connection.readonly("main"):
        if version != len(MIGRATIONS):
            raise StoreUnavailable(
                f"{path} is read-only, and holds no log of schema version {len(MIGRATIONS)} yet"
            )
    else:
        if _enter_wal_mode(connection, options.busy_timeout_s) != "wal":
            raise StoreUnavailable(
                f"{path}: the file system does not support SQLite's write-ahead log"
            )
        migrate(connection, path)
    connection.pragma("synchronous", "full" if options.durability == "full" else "normal")
    # macOS does not flush the drive's own cache otherwise.
    connection.pragma("fullfsync", True)
    connection.pragma("checkpoint_fullfsync", True)
    connection.pragma("cache_size", -CACHE_KIB)


def _enter_wal_mode(connection: apsw.Connection, timeout_s: float) -> object:
    # SQLite does not ask the busy handler here, when two processes create a file at the same time.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.001, 0.01))


def _patience(timeout_s: float) -> Callable[[int], bool]:
    """A busy handler with short random sleeps: SQLite's own sleeps up to 100 ms and starves busy
    writers.
    """
    deadline = 0.0

    def wait_a_little(attempt: int) -> bool:
        nonlocal deadline
        if attempt == 0:
            deadline = time.monotonic() + timeout_s
        if time.monotonic() >= deadline:
            return False
        time.sleep(random.uniform(0.0001, min(0.0002 * (attempt + 1), 0.005)))
        return True

    return wait_a_little


_MEANINGS: dict[type[apsw.Error], str] = {
    apsw.BusyError: "{path} is locked by another process; try again",
    apsw.LockedError: "{path} is locked by another connection; try again",
    apsw.FullError: "{path}: the disk is full; free some space and try again",
    apsw.ReadOnlyError: "{path} is read-only",
    apsw.CorruptError: "{path} is damaged ({error}); restore a backup",
}


def translate(error: apsw.Error, path: str, outcome: str = "") -> LeftfoldError:
    """What an SQLite error means to a caller, with what came of the call."""
    if isinstance(error, apsw.NotADBError):
        return IncompatibleStore(f"{path} is not an SQLite database; choose another file")
    if isinstance(error, apsw.CantOpenError):
        return StoreUnavailable(f"cannot open {path}: {_why_not(path)}")
    meaning = _MEANINGS.get(type(error), "{path}: {error}")
    return StoreUnavailable(meaning.format(path=path, error=error) + outcome)


def _why_not(path: str) -> str:
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        return f"the directory {directory} does not exist"
    if os.path.isdir(path):
        return "it is a directory"
    if not os.access(directory, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return f"SQLite keeps two more files beside it, and {directory} is not writable"
    return "no permission, or too many open files"
