"""What cannot work is refused clearly, within a stated time, and nothing is half written."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

import leftfold
from leftfold import (
    Event,
    EventStore,
    IncompatibleStore,
    InvalidInput,
    LeftfoldError,
    StoreClosed,
    StoreUnavailable,
    Version,
    select,
)
from leftfold.drive import run_sync
from leftfold.snapshot import Snapshot
from leftfold.stores.postgres.connection import is_lost
from leftfold.stores.postgres.options import connection_string, parse_url
from leftfold.stores.postgres.schema import MIGRATIONS


def event(stream: str = "a-1", type: str = "A", **more: Any) -> Event[bytes]:
    return Event(stream, b"{}", type=type, **more)


def refuses(url: str, error: type[Exception], *facts: str) -> None:
    with pytest.raises(error) as caught:
        leftfold.open(url)
    for fact in facts:
        assert fact in str(caught.value)
    assert "postgres:postgres" not in str(caught.value), "a password"


@pytest.fixture
def log(server: Any) -> Iterator[EventStore]:
    with leftfold.open(server.new_log()) as events:
        yield events


def test_a_wrong_password(server: Any) -> None:
    refuses(server.url(user="postgres:wrong"), StoreUnavailable, "password", "127.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret%@h/db",
        "postgresql://u:s3cret@[::1]x/app",
        "postgresql://u:s3cret@[::1/app",
        "postgres://u:s3cret%zz@h/db",
        "mysql://u:s3cret@h/db",
        "postgresql://u@h/db?password=s3cret&nonsense=1",
        "postgresql://u@h/db?password=s3cret&readers_max=0",
        "postgresql://u:a?s3cret@h",
    ],
)
def test_no_password_in_a_message(url: str) -> None:
    with pytest.raises(LeftfoldError) as caught:
        leftfold.open(url)
    assert "s3cret" not in str(caught.value)


def test_urls_reach_libpq_as_they_are() -> None:
    dsn, options = parse_url("postgres:///app?host=/tmp&options=-c%20x%3D5&schema=bank")
    assert dsn == "postgres:///app?host=/tmp&options=-c%20x%3D5"
    assert options.schema == "bank"
    assert "connect_timeout=3 " in connection_string("host=h connect_timeout=3", options) + " "
    assert "tcp_user_timeout=25000" in connection_string("host=h", options)


@pytest.mark.parametrize(
    ("state", "severity", "lost"),
    [("53100", "PANIC", True), ("57P01", "FATAL", True), ("53100", "ERROR", False)],
)
def test_what_a_server_says_when_it_gives_up(state: str, severity: str, lost: bool) -> None:
    class Failure(psycopg.errors.DiskFull):
        sqlstate = state
        diag = SimpleNamespace(severity_nonlocalized=severity)  # type: ignore[assignment]

    assert is_lost(Failure()) is lost
    assert is_lost(psycopg.OperationalError("the connection is lost"))
    assert not is_lost(psycopg.ProgrammingError("can't adapt"))


def test_a_missing_database(server: Any) -> None:
    refuses(server.url("nowhere"), StoreUnavailable, "nowhere", "does not exist")


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    refuses(f"postgresql://127.0.0.1:{port}/app", StoreUnavailable, "refused", f":{port}")


def test_a_server_that_does_not_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        started_s = time.monotonic()
        refuses(
            f"postgresql://127.0.0.1:{port}/app?connect_timeout_s=2", StoreUnavailable, "timeout"
        )
        assert time.monotonic() - started_s >= 1.5


@pytest.mark.parametrize(
    "options",
    ["schema=Bank", "schema=pg_mine", "schema=a;b", "readers_max=0", "nonsense=1", "schema"],
)
def test_unusable_options(server: Any, options: str) -> None:
    refuses(f"{server.url()}?{options}", InvalidInput, "unusable options")


def test_options_of_libpq_are_passed_on(server: Any) -> None:
    url = f"{server.new_log()}&application_name=teller"
    with leftfold.open(url) as events:
        events.append([event()])
        used = server.execute("SELECT DISTINCT application_name FROM pg_stat_activity")
        assert ("teller",) in used


def test_a_schema_of_a_newer_release(server: Any) -> None:
    schema = server.new_schema()
    url = f"{server.url()}?schema={schema}"
    leftfold.open(url).close()
    server.execute(f"INSERT INTO {schema}.leftfold_migrations VALUES (1000, 'newer')")
    refuses(url, IncompatibleStore, "1000", str(len(MIGRATIONS)), "upgrade")


def test_a_schema_of_somebody_else(server: Any) -> None:
    schema = server.new_schema()
    server.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.events (id int)")
    refuses(f"{server.url()}?schema={schema}", IncompatibleStore, schema, "another program")
    assert server.execute(f"SELECT count(*) FROM {schema}.events") == [(0,)]


def test_an_empty_schema_is_filled(server: Any) -> None:
    schema = server.new_schema()
    server.execute(f"CREATE SCHEMA {schema}")
    with leftfold.open(f"{server.url()}?schema={schema}") as events:
        assert events.append([event()]).position == 1


def test_another_encoding(server: Any) -> None:
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    refuses(server.url("latin"), IncompatibleStore, "LATIN1", "UTF8")


def test_many_open_an_empty_database_at_once(server: Any) -> None:
    url = server.new_log()
    errors: list[Exception] = []

    def open_and_append(number: int) -> None:
        try:
            with leftfold.open(url) as events:
                events.append([event(f"a-{number}")])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_append, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with leftfold.open(url) as events:
        assert len(list(events.read())) == 6


def test_several_logs_in_one_database_know_nothing_of_each_other(server: Any) -> None:
    with leftfold.open(server.new_log()) as one, leftfold.open(server.new_log()) as other:
        one.append([event(), event()])
        assert other.head() == 0
        assert other.append([event()]).versions == {"a-1": 1}
        assert [one.head(), other.head()] == [2, 1]


@pytest.fixture
def roles(server: Any) -> Iterator[str]:
    """A log, an application's role and a reader's, as the documentation has them."""
    schema = server.new_schema()
    leftfold.open(f"{server.url()}?schema={schema}").close()
    server.execute(f"""
        CREATE ROLE teller LOGIN PASSWORD 'secret';
        CREATE ROLE auditor LOGIN PASSWORD 'secret';
        GRANT USAGE ON SCHEMA {schema} TO teller, auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO teller, auditor;
        GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO teller, auditor;
        GRANT EXECUTE ON FUNCTION {schema}.append, {schema}.intern_kinds TO teller;
        GRANT EXECUTE ON FUNCTION {schema}.keep_snapshot, {schema}.drop_snapshot TO teller
    """)
    yield schema
    server.execute("DROP OWNED BY teller, auditor; DROP ROLE teller, auditor")


def test_a_role_that_appends_and_reads_can_do_no_more(server: Any, roles: str) -> None:
    with leftfold.open(f"{server.url(user='teller:secret')}?schema={roles}") as events:
        events.append([event(tags=("t:1",))])
        assert [each.stream for each in events.read(select(tags=["t:1"]))] == ["a-1"]
        assert [each.stream for each in events.read(select(types=["A"]))] == ["a-1"]
    with psycopg.connect(server.url(user="teller:secret"), autocommit=True) as connection:
        for statement in (
            "DELETE FROM {}.events",
            "UPDATE {}.events SET data = ''",
            "TRUNCATE {}.events",
            "INSERT INTO {}.event_tags VALUES ('a', 1, 1)",
            "SELECT setval('{}.positions', 1)",
            "SELECT {}.alloc(1)",
            "DROP TABLE {}.events",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.format(roles).encode())


def test_a_role_that_reads_does_not_append(server: Any, roles: str) -> None:
    with leftfold.open(f"{server.url(user='auditor:secret')}?schema={roles}") as events:
        assert list(events.read()) == []
        with pytest.raises(StoreUnavailable, match=r"privilege.*nothing was recorded"):
            events.append([event()])
        assert events.head() == 0


def test_a_role_that_may_not_make_a_schema(server: Any, roles: str) -> None:
    refuses(
        f"{server.url(user='teller:secret')}?schema=log_of_teller", StoreUnavailable, "privilege"
    )
    assert server.execute("SELECT to_regnamespace('log_of_teller')") == [(None,)]


def test_the_database_refuses_to_change_events(server: Any) -> None:
    schema = server.new_schema()
    with leftfold.open(f"{server.url()}?schema={schema}") as events:
        events.append([event(tags=("t:1",))])
        for table in ("events", "event_tags", "kinds"):
            for statement in ("DELETE FROM", "TRUNCATE", "UPDATE"):
                column = {"events": "stream", "event_tags": "tag", "kinds": "type"}[table]
                rest = f" SET {column} = 'x'" if statement == "UPDATE" else ""
                with pytest.raises(psycopg.errors.RestrictViolation, match="immutable"):
                    server.execute(f"{statement} {schema}.{table}{rest}")
        assert len(list(events.read(select(tags=["t:1"], types=["A"])))) == 1


def test_data_that_is_nested_too_deeply_is_no_json_to_the_view(server: Any) -> None:
    schema = server.new_schema()
    with leftfold.open(f"{server.url()}?schema={schema}") as events:
        data = b"[" * 1_000_000 + b"]" * 1_000_000
        events.append([Event("a-1", data, type="Deep"), event("b-1")])
    rows = server.execute(f"SELECT type, data IS NULL FROM {schema}.log ORDER BY position")
    assert rows == [("Deep", True), ("A", False)]


@pytest.mark.parametrize("name", ["order", "user", "select", "table", "leftfold"])
def test_a_schema_may_be_named_by_a_word_of_sql(server: Any, name: str) -> None:
    with leftfold.open(f"{server.url()}?schema={name}") as events:
        events.append([event(tags=("t:1",)), event("b-1")])
        assert len(list(events.read(select("a-1"), until=datetime.now(UTC)))) == 1
        assert len(list(events.read(select(tags=["t:1"]), after=0, until=5, limit=1))) == 1
        assert len(list(events.read(select("a-1"), until=Version(1)))) == 1
        again = event("c-1")
        events.append([again])
        with pytest.raises(leftfold.DuplicateEvent):
            events.append([again, event("c-1")])
        with psycopg.connect(server.url()) as connection:
            EventStore(events.store.within(connection)).append([event()])  # type: ignore[attr-defined]
        snapshots = events.store.snapshots
        snapshot = Snapshot("a-1", "f", 1, 1, b"id", 1, b"data")
        snapshots.keep("a-1", lambda: snapshot)
        snapshots._background.close()
        found = snapshots.find("a-1", "f", version_max=9, recorded_us_max=2**60)
        assert run_sync(found) == snapshot
        run_sync(snapshots.drop(snapshot))
        run_sync(events.store.wait(0, 60))
        until_told(events.store)
    server.execute(f'DROP SCHEMA "{name}" CASCADE')


def until_told(store: Any) -> None:
    """Until others were notified of all appends."""
    deadline_s = time.monotonic() + 60
    while store._news._due or store._news._told:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_the_view_shows_names_times_and_json(server: Any) -> None:
    schema = server.new_schema()
    with leftfold.open(f"{server.url()}?schema={schema}") as events:
        metadata = leftfold.Metadata(actor="teller-3", extra={"branch": "Ulm"})
        data = b'{ "cents": 100, "escaped": "a" }'
        events.append([Event("a-1", data, type="Paid", tags=("b:1", "a:1"), metadata=metadata)])
        events.append([Event("a-1", b"\xff", type="Paid"), Event("a-1", b"a\0", type="Paid")])
        (mine,) = events.read(limit=1)
    rows = server.execute(f"""SELECT stream, category, version, type, data->>'cents', tags, actor,
        metadata->>'branch', recorded_at, occurred_at, bytes FROM {schema}.log ORDER BY position""")
    at = mine.recorded_at
    assert rows[0] == (
        *("a-1", "a", 1, "Paid", "100", ["b:1", "a:1"], "teller-3", "Ulm"),
        *(at, at, data),
    )
    assert [row[4] for row in rows[1:]] == [None, None]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("synchronous_commit = off", "synchronous_commit"),
        ("default_transaction_isolation = 'serializable'", "READ COMMITTED"),
    ],
)
def test_a_server_that_is_set_up_to_lose_events(server: Any, setting: str, says: str) -> None:
    name, _, value = setting.partition(" = ")
    url = server.new_log()
    leftfold.open(url).close()
    server.execute(f"ALTER ROLE postgres SET {name} = {value}")
    try:
        with leftfold.open(url) as events:
            with pytest.raises(StoreUnavailable, match=says):
                events.append([event()])
            assert list(events.read()) == []
    finally:
        server.execute(f"ALTER ROLE postgres RESET {name}")


def test_a_stream_that_somebody_does_not_let_go(server: Any) -> None:
    url = server.new_log()
    with leftfold.open(f"{url}&lock_timeout_s=0.2") as events:
        events.append([event("b-1")])
        with psycopg.connect(server.url()) as connection:
            store = EventStore(events.store.within(connection))  # type: ignore[attr-defined]
            store.append([event("a-1")])
            with pytest.raises(StoreUnavailable, match="does not end; nothing was recorded"):
                events.append([event("a-1")])
            assert events.append([event("c-1")]).versions == {"c-1": 1}
        assert events.append([event("a-1")]).versions == {"a-1": 2}


def test_all_readers_are_busy(server: Any) -> None:
    url = f"{server.new_log()}&readers_max=1&reader_timeout_s=0.2"
    with leftfold.open(url) as events:
        pool = events.store._pool  # type: ignore[attr-defined]
        taken = pool._free.pop()
        with pytest.raises(StoreUnavailable, match="readers_max"):
            events.head()
        pool._free.append(taken)
        assert events.head() == 0


def test_a_fork_is_refused(server: Any) -> None:
    snapshot = Snapshot("a-1", "f", 1, 1, b"id", 1, b"data")
    with leftfold.open(server.new_log()) as events, psycopg.connect(server.url()) as connection:
        store: Any = events.store
        events.append([event()])
        store.snapshots.keep("a-1", lambda: snapshot)
        within = EventStore(store.within(connection))
        pid = os.fork()
        if not pid:
            refused = 0
            for use in (
                events.head,
                lambda: events.append([event()]),
                lambda: within.append([event()]),
                lambda: run_sync(store.wait(0, 60)),
                events.close,
            ):
                try:
                    use()
                except StoreClosed:
                    refused += 1
            found = store.snapshots.find("a-1", "f", version_max=9, recorded_us_max=2**60)
            refused += run_sync(found) is None
            jobs = store.snapshots._background._jobs
            before = jobs.qsize()
            store.snapshots.keep("a-1", lambda: snapshot)
            refused += jobs.qsize() == before
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
        assert within.append([event()]).versions == {"a-1": 2}


def test_without_psycopg_the_extra_is_named(monkeypatch: Any) -> None:
    for name in [each for each in sys.modules if each.startswith("leftfold.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(leftfold.MissingExtra, match=r"leftfold\[postgres\]"):
        leftfold.open("postgresql://localhost/app")
