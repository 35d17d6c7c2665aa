"""What is no leftfold file, or cannot be written: clear errors, nothing half written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from leftfold.drive import run_sync
from leftfold.errors import IncompatibleStore, InvalidInput, LeftfoldError, StoreUnavailable
from leftfold.stores.sqlite import SqliteOptions, SqliteStore
from leftfold.stores.sqlite.schema import APPLICATION_ID, MIGRATIONS
from leftfold.testing.log import Log, event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def open_log(path: Path, options: SqliteOptions | None = None) -> Log:
    return Log(lambda: SqliteStore(str(path), options))


def filled(path: Path) -> None:
    log = open_log(path)
    log.append(event(type="A"), event(type="B"))
    log.close()


def refused(path: Path, error: type[LeftfoldError], says: str) -> None:
    before = path.read_bytes()
    with pytest.raises(error, match=says):
        open_log(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"balance;500\n" * 1000)
    refused(path, IncompatibleStore, "not an SQLite database")


def test_a_database_of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    refused(path, IncompatibleStore, "another program")


def test_a_database_with_another_application_id(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 7")
    connection.close()
    refused(path, IncompatibleStore, "another program")


def test_a_newer_schema_version(path: Path) -> None:
    filled(path)
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    newer = f"schema version {len(MIGRATIONS) + 1}.*knows up to {len(MIGRATIONS)}; upgrade"
    with pytest.raises(IncompatibleStore, match=newer):
        open_log(path)


def test_an_older_schema_version_is_migrated(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(MIGRATIONS[0])
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1")
    connection.execute("INSERT INTO streams VALUES (1, 'account-1')")
    connection.execute("INSERT INTO kinds VALUES (1, 'account', 'A', 1)")
    row = (1, 1, 1, 1, b"i" * 16, 5, None, None, None, None, None, None, None, "{}")
    connection.execute(f"INSERT INTO events VALUES ({','.join('?' * 14)})", row)
    connection.close()
    log = open_log(path)
    assert log.types() == "A"
    assert log.append(event(type="B")).versions == {"account-1": 2}
    log.close()
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == len(MIGRATIONS)
    assert connection.execute("SELECT type FROM log").fetchall() == [("A",), ("B",)]
    connection.close()


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    broken = (*MIGRATIONS, "CREATE TABLE more (a); INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patch:
        patch.setattr("leftfold.stores.sqlite.schema.MIGRATIONS", broken)
        with pytest.raises(StoreUnavailable, match="nowhere"):
            open_log(path)
    log = open_log(path)
    assert log.types() == "AB"
    log.close()


def test_many_may_create_a_file_at_the_same_time(path: Path) -> None:
    heads: list[object] = []

    def work(number: int) -> None:
        try:
            log = open_log(path)
            log.append(event(f"account-{number}"))
            heads.append(log.head())
            log.close()
        except Exception as error:
            heads.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(heads) == 8, heads  # type: ignore[type-var]


CREATE = """
import sys, leftfold
for path in sys.stdin:
    with leftfold.open(f"sqlite:///{path.strip()}") as es:
        es.append([leftfold.Event("account-1", b"{}", type="A")])
    print("done", flush=True)
"""


def test_processes_may_create_a_file_at_the_same_time(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for number in range(25):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{tmp_path}/{number}.db\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
    for process in processes:
        process.communicate()
    log = open_log(tmp_path / "24.db")
    assert [each.version for each in log.read()] == [1, 2, 3, 4]
    log.close()


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A directory in which this process has an ordinary user's rights, also when run by root."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            if user == 0:
                os.seteuid(0)
            os.chmod(directory, 0o700)


def test_a_read_only_file_can_be_read(plain_user: Path) -> None:
    path = plain_user / "log.db"
    filled(path)
    path.chmod(0o444)
    log = open_log(path)
    assert log.types() == "AB"
    with pytest.raises(StoreUnavailable, match=r"read-only; nothing was recorded"):
        log.append(event(type="C"))
    assert log.types() == "AB"
    log.close()


def test_an_empty_read_only_file(plain_user: Path) -> None:
    path = plain_user / "log.db"
    path.touch(0o444)
    with pytest.raises(StoreUnavailable, match="read-only"):
        open_log(path)


def test_a_directory_that_cannot_be_written(plain_user: Path) -> None:
    inner = plain_user / "inner"
    inner.mkdir(0o555)
    with pytest.raises(StoreUnavailable, match="inner is not writable"):
        open_log(inner / "log.db")


def test_a_directory_in_place_of_the_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="it is a directory"):
        open_log(path)


def test_a_path_that_is_no_unicode(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        SqliteStore(f"{tmp_path}/\udcff.db")


def test_an_unknown_vfs(path: Path) -> None:
    with pytest.raises(InvalidInput, match="no VFS 'nope'; it has"):
        SqliteStore(str(path), SqliteOptions(vfs="nope"))
    assert not path.exists()


def test_a_file_that_another_process_keeps_locked(path: Path) -> None:
    filled(path)
    log = open_log(path, SqliteOptions(busy_timeout_s=0.05))
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"locked by another process.*nothing was recorded"):
        log.append(event(type="C"))
    assert log.types() == "AB"
    other.execute("ROLLBACK")
    log.append(event(type="C"))
    assert log.types() == "ABC"
    other.close()
    log.close()


def test_a_damaged_file(path: Path) -> None:
    log = open_log(path)
    for _ in range(200):
        log.append(event(data=b"x" * 1000))
    log.close()
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xab" * (len(damaged) - 8192)
    path.write_bytes(damaged)
    log = open_log(path)
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        log.read()
    assert "recorded" not in str(caught.value)  # a read records nothing, ever
    log.close()


def test_a_thread_that_cannot_be_started_harms_one_append(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path)
    log.append(event())
    group = log.store._group  # type: ignore[attr-defined]

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    # As if others had been waiting: so this one waits as well, for a thread that commits.
    group._expected = 2
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            log.append(event())
    assert log.append(event()).position == 2
    log.close()


def test_events_are_immutable_for_everybody(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as connection:
        for statement in ("UPDATE events SET version = 9", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="immutable"):
                connection.execute(statement)
        # SQLite asks the triggers about this one only where it is told to.
        connection.execute("PRAGMA recursive_triggers = ON")
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            connection.execute("REPLACE INTO events SELECT * FROM events")
    connection.close()


def test_the_log_view_shows_names(path: Path) -> None:
    log = open_log(path)
    mine = event(data=b'{"amount":"5"}', tags=("b:2", "a:1"))
    log.append(mine)
    (recorded,) = log.read()
    connection = sqlite3.connect(path)
    columns = "stream, version, type, data, tags, id, recorded_at"
    (row,) = connection.execute(f"SELECT {columns} FROM log").fetchall()
    connection.close()
    at = recorded.recorded_at.isoformat(timespec="milliseconds")[:19]
    assert row[:6] == ("account-1", 1, "A", '{"amount":"5"}', '["b:2","a:1"]', str(mine.id))
    assert row[6].startswith(at)
    log.close()


def test_recorded_at_never_goes_back_with_the_clock(path: Path) -> None:
    times = iter([1000, 500, 2000, 1500])
    store = SqliteStore(str(path), clock=lambda: next(times))
    for _ in range(3):
        run_sync(store.append([event()]))
    run_sync(store.close())
    # The last moment is in the log, not in memory only.
    store = SqliteStore(str(path), clock=lambda: next(times))
    run_sync(store.append([event()]))
    recorded = run_sync(store.read())
    assert [each.recorded_us for each in recorded] == [1000, 1000, 2000, 2000]
    run_sync(store.close())
