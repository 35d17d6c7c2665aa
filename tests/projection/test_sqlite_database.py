"""What is special about read models in an SQLite file."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

import leftfold
import leftfold.stores.sqlite.database
from leftfold import Event, IncompatibleStore, InvalidInput, StoreUnavailable
from leftfold.projection.database import Transaction
from leftfold.stores.sqlite import SqliteDatabase
from leftfold.stores.sqlite.database import APPLICATION_ID

PATIENCE_S = 60
NOBODY = 65534
FULL, NORMAL = 2, 1


def make(t: Transaction) -> Any:
    return t.execute("CREATE TABLE t (a INTEGER)")


def identity(path: Path) -> tuple[object, object, object]:
    connection = apsw.Connection(str(path))
    found = [connection.pragma(name) for name in ("application_id", "user_version", "journal_mode")]
    connection.close()
    return found[0], found[1], found[2]


def test_the_file_is_made_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    database = SqliteDatabase(str(path))
    assert database.place == str(path)
    assert not path.exists()
    assert database.read(lambda t: t.relations("")) == []
    assert path.exists()
    database.close()


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = SqliteDatabase("read.db")
    monkeypatch.chdir("/")
    database.write(make)
    database.close()
    assert (tmp_path / "read.db").exists()


def test_a_new_file_is_refused_as_a_log(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    database = SqliteDatabase(str(path))
    database.write(make)
    database.close()
    assert identity(path) == (APPLICATION_ID, 0, "wal")
    with pytest.raises(IncompatibleStore, match="another program"):
        leftfold.open(f"sqlite:///{path}")
    again = SqliteDatabase(str(path))
    assert again.read(lambda t: t.relations("")) == ["t"]
    again.close()


def test_a_file_may_hold_a_log_as_well(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with leftfold.open(f"sqlite:///{path}") as events:
        events.append([Event("s", b"{}", type="A")])
        before = identity(path)
        database = SqliteDatabase(str(path))
        database.write(make)
        events.append([Event("s", b"{}", type="A")])
        database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"), durable=True)
        assert database.query("SELECT count(*) AS n FROM log", (), limit=1) == (["n"], [(2,)])
        database.close()
        assert events.head() == 2
    assert identity(path) == before
    assert before[0] not in (0, APPLICATION_ID)


def test_a_log_that_is_made_meanwhile_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    enter = leftfold.stores.sqlite.database._enter_wal_mode

    def enter_after_another(*values: Any) -> object:
        leftfold.open(f"sqlite:///{path}").close()
        return enter(*values)

    monkeypatch.setattr(leftfold.stores.sqlite.database, "_enter_wal_mode", enter_after_another)
    database = SqliteDatabase(str(path))
    database.write(make)
    database.close()
    with leftfold.open(f"sqlite:///{path}") as events:
        assert events.head() == 0


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.db", tmp_path / "text.db"
    connection = apsw.Connection(str(foreign))
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    text.write_text("This is no database. " * 1000)
    contents = foreign.read_bytes()
    for path, reason in ((foreign, "another program"), (text, "not an SQLite database")):
        database = SqliteDatabase(str(path))
        for use in (database.write, database.read):
            with pytest.raises(IncompatibleStore, match=reason):
                use(lambda t: t.relations(""))
        database.close()
    assert foreign.read_bytes() == contents


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no/read.db", "does not exist"), (tmp_path, "a directory")):
        database = SqliteDatabase(str(path))
        with pytest.raises(StoreUnavailable, match=reason):
            database.write(make)
        with pytest.raises(StoreUnavailable, match=reason):
            database.query("SELECT 1", (), limit=1)
        database.close()


@pytest.mark.parametrize("path", [":memory:", "a\0b", "\ud800"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(InvalidInput):
        SqliteDatabase(path)


def test_a_read_only_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    database = SqliteDatabase(str(path))
    database.write(make)
    database.close()
    pid = os.fork()
    if not pid:
        os._exit(_use_read_only(path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _use_read_only(path: Path) -> int:
    """0 where it can be read and not written to, by a process without a superuser's rights."""
    for each in path.parents:
        if "pytest-of-" in str(each):
            each.chmod(0o777)
    path.chmod(0o444)
    if os.getuid() == 0:
        os.setuid(NOBODY)
    database = SqliteDatabase(str(path))
    try:
        if database.read(lambda t: t.relations("")) != ["t"]:
            return 1
        database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"))
    except StoreUnavailable as error:
        return 0 if "is read-only" in str(error) else 2
    return 3


def test_a_durable_transaction_waits_for_the_disk(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "read.db"))

    def synchronous(t: Transaction) -> Any:
        return t.execute("PRAGMA synchronous")[0][0]

    for durable in (False, True, False):
        found = database.write(synchronous, durable=durable)
        assert found == (FULL if durable else NORMAL)
    with pytest.raises(KeyError):
        database.write(lambda t: {}["none"], durable=True)
    assert database.write(synchronous) == NORMAL
    database.close()


def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "read.db")
    database = SqliteDatabase(path)
    database.write(make)
    other = apsw.Connection(path)
    other.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
    impatient = SqliteDatabase(path, busy_timeout_s=0.05)
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        impatient.write(lambda t: t.execute("INSERT INTO t VALUES (2)"))
    assert impatient.read(lambda t: t.execute("SELECT * FROM t")) == []
    begun = threading.Event()

    def write() -> Any:
        begun.set()
        return database.write(lambda t: t.execute("SELECT * FROM t"))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(write)
        assert begun.wait(PATIENCE_S)
        other.execute("COMMIT")
        assert waiting.result(PATIENCE_S) == [(1,)]
    for each in (other, database, impatient):
        each.close()


def test_readers_do_not_wait_for_those_who_write(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "read.db"))
    database.write(make)

    def work(t: Transaction) -> None:
        t.execute("INSERT INTO t VALUES (1)")
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(database.query, "SELECT * FROM t", (), limit=9)
            assert reading.result(PATIENCE_S) == (["a"], [])

    database.write(work)
    database.close()


def test_a_temporary_database_is_alone_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = SqliteDatabase(""), SqliteDatabase("")
    assert "temporary" in one.place
    one.write(make)
    assert other.read(lambda t: t.relations("")) == []
    one.write(lambda t: t.execute_many("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)]))
    assert one.query("SELECT count(*) FROM t", (), limit=1)[1] == [(1000,)]
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_query_may_ask_what_tables_have(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "read.db"))
    database.write(make)
    assert database.query("SELECT name FROM pragma_table_info('t')", (), limit=9)[1] == [("a",)]
    assert database.query("SELECT name FROM sqlite_schema", (), limit=9)[1] == [("t",)]
    assert database.query("SELECT value FROM json_each('[1, 2]')", (), limit=9)[1] == [(1,), (2,)]
    database.close()


def test_a_full_disk_rolls_back(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "read.db"))
    database.write(make)

    def work(t: Transaction) -> None:
        t.execute("PRAGMA max_page_count = 10")
        t.execute_many("INSERT INTO t VALUES (?)", [(each,) for each in range(50_000)])

    with pytest.raises(StoreUnavailable, match="disk is full"):
        database.write(work)
    assert database.read(lambda t: t.execute("SELECT * FROM t")) == []
    database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"))
    database.close()
