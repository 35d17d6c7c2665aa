"""What `check` and `backup` do with the SQLite file itself, past the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from leftfold.cli.scan import Problem, problem
from leftfold.errors import InvalidInput, StoreUnavailable
from leftfold.query import category_of
from leftfold.stores.sqlite.connection import SqliteOptions, connect
from leftfold.stores.sqlite.schema import MIGRATIONS, check_identity

BACKUP_PAGES = 2000
"""Pages copied between two looks at the progress bar."""


def integrity(connection: apsw.Connection) -> Iterator[Problem]:
    """What SQLite itself finds: damaged pages and indexes, references into nothing."""
    rows: Any = connection.execute("PRAGMA integrity_check")
    for (message,) in rows:
        if message != "ok":
            yield problem("integrity", f"SQLite finds: {' '.join(message.split())}")
    broken: Any = connection.execute("PRAGMA foreign_key_check")
    for table, rowid, parent, _ in broken:
        # A table without rowid has no position to name.
        row = "a row" if rowid is None else f"row {rowid}"
        position = rowid if table == "events" else None
        yield problem("reference", f"{row} of {table} refers to no row of {parent}", position)


def schema_differences(connection: apsw.Connection) -> Iterator[Problem]:
    """Tables, indexes and triggers of ours that are not there, or not as they were made."""
    listed = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    pattern = apsw.Connection(":memory:")
    for script in MIGRATIONS:
        pattern.execute(script)
    expected: Any = pattern.execute(listed).fetchall()
    found: Any = connection.execute(listed).fetchall()
    by_name = {name: sql for _, name, sql in found}
    for kind, name, sql in expected:
        if name not in by_name:
            yield problem("schema", f"the {kind} {name} is missing")
        elif by_name[name] != sql:
            yield problem("schema", f"the {kind} {name} is not as this release makes it")


def index_differences(connection: apsw.Connection) -> Iterator[Problem]:
    """Where what an index repeats of an event is not what the event says."""
    sql = """SELECT position, name, version FROM event_tags JOIN events USING (position)
 JOIN streams ON streams.id = stream_id WHERE event_tags.kind_id <> events.kind_id"""
    rows: Any = connection.execute(sql)
    for position, stream, version in rows:
        message = "the index by tag has another type for it"
        yield Problem("tag", position, stream, version, message)
    sql = """SELECT name, category, min(position) FROM events
 JOIN streams ON streams.id = stream_id JOIN kinds ON kinds.id = kind_id
 GROUP BY stream_id, kind_id"""
    rows = connection.execute(sql)
    for stream, category, position in rows:
        if category_of(stream) != category:
            message = f"it is kept under category {category!r}"
            yield Problem("category", position, stream, None, message)


def indexed_tags(connection: apsw.Connection) -> Iterator[str]:
    """Every tag by which the store finds any event."""
    sql = """SELECT name FROM tags
 WHERE EXISTS (SELECT 1 FROM event_tags WHERE tag_id = tags.id)"""
    rows: Any = connection.execute(sql)
    for (name,) in rows:
        yield name


def copy_file(source: str, target: Path, step: Callable[[int, int], None]) -> int:
    """Copy a log, as it is at one moment, while others go on writing. Returns the copy's head.

    `step` is told the pages that are left, and all. The copy has been read before it gets its name.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _copy_pages(source, partial, step)
        head = verify(partial)
        _sync(partial)
        os.replace(partial, target)
        _sync(target.parent)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{partial}{suffix}").unlink(missing_ok=True)
    return head


def _copy_pages(source: str, partial: Path, step: Callable[[int, int], None]) -> None:
    reading, writing = connect(source, SqliteOptions()), apsw.Connection(str(partial))
    try:
        # An open snapshot: without it the copy begins again whenever another process writes.
        reading.execute("BEGIN; SELECT count(*) FROM sqlite_schema")
        with writing.backup("main", reading, "main") as backup:
            while not backup.done:
                backup.step(BACKUP_PAGES)
                step(backup.remaining, backup.page_count)
    finally:
        writing.close()
        reading.close()


def verify(path: Path) -> int:
    """Read a copy: SQLite's own check, and the head. Raises StoreUnavailable."""
    connection = apsw.Connection(str(path))
    try:
        check_identity(connection, str(path))
        found: Any = connection.execute("PRAGMA quick_check(1)").get
        if found != "ok":
            raise StoreUnavailable(f"the copy is damaged: {found}; the log may be, see `check`")
        return int(connection.execute("SELECT max(position) FROM events").get or 0)
    finally:
        connection.close()


def check_target(source: str, target: Path, may_replace: bool) -> None:
    """Refuse, with InvalidInput, a place where a backup would destroy something."""
    if target.is_dir():
        raise InvalidInput(f"{target} is a directory; name a file")
    if target.exists() and target.samefile(source):
        raise InvalidInput(f"{target} is the log itself; name another file")
    if target.exists() and not may_replace:
        raise InvalidInput(f"{target} is there already; --force replaces it")
    for suffix in ("-wal", "-journal"):
        # SQLite would apply it to the copy, and damage that.
        left = Path(f"{target}{suffix}")
        if left.exists():
            raise InvalidInput(f"{left} belongs to another database, perhaps open now; remove it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
