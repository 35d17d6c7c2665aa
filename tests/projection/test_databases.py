"""What every database of read models promises: see leftfold.projection.database."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from crash_anywhere import Interrupt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leftfold.stores.postgres.database
import leftfold.stores.sqlite.database
from leftfold import InvalidInput, StoreClosed, StoreUnavailable
from leftfold.projection.database import ColumnType, Database, Transaction

PATIENCE_S = 60
PLACES_MAX = 20_000
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

examples = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def make(database: Database, *columns: str, name: str = "t") -> None:
    """A table with columns of some kinds, named a, b and so on."""
    named = ", ".join(
        f"{letter} {database.dialect.column(kind)}"  # type: ignore[arg-type]
        for letter, kind in zip("abc", columns, strict=False)
    )
    database.write(lambda t: t.execute(f"CREATE TABLE {name} ({named})"))


def add(database: Database, *values: Any) -> None:
    slots = ", ".join("?" * len(values))
    database.write(lambda t: t.execute(f"INSERT INTO t VALUES ({slots})", values))


def rows(database: Database, sql: str = "SELECT * FROM t ORDER BY 1") -> Any:
    return database.read(lambda t: t.execute(sql))


def test_what_work_returns_is_returned_and_kept(database: Database) -> None:
    make(database, "integer")
    assert database.write(lambda t: t.execute("INSERT INTO t VALUES (?)", (1,)) or "done") == "done"
    assert database.read(lambda t: t.execute("SELECT a FROM t WHERE a = ?", (1,))) == [(1,)]
    assert database.read(lambda t: t.execute("SELECT a FROM t WHERE a = ?", (2,))) == []


def test_it_is_kept_for_others(new_database: Any, shared: None) -> None:
    first, second = new_database(), new_database()
    make(first, "integer")
    add(first, 1)
    assert rows(second) == [(1,)]
    first.close()
    add(second, 2)
    assert rows(new_database()) == [(1,), (2,)]


def test_a_percent_sign_is_no_placeholder(database: Database) -> None:
    make(database, "text")
    add(database, "100%")
    sql = "SELECT a FROM t WHERE a LIKE '%0%' AND a <> ?"
    assert database.read(lambda t: t.execute(sql, ("x",))) == [("100%",)]
    assert rows(database, "SELECT a FROM t WHERE a LIKE '%0%'") == [("100%",)]


@pytest.mark.parametrize("failure", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_what_work_raises_passes_through_and_rolls_back(
    database: Database, failure: type[BaseException]
) -> None:
    make(database, "integer")
    raised = failure("mine")
    calls = []

    def work(t: Transaction) -> None:
        calls.append(t.execute("INSERT INTO t VALUES (1)"))
        raise raised

    with pytest.raises(failure) as caught:
        database.write(work)
    assert caught.value is raised
    with pytest.raises(failure):
        database.read(lambda t: (_ for _ in ()).throw(raised))
    assert len(calls) == 1
    assert rows(database) == []
    add(database, 2)
    assert rows(database) == [(2,)]


def test_what_work_raises_leaves_no_lock(new_database: Any, shared: None) -> None:
    first, second = new_database(), new_database()
    make(first, "integer")
    add(first, 1)

    def work(t: Transaction) -> None:
        t.execute("UPDATE t SET a = 5")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.write(work)
    add(second, 2)
    second.write(lambda t: t.execute("UPDATE t SET a = a + 1"))
    assert rows(first) == [(2,), (3,)]


def test_definitions_are_part_of_the_transaction(database: Database) -> None:
    def work(t: Transaction) -> None:
        t.execute("CREATE TABLE made (a INTEGER)")
        assert t.relations("made") == ["made"]
        raise KeyError

    with pytest.raises(KeyError):
        database.write(work)
    assert database.read(lambda t: t.relations("made")) == []
    make(database, "integer", name="kept")
    with pytest.raises(KeyError):
        database.write(lambda t: (t.execute("DROP TABLE kept"), {}["none"]))
    assert database.read(lambda t: t.relations("kept")) == ["kept"]


def test_those_who_write_see_what_was_committed_before(new_database: Any, engine: str) -> None:
    one = new_database()
    databases = [one, one] if engine == "temporary" else [one, new_database()]
    make(one, "integer")
    add(one, 0)

    def count_up(t: Transaction) -> None:
        ((a,),) = t.execute(f"SELECT a FROM t{t.dialect.for_update}")
        t.execute("UPDATE t SET a = ?", (a + 1,))

    def run(database: Database) -> None:
        for _ in range(25):
            database.write(count_up)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, databases * 2))
    assert rows(one) == [(100,)]


def test_tables_may_be_made_by_several_at_the_same_time(new_database: Any, shared: None) -> None:
    databases = [new_database() for _ in range(4)]
    barrier = threading.Barrier(4, timeout=PATIENCE_S)

    def run(database: Database) -> None:
        for number in range(10):
            barrier.wait()
            sql = f"CREATE TABLE IF NOT EXISTS t{number} (a INTEGER)"
            database.write(lambda t, sql=sql: t.execute(sql))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, databases))
    found = databases[0].read(lambda t: t.relations("t"))
    assert found == [f"t{number}" for number in range(10)]


def test_a_read_sees_one_moment(database: Database, engine: str, shared: None) -> None:
    make(database, "integer")
    add(database, 1)

    def work(t: Transaction) -> None:
        before = t.execute("SELECT * FROM t")
        add(database, 2)
        assert t.execute("SELECT * FROM t") == before == [(1,)]

    database.read(work)
    assert rows(database) == [(1,), (2,)]


@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (1)", "CREATE TABLE u (a INTEGER)"])
def test_a_read_cannot_write(database: Database, sql: str) -> None:
    make(database, "integer")
    with pytest.raises(InvalidInput, match="what only reads cannot write"):
        database.read(lambda t: t.execute(sql))
    assert rows(database) == []
    add(database, 2)


def test_many_rows(database: Database) -> None:
    make(database, "integer", "text")
    many = [(number, f"row {number}") for number in range(2500)]
    sql = "INSERT INTO t VALUES (?, ?)"
    database.write(lambda t: t.execute_many(sql, iter(many)))
    assert rows(database) == many
    database.write(lambda t: t.execute_many(sql, []))
    changed = [(number,) for number in range(0, 2500, 2)]
    database.write(
        lambda t: t.execute_many("UPDATE t SET b = 'even' WHERE a = ? RETURNING a, b", changed)
    )
    assert rows(database, "SELECT count(*) FROM t WHERE b = 'even'") == [(1250,)]


def test_what_the_rows_raise_passes_through_and_rolls_back(database: Database) -> None:
    make(database, "integer")

    def broken() -> Iterator[tuple[int]]:
        yield from ((number,) for number in range(1500))
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        database.write(lambda t: t.execute_many("INSERT INTO t VALUES (?)", broken()))
    assert rows(database) == []


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-23))]
)
MOMENTS = st.datetimes(
    datetime.fromisoformat("0001-01-03"), datetime.fromisoformat("9999-12-29"), timezones=ZONES
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    "text": TEXT,
    "integer": INTEGERS,
    "boolean": st.booleans(),
    "real": st.floats(allow_nan=False),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False, places=9) | INTEGERS.map(Decimal),
    "bytes": st.binary(),
    "datetime": MOMENTS,
    "date": st.dates(),
    "uuid": st.uuids(),
    "json": st.recursive(
        st.none() | st.booleans() | INTEGERS | TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
        max_leaves=5,
    ).map(lambda value: msgspec.json.encode(value).decode()),
}
TYPES = {
    "text": str,
    "integer": int,
    "boolean": bool,
    "real": float,
    "decimal": Decimal,
    "bytes": bytes,
    "datetime": datetime,
    "date": date,
    "uuid": UUID,
    "json": str,
}
KINDS = pytest.mark.parametrize("kind", get_args(ColumnType))


def same(value: Any) -> Any:
    return value


def store(database: Database, kind: ColumnType, values: list[Any]) -> None:
    encode = database.dialect.encoder(kind) or same

    def work(t: Transaction) -> None:
        t.execute("DELETE FROM t")
        t.execute_many("INSERT INTO t VALUES (?)", [(encode(value),) for value in values])
        t.execute("INSERT INTO t VALUES (?)", (None,))

    database.write(work)


@KINDS
def test_values_come_back_as_they_were(database: Database, kind: ColumnType) -> None:
    make(database, kind)
    decode = database.dialect.decoder(kind) or same
    encode = database.dialect.encoder(kind) or same

    @examples
    @given(VALUES[kind])
    def check(value: Any) -> None:
        store(database, kind, [value])
        sql = f"SELECT a FROM t WHERE a {database.dialect.same} ?"
        found = database.read(lambda t: t.execute(sql, (encode(value),)))
        assert len(found) == 1
        back = decode(found[0][0])
        assert type(back) is TYPES[kind]
        if kind == "json":
            assert msgspec.json.decode(back) == msgspec.json.decode(value)
        else:
            assert back == value
        if kind == "datetime":
            assert back.utcoffset() == timedelta()
        if kind == "decimal":
            assert str(back) == str(value) or not value
        null = database.read(lambda t: t.execute(sql, (None,)))
        assert null == [(None,)]

    check()


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind not in ("json", "decimal")])
def test_values_sort_as_in_python(database: Database, kind: ColumnType) -> None:
    make(database, kind)
    decode = database.dialect.decoder(kind) or same

    @examples
    @given(st.lists(VALUES[kind], min_size=2))
    def check(values: list[Any]) -> None:
        store(database, kind, values)
        found = rows(database, "SELECT a FROM t WHERE a IS NOT NULL ORDER BY a")
        assert [decode(value) for (value,) in found] == sorted(values)

    check()


def test_letters_sort_as_in_python(database: Database) -> None:
    make(database, "text")
    store(database, "text", ["b", "B", "a", "A", "ä", "_", "Z", "z", "~", "", "\N{GRINNING FACE}"])
    found = [value for (value,) in rows(database, "SELECT a FROM t WHERE a IS NOT NULL ORDER BY a")]
    assert found == sorted(found)


def test_moments_sort_as_in_python(database: Database) -> None:
    make(database, "datetime")
    texts = ["0001-01-02", "0999-12-31", "2026-01-01", "2026-01-01T00:00:01", "9999-12-30"]
    values = [
        datetime.fromisoformat(text).replace(tzinfo=zone) + timedelta(microseconds=more)
        for text in texts
        for zone in (UTC, timezone(timedelta(hours=1)))
        for more in (0, 1, 500_000, 999_999)
    ]
    store(database, "datetime", values)
    found = rows(database, "SELECT a FROM t WHERE a IS NOT NULL ORDER BY a")
    decode = database.dialect.decoder("datetime") or same
    assert [decode(value) for (value,) in found] == sorted(values)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("real", math.nan),
        ("decimal", Decimal("NaN")),
        ("decimal", Decimal("sNaN")),
        ("decimal", Decimal("-Infinity")),
        ("datetime", datetime.fromisoformat("2026-01-01")),
    ],
)
def test_values_that_do_not_compare_are_refused(
    database: Database, kind: ColumnType, value: Any
) -> None:
    encode = database.dialect.encoder(kind)
    assert encode
    with pytest.raises(InvalidInput, match="in a table"):
        encode(value)


@pytest.mark.parametrize(
    "value", [2**63, -(2**70), "\ud800", object()], ids=lambda each: type(each).__name__
)
def test_values_that_do_not_fit_are_refused(database: Database, value: Any) -> None:
    make(database, "integer" if isinstance(value, int) else "text")
    with pytest.raises(InvalidInput):
        add(database, value)
    with pytest.raises(InvalidInput):
        database.write(lambda t: t.execute_many("INSERT INTO t VALUES (?)", [(value,)]))
    assert rows(database) == []


def test_statements_and_rows_that_the_engine_refuses(database: Database) -> None:
    database.write(lambda t: t.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, CHECK (a > 0))"))
    add(database, 1)
    for sql in (
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (0)",
        "NO SQL",
        "SELECT b FROM t",
    ):
        with pytest.raises(InvalidInput):
            database.write(lambda t, sql=sql: t.execute(sql))
    with pytest.raises(InvalidInput):
        database.write(lambda t: t.execute("SELECT a FROM t WHERE a = ?", (1, 2)))
    assert rows(database) == [(1,)]


def test_names_are_quoted(database: Database) -> None:
    name = """sel%ect "from' where?"""
    quoted = database.dialect.quote(name).replace("%", "%").replace("?", "")
    database.write(lambda t: t.execute(f"CREATE TABLE {quoted} (a INTEGER)"))
    assert database.read(lambda t: t.relations("sel")) == [name.replace("?", "")]


def test_relations_are_the_tables_with_a_literal_prefix(database: Database) -> None:
    names = ["p_a", "p_B", "pxc", "P_d", "p%e", "x_p_a", "p", "p_Z1", "p_ä"]

    def work(t: Transaction) -> None:
        for name in names:
            t.execute(f"CREATE TABLE {t.dialect.quote(name)} (a INTEGER PRIMARY KEY)")
        t.execute("CREATE VIEW p_view AS SELECT 1 AS a")
        t.execute("CREATE INDEX p_index ON p_a (a)")

    database.write(work)
    found = database.read(
        lambda t: {each: t.relations(each) for each in ("p_", "p%", "p", "", "_")}
    )
    assert found["p_"] == ["p_B", "p_Z1", "p_a", "p_ä"]
    assert found["p%"] == ["p%e"]
    assert found["p"] == ["p", "p%e", "p_B", "p_Z1", "p_a", "p_ä", "pxc"]
    assert found[""] == sorted(names)
    assert found["_"] == []


def test_now_is_the_time_in_microseconds(database: Database) -> None:
    # The server of the tests is on this machine.
    before_us = time.time_ns() // 1000
    now_us = database.write(lambda t: t.now_us())
    assert type(now_us) is int
    assert abs(now_us - before_us) < PATIENCE_S * 1_000_000


def test_a_query_has_columns_and_rows(database: Database, engine: str) -> None:
    make(database, "integer", "text")
    add(database, 1, "one")
    add(database, 2, "two")
    assert database.query("SELECT a, b AS x FROM t ORDER BY a", (), limit=2) == (
        ["a", "x"],
        [(1, "one"), (2, "two")],
    )
    assert database.query("SELECT a FROM t WHERE 1 = 0", (), limit=2) == (["a"], [])
    assert database.query("SELECT a FROM t WHERE b LIKE 't%';", (), limit=2) == (["a"], [(2,)])
    slot, named = ("%s", "%(b)s") if engine == "postgresql" else ("?", ":b")
    assert database.query(f"SELECT a FROM t WHERE b = {slot}", ["two"], limit=1)[1] == [(2,)]
    values: Any = {"b": "two"}
    assert database.query(f"SELECT a FROM t WHERE b = {named}", values, limit=1)[1] == [(2,)]


def test_a_query_has_a_limit_of_rows(database: Database) -> None:
    make(database, "integer")
    database.write(
        lambda t: t.execute_many("INSERT INTO t VALUES (?)", [(each,) for each in range(5)])
    )
    assert len(database.query("SELECT a FROM t", (), limit=5)[1]) == 5
    with pytest.raises(InvalidInput, match=r"^the query has more than 4 rows"):
        database.query("SELECT a FROM t", (), limit=4)
    with pytest.raises(InvalidInput, match=r"^the query has more than 4 rows"):
        database.query(ENDLESS.replace("count(*)", "i"), (), limit=4)


def test_a_query_has_a_limit_of_time(
    new_database: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (leftfold.stores.postgres.database, leftfold.stores.sqlite.database):
        monkeypatch.setattr(module, "QUERY_TIMEOUT_S", 0.1)
    database = new_database()
    with pytest.raises(InvalidInput, match=r"timeout|more than 0\.1 s"):
        database.query(ENDLESS, (), limit=1)
    assert database.query("SELECT 1 AS a", (), limit=1) == (["a"], [(1,)])
    make(database, "integer")


TRICKS = [
    "INSERT INTO t VALUES (2)",
    "INSERT INTO t VALUES (2) RETURNING a",
    "UPDATE t SET a = 2",
    "DELETE FROM t",
    "DROP TABLE t",
    "ALTER TABLE t ADD COLUMN z INTEGER",
    "CREATE TABLE u (a INTEGER)",
    "CREATE TEMP TABLE u (a INTEGER)",
    "CREATE VIEW u AS SELECT 1",
    "CREATE INDEX u ON t (a)",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; COMMIT; DELETE FROM t",
    "SELECT 1; SELECT 2",
    "WITH x AS (SELECT 2 AS a) INSERT INTO t SELECT a FROM x",
    "WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x",
    "EXPLAIN ANALYZE DELETE FROM t",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "",
    "-- nothing",
    ";",
    "SELECT 1 \0; DELETE FROM t",
    # Of SQLite alone.
    "PRAGMA query_only = 0",
    "PRAGMA user_version = 7",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1",
    "ATTACH 'evil.db' AS evil",
    "VACUUM INTO 'evil.db'",
    "SELECT load_extension('evil')",
    "SELECT writefile('evil.db', 'x')",
    "REPLACE INTO t VALUES (2)",
    "CREATE VIRTUAL TABLE u USING fts5(a)",
    "DETACH main",
    # Of PostgreSQL alone.
    "COPY (SELECT 1) TO PROGRAM 'touch evil.db'",
    "COPY t FROM '/etc/passwd'",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SET TRANSACTION READ WRITE",
    "SET transaction_read_only = off",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "SELECT * INTO u FROM t",
    "TRUNCATE t",
    "SELECT a FROM t FOR UPDATE",
    "SELECT lo_create(0)",
    "SELECT nextval('numbers')",
    "SELECT query_to_xml('DELETE FROM t', true, true, '')",
    "LOCK TABLE t",
    "PREPARE x AS DELETE FROM t",
    "CALL nothing()",
]


def test_a_query_cannot_write(
    database: Database, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(database, "integer")
    add(database, 1)
    for sql in TRICKS:
        with pytest.raises(InvalidInput):
            print(database.query(sql, (), limit=10), "for", sql)
        assert rows(database) == [(1,)], sql
    assert database.read(lambda t: t.relations("")) == ["t"]
    assert not list(tmp_path.glob("evil*"))
    add(database, 2)


def test_a_closed_one_says_so(database: Database) -> None:
    make(database, "integer")
    rows(database)
    database.close()
    database.close()
    uses: list[Callable[[], object]] = [
        lambda: add(database, 1),
        lambda: rows(database),
        lambda: database.query("SELECT 1", (), limit=1),
    ]
    for use in uses:
        with pytest.raises(StoreClosed, match="closed"):
            use()


def test_one_that_was_not_used_closes(database: Database) -> None:
    database.close()
    with pytest.raises(StoreClosed):
        rows(database)


def test_work_that_goes_on_is_finished_when_it_is_closed(new_database: Any, shared: None) -> None:
    database = new_database()
    make(database, "integer")
    started, closing = threading.Event(), threading.Event()

    def work(t: Transaction) -> None:
        t.execute("INSERT INTO t VALUES (1)")
        started.set()
        assert closing.wait(PATIENCE_S)
        t.execute("INSERT INTO t VALUES (2)")

    def close() -> None:
        closing.set()
        database.close()

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(database.write, work)
        assert started.wait(PATIENCE_S)
        pool.submit(close).result(PATIENCE_S)
        writing.result(PATIENCE_S)
    assert rows(new_database()) == [(1,), (2,)]
    with pytest.raises(StoreClosed):
        rows(database)


def test_a_fork_is_refused(database: Database) -> None:
    make(database, "integer")
    rows(database)
    pid = os.fork()
    if not pid:
        refused = 0
        uses: list[Callable[[], object]] = [
            lambda: add(database, 1),
            lambda: rows(database),
            lambda: database.query("SELECT 1", (), limit=1),
            database.close,
        ]
        for use in uses:
            try:
                use()
            except StoreClosed:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    add(database, 2)
    assert rows(database) == [(2,)]


def test_many_threads_read_and_write(database: Database) -> None:
    make(database, "integer")

    def run(number: int) -> None:
        add(database, number)
        assert (number,) in rows(database)
        assert database.query("SELECT count(*) FROM t", (), limit=1)[1][0][0] > 0

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(run, range(100)))
    assert rows(database) == [(number,) for number in range(100)]


@contextmanager
def interrupted(nth: int) -> Iterator[Interrupt]:
    interrupt = Interrupt(nth)
    with suppress(KeyboardInterrupt), interrupt:
        yield interrupt


def write_in_vain(database: Database) -> None:
    with suppress(KeyError):
        database.write(lambda t: (t.execute("UPDATE t SET a = -1"), {}["none"]))


USES: dict[str, Callable[[Database], object]] = {
    "write": lambda database: database.write(lambda t: t.execute("UPDATE t SET a = a + 1")),
    "write in vain": write_in_vain,
    "read": rows,
    "query": lambda database: database.query("SELECT a FROM t", (), limit=9),
}


@pytest.mark.parametrize("use", USES)
def test_an_interrupt_at_any_place_leaves_nothing(new_database: Any, engine: str, use: str) -> None:
    database = new_database()
    make(database, "integer")
    add(database, 0)
    other = database if engine == "temporary" else new_database()
    for nth in range(1, PLACES_MAX):
        with interrupted(nth) as interrupt:
            USES[use](database)
        # At once, from another thread, and by somebody else: nothing is locked.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.write, lambda t: t.execute("UPDATE t SET a = a + 1")).result()
            pool.submit(USES[use], database).result()
        USES[use](database)
        if not interrupt.hit:
            break
    assert nth > 100
    written = 3 * nth if use == "write" else nth
    assert written <= rows(database)[0][0] <= 4 * nth


def test_no_use_of_a_database_within_its_own_work(database: Database, engine: str) -> None:
    make(database, "integer")
    if engine != "postgresql":
        with pytest.raises(StoreUnavailable, match="this thread is in the middle"):
            database.write(lambda t: add(database, 1))
    add(database, 2)
    assert rows(database) == [(2,)]
