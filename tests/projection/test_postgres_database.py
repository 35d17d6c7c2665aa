"""What is special about read models on a PostgreSQL server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import leftfold.stores.postgres.database
import leftfold.stores.postgres.places
from leftfold import InvalidInput, StoreUnavailable
from leftfold.projection.database import Transaction
from leftfold.stores.postgres import PostgresDatabase

PATIENCE_S = 60


@pytest.fixture
def engine() -> str:
    return "postgresql"


@pytest.fixture
def database(new_database: Callable[..., Any]) -> Any:
    database = new_database()
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    return database


def rows(database: Any) -> Any:
    return database.read(lambda t: t.execute("SELECT a FROM t ORDER BY a"))


def kill(server: Any, pid: int) -> None:
    server.execute("SELECT pg_terminate_backend(%s, 10000)", pid)


def pid_of(t: Transaction) -> int:
    ((pid,),) = t.execute("SELECT pg_backend_pid()")
    return int(pid)


def test_work_is_called_again_after_a_lost_connection(database: Any, server: Any) -> None:
    calls = []

    def work(t: Transaction) -> str:
        calls.append(pid_of(t))
        t.execute("INSERT INTO t VALUES (1)")
        if len(calls) < 3:
            kill(server, calls[-1])
        t.execute("INSERT INTO t VALUES (2)")
        return "done"

    assert database.write(work) == "done"
    assert len(set(calls)) == 3
    assert rows(database) == [(1,), (2,)]


def test_reading_work_is_called_again_as_well(database: Any, server: Any) -> None:
    calls = []

    def work(t: Transaction) -> Any:
        calls.append(pid_of(t))
        if len(calls) == 1:
            kill(server, calls[-1])
        return t.execute("SELECT count(*) FROM t")

    assert database.read(work) == [(0,)]
    assert len(calls) == 2


def test_a_connection_that_was_lost_meanwhile_is_replaced(database: Any, server: Any) -> None:
    for use in (
        lambda: database.write(lambda t: t.execute("INSERT INTO t VALUES (1)")),
        lambda: rows(database),
        lambda: database.query("SELECT a FROM t", (), limit=9),
    ):
        kill(server, database.read(pid_of))
        use()
    assert rows(database) == [(1,)]


def test_a_server_that_starts_again_is_waited_for(database: Any, server: Any) -> None:
    # What was committed before a durable transaction is as durable.
    database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"))
    database.write(lambda t: t.execute("INSERT INTO t VALUES (2)"), durable=True)
    server.crash()
    database.write(lambda t: t.execute("INSERT INTO t VALUES (3)"))
    assert rows(database) == [(1,), (2,), (3,)]


def test_a_crash_does_not_lose_the_schema(new_database: Any, server: Any) -> None:
    database = new_database()
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    server.crash()
    database.write(lambda t: t.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER)"))
    assert database.read(lambda t: t.relations("")) == ["t"]


def test_a_connection_that_is_lost_for_good(new_database: Any, server: Any) -> None:
    database = new_database(patience_s=0)
    with pytest.raises(StoreUnavailable):
        database.write(lambda t: kill(server, pid_of(t)))
    assert database.read(lambda t: t.relations("")) == []


def test_a_connection_that_is_lost_in_the_commit(database: Any) -> None:
    def prepare(t: Transaction) -> None:
        t.execute("""CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
 $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid(), 0); RETURN NULL; END $$""")
        t.execute("""CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION die()""")

    database.write(prepare)
    calls = []

    def work(t: Transaction) -> None:
        calls.append(t.execute("INSERT INTO t VALUES (1)"))

    with pytest.raises(StoreUnavailable, match="may have been committed or not"):
        database.write(work)
    assert len(calls) == 1
    assert rows(database) == []


def test_what_the_commit_refuses(database: Any) -> None:
    database.write(
        lambda t: t.execute("CREATE TABLE u (a INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    )
    with pytest.raises(InvalidInput, match="unique"):
        database.write(lambda t: t.execute_many("INSERT INTO u VALUES (?)", [(1,), (1,)]))
    assert database.read(lambda t: t.execute("SELECT * FROM u")) == []


def test_a_deadlock_has_both_done(new_database: Any, database: Any) -> None:
    database.write(lambda t: t.execute("INSERT INTO t VALUES (1), (2)"))
    databases = {1: database, 2: new_database()}
    barrier = threading.Barrier(2)
    calls = []

    def run(first: int) -> None:
        mine = []

        def work(t: Transaction) -> None:
            mine.append(first)
            calls.append(first)
            for number, each in enumerate((first, 3 - first)):
                t.execute("UPDATE t SET a = a + 10 WHERE a % 10 = ?", (each,))
                if number == 0 and len(mine) == 1:
                    barrier.wait(PATIENCE_S)

        databases[first].write(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (1, 2)))
    assert len(calls) >= 3
    assert rows(database) == [(21,), (22,)]


def test_a_lock_that_is_not_let_go_of(
    new_database: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftfold.stores.postgres.database, "LOCK_TIMEOUT_S", 0.05)
    database = new_database(patience_s=0.1)
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    schema = database.place.removeprefix("schema ")
    with psycopg.connect(server.url()) as other:
        other.execute(f"LOCK TABLE {schema}.t".encode())
        with pytest.raises(StoreUnavailable, match="another transaction does not end"):
            database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"))
        with pytest.raises(StoreUnavailable, match="another transaction does not end"):
            rows(database)
    database.write(lambda t: t.execute("INSERT INTO t VALUES (2)"))
    assert rows(database) == [(2,)]


def test_an_error_that_work_hides_is_not_taken_for_success(database: Any) -> None:
    def work(t: Transaction) -> None:
        t.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(psycopg.Error):
            t.execute("SELECT 1 / 0")

    with pytest.raises(InvalidInput, match="division by zero"):
        database.write(work)
    assert rows(database) == []


def test_transactions_wait_for_the_disk_where_they_have_to(database: Any) -> None:
    def setting(t: Transaction) -> Any:
        return t.execute("SHOW synchronous_commit")

    assert database.write(setting) == [("off",)]
    assert database.write(setting, durable=True) == [("on",)]
    assert database.write(setting) == [("off",)]


def test_nothing_outlives_a_transaction(database: Any, server: Any) -> None:
    pid = database.read(pid_of)
    database.query("SELECT pg_advisory_lock(7), set_config('work_mem', '1MB', false)", (), limit=1)
    assert database.read(pid_of) == pid
    assert (
        server.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND locktype = 'advisory'", pid) == []
    )
    shown = database._places.call(
        lambda connection: [
            connection.execute(f"SHOW {name}".encode()).fetchone()[0]
            for name in ("search_path", "work_mem", "transaction_read_only")
        ]
    )
    assert shown == ['"$user", public', "4MB", "off"]


def test_the_schema_is_made_by_the_first_that_writes(new_database: Any, server: Any) -> None:
    database = new_database()
    schema = database.place.removeprefix("schema ")
    found = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    assert database.read(lambda t: t.relations("")) == []
    with pytest.raises(KeyError):
        database.write(lambda t: {}["none"])
    assert server.execute(found, schema) == []
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    assert server.execute(found, schema) == [(1,)]
    assert new_database().read(lambda t: t.relations("")) == ["t"]


def test_a_role_that_may_not_make_the_schema_is_told_what_to_do(server: Any) -> None:
    schema, role = server.new_schema(), f"role_of_{server.new_schema()}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    url = server.url(user=f"{role}:secret")
    database = PostgresDatabase(url, schema, place="here")
    wanted = f"here: the schema does not exist.*CREATE SCHEMA {schema} AUTHORIZATION {role}"
    with pytest.raises(StoreUnavailable, match=wanted):
        database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    server.execute(f"CREATE SCHEMA {schema}")
    wanted = f"here: .* may not use the schema.*GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
    with pytest.raises(StoreUnavailable, match=wanted):
        database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    with pytest.raises(StoreUnavailable, match=r"(?s)here: permission denied.*lacks a privilege"):
        database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    server.execute(f"ALTER SCHEMA {schema} OWNER TO {role}")
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER)"))
    assert database.read(lambda t: t.relations("")) == ["t"]
    database.close()


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"postgresql://u:secret@127.0.0.1:{port}/d"
    database = PostgresDatabase(url, "s", place="here", patience_s=10 * PATIENCE_S)
    begun_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"^here: ") as caught:
        database.read(lambda t: None)
    assert time.monotonic() - begun_s < 10 * PATIENCE_S
    assert "secret" not in str(caught.value)
    database.close()


def test_all_connections_are_in_use(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftfold.stores.postgres.places, "PLACE_TIMEOUT_S", 0.05)

    def nested(depth: int) -> Any:
        return database.read(lambda t: nested(depth - 1)) if depth else rows(database)

    assert nested(leftfold.stores.postgres.places.CONNECTIONS_MAX - 1) == []
    with pytest.raises(StoreUnavailable, match="in use"):
        nested(leftfold.stores.postgres.places.CONNECTIONS_MAX)
    assert rows(database) == []


def test_a_table_that_has_changed_is_no_obstacle_to_prepared_statements(
    new_database: Any, database: Any
) -> None:
    database.write(lambda t: t.execute("INSERT INTO t VALUES (1)"))
    for _ in range(5):
        assert database.read(lambda t: t.execute("SELECT * FROM t")) == [(1,)]
    new_database().write(lambda t: t.execute("ALTER TABLE t ADD COLUMN b INTEGER"))
    assert database.read(lambda t: t.execute("SELECT * FROM t")) == [(1, None)]


def test_time_zone_and_types_of_callers(database: Any, server: Any) -> None:
    server.execute("ALTER ROLE postgres SET timezone TO 'Asia/Kolkata'")
    server.execute("ALTER ROLE postgres SET datestyle TO 'German'")
    try:
        kill(server, database.read(pid_of))
        sql = """SELECT '2026-01-02 03:04:05+02'::timestamptz::text, '[1, 2]'::jsonb,
 '{1,2}'::int[], 'a b'::tsvector, '2026-01-02'::date, '2026-01-02 03:04:05+02'::timestamptz,
 left('abc', %s)"""
        found = database.query(sql, (2,), limit=1)[1][0]
    finally:
        server.execute("ALTER ROLE postgres RESET timezone")
        server.execute("ALTER ROLE postgres RESET datestyle")
    assert found[:4] == ("2026-01-02 01:04:05+00", "[1, 2]", [1, 2], "'a' 'b'")
    assert [each.isoformat() for each in found[4:6]] == ["2026-01-02", "2026-01-02T01:04:05+00:00"]
    assert found[6] == "ab"
    with pytest.raises(InvalidInput, match="too large"):
        database.query("SELECT 'infinity'::timestamptz", (), limit=1)


def test_text_with_a_nul_is_refused(database: Any) -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        database.write(lambda t: t.execute("SELECT ?", ("a\0b",)))
    encode = database.dialect.encoder("json")
    with pytest.raises(InvalidInput, match="NUL"):
        database.write(lambda t: t.execute("SELECT ?", (encode('{"a": 1}\0'),)))


def test_statements_that_were_prepared_elsewhere(new_database: Any) -> None:
    def work(t: Transaction) -> Any:
        # As it is where a pooler gives each transaction the session of somebody else.
        t.execute("DEALLOCATE ALL")
        t.execute("PREPARE _pg3_0 AS SELECT 0")
        return [t.execute("SELECT 7") for _ in range(5)]

    with pytest.raises(StoreUnavailable, match="prepared_statements=false"):
        new_database().write(work)
    assert new_database(prepare_threshold=None).write(work) == [[(7,)]] * 5


def test_who_may_not_use_the_schema_is_told_so_and_not_that_tables_are_missing(
    database: Any, server: Any
) -> None:
    schema = database._schema
    role = f"reader_{schema}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    reader = PostgresDatabase(server.url(user=f"{role}:secret"), schema, place="here")
    wanted = f"may not use the schema {schema}.*GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
    with pytest.raises(StoreUnavailable, match=wanted):
        reader.read(lambda tx: tx.relations("t"))
    reader.close()
